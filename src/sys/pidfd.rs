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

/// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`, Linux 6.13: older than `%F`.
const PIDFD_GET_INFO: libc::Ioctl = 0xc040_ff0b_u32 as libc::Ioctl;

/// Takes over the pidfd that the kernel put at descriptor `number` (`%F`, core(5)), if it is one of `pid`.
///
/// # Errors
/// `NotFound` where the descriptor is one of another process; what ioctl(2) says where it is closed or something else.
pub fn inherited(number: RawFd, pid: i32) -> io::Result<OwnedFd> {
    let mut info = Info::default();
    // SAFETY: the kernel writes at most as many bytes as the request's number says, which is the size of `info`, and for
    // descriptors of another kind that number means nothing (ENOTTY).
    Errno::result(unsafe { libc::ioctl(number, PIDFD_GET_INFO, &raw mut info) })?;
    if number <= 2 || u32::try_from(pid) != Ok(info.tgid) {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: it is open and a pidfd, or the ioctl had failed, and at start-up nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn only_a_pidfd_of_that_very_process_is_taken_over() {
        let me = std::process::id().cast_signed();
        let number = open(me).unwrap().into_raw_fd();
        let other = inherited(number, me + 1);
        assert_eq!(other.unwrap_err().kind(), io::ErrorKind::NotFound);
        match inherited(number, me) {
            Ok(pin) => assert!(pin.as_raw_fd() == number && is_alive(std::os::fd::AsFd::as_fd(&pin))),
            // Before Linux 6.13, where no kernel gives one either.
            Err(error) => assert_eq!(error.raw_os_error(), Some(Errno::ENOTTY as i32)),
        }
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert_eq!(inherited(file.as_raw_fd(), me).unwrap_err().raw_os_error(), Some(Errno::ENOTTY as i32));
    }
}
