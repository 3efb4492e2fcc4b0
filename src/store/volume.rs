//! What the file system of the state directory can do. Any will do, but some keep less of what was asked for, which is said once at the
//! start and by `coreward status`.

use super::access_list;
use super::pin::PINNED;
use crate::policy::quota::{QuotaLimits, Quotas};
use coreward_sys::file_system::is_in_memory;
use coreward_sys::sparse_io::BLOCK;
use coreward_sys::{tmpfile, xattr};
use nix::sys::stat::Mode;
use nix::unistd::Uid;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

/// The part of the daemon's memory that may hold files. The same again is for what is copied and not yet compressed, and the rest for the
/// daemon and its readers.
pub const SHARE_OF_MEMORY: u64 = 4;
/// Where the one page of a file is that shows whether a hole takes space, in bytes.
const HOLE: u64 = 1 << 20;
/// The file system of the state directory. What could not be found out counts as working: the daemon tries, and reports what fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its files are in memory, of which the daemon may use this many bytes.
    memory: Option<u64>,
    keeps_permissions: bool,
    has_holes: bool,
    has_access_lists: bool,
    has_attributes: bool,
    has_locks: bool,
}

impl Volume {
    /// Tries what the file system of `dir` can do. The daemon may use `memory` bytes of memory.
    #[must_use]
    pub fn probe(dir: BorrowedFd<'_>, memory: u64) -> Self {
        let works = Self {
            memory: is_in_memory(dir).then_some(memory),
            keeps_permissions: true,
            has_holes: true,
            has_access_lists: true,
            has_attributes: true,
            has_locks: true,
        };
        match tmpfile::create_scratch(dir, Mode::from_bits_truncate(0o600)) {
            Ok(file) => works.try_on(&File::from(file)),
            Err(error) => {
                Self { keeps_permissions: error.kind() != ErrorKind::PermissionDenied || !is_writable(dir), ..works }
            }
        }
    }

    fn try_on(self, file: &File) -> Self {
        let blocks =
            file.write_all_at(&[1; 4096], HOLE).and_then(|()| file.metadata()).map_or(0, |found| found.blocks());
        let is_supported = |tried: io::Result<()>| !tried.is_err_and(|error| error.kind() == ErrorKind::Unsupported);
        Self {
            has_holes: blocks * BLOCK < HOLE,
            has_access_lists: is_supported(access_list::grant_read(file.as_fd(), Uid::current())),
            has_attributes: is_supported(xattr::set(file.as_fd(), PINNED, b"1")),
            has_locks: !matches!(file.try_lock(), Err(TryLockError::Error(_))),
            ..self
        }
    }

    /// Whether a large core may be copied to an uncompressed file while its process waits.
    #[must_use]
    pub fn may_spill(&self) -> bool {
        self.memory.is_none() && self.has_holes
    }

    /// Whether its files take memory.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// The limits in force on a file system of `size` bytes.
    #[must_use]
    pub fn limits(&self, quotas: &Quotas, size: u64) -> QuotaLimits {
        let limits = quotas.on_volume(size);
        self.memory.map_or(limits, |memory| limits.within(memory / SHARE_OF_MEMORY))
    }

    /// What it lacks, and what follows from that: a sentence for each.
    #[must_use]
    pub fn limitations(&self) -> Vec<String> {
        let in_memory = self.memory.map(|memory| {
            format!(
                "its files are in memory and gone after a reboot; stored cores take at most {} MiB, a quarter of the memory that the daemon may use",
                (memory / SHARE_OF_MEMORY) >> 20
            )
        });
        let lacks = [
            (
                self.keeps_permissions,
                "its file system keeps no permissions: no core is stored, since everybody could read it (mount it with umask=077)",
            ),
            (
                self.has_holes,
                "its file system has no sparse files: a process with a large core is held until that is compressed",
            ),
            (
                self.has_access_lists,
                "its file system has no access lists: only root and group adm can read the cores of a user",
            ),
            (self.has_attributes, "its file system has no extended attributes: a pin is a file beside its core"),
            (self.has_locks, "its file system has no locks: a core may be deleted while somebody reads it"),
        ];
        let lacks = lacks.into_iter().filter(|(works, _)| !works).map(|(_, text)| text.to_owned());
        in_memory.into_iter().chain(lacks).collect()
    }
}

/// Whether this user could create a file in `dir`, as far as the permissions of the directory tell.
fn is_writable(dir: BorrowedFd<'_>) -> bool {
    nix::unistd::faccessat(dir, ".", nix::unistd::AccessFlags::W_OK, nix::fcntl::AtFlags::AT_EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_holds_files_is_bounded_and_what_is_missing_is_said() {
        let quotas = Quotas { max_use: Some(1 << 40), ..Quotas::default() };
        let good = Volume {
            memory: None,
            keeps_permissions: true,
            has_holes: true,
            has_access_lists: true,
            has_attributes: true,
            has_locks: true,
        };
        assert_eq!((good.limits(&quotas, 1 << 40).max_use, good.limitations().len()), (1 << 40, 0));
        assert!(good.may_spill());
        let tmpfs = Volume { memory: Some(256 << 20), ..good };
        let limits = tmpfs.limits(&quotas, 1 << 40);
        assert_eq!((limits.max_use, limits.per_unit), (64 << 20, 64 << 20));
        assert!(!tmpfs.may_spill() && tmpfs.limitations()[0].contains("at most 64 MiB"));
        let poor = Volume { has_holes: false, has_access_lists: false, keeps_permissions: false, ..good };
        assert!(!poor.may_spill() && poor.limitations().len() == 3);
    }

    #[test]
    fn shared_memory_is_memory() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        assert!(Volume::probe(File::open(dir.path()).unwrap().as_fd(), 1 << 30).is_memory());
    }
}
