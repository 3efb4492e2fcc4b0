//! The directory through which a crash of another machine comes into the catalog. Root's command writes there, as the owner of the state
//! directory; the daemon is the only one who writes the catalog, and takes from there what is complete.

use super::core_dir::{core_file_name, crash_of_file};
use super::format::{self, FormatError};
use super::layout::Layout;
use super::module_dir::{build_id_of_name, module_file_name};
use crate::crash::{CrashId, Dump, Origin, Record, signal};
use coreward_sys::{openat, tmpfile};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// Why a core is not put there.
#[derive(Debug, Error)]
pub enum ImportError {
    /// It cannot be read, or the directory cannot be written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no stored core.
    #[error("{0}")]
    Format(#[from] FormatError),
    /// It is the core of another crash.
    #[error("its core is that of another crash, {0}")]
    OtherCrash(CrashId),
}

/// The directory.
#[derive(Debug)]
pub struct ImportDir {
    dir: OwnedFd,
}

impl ImportDir {
    /// Opens the directory, which is created if there is none.
    ///
    /// # Errors
    /// The error of mkdir(2) or openat(2).
    pub fn create(layout: &Layout) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(&layout.import) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Self::open(layout)
    }

    /// Opens the directory. A link in its place is refused.
    ///
    /// # Errors
    /// The error of openat(2).
    pub fn open(layout: &Layout) -> io::Result<Self> {
        Ok(Self { dir: layout.open_import()? })
    }

    /// The directory, for renames.
    #[must_use]
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Puts a stored core there, under the id of its crash; its record says from then on that it was imported. `expected` is that crash.
    ///
    /// # Errors
    /// `core` is no stored core of this crash, or cannot be copied.
    pub fn add_core(
        &self,
        mut core: impl Read,
        length: u64,
        expected: Option<&CrashId>,
    ) -> Result<Record, ImportError> {
        // A record is read from a file that can be sought.
        let file = File::from(tmpfile::create(self.dir.as_fd(), Mode::from_bits_truncate(0o640))?);
        let copied = io::copy(&mut core.by_ref().take(length), &mut &file)?;
        let mut record = format::read_record(&mut &file)?;
        let room = (&file).stream_position()?;
        record.bound();
        record.origin = Origin::Import;
        record.core.stored = copied;
        if record.id != record.key.id() || expected.is_some_and(|expected| *expected != record.id) {
            return Err(ImportError::OtherCrash(record.id));
        }
        let frame = format::record_frame(&record, usize::try_from(room).unwrap_or(usize::MAX))?;
        (&file).rewind()?;
        (&file).write_all(&frame)?;
        self.publish(&file, &core_file_name(&record.id))?;
        Ok(record)
    }

