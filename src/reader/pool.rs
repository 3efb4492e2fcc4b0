//! The daemon's readers that wait for a crash.

use super::process::Reader;
use super::server;
use coreward_sys::{fdpass, fork};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

/// Readers that are kept for the next crashes. A storm's crashes are read by the same ones, one after the other.
const IDLE: usize = 4;

/// Makes readers.
#[derive(Debug)]
pub struct ReaderPool {
    /// The process that forks them reads from the other end.
    requests: UnixStream,
    idle: Mutex<Vec<Reader>>,
}

impl ReaderPool {
    /// Forks the process that makes readers. To be called before anything else: the process has no threads, and what it knows of the
    /// daemon, all readers know.
    ///
    /// # Errors
    /// This process has more than one thread, or the error of fork(2).
    pub fn start() -> io::Result<Self> {
        let (requests, theirs) = UnixStream::pair()?;
        fork::spawn_apart(theirs.into(), |requests| server::fork_readers(&requests))?;
        // A process that does not take the few bytes that it is sent is of no use.
        requests.set_nonblocking(true)?;
        Ok(Self { requests, idle: Mutex::default() })
    }

    /// Returns when the process that makes readers has ended. Then every crash would be without a stack.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn maker_ended(&self) -> io::Result<()> {
        // It sends nothing: there is something to read when its end is closed.
        tokio::net::UnixStream::from_std(self.requests.try_clone()?)?.readable().await
    }

    /// A reader that has nothing open: an idle one, or a new one. Blocks for a fraction of a millisecond.
    ///
    /// # Errors
    /// No process can be made.
    pub fn take(&self) -> io::Result<Reader> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.make(), Ok)
    }

    /// Makes sure that the next crash finds a reader.
    pub fn refill(&self) {
        let is_empty = self.idle.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if is_empty && let Ok(reader) = self.make() {
            self.add(reader);
        }
    }

    /// Takes back a reader whose crash needs nothing more of it. It forgets the crash.
    pub fn give_back(&self, mut reader: Reader) {
        if reader.close().is_ok() {
            self.add(reader);
        }
    }

    fn add(&self, reader: Reader) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(reader);
        }
    }

    fn make(&self) -> io::Result<Reader> {
        let (ours, theirs) = UnixStream::pair()?;
        // One byte with one descriptor: such a message is sent whole or not at all.
        fdpass::send_with_fds(self.requests.as_fd(), &[0], &[theirs.as_raw_fd()])?;
        drop(theirs);
        Reader::new(ours)
    }
}
