//! The core pipe: growing it (F_SETPIPE_SZ), looking into it without taking anything out (tee(2)), waiting for it with a
//! limit.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, tee};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::pipe2;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
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

/// What a pipe can hold, bytes (F_GETPIPE_SZ).
///
/// # Errors
/// `EBADF` for what is no pipe.
pub fn size(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    Ok(fcntl(pipe, FcntlArg::F_GETPIPE_SZ)? as usize)
}

/// What is waiting in a pipe, bytes (FIONREAD, pipe(7)).
///
/// # Errors
/// `ENOTTY` for what is no pipe.
pub fn waiting(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int to where the pointer shows.
    Errno::result(unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(count as usize)
}

/// Whether the writer is gone: nothing more will come than what is waiting.
pub fn ended(pipe: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

/// A copy of the first bytes that wait in `pipe`, at most `length`, to be read to its end; nothing is taken out (tee(2)).
///
/// # Errors
/// What pipe2(2) and tee(2) say.
pub fn peek(pipe: BorrowedFd<'_>, length: usize) -> io::Result<File> {
    let (end, begin) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let (wanted, new) = (size(pipe)?, size(begin.as_fd())?);
    if wanted > new {
        // The copy takes as many buffers as the original.
        let _ = set_size(begin.as_fd(), i32::try_from(wanted).unwrap_or(i32::MAX));
    }
    match tee(pipe, &begin, length, SpliceFFlags::SPLICE_F_NONBLOCK) {
        Ok(_) | Err(Errno::EAGAIN) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(File::from(end))
}
