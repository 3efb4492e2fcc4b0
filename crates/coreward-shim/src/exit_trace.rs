//! Keeps the crashed thread at its exit, where its memory is still there, until the process is released.
//!
//! The core pipe alone keeps it only as long as nothing interrupts the kernel's write or its wait for the reader, and both are
//! interruptible (`anon_pipe_write`, fs/pipe.c; `wait_for_dump_helpers`, fs/coredump.c). A request of io_uring that completes does that
//! (`TIF_NOTIFY_SIGNAL`), and so does a frozen cgroup. A traced thread then stops once more, before it gives up its memory
//! (`PTRACE_O_TRACEEXIT`, ptrace(2); `do_exit`, kernel/exit.c). When the tracer ends, however it ends, the thread goes on.

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How long a thread takes at most that has nothing to wait for, from the release to its exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a thread takes at most from the end of its dump to its exit.
const CHANGE_TIMEOUT: Duration = Duration::from_millis(100);

/// Any change, of any kind of thread, that has already happened.
const NOW: WaitPidFlag = WaitPidFlag::WNOHANG.union(WaitPidFlag::__WALL);

/// A thread whose exit this thread traces.
pub(super) struct ExitTrace {
    tid: Pid,
    state: State,
    /// SIGCHLD, which says that the thread has stopped or ended.
    changes: SignalFd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The kernel writes the core, or waits for the pipe to be closed.
    Dumping,
    /// The thread has stopped at its exit; its process ends with this wait status (wait(2)).
    AtExit { status: i64 },
    /// As [`Self::Dumping`], and it may exit.
    Released,
}

/// What became of the thread.
enum Change {
    None,
    AtExit(i64),
    /// It has stopped for another reason, with this signal.
    Other(Option<Signal>),
    /// There is nothing to trace any more.
    Ended,
}

impl ExitTrace {
    /// Starts to trace the thread, which does not notice it. `None` where that is impossible: somebody else traces it, or the kernel
    /// does not allow it.
    pub(super) fn start(tid: Pid) -> Option<Self> {
        let seized = ptrace::seize(tid, ptrace::Options::PTRACE_O_TRACEEXIT);
        // Mostly it has been done already, by the entry point of the program (crates/coreward-sys/src/entry.rs).
        let is_tracee =
            || waitid(Id::Pid(tid), NOW | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) != Err(Errno::ECHILD);
        if seized.is_err() && !is_tracee() {
            return None;
        }
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.thread_block().ok()?;
        let changes = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).ok()?;
        Some(Self { tid, state: State::Dumping, changes })
    }

    /// Readable when [`Self::update`] should be called.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }

    /// Looks at what has become of the thread, and lets it go if it may. `None` once there is nothing to trace any more.
    pub(super) fn update(mut self) -> Option<Self> {
        let _ = self.changes.read_signal();
        match (wait(self.tid), self.state) {
            (Change::None, _) => return Some(self),
            (Change::AtExit(status), State::Dumping | State::AtExit { .. }) => {
                self.state = State::AtExit { status };
                return Some(self);
            }
            (Change::AtExit(_), State::Released) => self.detach(None),
            (Change::Other(signal), _) => self.detach(signal),
            (Change::Ended, _) => {}
        }
        None
    }

    /// Whether the thread has stopped at the exit to which a crash with this signal leads.
    pub(super) fn is_at_exit(&self, signal: Option<u32>) -> bool {
        let State::AtExit { status } = self.state else { return false };
        signal.is_some_and(|signal| i64::from(signal) == status & 0x7f)
    }

    /// Lets the thread exit, which it does once the pipe is closed as well. `None` once there is nothing to trace any more.
    pub(super) fn release(mut self) -> Option<Self> {
        if matches!(self.state, State::AtExit { .. }) {
            self.detach(None);
            return None;
        }
        self.state = State::Released;
        Some(self)
    }

    /// Waits for a change of the thread, and looks at it.
    pub(super) fn wait_for_change(self) -> Option<Self> {
        self.poll(CHANGE_TIMEOUT);
        self.update()
    }

    /// Lets the thread exit and waits for that, for a second at most. When the shim ends, the kernel lets the thread go as well.
    pub(super) fn finish(self) {
        let begun = Instant::now();
        let mut trace = self.release();
        while let Some(traced) = trace.take().filter(|_| begun.elapsed() < EXIT_TIMEOUT) {
            traced.poll(EXIT_TIMEOUT.saturating_sub(begun.elapsed()));
            trace = traced.update();
        }
    }

    fn poll(&self, timeout: Duration) {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO));
    }

    fn detach(&self, signal: Option<Signal>) {
        let _ = ptrace::detach(self.tid, signal);
    }
}

fn wait(tid: Pid) -> Change {
    match waitpid(tid, Some(NOW)) {
        Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => Change::None,
        Ok(WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXIT)) => {
            Change::AtExit(ptrace::getevent(tid).unwrap_or_default())
        }
        Ok(WaitStatus::Stopped(_, signal)) => Change::Other(Some(signal)),
        Ok(WaitStatus::PtraceEvent(..) | WaitStatus::PtraceSyscall(_) | WaitStatus::Continued(_)) => {
            Change::Other(None)
        }
        // Also a signal that has no name here, of which nix makes an error.
        Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_) => Change::Ended,
    }
}
