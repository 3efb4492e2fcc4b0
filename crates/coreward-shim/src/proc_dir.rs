//! The directory `/proc/PID` of the crashed process, or `/proc/PID/task/TID` of the thread that crashed. It belongs to that process
//! for as long as it is open, whoever gets the PID later.

use super::warning::{ShimWarning, errno_of};
use coreward_sys::fdpass;
use coreward_sys::openat::{self, read_link_at};
use coreward_wire::{FdKind, MAX_TABLE, MAX_TEXT};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Pid, Uid};
use std::cell::Cell;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The files in `/proc` of a process.
pub(super) struct ProcDir {
    /// `/proc/PID`.
    process: OwnedFd,
    /// `/proc/PID/task/TID` if the main thread has ended before the crash: it has no memory, links, namespaces or descriptors any more,
    /// and some kernels (before 6.16) open its files all the same, and read nothing from them.
    thread: Option<(Pid, OwnedFd)>,
    /// Jobs for the thread in which it is accessed where that may block, once there is one. After one that blocks the next has another.
    worker: Cell<Option<mpsc::Sender<Job>>>,
}

/// Descriptors of a shim that opens as many mapped files as a message can have ([`coreward_wire::MAX_MODULES`]).
const DESCRIPTORS: RawFd = 256;

/// Some work with the directory.
type Job = Box<dyn FnOnce(&OwnedFd) + Send>;

impl ProcDir {
    pub(super) fn open(pid: Pid, tid: Option<Pid>) -> io::Result<Self> {
        let process = openat::open_dir(Path::new(&format!("/proc/{pid}")))?;
        // Every program has an executable as long as it has memory.
        let has_ended = |tid: &Pid| *tid != pid && read_link_at(process.as_fd(), "exe") == Err(Errno::ENOENT);
        let thread = tid.filter(has_ended).and_then(|tid| {
            let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            Some((tid, openat(&process, format!("task/{tid}").as_str(), flags, Mode::empty()).ok()?))
        });
        Ok(Self { process, thread, worker: Cell::default() })
    }

    /// The thread that crashed, if the main thread has ended before.
    pub(super) fn thread_with_memory(&self) -> Option<Pid> {
        self.thread.as_ref().map(|(tid, _)| *tid)
    }

