//! Extended attributes of an open file (fgetxattr(2), fsetxattr(2)).

use nix::errno::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The attribute `name` of `file`; `None` where it has none. Values over 64 KiB do not exist (XATTR_SIZE_MAX).
///
/// # Errors
/// What fgetxattr(2) says, a missing attribute apart.
pub fn get(file: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; 65536];
    // SAFETY: `name` is NUL-terminated, and the kernel writes at most `value.len()` bytes into `value`.
    let count = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match Errno::result(count) {
        Ok(count) => {
            value.truncate(count.unsigned_abs());
            Ok(Some(value))
        }
        Err(Errno::ENODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sets the attribute `name` of `file`.
///
/// # Errors
/// `EOPNOTSUPP` where the file system has no such attributes, otherwise what fsetxattr(2) says.
pub fn set(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated, and the kernel reads exactly `value.len()` bytes of `value`.
    let result = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result)?;
    Ok(())
}

/// Whether `file` has the attribute `name`.
pub fn has(file: BorrowedFd<'_>, name: &CStr) -> bool {
    // SAFETY: `name` is NUL-terminated; with a length of 0 nothing is written.
    let count = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), std::ptr::null_mut(), 0) };
    count >= 0
}

/// Removes the attribute `name` of `file`; that there is none is no error.
///
/// # Errors
/// What fremovexattr(2) says.
pub fn remove(file: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    match Errno::result(unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) }) {
        Ok(_) | Err(Errno::ENODATA) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
