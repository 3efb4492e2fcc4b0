//! The intake stream as the shim uses it: every step has a deadline.

use crate::sys::fdpass;
use crate::wire::paths::Root;
use crate::wire::{Answer, HEADER_LEN, Header};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

pub(super) struct Link {
    stream: UnixStream,
}

impl Link {
    /// Connects. A full backlog makes connect(2) wait as long as the send timeout lets it, so that is set first.
    pub(super) fn connect(root: &Root, within: Duration) -> io::Result<Self> {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let limit = TimeVal::new(within.as_secs().max(1) as i64, 0);
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        let address = UnixAddr::new(&root.intake_socket())?;
        connect(socket.as_raw_fd(), &address)?;
        Ok(Self { stream: UnixStream::from(socket) })
    }

    /// Sends a whole message, its descriptors with the first byte.
    pub(super) fn send(&mut self, message: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let sent = fdpass::send_with_fds(self.stream.as_fd(), message, fds)?;
        self.stream.write_all(&message[sent..])
    }

    /// Waits for the daemon's next word until `deadline`. `TimedOut`: it said nothing.
    pub(super) fn receive(&mut self, deadline: Instant) -> io::Result<Answer> {
        let mut header = [0; HEADER_LEN];
        self.fill(&mut header, deadline)?;
        let header = Header::decode(&header).map_err(invalid)?;
        let mut payload = vec![0; header.payload_len];
        self.fill(&mut payload, deadline)?;
        Answer::decode(header.kind, &payload).map_err(invalid)
    }

    fn fill(&mut self, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !buffer.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => buffer = &mut buffer[count..],
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn invalid(error: crate::wire::WireError) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
