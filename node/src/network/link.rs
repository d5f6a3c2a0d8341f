//! Carries the frames of one mailbox stream, both ways, until it ends.
//!
//! Each link is a task. It tells the node of its birth, of every frame and of its death, in this
//! order, through the one bounded channel of events; while that channel is full it reads nothing,
//! so a node that is busy slows its peers down and holds, for each, one frame and one receive
//! window. So it is while the node has paused the link. Writing goes on meanwhile.

use std::{future::pending, sync::Arc, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, io::WriteHalf};
use tokio::{sync::mpsc, time::timeout};

use super::{
    LinkId, NetworkEvent,
    board::{Bells, Board, Next, Stage},
    frame,
};

/// Longest time that a link that is being closed may take to write what it has.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// Small frames are gathered up to this many bytes before they are written. The room for them is given back
/// whenever nothing is to be written: most links are silent, and there may be thousands.
const GATHERED_BYTES: usize = 16 * 1024;

/// A mailbox stream and what its task needs.
pub(super) struct Link<S> {
    pub id: LinkId,
    pub stream: S,
    pub board: Arc<Board>,
    pub bells: Arc<Bells>,
    pub events: mpsc::Sender<NetworkEvent>,
    /// The event that announces it.
    pub up: NetworkEvent,
}

/// Why a link ended; only for the log.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed it")]
    ByPeer,
    #[error("it was cut: its queue overflowed or its connection ended")]
    Cut,
    #[error("the peer took or ended nothing for too long")]
    Stalled,
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
    #[error("the stream broke: {0}")]
    Broken(#[from] std::io::Error),
    #[error("the node stopped listening to events")]
    NodeGone,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Link<S> {
    /// Runs the link to its end.
    pub(super) async fn run(self) -> LinkId {
        let Self {
            id,
            stream,
            board,
            bells,
            events,
            up,
        } = self;
        let end = if events.send(up).await.is_err() {
            End::NodeGone
        } else {
            let (reader, writer) = stream.split();
            tokio::select! {
                end = read(id, reader, &board, &bells, &events) => end,
                end = write(id, writer, &board, &bells) => end.unwrap_or_else(|end| end),
                end = ended(id, &board, &bells) => end,
            }
        };
        tracing::debug!(link = %id, %end, "link ended");
        board.remove_link(id);
        let down = NetworkEvent::LinkDown { link: id };
        if board.is_stopping() {
            // A node that stops may read no more events; it need not be told.
            let _ = events.try_send(down);
        } else {
            let _ = events.send(down).await;
        }
        id
    }
}

async fn read(
    link: LinkId,
    mut reader: impl AsyncRead + Unpin,
    board: &Board,
    bells: &Bells,
    events: &mpsc::Sender<NetworkEvent>,
) -> End {
    loop {
        while board.is_paused(link) {
            bells.read.notified().await;
        }
        let bytes = match frame::read(&mut reader, board.limits().stall).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return End::ByPeer,
            Err(error) => return error.into(),
        };
        if board.is_stopping() {
            // Read on, to see the peer's end, but nobody is there to listen.
            continue;
        }
        let frame = NetworkEvent::Frame { link, bytes };
        if events.send(frame).await.is_err() {
            return End::NodeGone;
        }
    }
}

async fn write<S: AsyncWrite + Unpin>(
    link: LinkId,
    writer: WriteHalf<S>,
    board: &Board,
    bells: &Bells,
) -> Result<End, End> {
    let stall = board.limits().stall;
    let mut writer = writer;
    let mut gathered = Vec::new();
    loop {
        match board.next(link) {
            Next::Write(frame) => {
                frame::append(&mut gathered, &frame)?;
                if gathered.len() >= GATHERED_BYTES {
                    write_out(&mut writer, &mut gathered, stall).await?;
                }
            }
            Next::Wait => {
                write_out(&mut writer, &mut gathered, stall).await?;
                timeout(stall, writer.flush())
                    .await
                    .map_err(|_| End::Stalled)??;
                bells.write.notified().await;
            }
            Next::Close => {
                write_out(&mut writer, &mut gathered, stall).await?;
                writer.close().await?;
                // The peer reads to the end and closes its side in turn, which the reader sees. To
                // end before that could throw away what is on its way: a QUIC connection that is
                // closed forgets what has not been read.
                return pending().await;
            }
            Next::Cut => return Ok(End::Cut),
        }
    }
}

/// Writes what was gathered, and gives its room back.
async fn write_out<S: AsyncWrite + Unpin>(
    writer: &mut WriteHalf<S>,
    gathered: &mut Vec<u8>,
    stall: Duration,
) -> Result<(), End> {
    let bytes = std::mem::take(gathered);
    if !bytes.is_empty() {
        timeout(stall, writer.write_all(&bytes))
            .await
            .map_err(|_| End::Stalled)??;
    }
    Ok(())
}

/// Waits until the link must end, however its reader and writer fare.
async fn ended(link: LinkId, board: &Board, bells: &Bells) -> End {
    loop {
        match board.stage(link) {
            Stage::Cut => return End::Cut,
            Stage::Closing => {
                // Cut while closing is rare and costs at most the grace.
                tokio::time::sleep(CLOSE_GRACE).await;
                return End::Stalled;
            }
            Stage::Open => bells.end.notified().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;
    use crate::network::{LinkRole, MAX_FRAME_BYTES, NetworkLimits, NodeKey, Role};

    /// A peer that sends these bytes and accepts whatever it is sent.
    struct Peer(Cursor<Vec<u8>>);

    impl AsyncRead for Peer {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            bytes: &mut [u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            let all = self.0.get_ref().len() as u64;
            if self.0.position() == all {
                return std::task::Poll::Pending;
            }
            std::pin::Pin::new(&mut self.0).poll_read(cx, bytes)
        }
    }

    impl AsyncWrite for Peer {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> std::task::Poll<std::io::Result<usize>> {
            std::task::Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn poll_close(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_oversized_frame_closes_the_link_after_those_before_it() {
        let mut bytes = vec![0, 0, 0, 1, 42];
        bytes.extend(u32::try_from(MAX_FRAME_BYTES + 1).unwrap().to_be_bytes());
        let id = LinkId(3);
        let (sender, mut events) = mpsc::channel(8);
        let board = Arc::new(Board::new(NetworkLimits::of(Role::Personal)));
        let link = Link {
            id,
            stream: Peer(Cursor::new(bytes)),
            bells: board.add_link(id),
            board: board.clone(),
            events: sender,
            up: NetworkEvent::LinkUp {
                link: id,
                peer: NodeKey::generate().unwrap().peer(),
                role: LinkRole::Server,
                addr: None,
            },
        };
        assert_eq!(link.run().await, id);
        let mut told = Vec::new();
        while let Some(event) = events.recv().await {
            told.push(event);
        }
        assert!(matches!(
            &told[..],
            [
                NetworkEvent::LinkUp { .. },
                NetworkEvent::Frame { bytes, .. },
                NetworkEvent::LinkDown { .. },
            ] if bytes == &[42]
        ));
        assert!(board.send(id, vec![1]).is_err());
    }
}
