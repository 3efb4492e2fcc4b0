//! Writing a file that gets its name only when it is complete.

use super::io_advice::WithAdvice;
use coreward_sys::rename::rename;
use nix::errno::Errno;
use nix::unistd::mkstemp;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a file cannot be written.
#[derive(Debug, Error)]
pub(super) enum AtomicFileError {
    /// A file would be overwritten.
    #[error("{0} already exists: --force replaces it")]
    Exists(PathBuf),
    /// A device, a directory or a link would be overwritten.
    #[error("{0} already exists and is not a regular file: name another file, or omit -o and redirect standard output")]
    NotAFile(PathBuf),
    /// A system call failed.
    #[error("{path}: {}", WithAdvice(.error))]
    Io { path: PathBuf, error: io::Error },
}

/// A file under a temporary name, in the directory of its final one. Unless [`AtomicFile::finish`] is called, it is removed
/// on drop.
#[derive(Debug)]
pub(super) struct AtomicFile {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    replace: bool,
}

impl AtomicFile {
    /// Creates a file that only its owner may read, because a core contains the secrets of a process. With `replace`, a file
    /// of this name is replaced in the end.
    pub(super) fn create(target: &Path, replace: bool) -> Result<Self, AtomicFileError> {
        let failed = |error| AtomicFileError::Io { path: target.to_owned(), error };
        match fs::symlink_metadata(target) {
            Ok(existing) if !existing.is_file() => return Err(AtomicFileError::NotAFile(target.to_owned())),
            Ok(_) if !replace => return Err(AtomicFileError::Exists(target.to_owned())),
            _ => {}
        }
        let name = target.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
        let mut template = std::ffi::OsString::from(".");
        template.push(name);
        template.push(".XXXXXX");
        let (fd, temporary) = mkstemp(&target.with_file_name(template)).map_err(|error| failed(error.into()))?;
        Ok(Self { file: fd.into(), temporary, target: target.to_owned(), replace })
    }

    /// The file, to be written.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name.
    pub(super) fn finish(self) -> Result<(), AtomicFileError> {
        let renamed = match rename(&self.temporary, &self.target, self.replace) {
            // A file system without this flag (NFS). A file that is created between the check and the rename is lost.
            Err(Errno::EINVAL | Errno::ENOSYS) if !self.replace && fs::symlink_metadata(&self.target).is_err() => {
                fs::rename(&self.temporary, &self.target)
            }
            renamed => renamed.map_err(io::Error::from),
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => AtomicFileError::Exists(self.target.clone()),
            _ => AtomicFileError::Io { path: self.target.clone(), error },
        })
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After a rename the temporary name no longer exists.
        let _ = fs::remove_file(&self.temporary);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_a_complete_file_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("core");
        let new = AtomicFile::create(&target, false).unwrap();
        assert!(!target.exists() && names(dir.path()).len() == 1);
        drop(new);
        assert_eq!(names(dir.path()), [""; 0]);
        let new = AtomicFile::create(&target, false).unwrap();
        new.file().write_all(b"new").unwrap();
        new.finish().unwrap();
        assert_eq!(names(dir.path()), ["core"]);
        assert!(matches!(AtomicFile::create(&target, false), Err(AtomicFileError::Exists(_))));
        drop(AtomicFile::create(&target, true).unwrap());
        assert_eq!(fs::read(&target).unwrap(), b"new", "a failure leaves what was there");
        AtomicFile::create(&target, true).unwrap().finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"");
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("core");
        let new = AtomicFile::create(&target, false).unwrap();
        fs::write(&target, "theirs").unwrap();
        assert!(matches!(new.finish(), Err(AtomicFileError::Exists(_))));
        assert_eq!((names(dir.path()), fs::read(&target).unwrap()), (vec!["core".to_owned()], b"theirs".to_vec()));
    }

    #[test]
    fn what_is_no_file_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).unwrap();
        for target in [dir.path().to_owned(), dir.path().join("link"), "/dev/null".into()] {
            assert!(
                matches!(AtomicFile::create(&target, true), Err(AtomicFileError::NotAFile(_))),
                "{}",
                target.display()
            );
        }
    }
}
