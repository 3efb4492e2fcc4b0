//! Stopping threads of another process and reading their registers (ptrace(2)), for one thread that does all of it: only it may, and the
//! threads that it stopped go on when it ends, however it ends.

use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::unistd::Pid;

/// The longest register set: room for the tiles of AMX, and for what is to come.
const MAX_SET: usize = 64 << 10;

/// What has become of a thread that was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It still runs, or waits in the kernel for something that cannot be interrupted.
    NotYet,
    /// It is stopped. It gets this signal when it goes on: the one that it was about to get when it stopped; 0 is none.
    Stopped {
        /// The number of the signal.
        pending: i32,
    },
    /// It has ended.
    Gone,
}

/// Begins to trace a thread, which does not notice it (`PTRACE_SEIZE`).
///
/// # Errors
/// `EPERM`: it is being traced already, it has ended and was not waited for, or this is not allowed. `ESRCH`: there is no such thread.
pub fn seize(tid: Pid) -> nix::Result<()> {
    request(libc::PTRACE_SEIZE, tid, 0)
}

/// Tells a traced thread to stop. A system call that it waits in is restarted when it goes on (signal(7) has the exceptions).
///
/// # Errors
/// `ESRCH`: it has ended.
pub fn interrupt(tid: Pid) -> nix::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0)
}

/// Whether a traced thread has stopped by now.
#[must_use]
pub fn poll(tid: Pid) -> Stop {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable for the duration of the call.
        let changed = unsafe { libc::waitpid(tid.as_raw(), &raw mut status, libc::WNOHANG | libc::__WALL) };
        return match changed {
            0 => Stop::NotYet,
            -1 if Errno::last() == Errno::EINTR => continue,
            _ if changed != tid.as_raw() || !libc::WIFSTOPPED(status) => Stop::Gone,
            // Not an event: a signal was about to be delivered, and is kept until the thread goes on.
            _ if status >> 16 == 0 => Stop::Stopped { pending: libc::WSTOPSIG(status) },
            _ => Stop::Stopped { pending: 0 },
        };
    }
}

/// Lets a stopped thread go on, untraced, with this signal; 0 is none. One that belongs to a process that was stopped by a signal stays
/// stopped.
///
/// # Errors
/// `ESRCH`: it has ended, or has not stopped.
pub fn detach(tid: Pid, signal: i32) -> nix::Result<()> {
    request(libc::PTRACE_DETACH, tid, c_long::from(signal))
}

/// A register set of a stopped thread, by the type of its note in a core (`NT_PRSTATUS` and others in elf.h): as the kernel has it for the
/// thread, which may be a 32-bit one.
///
/// # Errors
/// `EINVAL`, `EIO`, `ENODEV`: the processor or the kernel has no such set. `ESRCH`: the thread has ended.
pub fn register_set(tid: Pid, kind: u32) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; MAX_SET];
    let mut buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: PTRACE_GETREGSET writes at most `iov_len` bytes to `iov_base`, and the number to `iov_len`; both outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            c_long::from(libc::PTRACE_GETREGSET),
            c_long::from(tid.as_raw()),
            c_long::from(kind),
            &raw mut buffer,
        )
    };
    Errno::result(done)?;
    bytes.truncate(buffer.iov_len);
    Ok(bytes)
}

/// The siginfo with which a thread has stopped (`PTRACE_GETSIGINFO`), as the note `NT_SIGINFO` of a core has it for a 64-bit process.
///
/// # Errors
/// `ESRCH`: it has ended. `EINVAL`: there is none.
pub fn siginfo(tid: Pid) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; size_of::<libc::siginfo_t>()];
    // SAFETY: PTRACE_GETSIGINFO writes one siginfo_t to the address in its last argument, which has as many bytes.
    let done = unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            c_long::from(libc::PTRACE_GETSIGINFO),
            c_long::from(tid.as_raw()),
            0,
            bytes.as_mut_ptr(),
        )
    };
    Errno::result(done)?;
    Ok(bytes)
}

fn request(request: impl Into<c_long>, tid: Pid, data: c_long) -> nix::Result<()> {
    // SAFETY: these requests take numbers.
    let done = unsafe { libc::syscall(libc::SYS_ptrace, request.into(), c_long::from(tid.as_raw()), 0, data) };
    Errno::result(done).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};
    use std::time::Duration;

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        (child, pid)
    }

    fn stopped(tid: Pid) -> Stop {
        loop {
            match poll(tid) {
                Stop::NotYet => std::thread::sleep(Duration::from_millis(1)),
                stop => return stop,
            }
        }
    }

    /// The letter of its state (proc_pid_stat(5)).
    fn state(pid: Pid) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    #[test]
    fn a_thread_is_stopped_read_and_goes_on() {
        let (mut child, pid) = sleeper();
        seize(pid).unwrap();
        assert_eq!(seize(pid), Err(Errno::EPERM), "it is traced");
        interrupt(pid).unwrap();
        assert_eq!(stopped(pid), Stop::Stopped { pending: 0 });
        const NT_PRSTATUS: u32 = 1;
        let registers = register_set(pid, NT_PRSTATUS).unwrap();
        assert!(registers.len() >= 200 && registers.iter().any(|byte| *byte != 0));
        assert!(register_set(pid, 0x7fff_ffff).is_err());
        assert_eq!(siginfo(pid).unwrap().len(), 128);
        detach(pid, 0).unwrap();
        while state(pid) != 'S' {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seize(pid), Err(Errno::ESRCH));
    }

    #[test]
    fn a_signal_that_arrives_first_is_not_lost() {
        use std::os::unix::process::ExitStatusExt;
        let (mut child, pid) = sleeper();
        seize(pid).unwrap();
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
        assert_eq!(stopped(pid), Stop::Stopped { pending: libc::SIGUSR1 });
        detach(pid, libc::SIGUSR1).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGUSR1));
    }

    #[test]
    fn what_a_thread_traced_goes_on_when_the_thread_ends() {
        let (mut child, pid) = sleeper();
        std::thread::spawn(move || {
            seize(pid).unwrap();
            interrupt(pid).unwrap();
            assert_eq!(stopped(pid), Stop::Stopped { pending: 0 });
        })
        .join()
        .unwrap();
        while state(pid) != 'S' {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
