//! Files that get their name only when they are complete: `O_TMPFILE` (open(2)), then linkat(2). A writer that is killed leaves
//! nothing behind.

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{fsync, linkat};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Creates a file without a name in the file system of `dir`.
///
/// # Errors
/// `EOPNOTSUPP` if the file system does not support `O_TMPFILE`, otherwise the error of openat(2).
pub fn create(dir: BorrowedFd<'_>, mode: Mode) -> io::Result<OwnedFd> {
    Ok(openat(dir, ".", OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC, mode)?)
}

/// Makes `file` durable, then gives it `name` in `dir` and makes that durable too.
///
/// # Errors
/// `EEXIST` if the name is taken; nothing is ever replaced. Otherwise the error of fsync(2) or linkat(2).
pub fn publish(file: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    fsync(file)?;
    // Linking through /proc/self/fd needs no capability; AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH before Linux 6.10.
    let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(AT_FDCWD, by_descriptor.as_str(), dir, name, AtFlags::AT_SYMLINK_FOLLOW)?;
    fsync(dir)?;
    Ok(())
}
