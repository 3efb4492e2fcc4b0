//! The daemon's end of a conversation with a shim.

use coreward_sys::fdpass;
use coreward_wire::{DaemonMessage, FdKind, Kind, Offer, Reply, Request, WireError, take_message};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Most messages are shorter.
const ROOM: usize = 8 << 10;
/// A shim reads what it is told at once; one that does not has been stopped.
const SEND_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub(super) enum ConnectionError {
    /// Not one of our messages.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// The stream broke, or the shim has gone.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The shim said nothing in time.
    #[error("the shim said nothing for {} s", .0.as_secs())]
    Silent(Duration),
}

/// One message of a shim.
pub(super) enum Message {
    Offer(Box<Offer>, Vec<(FdKind, OwnedFd)>),
    Reply(Reply, Vec<OwnedFd>),
    Released,
}

pub(super) struct Connection {
    stream: UnixStream,
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, bytes: Vec::new(), fds: VecDeque::new() }
    }

    /// The next message. May be dropped and called again: what has arrived is kept.
    pub(super) async fn receive(&mut self) -> Result<Message, ConnectionError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            let (stream, bytes) = (&self.stream, &mut self.bytes);
            // The room is on the stack of the reader: in here it would be a part of every future that waits for a message.
            let receive = || {
                let mut room = [0; ROOM];
                let (count, fds) = fdpass::recv_with_fds(stream.as_fd(), &mut room)?;
                bytes.extend_from_slice(&room[..count]);
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
                return Err(ConnectionError::Io(ErrorKind::UnexpectedEof.into()));
            }
            self.fds.extend(fds);
        }
    }

    /// The next message, within `limit`.
    pub(super) async fn receive_within(&mut self, limit: Duration) -> Result<Message, ConnectionError> {
        timeout(limit, self.receive()).await.map_err(|_| ConnectionError::Silent(limit))?
    }

    /// A whole message out of what has arrived.
    fn take(&mut self) -> Result<Option<Message>, ConnectionError> {
        let Some((header, payload)) = take_message(&mut self.bytes)? else { return Ok(None) };
        // Descriptors arrive with the first byte of their message. A shim never sends two messages without an answer
        // between them, so what is here belongs to this one.
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
                Ok(Some(Message::Offer(Box::new(offer), kinds.into_iter().zip(fds).collect())))
            }
            Kind::Reply => Ok(Some(Message::Reply(Reply::decode(&payload)?, fds))),
            Kind::Released => Ok(Some(Message::Released)),
            other => Err(WireError::Unexpected(other).into()),
        }
    }

    pub(super) async fn send(&mut self, answer: &DaemonMessage) -> Result<(), ConnectionError> {
        self.send_with(answer, &[]).await
    }

    /// Sends a message, its descriptors with the first byte.
    async fn send_with(&mut self, answer: &DaemonMessage, fds: &[OwnedFd]) -> Result<(), ConnectionError> {
        self.send_bytes(&answer.encode(), fds).await
    }

    async fn send_bytes(&mut self, message: &[u8], fds: &[OwnedFd]) -> Result<(), ConnectionError> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let send = async {
            let stream = &self.stream;
            let begin = || fdpass::send_with_fds(stream.as_fd(), message, &raw);
            let sent = stream.async_io(Interest::WRITABLE, begin).await?;
            self.stream.write_all(&message[sent..]).await
        };
        timeout(SEND_WITHIN, send).await.map_err(|_| ConnectionError::Silent(SEND_WITHIN))??;
        Ok(())
    }

    /// Asks the shim for something. `Ok(None)`: it could not get it.
    pub(super) async fn ask(&mut self, wanted: Request) -> Result<Option<(Reply, Vec<OwnedFd>)>, ConnectionError> {
        self.ask_after(&[], wanted).await
    }

    /// Asks for a descriptor. `Ok(None)`: the shim could not get it.
    pub(super) async fn ask_for_fd(&mut self, wanted: Request) -> Result<Option<OwnedFd>, ConnectionError> {
        self.ask_for_fd_after(&[], wanted).await
    }

    /// [`Self::ask_for_fd`], with `first` said before and all at once: the shim wakes up for it but once.
    pub(super) async fn ask_for_fd_after(
        &mut self,
        first: &[DaemonMessage],
        wanted: Request,
    ) -> Result<Option<OwnedFd>, ConnectionError> {
        Ok(self.ask_after(first, wanted).await?.and_then(|(_, fds)| fds.into_iter().next()))
    }

    async fn ask_after(
        &mut self,
        first: &[DaemonMessage],
        wanted: Request,
    ) -> Result<Option<(Reply, Vec<OwnedFd>)>, ConnectionError> {
        const ANSWER_WITHIN: Duration = Duration::from_secs(4);
        let mut message: Vec<u8> = first.iter().flat_map(DaemonMessage::encode).collect();
        message.extend(DaemonMessage::Request(wanted).encode());
        self.send_bytes(&message, &[]).await?;
        match self.receive_within(ANSWER_WITHIN).await? {
            Message::Reply(reply, fds) => Ok((reply.errno == 0).then_some((reply, fds))),
            Message::Offer(..) => Err(WireError::Unexpected(Kind::Offer).into()),
            Message::Released => Err(WireError::Unexpected(Kind::Released).into()),
        }
    }

    /// Lets the process go, and makes sure that the shim is still this crash's keeper: one that has turned to another daemon
    /// never answers, and then what was captured here must not be published.
    pub(super) async fn release(&mut self, kept: Vec<u8>, fds: Vec<(FdKind, OwnedFd)>) -> Result<(), ConnectionError> {
        let (kinds, fds): (Vec<_>, Vec<_>) = fds.into_iter().unzip();
        self.send_with(&DaemonMessage::Release { checkpoint: kept, fds: kinds, needs_ack: true }, &fds).await?;
        match self.receive_within(SEND_WITHIN).await? {
            Message::Released => Ok(()),
            Message::Offer(..) => Err(WireError::Unexpected(Kind::Offer).into()),
            Message::Reply(..) => Err(WireError::Unexpected(Kind::Reply).into()),
        }
    }

    /// Whether root is at the other end.
    pub(super) fn peer_is_root(&self) -> bool {
        self.stream.peer_cred().is_ok_and(|peer| peer.uid() == 0)
    }
}
