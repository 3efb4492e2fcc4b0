//! The core pipe: growing it (F_SETPIPE_SZ), waiting for it with a limit.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// How a wait for data ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// There is something to read, or the end of the stream.
    Yes,
    /// The time ran out first.
    TimedOut,
}

/// Standard input, if it is a pipe, to be owned and closed: the kernel lets the process go when its last reader is gone.
pub fn stdin_pipe() -> Option<OwnedFd> {
    let stat = fstat(io::stdin()).ok()?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFIFO {
        return None;
    }
    // SAFETY: descriptor 0 is open (fstat has just said so), and nothing in this program reads `std::io::stdin`.
    Some(unsafe { OwnedFd::from_raw_fd(0) })
}

/// Sets the pipe's size to at least `bytes`; returns what it is now. Unprivileged callers are held to
/// fs.pipe-max-size (pipe(7)).
///
/// # Errors
/// `EPERM` above the limit, `EBUSY` where more than `bytes` are waiting in the pipe.
pub fn set_size(pipe: BorrowedFd<'_>, bytes: i32) -> io::Result<usize> {
    Ok(fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes))? as usize)
}

/// Waits until `fd` can be read, or has ended, at most `limit`.
///
/// # Errors
/// What poll(2) says, interruptions apart.
pub fn wait_readable(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<Ready> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(0) | Err(Errno::EINTR) => Ok(Ready::TimedOut),
        Ok(_) => Ok(Ready::Yes),
        Err(error) => Err(error.into()),
    }
}
