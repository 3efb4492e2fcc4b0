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

/// `struct pidfd_info` as it was first (PIDFD_INFO_SIZE_VER0, include/uapi/linux/pidfd.h).
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    /// Parent, users and groups, exit code.
    others: [u32; 10],
}

/// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`, Linux 6.13. Some older kernels give `%F` as well: it went into stable series.
const PIDFD_GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;

/// Takes over the pidfd that the kernel put at descriptor `number` (`%F`, core(5)), if it is one of `pid`.
///
/// # Errors
/// `NotFound` where the descriptor is closed, is something else, or one of another process.
pub fn inherited(number: RawFd, pid: i32) -> io::Result<OwnedFd> {
    let found = pid_of(number).or_else(|_| pid_by_fdinfo(number))?;
    if number <= 2 || found != pid {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: it is open and a pidfd, or no PID had been found, and at start-up nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whose pidfd it is, without a path in `/proc`.
fn pid_of(number: RawFd) -> nix::Result<i32> {
    let mut info = Info::default();
    // SAFETY: the kernel writes at most as many bytes as the request's number says, which is the size of `info`, and for
    // descriptors of another kind that number means nothing (ENOTTY).
    Errno::result(unsafe { libc::ioctl(number, PIDFD_GET_INFO, &raw mut info) })?;
    i32::try_from(info.tgid).map_err(|_| Errno::EOVERFLOW)
}

fn pid_by_fdinfo(number: RawFd) -> io::Result<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

    #[test]
    fn only_a_pidfd_of_that_very_process_is_taken_over() {
        let me = std::process::id().cast_signed();
        let number = open(me).unwrap().into_raw_fd();
        assert_eq!(inherited(number, me + 1).unwrap_err().kind(), io::ErrorKind::NotFound);
        // Before Linux 6.13 the first way knows nothing; the second always does.
        assert!(pid_of(number).ok().is_none_or(|pid| pid == me));
        assert_eq!(pid_by_fdinfo(number).unwrap(), me);
        let pin = inherited(number, me).unwrap();
        assert!(pin.as_raw_fd() == number && is_alive(pin.as_fd()));
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert_eq!(inherited(file.as_raw_fd(), me).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(inherited(1 << 20, me).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
