//! Processes held by descriptor (pidfd_open(2)): a PID can be given to another process, a pidfd cannot.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Opens a pidfd for the process `pid` (thread group leader) of this PID namespace.
///
/// # Errors
/// `ESRCH` where there is no such process, `EINVAL` where `pid` is not a thread group leader.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd)? as RawFd;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the process has not been reaped or ended yet: a pidfd becomes readable when its process ends.
pub fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
}

/// Takes over the pidfd that the kernel put at descriptor `number` (`%F`, core(5)), if it is one of `pid`.
///
/// # Errors
/// `NotFound` where the descriptor is closed, or is something else.
pub fn inherited(number: RawFd, pid: i32) -> io::Result<OwnedFd> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let of_pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    if number <= 2 || of_pid != Some(pid.to_string().as_str()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: fdinfo says that the descriptor is open and a pidfd, and at start-up nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
