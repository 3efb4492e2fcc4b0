//! Extended attributes of an open file (xattr(7)).

use nix::errno::Errno;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Longest value of an attribute, in bytes (XATTR_SIZE_MAX, include/uapi/linux/limits.h).
const MAX_VALUE: usize = 65536;

/// The value of the attribute `name`, `None` if `file` does not have it.
///
/// # Errors
/// The error of fgetxattr(2), other than for a missing attribute.
pub fn get(file: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0_u8; MAX_VALUE];
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

/// Sets the attribute `name`, whether or not it exists.
///
/// # Errors
/// `EOPNOTSUPP` if the file system does not support such attributes, otherwise the error of fsetxattr(2).
pub fn set(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated, and the kernel reads exactly `value.len()` bytes of `value`.
    let result = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result)?;
    Ok(())
}

/// Whether `file` has the attribute `name`.
#[must_use]
pub fn has(file: BorrowedFd<'_>, name: &CStr) -> bool {
    // SAFETY: `name` is NUL-terminated; with a size of 0 the kernel writes nothing.
    let count = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), std::ptr::null_mut(), 0) };
    count >= 0
}

/// Removes the attribute `name`. It is not an error if `file` does not have it.
///
/// # Errors
/// The error of fremovexattr(2).
pub fn remove(file: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    match Errno::result(unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) }) {
        Ok(_) | Err(Errno::ENODATA) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
