//! A copy of the process that does one thing and exits (fork(2)).

use nix::libc;
use nix::unistd::{ForkResult, Pid, fork};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

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
