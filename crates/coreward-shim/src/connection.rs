//! The intake stream as the shim uses it: every step has a deadline.

use coreward_sys::fdpass;
use coreward_wire::paths::Root;
use coreward_wire::{DaemonMessage, WireError, take_message};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Most answers are shorter, and two of them may come at once.
const ROOM: usize = 4096;

pub(super) struct Connection {
    stream: UnixStream,
    /// What has arrived and was not read yet, and the descriptors that came along.
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Connection {
    /// Connects. A full backlog makes connect(2) wait as long as the send timeout lets it, so that is set first.
    pub(super) fn connect(root: &Root, within: Duration) -> io::Result<Self> {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let limit = TimeVal::new(within.as_secs().max(1) as i64, 0);
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        let address = UnixAddr::new(&root.intake_socket())?;
        connect(socket.as_raw_fd(), &address)?;
        Ok(Self { stream: UnixStream::from(socket), bytes: Vec::new(), fds: Vec::new() })
    }

    /// Sends a whole message, its descriptors with the first byte.
    pub(super) fn send(&mut self, message: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let sent = fdpass::send_with_fds(self.stream.as_fd(), message, fds)?;
        self.stream.write_all(&message[sent..])
    }

    /// Waits for the daemon's next word until `deadline`. `TimedOut`: it said nothing. Descriptors come with a release only.
    pub(super) fn receive(&mut self, deadline: Instant) -> io::Result<(DaemonMessage, Vec<OwnedFd>)> {
        let (header, payload) = loop {
            match take_message(&mut self.bytes).map_err(invalid)? {
                Some(message) => break message,
                None => self.fill(deadline)?,
            }
        };
        let answer = DaemonMessage::decode(header.kind, &payload).map_err(invalid)?;
        // Descriptors arrive with the first byte of their message, and recvmsg(2) never reads past a message that has some
        // into another: where this one has none, those that are here belong to the next.
        if header.fds == 0 {
            return Ok((answer, Vec::new()));
        }
        if self.fds.len() != header.fds {
            return Err(invalid(WireError::Descriptors { announced: header.fds, arrived: self.fds.len() }));
        }
        Ok((answer, std::mem::take(&mut self.fds)))
    }

    fn fill(&mut self, deadline: Instant) -> io::Result<()> {
        let mut room = [0; ROOM];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match fdpass::recv_with_fds(self.stream.as_fd(), &mut room) {
                Ok((0, _)) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok((count, fds)) => {
                    self.fds.extend(fds);
                    self.bytes.extend_from_slice(&room[..count]);
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn invalid(error: WireError) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
