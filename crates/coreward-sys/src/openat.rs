//! Opening below a directory that somebody else may write to, without being led out of it.
//!
//! Names here have one component, and O_NOFOLLOW refuses a symbolic link in the last one: that is all there is to follow.
//! (openat2(2) would say the same of whole paths, but systemd's `RestrictSUIDSGID=` takes it away from the daemon.)

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::libc;
use nix::sys::stat::Mode;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

/// Opens the directory `path`, not through a symbolic link in its last component.
///
/// # Errors
/// `ELOOP` or `ENOTDIR` where it is a symbolic link, otherwise what open(2) says.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Opens the directory `name` in `dir`.
///
/// # Errors
/// As [`open_dir`]; `InvalidInput` where the name has more than one component.
pub fn open_dir_below(dir: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    below(dir, name, OFlag::O_DIRECTORY)
}

/// Opens the regular file `name` in `dir` for reading. A FIFO that somebody planted does not make it wait.
///
/// # Errors
/// As [`open_dir_below`].
pub fn open_file_below(dir: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    below(dir, name, OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
}

/// Where the symbolic link `name` in `dir` points to. Links of `/proc` have a page at most (proc_pid_readlink,
/// fs/proc/base.c), which is room on the stack: nix takes as much from the heap each time.
///
/// # Errors
/// What readlink(2) says; `EINVAL` where the name has a NUL.
pub fn read_link_at(dir: BorrowedFd<'_>, name: &str) -> nix::Result<Vec<u8>> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    let mut room = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: the name ends with a NUL, and the room is as long as is said.
    let length = unsafe { libc::readlinkat(dir.as_raw_fd(), name.as_ptr(), room.as_mut_ptr().cast(), room.len()) };
    Ok(room[..Errno::result(length)?.unsigned_abs()].to_vec())
}

fn below(dir: BorrowedFd<'_>, name: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let mut components = name.components();
    let (Some(Component::Normal(_)), None) = (components.next(), components.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: not a plain name", name.display())));
    };
    Ok(openat(dir, name, flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
}
