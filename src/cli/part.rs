//! A file that has its name only when it is whole.

use coreward_sys::rename::rename;
use nix::errno::Errno;
use nix::unistd::mkstemp;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a file can't be made.
#[derive(Debug, Error)]
pub(super) enum PartError {
    /// It would be overwritten.
    #[error("{0} is there already: --force replaces it")]
    Exists(PathBuf),
    /// A device, a directory, a link: nothing to be replaced by a core.
    #[error(
        "{0} is there already and is not a regular file: name another one, or leave -o away and redirect standard output"
    )]
    NotAFile(PathBuf),
    /// The system's word.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
}

/// The file under its temporary name, in the directory of its final one. Dropped before [`Part::finish`], it is removed.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    replace: bool,
}

impl Part {
    /// Begins a file that only its owner may read: a core has the process' secrets in it.
    pub(super) fn create(target: &Path, replace: bool) -> Result<Self, PartError> {
        let failed = |error| PartError::Io { path: target.to_owned(), error };
        match fs::symlink_metadata(target) {
            Ok(there) if !there.is_file() => return Err(PartError::NotAFile(target.to_owned())),
            Ok(_) if !replace => return Err(PartError::Exists(target.to_owned())),
            _ => {}
        }
        let name = target.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
        let mut template = std::ffi::OsString::from(".");
        template.push(name);
        template.push(".XXXXXX");
        let (fd, temporary) = mkstemp(&target.with_file_name(template)).map_err(|error| failed(error.into()))?;
        Ok(Self { file: fd.into(), temporary, target: target.to_owned(), replace })
    }

    /// To write to.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name.
    pub(super) fn finish(self) -> Result<(), PartError> {
        let renamed = match rename(&self.temporary, &self.target, self.replace) {
            // A file system without this flag (NFS): somebody may be faster than the look before.
            Err(Errno::EINVAL | Errno::ENOSYS) if !self.replace && fs::symlink_metadata(&self.target).is_err() => {
                fs::rename(&self.temporary, &self.target)
            }
            renamed => renamed.map_err(io::Error::from),
        };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => PartError::Exists(self.target.clone()),
            _ => PartError::Io { path: self.target.clone(), error },
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename this name is gone.
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
    fn only_a_whole_file_has_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("core");
        let part = Part::create(&target, false).unwrap();
        assert!(!target.exists() && names(dir.path()).len() == 1);
        drop(part);
        assert_eq!(names(dir.path()), [""; 0]);
        let part = Part::create(&target, false).unwrap();
        part.file().write_all(b"new").unwrap();
        part.finish().unwrap();
        assert_eq!(names(dir.path()), ["core"]);
        assert!(matches!(Part::create(&target, false), Err(PartError::Exists(_))));
        drop(Part::create(&target, true).unwrap());
        assert_eq!(fs::read(&target).unwrap(), b"new", "a failure leaves what was there");
        Part::create(&target, true).unwrap().finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"");
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("core");
        let part = Part::create(&target, false).unwrap();
        fs::write(&target, "theirs").unwrap();
        assert!(matches!(part.finish(), Err(PartError::Exists(_))));
        assert_eq!((names(dir.path()), fs::read(&target).unwrap()), (vec!["core".to_owned()], b"theirs".to_vec()));
    }

    #[test]
    fn what_is_no_file_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("link")).unwrap();
        for target in [dir.path().to_owned(), dir.path().join("link"), "/dev/null".into()] {
            assert!(matches!(Part::create(&target, true), Err(PartError::NotAFile(_))), "{}", target.display());
        }
    }
}
