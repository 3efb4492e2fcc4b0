//! The calls that arrive on a connection, one after the other. A client can send what it likes, as slowly as it likes.

use super::message::{MAX_CALL, MessageError};
use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

/// How long a connection may do nothing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a call may take to arrive, from its first byte on.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const CHUNK: usize = 4096;

/// Why a connection has no further call.
#[derive(Debug, Error)]
pub(super) enum FrameError {
    #[error("{0}")]
    Message(#[from] MessageError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("no call arrived in time")]
    TimedOut,
}

/// The receiving end of a connection.
pub(super) struct Frames<R> {
    reader: R,
    /// What has arrived, of calls that nobody has taken.
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new() }
    }

    pub(super) fn get_ref(&self) -> &R {
        &self.reader
    }

    /// The bytes of the next call, without the NUL at its end; `None` if the client has closed the connection.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let begun = Instant::now();
        let mut deadline = begun + if self.buffer.is_empty() { IDLE_TIMEOUT } else { CALL_TIMEOUT };
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == 0) {
                let mut call: Vec<u8> = self.buffer.drain(..=end).collect();
                call.pop();
                return Ok(Some(call));
            }
            if self.buffer.len() > MAX_CALL {
                return Err(MessageError::TooLong.into());
            }
            let was_empty = self.buffer.is_empty();
            let count = timeout_at(deadline, self.receive()).await.map_err(|_| FrameError::TimedOut)??;
            if count == 0 {
                return Ok(None);
            }
            if was_empty {
                deadline = Instant::now() + CALL_TIMEOUT;
            }
        }
    }

    /// Returns when the client has closed the connection, or sends more than it has a reason to while it waits for replies.
    pub(super) async fn closed(&mut self) {
        while self.buffer.len() <= MAX_CALL && self.receive().await.is_ok_and(|count| count > 0) {}
    }

    /// Receives some bytes; 0 if there are no more. Cancel-safe.
    async fn receive(&mut self) -> io::Result<usize> {
        let mut chunk = [0; CHUNK];
        let count = self.reader.read(&mut chunk).await?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn calls_are_separated_by_nul_however_they_arrive() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut frames = Frames::new(server);
        let send = tokio::spawn(async move {
            for part in [&b"on"[..], b"e\0two\0", b"\0thr"] {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut calls = Vec::new();
        while let Some(call) = frames.next().await.unwrap() {
            calls.push(String::from_utf8(call).unwrap());
        }
        send.await.unwrap();
        assert_eq!(calls, ["one", "two", ""], "one that is not finished is none");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_too_much_or_too_slowly_is_given_up() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(&vec![b'x'; 2 * MAX_CALL]).await.unwrap();
        assert!(matches!(Frames::new(server).next().await, Err(FrameError::Message(MessageError::TooLong))));

        let (mut client, server) = tokio::io::duplex(64);
        let drip = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let begun = Instant::now();
        assert!(matches!(Frames::new(server).next().await, Err(FrameError::TimedOut)));
        assert!(begun.elapsed() <= CALL_TIMEOUT + Duration::from_secs(1));
        drip.await.unwrap();

        let (_client, server) = tokio::io::duplex(64);
        let begun = Instant::now();
        assert!(matches!(Frames::new(server).next().await, Err(FrameError::TimedOut)));
        assert_eq!(begun.elapsed(), IDLE_TIMEOUT);
    }
}
