//! Process descriptors (pidfd_open(2)). The kernel reuses PIDs; a pidfd always refers to the same process.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Opens a pidfd for the process `pid` of the caller's PID namespace.
///
/// # Errors
/// `ESRCH` if there is no such process, `EINVAL` if `pid` is not a thread group leader, otherwise the error of pidfd_open(2).
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and does not access memory of this process.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the process still runs: a pidfd becomes readable when its process terminates (pidfd_open(2)).
#[must_use]
pub fn is_alive(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(0))
}

/// Kills the process.
///
/// # Errors
/// `ESRCH` if it has ended, `EPERM`, otherwise the error of pidfd_send_signal(2).
pub fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: pidfd_send_signal takes an open descriptor, two integers, and a null pointer, which it does not read.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, no_info, 0) };
    Errno::result(sent)?;
    Ok(())
}

/// `struct pidfd_info`, first version (PIDFD_INFO_SIZE_VER0, include/uapi/linux/pidfd.h).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    /// Parent, user and group ids, exit code.
    others: [u32; 10],
}

mod ioctl {
    /// `PIDFS_IOCTL_MAGIC`.
    const MAGIC: u8 = 0xff;
    // PIDFD_GET_INFO, since Linux 6.13.
    nix::ioctl_readwrite!(pidfd_get_info, MAGIC, 11, super::PidfdInfo);
}

/// Takes ownership of the pidfd that the kernel opened as descriptor `number` for the process `pid` (`%F`, core(5)).
///
/// # Errors
/// `ESRCH` if its process is gone, `NotFound` if the descriptor is closed, is not a pidfd, or refers to another process.
pub fn adopt_inherited(number: RawFd, pid: i32) -> io::Result<OwnedFd> {
    // `%F` was backported to stable kernels that lack the ioctl.
    let found = match pid_by_ioctl(number) {
        Err(Errno::ESRCH) => PID_OF_NO_PROCESS,
        Err(_) => pid_by_fdinfo(number)?,
        Ok(found) => found,
    };
    match found {
        PID_OF_NO_PROCESS => return Err(Errno::ESRCH.into()),
        found if number > 2 && found == pid => {}
        _ => return Err(io::ErrorKind::NotFound.into()),
    }
    // SAFETY: the descriptor is open and a pidfd, or no PID had been found, and at start nothing else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What fdinfo says of a pidfd whose process was reaped (proc_pid_fdinfo(5)).
const PID_OF_NO_PROCESS: i32 = -1;

/// The PID of a pidfd, without opening a file in `/proc`.
fn pid_by_ioctl(number: RawFd) -> nix::Result<i32> {
    let mut info = PidfdInfo::default();
    // SAFETY: the kernel writes at most as many bytes as the request encodes, which is the size of `info`. A descriptor of any
    // other kind does not know the request (ENOTTY).
    unsafe { ioctl::pidfd_get_info(number, &raw mut info) }?;
    i32::try_from(info.tgid).map_err(|_| Errno::EOVERFLOW)
}

/// The PID of a pidfd from `/proc/self/fdinfo` (proc_pid_fdinfo(5)).
fn pid_by_fdinfo(number: RawFd) -> io::Result<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, IntoRawFd};

    #[test]
    fn only_a_pidfd_of_that_very_process_is_adopted() {
        let me = std::process::id().cast_signed();
        let number = open(me).unwrap().into_raw_fd();
        assert_eq!(adopt_inherited(number, me + 1).unwrap_err().kind(), io::ErrorKind::NotFound);
        // Kernels before 6.13 lack the ioctl; fdinfo always works.
        assert!(pid_by_ioctl(number).ok().is_none_or(|pid| pid == me));
        assert_eq!(pid_by_fdinfo(number).unwrap(), me);
        let pidfd = adopt_inherited(number, me).unwrap();
        assert!(pidfd.as_raw_fd() == number && is_alive(pidfd.as_fd()));
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert_eq!(adopt_inherited(file.as_raw_fd(), me).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(adopt_inherited(1 << 20, me).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_process_is_killed_through_its_pidfd() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = open(child.id().cast_signed()).unwrap();
        assert!(is_alive(pidfd.as_fd()));
        kill(pidfd.as_fd()).unwrap();
        child.wait().unwrap();
        assert!(!is_alive(pidfd.as_fd()));
        assert_eq!(kill(pidfd.as_fd()).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn the_pidfd_of_a_process_that_was_reaped_says_so() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().cast_signed();
        let number = open(pid).unwrap().into_raw_fd();
        child.wait().unwrap();
        let errno = adopt_inherited(number, pid).unwrap_err().raw_os_error();
        assert_eq!(errno, Some(libc::ESRCH));
        assert_eq!(pid_by_fdinfo(number).unwrap(), PID_OF_NO_PROCESS);
    }
}
