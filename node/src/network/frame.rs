//! Frames of a mailbox stream: a big-endian `u32` length, then that many bytes.
//!
//! The length is checked before anything is allocated, and memory grows with what has arrived, not
//! with what was announced. A frame that was begun must end in time, so a peer that trickles bytes
//! holds little for long.

use std::{io, time::Duration};

use futures::{AsyncRead, AsyncReadExt};

/// Largest frame that a mailbox stream carries, in bytes.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;
/// Bytes before each frame: its length.
pub(super) const HEADER_BYTES: usize = 4;
/// Room that is made for a frame before any of it has arrived.
const FIRST_ROOM_BYTES: usize = 16 * 1024;

/// Why no further frame can be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the peer announced a frame of {0} bytes")]
    TooLarge(usize),
    #[error("the peer began a frame and did not end it in time")]
    Stalled,
    #[error("the stream broke: {0}")]
    Broken(#[from] io::Error),
}

/// Reads one frame; `None` if the peer closed the stream between two frames.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    stall: Duration,
) -> Result<Option<Vec<u8>>, FrameError> {
    let mut header = [0; HEADER_BYTES];
    // Only the wait for a frame's first byte is without an end.
    if stream.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    let rest = async {
        stream.read_exact(&mut header[1..]).await?;
        let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge(length));
        }
        let mut bytes = Vec::with_capacity(length.min(FIRST_ROOM_BYTES));
        (&mut *stream)
            .take(length as u64)
            .read_to_end(&mut bytes)
            .await?;
        if bytes.len() < length {
            return Err(FrameError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Some(bytes))
    };
    tokio::time::timeout(stall, rest)
        .await
        .unwrap_or(Err(FrameError::Stalled))
}

/// Appends one frame, which the caller has checked to be no larger than [`MAX_FRAME_BYTES`], as it travels.
pub(super) fn append(bytes: &mut Vec<u8>, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    bytes.reserve(HEADER_BYTES + frame.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(frame);
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    const STALL: Duration = Duration::from_secs(30);

    async fn read_all(bytes: &[u8]) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut stream = Cursor::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = read(&mut stream, STALL).await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn frames_survive_the_stream() {
        let frames = vec![
            b"one".to_vec(),
            Vec::new(),
            vec![3; MAX_FRAME_BYTES],
            b"four".to_vec(),
        ];
        let mut stream = Vec::new();
        for frame in &frames {
            append(&mut stream, frame).unwrap();
        }
        assert_eq!(read_all(&stream).await.unwrap(), frames);
    }

    #[tokio::test]
    async fn oversized_frame_is_refused_at_its_header() {
        let length = u32::try_from(MAX_FRAME_BYTES + 1).unwrap();
        let error = read_all(&length.to_be_bytes()).await.unwrap_err();
        assert!(matches!(error, FrameError::TooLarge(_)));
        let error = read_all(&[0xff; 4]).await.unwrap_err();
        assert!(matches!(error, FrameError::TooLarge(_)));
    }

    #[tokio::test]
    async fn truncated_frame_is_refused() {
        for bytes in [&[0u8][..], &[0, 0, 0], &[0, 0, 0, 2], &[0, 0, 0, 2, 9]] {
            assert!(matches!(
                read_all(bytes).await.unwrap_err(),
                FrameError::Broken(_)
            ));
        }
    }

    #[tokio::test]
    async fn a_frame_that_was_begun_must_end_in_time() {
        let begun = Cursor::new([0u8, 0, 0, 2, 9]);
        let mut stream = begun.chain(Never);
        assert!(matches!(
            read(&mut stream, Duration::from_millis(1))
                .await
                .unwrap_err(),
            FrameError::Stalled
        ));
    }

    struct Never;

    impl AsyncRead for Never {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut [u8],
        ) -> std::task::Poll<io::Result<usize>> {
            std::task::Poll::Pending
        }
    }
}
