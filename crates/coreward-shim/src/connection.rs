//! The connection to the daemon on the intake socket. Every step has a deadline.

use coreward_sys::fdpass;
use coreward_wire::paths::Root;
use coreward_wire::{DaemonMessage, WireError, take_message};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Size of the receive buffer. Most messages are shorter, and two of them may arrive together.
const BUFFER: usize = 4096;

/// A connection to the daemon.
pub(super) struct DaemonConnection {
    stream: UnixStream,
    /// Bytes that were received but not decoded yet.
    bytes: Vec<u8>,
    /// Descriptors that were received with these bytes.
    fds: Vec<OwnedFd>,
}

impl DaemonConnection {
    /// Connects to the intake socket. If the socket's backlog is full, connect(2) blocks for at most the send timeout
    /// (SO_SNDTIMEO, socket(7)), which is therefore set first.
    pub(super) fn connect(root: &Root, timeout: Duration) -> io::Result<Self> {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let seconds = timeout.as_secs().max(1).try_into().unwrap_or(i64::MAX);
        setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(seconds, 0))?;
        let address = UnixAddr::new(&root.intake_socket())?;
        // The handler of the exit trace interrupts it (coreward_sys::exit_trace).
        let deadline = Instant::now() + timeout;
        while let Err(error) = connect(socket.as_raw_fd(), &address) {
            if error != Errno::EINTR || Instant::now() >= deadline {
                return Err(error.into());
            }
        }
        Ok(Self { stream: UnixStream::from(socket), bytes: Vec::new(), fds: Vec::new() })
    }

    /// Sends a message, its descriptors with the first byte.
    pub(super) fn send(&mut self, message: &[u8], fds: &[RawFd]) -> io::Result<()> {
        let sent = loop {
            match fdpass::send_with_fds(self.stream.as_fd(), message, fds) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                sent => break sent?,
            }
        };
        self.stream.write_all(message.get(sent..).unwrap_or_default())
    }

    /// Receives the daemon's next message and its descriptors. Fails with `TimedOut` if it is not complete by `deadline`.
    pub(super) fn receive(&mut self, deadline: Instant) -> io::Result<(DaemonMessage, Vec<OwnedFd>)> {
        let (header, payload) = loop {
            match take_message(&mut self.bytes).map_err(invalid_data)? {
                Some(message) => break message,
                None => self.receive_bytes(deadline)?,
            }
        };
        let message = DaemonMessage::decode(header.kind, &payload).map_err(invalid_data)?;
        // Descriptors arrive with the first byte of their message, and recvmsg(2) does not read past a message with descriptors
        // into the next one (unix(7)). So descriptors that are here belong to a later message if this one announces none.
        if header.fds == 0 {
            return Ok((message, Vec::new()));
        }
        if self.fds.len() != header.fds {
            return Err(invalid_data(WireError::Descriptors { announced: header.fds, arrived: self.fds.len() }));
        }
        Ok((message, std::mem::take(&mut self.fds)))
    }

    fn receive_bytes(&mut self, deadline: Instant) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(remaining))?;
            match fdpass::recv_with_fds(self.stream.as_fd(), &mut buffer) {
                Ok((0, _)) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok((count, fds)) => {
                    self.fds.extend(fds);
                    self.bytes.extend(buffer.iter().take(count));
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn invalid_data(error: WireError) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
