//! A copy of the process that does one thing and exits (fork(2)).

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{ForkResult, Pid, fork};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The exit status of a copy whose descriptors cannot be closed.
const NOT_APART: u8 = 102;
/// The exit status of a copy that panicked.
const PANICKED: i32 = 101;

/// Runs `work` in a copy of this process, which exits with the status that `work` returns. No destructor of this process runs in
/// the copy, so it neither writes buffered output nor removes temporary files.
///
/// # Errors
/// The process has more than one thread, or the error of fork(2).
pub fn spawn(work: impl FnOnce() -> u8) -> io::Result<Pid> {
    // Only the thread that calls fork(2) exists in the copy: locks that others hold would stay locked for ever.
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with several threads cannot be copied"));
    }
    // SAFETY: this is the only thread, and only it could start another, so the copy has all threads and all locks of the
    // original and may do whatever the original may.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let status = catch_unwind(AssertUnwindSafe(work)).map_or(PANICKED, i32::from);
            // SAFETY: _exit(2) is always safe to call; it does not return.
            unsafe { libc::_exit(status) }
        }
    }
}

/// As [`spawn`], for a copy that has no other descriptors of this process than standard input, output and error, and `keep`: the
/// first thing that happens in it is that they are closed. They are closed under their owners, so no destructor may run in it: it
/// ends with the status that `work` returns.
///
/// # Errors
/// The process has more than one thread, or the error of fork(2).
pub fn spawn_apart(keep: OwnedFd, work: impl FnOnce(OwnedFd) -> u8) -> io::Result<Pid> {
    spawn(move || match close_all_but(keep.as_raw_fd()) {
        Ok(()) => work(keep),
        Err(_) => NOT_APART,
    })
}

/// Closes all descriptors above 2 but one (close_range(2)).
fn close_all_but(keep: RawFd) -> nix::Result<()> {
    let keep = keep.unsigned_abs();
    for (first, last) in [(3, keep.saturating_sub(1)), (keep.saturating_add(1).max(3), u32::MAX)] {
        if first <= last {
            // SAFETY: close_range takes three integers. Only `spawn_apart` calls this, in a copy of the process in which nobody uses
            // the descriptors any more.
            Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })?;
        }
    }
    Ok(())
}

/// Makes the kernel forget each child of this process when it ends: nobody waits for it (`SIGCHLD` in sigaction(2)).
///
/// # Errors
/// The error of sigaction(2).
pub fn forget_children() -> io::Result<()> {
    // SAFETY: ignoring a signal runs no code of this process.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(Errno::last().into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_copied() {
        // The test itself runs in a thread beside that of the harness.
        let other = std::thread::spawn(std::thread::park);
        assert!(spawn(|| 0).is_err());
        other.thread().unpark();
    }
}
