//! Keeps a thread at its exit, where its memory is still there, until it may go on (`PTRACE_O_TRACEEXIT`, ptrace(2); `do_exit`,
//! kernel/exit.c). When the tracer ends, however it ends, the thread goes on.
//!
//! The parent of a traced process hears of its end only when its tracer has heard of it, and whoever stops waits for the tracer. So the tracer
//! acts in a handler of SIGCHLD, whatever this process waits for meanwhile. System calls that are not restarted after a handler
//! (signal(7)) fail with EINTR here.

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{Pid, getpid, gettid};
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a thread is kept at its exit at most, in seconds. There it can no longer be killed.
const MAX_KEPT: u32 = 60;

/// The thread that traces, which alone may do so.
static TRACER: AtomicI32 = AtomicI32::new(0);
/// The traced thread.
static TRACED: AtomicI32 = AtomicI32::new(0);
/// What has become of it: one of the negative values, or the wait status (wait(2)) of its process where it has stopped at its exit.
static STATE: AtomicI64 = AtomicI64::new(ENDED);

/// It has not stopped yet.
const RUNNING: i64 = -1;
/// As [`RUNNING`], and it is not kept any more.
const RELEASED: i64 = -2;
/// It is not traced any more.
const ENDED: i64 = -3;

/// The trace of a thread by the thread that has this. There is one at a time.
#[derive(Debug)]
pub struct ExitTrace {
    _private: (),
}

impl ExitTrace {
    /// Starts to trace the thread, which does not notice it, unless the entry point of the program has done so (`entry.rs`). `None` where
    /// that is impossible: somebody else traces it, or the kernel does not allow it.
    #[must_use]
    pub fn start(tid: Pid) -> Option<Self> {
        TRACER.store(gettid().as_raw(), Ordering::SeqCst);
        TRACED.store(tid.as_raw(), Ordering::SeqCst);
        STATE.store(RUNNING, Ordering::SeqCst);
        let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
        for signal in [Signal::SIGCHLD, Signal::SIGALRM] {
            // SAFETY: the handler calls only functions that are async-signal-safe (signal-safety(7)), and restores errno.
            unsafe { sigaction(signal, &action) }.ok()?;
        }
        ptrace(c_long::from(libc::PTRACE_SEIZE), tid.as_raw(), libc::PTRACE_O_TRACEEXIT);
        // It may have stopped before there was a handler, and is no tracee if it could not be seized.
        update();
        (STATE.load(Ordering::SeqCst) != ENDED).then_some(Self { _private: () })
    }

    /// The wait status with which its process ends, as soon as it has stopped at its exit; `None` if it does not within `limit`.
    #[must_use]
    pub fn at_exit_within(&self, limit: Duration) -> Option<i64> {
        const PAUSE: Duration = Duration::from_millis(1);
        let begun = Instant::now();
        loop {
            match STATE.load(Ordering::SeqCst) {
                RUNNING if begun.elapsed() < limit => sleep(PAUSE),
                state => return (state >= 0).then_some(state),
            }
        }
    }

    /// Keeps the thread no longer: it goes on when it stops.
    pub fn release(&self) {
        release();
        update();
    }
}

extern "C" fn on_signal(signal: c_int) {
    let errno = Errno::last_raw();
    let tracer = TRACER.load(Ordering::SeqCst);
    if gettid().as_raw() != tracer {
        // SAFETY: a system call on numbers.
        unsafe { libc::syscall(libc::SYS_tgkill, getpid().as_raw(), tracer, signal) };
    } else if signal == libc::SIGALRM {
        release();
    } else {
        update();
    }
    Errno::set_raw(errno);
}

fn release() {
    let changed = STATE.compare_exchange(RUNNING, RELEASED, Ordering::SeqCst, Ordering::SeqCst);
    if changed.is_err_and(|state| state >= 0) {
        detach(0);
    }
}

