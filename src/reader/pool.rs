//! The daemon's readers that wait for a crash.

use super::process::Reader;
use super::server;
use crate::crash::Principal;
use coreward_sys::{fdpass, fork};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Readers that are kept for the next crashes. The crashes of a storm are read by the same ones, one after the other: what one of them
/// makes of a reader, those of other principals never see.
const IDLE: usize = 4;

/// Makes readers.
#[derive(Debug)]
pub struct ReaderPool {
    /// The process that forks them reads from the other end.
    requests: UnixStream,
    /// Those that have read a crash with the principal of that crash; the others have read none.
    idle: Mutex<Vec<(Option<Principal>, Reader)>>,
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

    /// A reader that has nothing open: one that has read crashes of this principal and of no other, or a new one. Blocks for a fraction
    /// of a millisecond.
    ///
    /// # Errors
    /// No process can be made.
    pub fn take(&self, principal: &Principal) -> io::Result<Reader> {
        let idle = {
            let mut idle = self.lock();
            let own = idle.iter().position(|(of, _)| of.as_ref() == Some(principal));
            own.or_else(|| idle.iter().position(|(of, _)| of.is_none())).map(|index| idle.swap_remove(index).1)
        };
        idle.map_or_else(|| self.make(), Ok)
    }

    /// Makes sure that the next crash finds a reader.
    pub fn refill(&self) {
        let has_new = self.lock().iter().any(|(of, _)| of.is_none());
        if !has_new && let Ok(reader) = self.make() {
            self.add(None, reader);
        }
    }

    /// Takes back a reader whose crash needs nothing more of it. It forgets the crash.
    pub fn give_back(&self, principal: &Principal, mut reader: Reader) {
        if reader.close().is_ok() {
            self.add(Some(principal.clone()), reader);
        }
    }

    /// Adds an idle reader; where there are too many, the one that waits longest goes.
    fn add(&self, principal: Option<Principal>, reader: Reader) {
        let mut idle = self.lock();
        if idle.len() >= IDLE {
            idle.remove(0);
        }
        idle.push((principal, reader));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Option<Principal>, Reader)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self) -> io::Result<Reader> {
        let (ours, theirs) = UnixStream::pair()?;
        // One byte with one descriptor: such a message is sent whole or not at all.
        fdpass::send_with_fds(self.requests.as_fd(), &[0], &[theirs.as_raw_fd()])?;
        drop(theirs);
        Reader::new(ours)
    }
}
