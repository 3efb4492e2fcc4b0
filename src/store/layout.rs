//! Where the store's files are.

use coreward_sys::openat;
use coreward_wire::paths::Root;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Paths below the state directory.
#[derive(Clone, Debug)]
pub struct Layout {
    /// `catalog.db`.
    pub catalog: PathBuf,
    /// `cores/`.
    pub cores: PathBuf,
    /// `modules/`.
    pub modules: PathBuf,
    /// `import/`.
    pub import: PathBuf,
}

impl Layout {
    /// The paths below `root`.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        let state = root.state_dir();
        Self {
            catalog: state.join("catalog.db"),
            cores: state.join("cores"),
            modules: state.join("modules"),
            import: state.join("import"),
        }
    }

    /// Opens the directory of the core files. A symbolic link in its place is refused, because the daemon's user could have
    /// planted one.
    ///
    /// # Errors
    /// The error of openat(2).
    pub fn open_cores(&self) -> io::Result<OwnedFd> {
        open_below(&self.cores)
    }

    /// Opens the directory of the modules, in the same way.
    ///
    /// # Errors
    /// The error of openat(2).
    pub fn open_modules(&self) -> io::Result<OwnedFd> {
        open_below(&self.modules)
    }

    /// Opens the directory of what is imported, in the same way.
    ///
    /// # Errors
    /// The error of openat(2).
    pub fn open_import(&self) -> io::Result<OwnedFd> {
        open_below(&self.import)
    }
}

/// Bytes of the catalog's journal above which the daemon empties it, and queries make room for that. Crashes alone need a fraction.
const LONG_JOURNAL: u64 = 16 << 20;

/// The write-ahead log of the catalog at this path.
pub(super) fn catalog_journal(catalog: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", catalog.display()))
}

/// Whether the write-ahead log of this catalog is so long that the daemon has to empty it.
#[must_use]
pub fn is_journal_long(catalog: &Path) -> bool {
    catalog_journal(catalog).metadata().is_ok_and(|file| file.len() > LONG_JOURNAL)
}

fn open_below(dir: &Path) -> io::Result<OwnedFd> {
    let parent = std::fs::File::open(dir.parent().unwrap_or(dir))?;
    openat::open_dir_below(parent.as_fd(), Path::new(dir.file_name().unwrap_or_default()))
}
