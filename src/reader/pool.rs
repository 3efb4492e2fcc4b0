//! The daemon's readers that wait for a crash.

use super::module_reader::ModuleReader;
use super::process::Reader;
use super::protocol::Purpose;
use super::saved_core::SavedCoreFile;
use super::scope::ReaderScope;
use super::server;
use coreward_sys::{fdpass, fork};
use nix::unistd::getpid;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Readers that are kept for the next crashes. The crashes of a storm are read by the same ones, one after the other: what one of them
/// makes of a reader, those of another scope never see.
const IDLE: usize = 4;

/// Makes readers.
#[derive(Debug)]
pub struct ReaderPool {
    /// The process that forks them reads from the other end.
    requests: UnixStream,
    /// Those that have read a crash with the scope of that crash; the others have read none.
    idle: Mutex<Vec<(Option<ReaderScope>, Reader)>>,
}

impl ReaderPool {
    /// Forks the process that makes readers. To be called before anything else: the process has no threads, and what it knows of the
    /// daemon, all readers know.
    ///
    /// # Errors
    /// This process has more than one thread, or the error of fork(2).
    pub fn start() -> io::Result<Self> {
        let (requests, theirs) = UnixStream::pair()?;
        let daemon = getpid();
        fork::spawn_apart(theirs.into(), move |requests| server::fork_readers(&requests, daemon))?;
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

    /// A reader for a crash of this scope: one that has read crashes of it and of no other, or a new one. Blocks for a fraction of a
    /// millisecond.
    ///
    /// # Errors
    /// No process can be made.
    pub fn take(&self, scope: &ReaderScope) -> io::Result<Reader> {
        self.take_idle(scope).map_or_else(|| self.make(Purpose::Processes), Ok)
    }

    /// The same, if there is one already.
    pub fn take_idle(&self, scope: &ReaderScope) -> Option<Reader> {
        let mut idle = self.lock();
        let own = idle.iter().rposition(|(of, _)| of.as_ref() == Some(scope));
        own.or_else(|| idle.iter().position(|(of, _)| of.is_none())).map(|index| idle.remove(index).1)
    }

    /// A reader of this saved core and of nothing else.
    ///
    /// # Errors
    /// No process can be made.
    pub fn open_saved(&self, saved: &SavedCoreFile) -> io::Result<Reader> {
        let reader = self.make(Purpose::SavedCore)?;
        reader.open_saved(saved)?;
        Ok(reader)
    }

    /// A reader of the mapped files of one crash, and of the host's files with these paths.
    ///
    /// # Errors
    /// No process can be made.
    pub fn open_modules(&self, host_paths: Vec<Option<String>>) -> io::Result<ModuleReader> {
        ModuleReader::new(self.make(Purpose::Modules)?, host_paths)
    }

    /// Makes sure that the next crash finds a reader.
    pub fn refill(&self) {
        let has_new = self.lock().iter().any(|(of, _)| of.is_none());
        if !has_new && let Ok(reader) = self.make(Purpose::Processes) {
            self.add(None, reader);
        }
    }

    /// Takes back a reader whose crash needs nothing more of it. It has that crash open until the next one, or until
    /// [`Self::close_idle`]: in a storm it would wake up once more for each crash.
    pub fn give_back(&self, scope: ReaderScope, reader: Reader) {
        if !reader.is_worn_out() {
            self.add(Some(scope), reader);
        }
    }

    /// Has the readers that wait forget their last crash.
    pub fn close_idle(&self) {
        self.lock().retain_mut(|(_, reader)| reader.close().is_ok());
    }

    /// Adds an idle reader; where there are too many, the one that waits longest goes.
    fn add(&self, scope: Option<ReaderScope>, reader: Reader) {
        let mut idle = self.lock();
        if idle.len() >= IDLE {
            idle.remove(0);
        }
        idle.push((scope, reader));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Option<ReaderScope>, Reader)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, purpose: Purpose) -> io::Result<Reader> {
        let (ours, theirs) = UnixStream::pair()?;
        // One byte with one descriptor: such a message is sent whole or not at all.
        fdpass::send_with_fds(self.requests.as_fd(), &[purpose as u8], &[theirs.as_raw_fd()])?;
        drop(theirs);
        Reader::new(ours)
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel::Channel;
    use super::super::protocol::Answer;
    use super::*;
    use coreward_sys::pidfd;
    use coreward_wire::Offer;
    use std::os::fd::OwnedFd;
    use std::process::{Child, Command};
    use std::sync::Arc;

    /// A reader that never answers, the process that is killed in its place, and its other end.
    fn reader() -> (Reader, Child, Channel) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = pidfd::open(child.id().cast_signed()).unwrap();
        let channel = Channel::new(theirs);
        channel.send_one(&Answer::Ready { missing: Vec::new() }, &[], &[pidfd.as_fd()]).unwrap();
        (Reader::new(ours).unwrap(), child, channel)
    }

    #[test]
    fn a_reader_never_reads_crashes_of_two_scopes() {
        let (requests, maker) = UnixStream::pair().unwrap();
        let pool = ReaderPool { requests, idle: Mutex::default() };
        drop(maker);
        let scope = |cgroup: &[u8]| ReaderScope::of(&Offer { cgroup: cgroup.to_vec(), ..Offer::default() });
        let (one, other) = (scope(b"a"), scope(b"b"));
        let (used, mut used_child, _used) = reader();
        let (new, mut new_child, _new) = reader();
        let is = |reader: &Reader, pidfd: &Arc<OwnedFd>| Arc::ptr_eq(&reader.pidfd(), pidfd);
        let (used_pidfd, new_pidfd) = (used.pidfd(), new.pidfd());
        pool.give_back(one.clone(), used);
        pool.add(None, new);
        let taken = pool.take(&other).unwrap();
        assert!(is(&taken, &new_pidfd));
        assert!(pool.take(&other).is_err(), "none is left, and none can be made");
        let again = pool.take(&one).unwrap();
        assert!(is(&again, &used_pidfd));
        pool.give_back(other.clone(), taken);
        for _ in 0..IDLE {
            let (more, mut child, _more) = reader();
            pool.give_back(one.clone(), more);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(pool.lock().len(), IDLE);
        assert!(pool.take(&other).is_err(), "the one that waited longest has gone");
        drop(again);
        for child in [&mut used_child, &mut new_child] {
            child.wait().unwrap();
        }
    }
}
