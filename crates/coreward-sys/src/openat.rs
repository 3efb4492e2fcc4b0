//! Opening files below a directory that others may write to, without following their symbolic links.
//!
//! Names have one component, and `O_NOFOLLOW` refuses a symbolic link as the last component (open(2)), so no link is followed.
//! openat2(2) could resolve whole paths, but systemd's `RestrictSUIDSGID=` denies it to the daemon (systemd.exec(5)).

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::libc;
use nix::sys::stat::Mode;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

/// Opens the directory `path`. Its last component must not be a symbolic link.
///
/// # Errors
/// `ELOOP` or `ENOTDIR` if it is a symbolic link, otherwise the error of open(2).
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Opens the directory `name` in `dir`.
///
/// # Errors
/// As [`open_dir`]; `InvalidInput` if the name has more than one component.
pub fn open_dir_below(dir: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    open_below(dir, name, OFlag::O_DIRECTORY)
}

/// Opens the regular file `name` in `dir` for reading. `O_NONBLOCK` keeps open(2) from waiting for the writer of a FIFO of that
/// name (fifo(7)).
///
/// # Errors
/// As [`open_dir_below`].
pub fn open_file_below(dir: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    open_below(dir, name, OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
}

/// The target of the symbolic link `name` in `dir`. Targets of links in `/proc` have at most a page (`do_proc_readlink`,
/// fs/proc/base.c), so a buffer on the stack is enough; `nix` allocates one for each call.
///
/// # Errors
/// The error of readlinkat(2); `EINVAL` if the name contains a NUL byte.
pub fn read_link_at(dir: BorrowedFd<'_>, name: &str) -> nix::Result<Vec<u8>> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    let mut buffer = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: the name is NUL-terminated, and the kernel writes at most `buffer.len()` bytes.
    let length = unsafe { libc::readlinkat(dir.as_raw_fd(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    Ok(buffer[..Errno::result(length)?.unsigned_abs()].to_vec())
}

fn open_below(dir: BorrowedFd<'_>, name: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let mut components = name.components();
    let (Some(Component::Normal(_)), None) = (components.next(), components.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{}: not a plain file name", name.display())));
    };
    Ok(openat(dir, name, flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
}