    /// The directory with what belongs to the process as long as it has memory.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.files().as_fd()
    }

    /// `/proc/PID`: the directories of the threads, and when the process was started.
    pub(super) fn of_process(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Whether the directory belongs to this user.
    pub(super) fn is_of(&self, uid: Option<Uid>) -> bool {
        fstat(&self.process).is_ok_and(|stat| uid == Some(Uid::from_raw(stat.st_uid)))
    }

    /// Whether the main thread ended before the crash.
    pub(super) fn main_thread_has_ended(&self) -> bool {
        self.thread.is_some()
    }

    fn files(&self) -> &OwnedFd {
        self.thread.as_ref().map_or(&self.process, |(_, dir)| dir)
    }

    /// The name of the thread with this id. After an error it is as long as was read before.
    pub(super) fn thread_name(&self, tid: impl Display) -> (Vec<u8>, io::Result<()>) {
        let (mut name, outcome) = read_text_at(self.of_process(), &format!("task/{tid}/comm"));
        // The kernel ends it with a newline, and the name may have others.
        name.pop_if(|last| *last == b'\n');
        (name, outcome)
    }

    /// Opens these files. A file that cannot be opened is left out, with a warning.
    pub(super) fn open_files(
        &self,
        files: &[(FdKind, &'static str)],
        warnings: &mut Vec<ShimWarning>,
    ) -> Vec<(FdKind, OwnedFd)> {
        // The caller adds a pidfd, and may add one more.
        let mut fds = Vec::with_capacity(files.len() + 2);
        for (kind, name) in files {
            match open_at(self.as_fd(), name) {
                Ok(fd) => fds.push((*kind, fd)),
                Err(errno) => warnings.push(ShimWarning::Open { what: name, errno }),
            }
        }
        fds
    }

    /// The file `name`, up to [`MAX_TEXT`] bytes. After an error it is as long as was read before.
    pub(super) fn read_text(&self, name: &'static str, warnings: &mut Vec<ShimWarning>) -> Vec<u8> {
        self.read_beginning(name, MAX_TEXT, warnings)
    }

    /// The first `limit` bytes of the file `name`.
    pub(super) fn read_beginning(&self, name: &'static str, limit: usize, warnings: &mut Vec<ShimWarning>) -> Vec<u8> {
        let (text, outcome) = read_beginning_at(self.as_fd(), name, limit);
        if let Err(error) = outcome {
            warnings.push(ShimWarning::Read { what: name, errno: errno_of(&error) });
        }
        text
    }

    /// The beginning of the table `name`. Empty if it cannot be read, or not in time: for `maps` the kernel locks the address space, which
    /// others may hold.
    pub(super) fn read_table(&self, name: &'static str, warnings: &mut Vec<ShimWarning>) -> Vec<u8> {
        const TIMEOUT: Duration = Duration::from_millis(100);
        let read = self.in_thread(TIMEOUT, move |dir| match read_beginning_at(dir.as_fd(), name, MAX_TABLE) {
            (table, Err(error)) if table.is_empty() => Err(errno_of(&error)),
            (table, _) => Ok(table),
        });
        read.unwrap_or_else(|errno| {
            warnings.push(ShimWarning::Read { what: name, errno });
            Vec::new()
        })
    }

    /// The target of the link `name`. Empty if it cannot be read.
    pub(super) fn read_link(&self, name: &'static str, warnings: &mut Vec<ShimWarning>) -> Vec<u8> {
        read_link_at(self.as_fd(), name).unwrap_or_else(|errno| {
            warnings.push(ShimWarning::Read { what: name, errno });
            Vec::new()
        })
    }

    /// Calls `access` with the directory in a thread, which is abandoned if it blocks for longer than `limit`.
    pub(super) fn in_thread<T: Send + 'static>(
        &self,
        limit: Duration,
        access: impl FnOnce(&OwnedFd) -> nix::Result<T> + Send + 'static,
    ) -> nix::Result<T> {
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => self.start_worker()?,
        };
        let (sender, receiver) = mpsc::channel();
        let job = Box::new(move |dir: &OwnedFd| drop(sender.send(access(dir))));
        worker.send(job).map_err(|_| Errno::EAGAIN)?;
        let done = receiver.recv_timeout(limit).map_err(|_| Errno::ETIMEDOUT)?;
        self.worker.set(Some(worker));
        done
    }

    fn start_worker(&self) -> nix::Result<mpsc::Sender<Job>> {
        let dir = self.files().try_clone().map_err(|_| Errno::EMFILE)?;
        // Those of modules, and some more.
        fdpass::reserve_descriptors(dir.as_fd(), DESCRIPTORS);
        let (sender, jobs) = mpsc::channel::<Job>();
        let work = move || jobs.into_iter().for_each(|job| job(&dir));
        thread::Builder::new().spawn(work).map_err(|_| Errno::EAGAIN)?;
        Ok(sender)
    }
}

fn open_at(dir: BorrowedFd<'_>, name: &str) -> nix::Result<OwnedFd> {
    openat(dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Reads a file up to [`MAX_TEXT`] bytes, and returns what was read before an error as well.
pub(super) fn read_text_at(dir: BorrowedFd<'_>, name: &str) -> (Vec<u8>, io::Result<()>) {
    read_beginning_at(dir, name, MAX_TEXT)
}

/// Reads the first `limit` bytes of a file, and returns what was read before an error as well.
pub(super) fn read_beginning_at(dir: BorrowedFd<'_>, name: &str, limit: usize) -> (Vec<u8>, io::Result<()>) {
    // The whole capacity at once: read_to_end would otherwise start with several small reads.
    let mut text = Vec::with_capacity(limit.min(MAX_TEXT));
    let file = open_at(dir, name).map_err(io::Error::from);
    let outcome = file.and_then(|fd| File::from(fd).take(limit as u64).read_to_end(&mut text));
    text.shrink_to_fit();
    (text, outcome.map(drop))
}
