//! The core pipe: its capacity (`F_SETPIPE_SZ`), copying bytes without consuming them (tee(2)), waiting for data with a timeout.

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
    /// There is data, or the end of the stream.
    Yes,
    /// The timeout passed first.
    TimedOut,
}

/// Takes ownership of standard input if it is a pipe. Closing the last read end of the core pipe lets the kernel release the
/// crashed process (`wait_for_dump_helpers`, fs/coredump.c).
#[must_use]
pub fn stdin_pipe() -> Option<OwnedFd> {
    let stat = fstat(io::stdin()).ok()?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFIFO {
        return None;
    }
    // SAFETY: descriptor 0 is open (fstat succeeded), and nothing in this program reads `std::io::stdin`.
    Some(unsafe { OwnedFd::from_raw_fd(0) })
}

/// Sets the pipe's capacity to at least `bytes` and returns the new one. Unprivileged callers are limited to
/// fs.pipe-max-size (pipe(7)).
///
/// # Errors
/// `EPERM` above that limit, `EBUSY` if more than `bytes` are waiting in the pipe.
pub fn set_capacity(pipe: BorrowedFd<'_>, bytes: i32) -> io::Result<usize> {
    to_size(fcntl(pipe, FcntlArg::F_SETPIPE_SZ(bytes))?)
}

/// The pipe's capacity in bytes (`F_GETPIPE_SZ`, fcntl(2)).
///
/// # Errors
/// `EBADF` if the descriptor is not a pipe.
pub fn capacity(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    to_size(fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?)
}

/// Waits until `fd` has data or has reached its end, for at most `timeout`. May return early if a signal arrives.
///
/// # Errors
/// The error of poll(2).
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<Ready> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(0) | Err(Errno::EINTR) => Ok(Ready::TimedOut),
        Ok(_) => Ok(Ready::Yes),
        Err(error) => Err(error.into()),
    }
}

/// Whether nobody will write into the pipe any more.
#[must_use]
pub fn has_no_writer(pipe: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

mod ioctl {
    nix::ioctl_read_bad!(fionread, libc::FIONREAD, libc::c_int);
}

/// How many bytes are waiting in a pipe (`FIONREAD`, pipe(7)).
///
/// # Errors
/// `ENOTTY` if the descriptor is not a pipe.
pub fn bytes_waiting(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count = 0;
    // SAFETY: FIONREAD writes one int through the pointer.
    unsafe { ioctl::fionread(pipe.as_raw_fd(), &raw mut count) }?;
    to_size(count)
}

/// Whether the write end is closed: nothing will follow the bytes that are waiting.
#[must_use]
pub fn writer_closed(pipe: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

/// Copies at most the first `length` bytes that are waiting in `pipe`, without consuming them (tee(2)). The returned file ends
/// after these bytes.
///
/// # Errors
/// The error of pipe2(2) or tee(2).
pub fn peek(pipe: BorrowedFd<'_>, length: usize) -> io::Result<File> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let (wanted, initial) = (capacity(pipe)?, capacity(writer.as_fd())?);
    if wanted > initial {
        // tee(2) copies references to buffers, so the copy needs as many as the original.
        let _ = set_capacity(writer.as_fd(), i32::try_from(wanted).unwrap_or(i32::MAX));
    }
    match tee(pipe, &writer, length, SpliceFFlags::SPLICE_F_NONBLOCK) {
        Ok(_) | Err(Errno::EAGAIN) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(File::from(reader))
}

fn to_size(count: i32) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| Errno::EOVERFLOW.into())
}
