//! renameat2(2), called by number: nix and the libc crate have wrappers for glibc only.

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::fstatat;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

/// Renames `from` to `to`. Unless `replace` is set, an existing `to` is left as it is.
///
/// # Errors
/// `EEXIST` if `to` exists and is not to be replaced; `EINVAL` or `ENOSYS` if the file system or the kernel cannot rename
/// without replacing; otherwise the error of rename(2).
pub fn rename<From: ?Sized + NixPath, To: ?Sized + NixPath>(from: &From, to: &To, replace: bool) -> nix::Result<()> {
    renameat2(libc::AT_FDCWD, from, to, if replace { 0 } else { libc::RENAME_NOREPLACE })
}

/// Moves `name` from one directory to another, unless that has the name already.
///
/// # Errors
/// As [`rename`].
pub fn move_new(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &Path) -> nix::Result<()> {
    let in_dir = |dir: BorrowedFd<'_>| Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    rename(&in_dir(from), &in_dir(to), false)
}

/// Renames `from` to `to` in `dir`, unless there is a `to`. Where the file system cannot do that in one step (FUSE, NFS), it looks first.
///
/// # Errors
/// `EEXIST` if `to` exists, otherwise the error of rename(2).
pub(super) fn rename_new(dir: BorrowedFd<'_>, from: &Path, to: &Path) -> nix::Result<()> {
    match renameat2(dir.as_raw_fd(), from, to, libc::RENAME_NOREPLACE) {
        Err(Errno::EINVAL | Errno::ENOSYS) => match fstatat(dir, to, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => renameat(dir, from, dir, to),
            Err(errno) => Err(errno),
            Ok(_) => Err(Errno::EEXIST),
        },
        renamed => renamed,
    }
}

fn renameat2<From: ?Sized + NixPath, To: ?Sized + NixPath>(
    dir: i32,
    from: &From,
    to: &To,
    flags: u32,
) -> nix::Result<()> {
    let result = from.with_nix_path(|from| {
        to.with_nix_path(|to| {
            // SAFETY: both paths are NUL-terminated strings that outlive the call; the kernel only reads them.
            unsafe { libc::syscall(libc::SYS_renameat2, dir, from.as_ptr(), dir, to.as_ptr(), flags) }
        })
    })??;
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_only_on_request() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
        std::fs::write(&old, "old").unwrap();
        std::fs::write(&new, "new").unwrap();
        assert_eq!(rename(&new, &old, false), Err(Errno::EEXIST));
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
        assert_eq!(rename(&new, &old, true), Ok(()));
        assert_eq!(std::fs::read(&old).unwrap(), b"new");
        assert_eq!(rename(&old, &new, false), Ok(()));
        assert!(new.exists() && !old.exists());
    }
}
