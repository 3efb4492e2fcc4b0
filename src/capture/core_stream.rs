//! Reads a core as a stream: from the kernel's pipe, or from a file in the spool.

use super::health::Heartbeat;
use coreward_sys::pipe::{self, Ready};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A stream of core bytes whose reads can be cancelled.
#[derive(Debug)]
pub struct CoreStream {
    /// What the shim took out of the pipe, to be read first.
    prefix: Option<File>,
    file: File,
    cancelled: CancellationToken,
}

/// The outcome of [`CoreStream::fill`].
#[derive(Clone, Copy, Debug)]
pub struct StreamRead {
    /// Bytes that were read.
    pub bytes: usize,
    /// No data arrived for too long.
    pub stalled: bool,
}

/// A page from a disk arrives within milliseconds. If none does for this long, the kernel waits for a mount that is dead, or that
/// a user blocks on purpose; the worker is not to wait with it.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a wait checks whether it was cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Largest size of an unprivileged pipe, in bytes (fs.pipe-max-size): the fewer reads, the faster.
const PIPE_SIZE: i32 = 1 << 20;

impl CoreStream {
    /// A stream of `prefix` and then `core`, whose reads fail once `cancelled` is set.
    pub fn new(core: OwnedFd, prefix: Option<OwnedFd>, cancelled: CancellationToken) -> Self {
        let prefix = prefix.map(File::from).and_then(|mut prefix| prefix.rewind().ok().map(|()| prefix));
        // This fails for a file of the spool, and once the user's pipes have reached fs.pipe-user-pages-soft.
        let _ = pipe::set_capacity(core.as_fd(), PIPE_SIZE);
        Self { prefix, file: File::from(core), cancelled }
    }

    /// Fills `buffer`; less than all of it only at the end of the stream, or if the stream stalls.
    ///
    /// # Errors
    /// `Interrupted` if the stream was cancelled, otherwise errors of read(2).
    pub fn fill(&mut self, buffer: &mut [u8], heartbeat: &Heartbeat) -> io::Result<StreamRead> {
        let mut filled = 0;
        while let Some(prefix) = self.prefix.as_mut().filter(|_| filled < buffer.len()) {
            match prefix.read(&mut buffer[filled..])? {
                0 => self.prefix = None,
                count => filled += count,
            }
        }
        while filled < buffer.len() {
            // The kernel may have to wait for a slow disk, which is not this worker's fault.
            heartbeat.idle();
            let since = Instant::now();
            while pipe::wait_readable(self.file.as_fd(), POLL_INTERVAL)? == Ready::TimedOut {
                self.check_cancelled()?;
                if since.elapsed() >= STALL_TIMEOUT {
                    return Ok(StreamRead { bytes: filled, stalled: true });
                }
            }
            self.check_cancelled()?;
            heartbeat.tick();
            match self.file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(StreamRead { bytes: filled, stalled: false })
    }

    fn check_cancelled(&self) -> io::Result<()> {
        if self.cancelled.is_cancelled() { Err(ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}