    /// Puts a compressed module there, of `length` bytes.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn add_module(&self, module: &mut dyn Read, length: u64, build_id: &str) -> io::Result<()> {
        let name = module_file_name(build_id).ok_or(Errno::EINVAL)?;
        let file = File::from(tmpfile::create(self.dir.as_fd(), Mode::from_bits_truncate(0o640))?);
        io::copy(&mut module.take(length), &mut &file)?;
        self.publish(&file, &name)
    }

    fn publish(&self, file: &File, name: &Path) -> io::Result<()> {
        match tmpfile::publish(file.as_fd(), self.dir.as_fd(), name) {
            // Somebody has put the same there before.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            published => published,
        }
    }

    /// The crashes whose cores are there.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn crashes(&self) -> io::Result<Vec<CrashId>> {
        Ok(self.names()?.iter().filter_map(|name| crash_of_file(Path::new(name))).collect())
    }

    /// The build-ids of the modules that are there.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn build_ids(&self) -> io::Result<Vec<String>> {
        Ok(self.names()?.iter().filter_map(|name| build_id_of_name(Path::new(name))).map(str::to_owned).collect())
    }

    /// Removes the modules that have been there for longer than `age`. Returns how many.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn remove_old_modules(&self, age: Duration) -> io::Result<usize> {
        let is_old = |name: &&PathBuf| {
            let file = fstatat(&self.dir, name.as_path(), AtFlags::AT_SYMLINK_NOFOLLOW);
            let modified = file.map_or(0, |file| file.st_mtime.unsigned_abs());
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            now.as_secs().saturating_sub(modified) > age.as_secs()
        };
        let names: Vec<PathBuf> = self.build_ids()?.iter().filter_map(|build_id| module_file_name(build_id)).collect();
        Ok(names.iter().filter(is_old).filter(|name| self.remove(name).is_ok()).count())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let listing = Dir::openat(&self.dir, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(listing.into_iter().filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned())).collect())
    }

    /// Opens a core there, with its record and its length in bytes.
    ///
    /// # Errors
    /// It is no core that [`Self::add_core`] put there.
    pub fn open_core(&self, id: &CrashId) -> Result<(Record, u64), ImportError> {
        let mut file = File::from(openat::open_file_below(self.dir.as_fd(), &core_file_name(id))?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
        }
        let mut record = format::read_record(&mut file)?;
        record.bound();
        // Whoever wrote it may have called it anything.
        record.signal_name = match record.dump {
            Some(_) => Dump::SIGNAL_NAME.to_owned(),
            None => signal::name(record.signal),
        };
        if record.id != *id || record.origin != Origin::Import {
            return Err(ImportError::OtherCrash(record.id));
        }
        Ok((record, metadata.len()))
    }

    /// Removes a file that is not wanted any more.
    ///
    /// # Errors
    /// The error of unlinkat(2).
    pub fn remove(&self, name: &Path) -> io::Result<()> {
        match unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::fixtures::record;
    use coreward_wire::paths::Root;

    #[test]
    fn a_core_says_that_it_was_imported_and_is_the_same_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.state_dir()).unwrap();
        let import = ImportDir::create(&Layout::new(&root)).unwrap();
        let record = record(7);
        let room = format::record_room(&record, 0).unwrap();
        let core = [format::record_frame(&record, room).unwrap(), b"and the rest".to_vec()].concat();
        let length = core.len() as u64;
        let other = CrashId::parse("00000000000000ff").unwrap();
        assert!(matches!(import.add_core(&core[..], length, Some(&other)), Err(ImportError::OtherCrash(_))));
        assert!(import.add_core(&b"no core"[..], 7, None).is_err());
        assert_eq!(import.crashes().unwrap(), [] as [CrashId; 0], "nothing is left of what failed");
        import.add_core(&core[..], length, Some(&record.id)).unwrap();
        import.add_core(&core[..], length, None).unwrap();
        assert_eq!(import.crashes().unwrap(), std::slice::from_ref(&record.id));
        let (imported, bytes) = import.open_core(&record.id).unwrap();
        assert_eq!((imported.origin, imported.core.stored, bytes), (Origin::Import, length, length));
        let expected = Record { origin: Origin::Import, core: imported.core.clone(), ..record.clone() };
        assert_eq!(imported, expected);
        let path = root.state_dir().join("import").join(core_file_name(&record.id));
        assert!(std::fs::read(path).unwrap().ends_with(b"and the rest"));
        import.remove(&core_file_name(&record.id)).unwrap();
        import.remove(&core_file_name(&record.id)).unwrap();
        assert!(import.open_core(&record.id).is_err());
    }

    #[test]
    fn modules_whose_crash_does_not_come_are_removed_when_they_are_old() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.state_dir()).unwrap();
        let import = ImportDir::create(&Layout::new(&root)).unwrap();
        for build_id in ["aa", "bb"] {
            import.add_module(&mut &b"module"[..], 6, build_id).unwrap();
        }
        let old = File::open(root.state_dir().join("import/aa.zst")).unwrap();
        old.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
        assert_eq!(import.remove_old_modules(Duration::from_secs(3600)).unwrap(), 1);
        assert_eq!(import.build_ids().unwrap(), ["bb"]);
    }
}
