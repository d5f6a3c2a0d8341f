//! Yamux over TCP, with a bound on what one connection can make us hold.
//!
//! libp2p's own adapter sets only the number of streams. The receive windows of a connection then
//! grow up to 1 GiB in total, driven by a round-trip time that the remote side controls, so a
//! hostile peer could fill that much memory as soon as we read slowly. Here every stream keeps the
//! protocol's initial 256 KiB window and a connection has few streams, so a connection's unread
//! bytes stay below [`MAX_UNREAD_BYTES`].
//!
//! What we open is counted, and waits for room: yamux would end the whole connection when one stream
//! too many is asked for, and whoever asks a community node for circuits to a member could so cut
//! that member off.
//!
//! Closing is bounded as well: a dead peer whose socket takes no more bytes would otherwise keep a
//! closing connection, and its place among the connections per peer, until the operating system
//! gives up.

use std::{
    collections::VecDeque,
    future::{Future, Ready, ready},
    io::{self, IoSlice},
    iter,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite, task::AtomicWaker};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};
use tokio::time::Sleep;
use yamux::{ConnectionError, DEFAULT_CREDIT, Mode};

/// Most streams of one connection, both directions together. Honest use stays below 32: gossip 2,
/// mailbox up to 4, ping 2, identify 3, up to 13 circuits and a reservation, and some that are just
/// closing.
pub(super) const MAX_STREAMS: usize = 40;
/// Streams beyond which we open no more, and wait. Less than all, since yamux takes a moment to
/// forget streams that have ended, and the peer may open some.
const OPEN_UP_TO: usize = 32;
/// Most bytes of one connection that have arrived and are not read yet: 10 MiB.
pub(super) const MAX_UNREAD_BYTES: usize = MAX_STREAMS * DEFAULT_CREDIT as usize;
/// Longest time to say goodbye to a peer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Upgrades an authenticated connection to a [`Muxer`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BoundedYamux;

impl BoundedYamux {
    fn muxer<C: AsyncRead + AsyncWrite + Unpin>(socket: C, mode: Mode) -> Muxer<C> {
        let mut config = yamux::Config::default();
        // In this order: the window must have room for every stream's first 256 KiB, and with room
        // for no more than that, no window ever grows.
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(MAX_UNREAD_BYTES));
        Muxer {
            connection: yamux::Connection::new(socket, config, mode),
            arrived: VecDeque::new(),
            live: Arc::default(),
            waiting: None,
            closing: None,
        }
    }
}

impl UpgradeInfo for BoundedYamux {
    type Info = &'static str;
    type InfoIter = iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for BoundedYamux {
    type Output = Muxer<C>;
    type Error = ConnectionError;
    type Future = Ready<Result<Muxer<C>, ConnectionError>>;

    fn upgrade_inbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Self::muxer(socket, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for BoundedYamux {
    type Output = Muxer<C>;
    type Error = ConnectionError;
    type Future = Ready<Result<Muxer<C>, ConnectionError>>;

    fn upgrade_outbound(self, socket: C, _: Self::Info) -> Self::Future {
        ready(Ok(Self::muxer(socket, Mode::Client)))
    }
}

/// One connection that carries many streams.
pub(super) struct Muxer<C> {
    connection: yamux::Connection<C>,
    /// Streams that arrived while the connection was driven for another reason; at most
    /// [`MAX_STREAMS`], since yamux refuses more.
    arrived: VecDeque<Substream>,
    live: Arc<Live>,
    /// Who waits for such a stream.
    waiting: Option<Waker>,
    closing: Option<Pin<Box<Sleep>>>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    /// Drives the connection until a stream arrives.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Substream, ConnectionError>> {
        let next = self.connection.poll_next_inbound(cx);
        next.map(|next| Ok(self.count(next.unwrap_or(Err(ConnectionError::Closed))?)))
    }

    fn count(&self, stream: yamux::Stream) -> Substream {
        self.live.count.fetch_add(1, Ordering::AcqRel);
        Substream {
            stream,
            live: self.live.clone(),
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Substream;
    type Error = ConnectionError;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Substream, ConnectionError>> {
        if let Some(stream) = self.arrived.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = self.drive(cx);
        if next.is_pending() {
            self.waiting = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Substream, ConnectionError>> {
        if self.live.is_full() {
            self.live.opener.register(cx.waker());
            // One may have ended before its end could wake us.
            if self.live.is_full() {
                return Poll::Pending;
            }
        }
        let opened = self.connection.poll_new_outbound(cx);
        opened.map_ok(|stream| self.count(stream))
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        let closed = self.connection.poll_close(cx);
        if closed.is_ready() {
            return closed;
        }
        self.closing
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)))
            .as_mut()
            .poll(cx)
            .map(Ok)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, ConnectionError>> {
        // Every stream that has arrived is kept for `poll_inbound`, which is the only one to hand
        // streams out; this function never has an event of its own.
        loop {
            match self.drive(cx) {
                Poll::Ready(Ok(stream)) => self.arrived.push_back(stream),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
            if let Some(waker) = self.waiting.take() {
                waker.wake();
            }
        }
        Poll::Pending
    }
}

/// How many streams of a connection there are, and who waits to open one more.
#[derive(Default)]
struct Live {
    count: AtomicUsize,
    opener: AtomicWaker,
}

impl Live {
    fn is_full(&self) -> bool {
        self.count.load(Ordering::Acquire) >= OPEN_UP_TO
    }
}

/// One stream, which makes room for another when it is dropped.
pub(super) struct Substream {
    stream: yamux::Stream,
    live: Arc<Live>,
}

impl Drop for Substream {
    fn drop(&mut self) {
        self.live.count.fetch_sub(1, Ordering::AcqRel);
        self.live.opener.wake();
    }
}

impl AsyncRead for Substream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, bytes)
    }
}

impl AsyncWrite for Substream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    type Socket = compat::Tcp;

    /// Lets yamux, which speaks the `futures` traits, use a tokio socket.
    mod compat {
        use std::{
            io,
            pin::Pin,
            task::{Context, Poll, ready},
        };

        use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

        pub struct Tcp(pub tokio::net::TcpStream);

        impl futures::AsyncRead for Tcp {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                let mut bytes = ReadBuf::new(bytes);
                ready!(Pin::new(&mut self.0).poll_read(cx, &mut bytes))?;
                Poll::Ready(Ok(bytes.filled().len()))
            }
        }

        impl futures::AsyncWrite for Tcp {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.0).poll_write(cx, bytes)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_flush(cx)
            }

            fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_shutdown(cx)
            }
        }
    }

    async fn pair() -> (Muxer<Socket>, Muxer<Socket>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (dialed, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        (
            BoundedYamux::muxer(compat::Tcp(dialed.unwrap()), Mode::Client),
            BoundedYamux::muxer(compat::Tcp(accepted.unwrap().0), Mode::Server),
        )
    }

    async fn open(muxer: &mut Muxer<Socket>) -> Substream {
        poll_fn(|cx| Pin::new(&mut *muxer).poll_outbound(cx))
            .await
            .unwrap()
    }

    fn drive(mut muxer: Muxer<Socket>) {
        tokio::spawn(async move { poll_fn(|cx| Pin::new(&mut muxer).poll(cx)).await.map(drop) });
    }

    /// A sender that is never read gets rid of one window and no more, however long it tries.
    #[tokio::test]
    async fn an_unread_stream_takes_one_window_and_no_more() {
        let (mut client, mut server) = pair().await;
        let mut sending = open(&mut client).await;
        drive(client);
        let mut writer = tokio::spawn(async move {
            let mut sent = 0;
            let chunk = vec![0; 16 * 1024];
            while sent < 4 * DEFAULT_CREDIT as usize {
                match tokio::time::timeout(Duration::from_secs(1), sending.write(&chunk)).await {
                    Ok(written) => sent += written.unwrap(),
                    Err(_) => break,
                }
            }
            (sent, sending)
        });
        let mut receiving = poll_fn(|cx| Pin::new(&mut server).poll_inbound(cx))
            .await
            .unwrap();
        drive(server);
        let (sent, _sending) = (&mut writer).await.unwrap();
        assert!(
            sent <= DEFAULT_CREDIT as usize + 64 * 1024,
            "{sent} bytes were taken"
        );
        let mut read = vec![0; DEFAULT_CREDIT as usize];
        receiving.read_exact(&mut read).await.unwrap();
    }

    /// Yamux alone would end the connection.
    #[tokio::test]
    async fn a_stream_too_many_waits_until_another_ends() {
        let (mut client, _server) = pair().await;
        let mut streams = Vec::new();
        for _ in 0..OPEN_UP_TO {
            streams.push(open(&mut client).await);
        }
        let more = poll_fn(|cx| Poll::Ready(Pin::new(&mut client).poll_outbound(cx))).await;
        assert!(more.is_pending());
        let one_ends = async {
            tokio::task::yield_now().await;
            streams.pop();
        };
        let (_opened, ()) = tokio::join!(open(&mut client), one_ends);
    }
}
