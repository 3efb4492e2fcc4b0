//! renameat2(2), called by number: nix and the libc crate have wrappers for glibc only.

use nix::NixPath;
use nix::errno::Errno;

/// Renames `from` to `to`. Unless `replace` is set, an existing `to` is left as it is.
///
/// # Errors
/// `EEXIST` if `to` exists and is not to be replaced; `EINVAL` or `ENOSYS` if the file system or the kernel cannot rename
/// without replacing; otherwise the error of rename(2).
pub fn rename<From: ?Sized + NixPath, To: ?Sized + NixPath>(from: &From, to: &To, replace: bool) -> nix::Result<()> {
    let flags = if replace { 0 } else { libc::RENAME_NOREPLACE };
    let result = from.with_nix_path(|from| {
        to.with_nix_path(|to| {
            // SAFETY: both paths are NUL-terminated strings that outlive the call; the kernel only reads them.
            unsafe {
                libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags)
            }
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
