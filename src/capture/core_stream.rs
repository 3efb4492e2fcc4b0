//! Where the bytes of a core come from: the kernel's pipe, or a file of the spool.

use super::health::Heartbeat;
use coreward_sys::pipe::{self, Ready};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A stream of core bytes that can be called off.
#[derive(Debug)]
pub struct StreamReader {
    /// What was taken out of the stream before, to be read first.
    before: Option<File>,
    file: File,
    cancelled: CancellationToken,
}

/// What came.
#[derive(Clone, Copy, Debug)]
pub struct StreamRead {
    /// How many bytes.
    pub bytes: usize,
    /// The stream has stood still for so long that no more is waited for.
    pub stalled: bool,
}

/// A page from a disk takes milliseconds. Where none comes for this long, the kernel waits for a mount that is dead, or
/// that a user made to stand still; neither the worker nor the other crashes may wait with it.
const STALL: Duration = Duration::from_secs(20);
/// How often a wait for the kernel looks whether it was called off.
const LOOK: Duration = Duration::from_millis(250);
/// What an unprivileged pipe may grow to (fs.pipe-max-size); fewer turns for the same bytes.
const PIPE_SIZE: i32 = 1 << 20;

impl StreamReader {
    /// A stream from `core`, `before` in front of it, until `cancelled` is set.
    pub fn new(core: OwnedFd, before: Option<OwnedFd>, cancelled: CancellationToken) -> Self {
        let before = before.map(File::from).and_then(|mut before| before.rewind().ok().map(|()| before));
        // Best effort: it fails for a file of the spool, and where the user's pipes have used up their share.
        let _ = pipe::set_size(core.as_fd(), PIPE_SIZE);
        Self { before, file: File::from(core), cancelled }
    }

    /// Fills `buffer` from the stream; less than its length only at the end, or where it stands still.
    ///
    /// # Errors
    /// `Interrupted` when the stream was called off, otherwise what read(2) says.
    pub fn fill(&mut self, buffer: &mut [u8], heartbeat: &Heartbeat) -> io::Result<StreamRead> {
        let mut filled = 0;
        while let Some(before) = self.before.as_mut().filter(|_| filled < buffer.len()) {
            match before.read(&mut buffer[filled..])? {
                0 => self.before = None,
                count => filled += count,
            }
        }
        while filled < buffer.len() {
            // The kernel writes at its own pace: a page may have to come from a slow disk. That is not this worker's fault.
            heartbeat.idle();
            let since = Instant::now();
            while pipe::wait_readable(self.file.as_fd(), LOOK)? == Ready::TimedOut {
                self.check()?;
                if since.elapsed() >= STALL {
                    return Ok(StreamRead { bytes: filled, stalled: true });
                }
            }
            self.check()?;
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

    fn check(&self) -> io::Result<()> {
        if self.cancelled.is_cancelled() { Err(ErrorKind::Interrupted.into()) } else { Ok(()) }
    }
}
