//! Files, catalog, accounting, eviction, recovery, access.

mod account;
mod acl;
mod books;
mod brief;
mod catalog;
mod core_file;
#[cfg(test)]
pub(crate) mod fixtures;
mod fold;
pub mod format;
mod groups;
mod held;
mod keep;
mod ledger;
mod meeting;
mod query;
mod recover;
mod schema;

pub use account::QuotaHandle;
pub use brief::{Brief, Take, brief};
pub use catalog::{Catalog, CatalogError, Inserted, OpenReport, Recent};
pub use core_file::{CoreFile, file_name};
pub use groups::{Group, Occurrence, groups, occurrences};
pub use held::{Held, held, least, remove};
pub use keep::{is_pinned, reading, set_pinned};
pub use ledger::{Grant, Ledger};
pub use query::{CoreState, Filter, Listed, QueryError, find, list, listed_count};
pub use schema::Count;

use coreward_sys::openat;
use coreward_wire::paths::Root;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where things are below the state directory.
#[derive(Clone, Debug)]
pub struct Layout {
    /// `catalog.db`.
    pub catalog: PathBuf,
    /// `cores/`.
    pub cores: PathBuf,
}

impl Layout {
    /// The layout of a tree.
    pub fn of(root: &Root) -> Self {
        let state = root.state_dir();
        Self { catalog: state.join("catalog.db"), cores: state.join("cores") }
    }

    /// Opens the directory of the cores.
    ///
    /// # Errors
    /// What openat(2) says; a symbolic link in the last component is one that the daemon's own user could have made.
    pub fn open_cores(&self) -> io::Result<OwnedFd> {
        let parent = std::fs::File::open(self.cores.parent().unwrap_or(&self.cores))?;
        openat::open_dir_below(std::os::fd::AsFd::as_fd(&parent), std::path::Path::new("cores"))
    }
}
