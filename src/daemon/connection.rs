//! The daemon's end of a connection with a shim: messages out of bytes and descriptors.

use coreward_sys::fdpass;
use coreward_wire::{DaemonMessage, FdKind, Kind, Offer, Reply, Request, WireError, take_message};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Size of the receive buffer in bytes; most messages are shorter.
const RECEIVE_BUFFER: usize = 8 << 10;
/// A shim reads every message at once, unless somebody has stopped it.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub(super) enum ConnectionError {
    /// The bytes are not a message of the protocol.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The stream broke, or the shim is gone.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The shim did not answer in time.
    #[error("the shim sent nothing for {} s", .0.as_secs())]
    TimedOut(Duration),
}

/// A message from a shim.
pub(super) enum ShimMessage {
    Offer(Box<Offer>, Vec<(FdKind, OwnedFd)>),
    Reply(Reply, Vec<OwnedFd>),
    Released,
}

/// A reply, and what came with it, or why the shim could not get it.
pub(super) type Answer = Result<(Reply, Vec<OwnedFd>), Errno>;

pub(super) struct Connection {
    stream: UnixStream,
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    has_ended: bool,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, bytes: Vec::new(), fds: VecDeque::new(), has_ended: false }
    }

    /// Receives the next message. Cancel-safe: what has arrived stays in the buffer.
    pub(super) async fn receive(&mut self) -> Result<ShimMessage, ConnectionError> {
        loop {
            if let Some(message) = self.next_buffered()? {
                return Ok(message);
            }
            let (stream, bytes) = (&self.stream, &mut self.bytes);
            // On the stack of this closure: in the future it would be part of every session that waits for a message.
            let receive = || {
                let mut buffer = [0; RECEIVE_BUFFER];
                let (count, fds) = fdpass::recv_with_fds(stream.as_fd(), &mut buffer)?;
                bytes.extend_from_slice(&buffer[..count]);
                Ok((count, fds))
            };
            let (count, fds) =
                stream.async_io(Interest::READABLE, receive).await.map_err(|error| match error.kind() {
                    ErrorKind::InvalidData => {
                        ConnectionError::Wire(WireError::Descriptors { announced: 0, arrived: fdpass::SCM_MAX_FD })
                    }
                    _ => ConnectionError::Io(error),
                })?;
            if count == 0 {
                self.has_ended = true;
                return Err(ConnectionError::Io(ErrorKind::UnexpectedEof.into()));
            }
            self.fds.extend(fds);
        }
    }

    /// Whether the peer has gone and left nothing that was not a whole message.
    pub(super) fn is_silent_end(&self) -> bool {
        self.has_ended && self.bytes.is_empty()
    }

    /// Receives the next message within `limit`.
    pub(super) async fn receive_within(&mut self, limit: Duration) -> Result<ShimMessage, ConnectionError> {
        timeout(limit, self.receive()).await.map_err(|_| ConnectionError::TimedOut(limit))?
    }

    /// Removes a whole message from the buffer, if there is one.
    fn next_buffered(&mut self) -> Result<Option<ShimMessage>, ConnectionError> {
        let Some((header, payload)) = take_message(&mut self.bytes)? else { return Ok(None) };
        // Descriptors arrive with the first byte of their message, and a shim never sends two messages without an answer in
        // between: all buffered descriptors belong to this message.
        let arrived = self.fds.len();
        if arrived != header.fds {
            return Err(WireError::Descriptors { announced: header.fds, arrived }.into());
        }
        let fds: Vec<OwnedFd> = self.fds.drain(..).collect();
        match header.kind {
            Kind::Offer => {
                let (offer, kinds) = Offer::decode(&payload)?;
                if kinds.len() != fds.len() {
                    return Err(WireError::Descriptors { announced: kinds.len(), arrived }.into());
                }
                Ok(Some(ShimMessage::Offer(Box::new(offer), kinds.into_iter().zip(fds).collect())))
            }
            Kind::Reply => Ok(Some(ShimMessage::Reply(Reply::decode(&payload)?, fds))),
            Kind::Released => Ok(Some(ShimMessage::Released)),
            other => Err(WireError::Unexpected(other).into()),
        }
    }

    pub(super) async fn send(&mut self, message: &DaemonMessage) -> Result<(), ConnectionError> {
        self.send_with(message, &[]).await
    }

    /// Sends a message, its descriptors with the first byte.
    async fn send_with(&mut self, message: &DaemonMessage, fds: &[OwnedFd]) -> Result<(), ConnectionError> {
        self.send_bytes(&message.encode(), fds).await
    }

    async fn send_bytes(&mut self, message: &[u8], fds: &[OwnedFd]) -> Result<(), ConnectionError> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let send = async {
            let stream = &self.stream;
            let begin = || fdpass::send_with_fds(stream.as_fd(), message, &raw);
            let sent = stream.async_io(Interest::WRITABLE, begin).await?;
            self.stream.write_all(&message[sent..]).await
        };
        timeout(SEND_TIMEOUT, send).await.map_err(|_| ConnectionError::TimedOut(SEND_TIMEOUT))??;
        Ok(())
    }

    /// Sends a request and waits for its reply.
    pub(super) async fn request(&mut self, request: Request) -> Result<Answer, ConnectionError> {
        self.request_after(&[], request).await
    }

    /// Requests a descriptor. `Ok(None)`: the shim could not open it.
    pub(super) async fn request_fd(&mut self, request: Request) -> Result<Option<OwnedFd>, ConnectionError> {
        self.request_fd_after(&[], request).await
    }

    /// [`Self::request_fd`] with the messages `first` in front of the request, all in one write: the shim wakes up once.
    pub(super) async fn request_fd_after(
        &mut self,
        first: &[DaemonMessage],
        request: Request,
    ) -> Result<Option<OwnedFd>, ConnectionError> {
        Ok(self.request_after(first, request).await?.ok().and_then(|(_, fds)| fds.into_iter().next()))
    }

    async fn request_after(&mut self, first: &[DaemonMessage], request: Request) -> Result<Answer, ConnectionError> {
        /// The shim gives up on an open(2) that blocks after 2 s.
        const REPLY_TIMEOUT: Duration = Duration::from_secs(4);
        let mut message: Vec<u8> = first.iter().flat_map(DaemonMessage::encode).collect();
        message.extend(DaemonMessage::Request(request).encode());
        self.send_bytes(&message, &[]).await?;
        match self.receive_within(REPLY_TIMEOUT).await? {
            ShimMessage::Reply(reply, fds) if reply.errno == 0 => Ok(Ok((reply, fds))),
            ShimMessage::Reply(reply, _) => Ok(Err(Errno::from_raw(reply.errno.cast_signed()))),
            ShimMessage::Offer(..) => Err(WireError::Unexpected(Kind::Offer).into()),
            ShimMessage::Released => Err(WireError::Unexpected(Kind::Released).into()),
        }
    }

    /// Lets the process go and waits for the shim's confirmation. A shim that has turned to another daemon never confirms, and
    /// then the core that was captured here must not be published.
    pub(super) async fn release(
        &mut self,
        checkpoint: Vec<u8>,
        fds: Vec<(FdKind, OwnedFd)>,
    ) -> Result<(), ConnectionError> {
        let (kinds, fds): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
        self.send_with(&DaemonMessage::Release { checkpoint, fds: kinds, needs_ack: true }, &fds).await?;
        match self.receive_within(SEND_TIMEOUT).await? {
            ShimMessage::Released => Ok(()),
            ShimMessage::Offer(..) => Err(WireError::Unexpected(Kind::Offer).into()),
            ShimMessage::Reply(..) => Err(WireError::Unexpected(Kind::Reply).into()),
        }
    }

    /// Whether the peer is root (SO_PEERCRED).
    pub(super) fn peer_is_root(&self) -> bool {
        self.stream.peer_cred().is_ok_and(|peer| peer.uid() == 0)
    }
}