/// Looks at what has become of the thread, and lets it go unless it is to be kept.
fn update() {
    let tid = TRACED.load(Ordering::SeqCst);
    while STATE.load(Ordering::SeqCst) != ENDED {
        let mut status = 0;
        // SAFETY: `status` is writable for the duration of the call.
        let changed = unsafe { libc::waitpid(tid, &raw mut status, libc::WNOHANG | libc::__WALL) };
        match changed {
            0 => return,
            -1 if Errno::last() == Errno::EINTR => {}
            _ if changed != tid || !libc::WIFSTOPPED(status) => STATE.store(ENDED, Ordering::SeqCst),
            _ if status >> 16 == libc::PTRACE_EVENT_EXIT => keep(tid),
            // Somebody else stops it or sends it a signal, which it gets now. It is no thread that is being dumped.
            _ => detach(if status >> 16 == 0 { libc::WSTOPSIG(status) } else { 0 }),
        }
    }
}

/// The thread has stopped at its exit.
fn keep(tid: i32) {
    let mut message: libc::c_ulong = 0;
    // SAFETY: PTRACE_GETEVENTMSG writes a long to the address in its last argument, which is writable.
    unsafe {
        let request = c_long::from(libc::PTRACE_GETEVENTMSG);
        libc::syscall(libc::SYS_ptrace, request, c_long::from(tid), 0, &raw mut message)
    };
    let status = i64::try_from(message).unwrap_or(0);
    match STATE.compare_exchange(RUNNING, status, Ordering::SeqCst, Ordering::SeqCst) {
        // SAFETY: a system call on numbers.
        Ok(_) => drop(unsafe { libc::alarm(MAX_KEPT) }),
        Err(RELEASED) => detach(0),
        Err(_) => {}
    }
}

/// Lets the thread go on with this signal; 0: with none. One that was killed meanwhile is waited for.
fn detach(signal: c_int) {
    let has_gone = ptrace(c_long::from(libc::PTRACE_DETACH), TRACED.load(Ordering::SeqCst), signal);
    STATE.store(if has_gone { ENDED } else { RELEASED }, Ordering::SeqCst);
}

fn ptrace(request: c_long, tid: c_int, data: c_int) -> bool {
    // SAFETY: these requests take numbers.
    unsafe { libc::syscall(libc::SYS_ptrace, request, c_long::from(tid), 0, c_long::from(data)) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, ExitStatus, Stdio};

    fn spawn() -> (Child, ExitTrace) {
        let child = Command::new("sh").args(["-c", "read line; exit 7"]).stdin(Stdio::piped()).spawn().unwrap();
        let trace = ExitTrace::start(Pid::from_raw(child.id().cast_signed())).unwrap();
        (child, trace)
    }

    /// Waits for it after the trace has ended: this process is the parent too, and would take the stops from the handler.
    fn ended(child: &mut Child) -> ExitStatus {
        while STATE.load(Ordering::SeqCst) != ENDED {
            sleep(Duration::from_millis(1));
        }
        child.wait().unwrap()
    }

    #[test]
    fn a_traced_thread_is_kept_at_its_exit_only_and_only_until_it_is_released() {
        let soon = Duration::from_secs(5);
        let (mut child, trace) = spawn();
        assert_eq!(trace.at_exit_within(Duration::from_millis(50)), None);
        drop(child.stdin.take());
        assert_eq!(trace.at_exit_within(soon), Some(7 << 8));
        assert!(child.try_wait().unwrap().is_none(), "it is kept");
        trace.release();
        assert_eq!(ended(&mut child).code(), Some(7));

        let (mut child, trace) = spawn();
        trace.release();
        drop(child.stdin.take());
        assert_eq!(ended(&mut child).code(), Some(7));

        // A signal reaches it, whichever it is, also one without a name.
        for signal in [libc::SIGTERM, 40] {
            let (mut child, _trace) = spawn();
            // SAFETY: a system call on numbers.
            unsafe { libc::kill(child.id().cast_signed(), signal) };
            assert_eq!(ended(&mut child).signal(), Some(signal));
        }

        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(ExitTrace::start(Pid::from_raw(child.id().cast_signed())).is_none(), "nobody is there");
    }
}
