//! The intake stream as the shim uses it: every step has a deadline.

use crate::sys::fdpass;
use crate::wire::paths::Root;
use crate::wire::{Answer, HEADER_LEN, Header, WireError};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub(super) struct Link {
    stream: UnixStream,
    /// Descriptors that came with the message being read.
    fds: Vec<OwnedFd>,
}

impl Link {
    /// Connects. A full backlog makes connect(2) wait as long as the send timeout lets it, so that is set first.
    pub(super) fn connect(root: &Root, within: Duration) -> io::Result<Self> {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let limit = TimeVal::new(within.as_secs().max(1) as i64, 0);
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        let address = UnixAddr::new(&root.intake_socket())?;
        connect(socket.as_raw_fd(), &address)?;
        Ok(Self { stream: UnixStream::from(socket), fds: Vec::new() })
    }

    /// Sends a whole message, its descriptors with the first byte.
    pub(super) fn send(&mut self, message: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let sent = fdpass::send_with_fds(self.stream.as_fd(), message, fds)?;
        self.stream.write_all(&message[sent..])
    }

    /// Waits for the daemon's next word until `deadline`. `TimedOut`: it said nothing. Descriptors come with a release only.
    pub(super) fn receive(&mut self, deadline: Instant) -> io::Result<(Answer, Vec<OwnedFd>)> {
        self.fds.clear();
        let mut header = [0; HEADER_LEN];
        self.fill(&mut header, deadline)?;
        let header = Header::decode(&header).map_err(invalid)?;
        let mut payload = vec![0; header.payload_len];
        self.fill(&mut payload, deadline)?;
        let answer = Answer::decode(header.kind, &payload).map_err(invalid)?;
        if self.fds.len() != header.fds {
            return Err(invalid(WireError::Descriptors { announced: header.fds, arrived: self.fds.len() }));
        }
        Ok((answer, std::mem::take(&mut self.fds)))
    }

    fn fill(&mut self, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match fdpass::recv_with_fds(self.stream.as_fd(), buffer) {
                Ok((0, _)) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok((count, fds)) => {
                    self.fds.extend(fds);
                    buffer = &mut buffer[count..];
                }
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn invalid(error: WireError) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
