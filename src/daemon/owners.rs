//! The packages that have the files of a crashed program, as dpkg(1) knows them when it crashes: after an upgrade they are others. Looked up when
//! the process has gone.

use super::blocking::run_blocking;
use super::record_builder::RecordBuilder;
use super::shared::Shared;
use crate::crash::Package;
use crate::crash::text::to_path;
use nix::sys::stat::{fstat, stat};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Files that are looked up, as many as `coreward info` shows.
const MAX_FILES: usize = 16;
/// The longest name and version together, in bytes. Debian's have some twenty.
const MAX_LENGTH: usize = 256;
/// Bytes that the record gets longer by a package, beside its name and version.
const AROUND: usize = 64;

/// Mapped files of which packages are not known yet.
#[derive(Debug, Default)]
pub(super) struct UnownedFiles(Vec<UnownedFile>);

#[derive(Debug)]
struct UnownedFile {
    /// The first address of its module.
    start: u64,
    path: String,
    /// Device and inode.
    identity: (u64, u64),
}

impl UnownedFiles {
    /// Those of the modules that do not name a package themselves. `opened` are mapped files, each with the first address of its module.
    pub(super) fn new(builder: &RecordBuilder, opened: &[(u64, OwnedFd)]) -> Self {
        let unowned = |(start, file): &(u64, OwnedFd)| {
            let module = builder.modules().iter().find(|module| module.start == *start)?;
            let stat = fstat(file).ok().filter(|_| module.named_package().is_none())?;
            Some(UnownedFile { start: *start, path: module.path.clone(), identity: (stat.st_dev, stat.st_ino) })
        };
        Self(opened.iter().filter_map(unowned).take(MAX_FILES).collect())
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that the record may get longer.
    pub(super) fn room(&self) -> usize {
        self.0.len() * (AROUND + MAX_LENGTH)
    }
}

/// Finds the packages, each with the first address of its module.
pub(super) async fn find_owners(shared: &Arc<Shared>, files: UnownedFiles) -> Vec<(u64, Package)> {
    if files.is_empty() {
        return Vec::new();
    }
    let shared = Arc::clone(shared);
    let find = move || {
        let packages = shared.host_packages.index();
        let owner = |file: &UnownedFile| {
            // Only paths that packages have are looked up.
            let package = packages.owner(&file.path)?;
            let now = stat(&to_path(&file.path)).ok()?;
            let is_short = package.name.len() + package.version.len() <= MAX_LENGTH;
            (is_short && (now.st_dev, now.st_ino) == file.identity).then(|| (file.start, package.clone()))
        };
        files.0.iter().filter_map(owner).collect()
    };
    run_blocking(find).await.unwrap_or_default()
}
