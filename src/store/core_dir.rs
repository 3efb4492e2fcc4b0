//! The names in the directory of core files. A name reveals nothing about the crash, since anyone may list the directory.

use crate::crash::CrashId;
use coreward_sys::openat;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".core.zst";

/// The name of the core file of crash `id`.
#[must_use]
pub fn core_file_name(id: &CrashId) -> PathBuf {
    PathBuf::from(format!("{id}{SUFFIX}"))
}

/// The crash whose core file has the name at the end of `path`; `None` if it is not the name of a core file.
pub(super) fn crash_of_file(path: &Path) -> Option<CrashId> {
    path.file_name()?.to_str()?.strip_suffix(SUFFIX).and_then(CrashId::parse)
}

/// Opens the core of crash `id` in `dir` for reading.
pub(super) fn open_core(dir: &OwnedFd, id: &CrashId) -> io::Result<File> {
    openat::open_file_below(dir.as_fd(), &core_file_name(id)).map(File::from)
}

/// Deletes the core of crash `id` from `dir`. A running daemon notices, otherwise the next one does.
///
/// # Errors
/// The error of unlinkat(2).
pub fn delete_core(dir: &OwnedFd, id: &CrashId) -> io::Result<()> {
    Ok(unlinkat(dir, &core_file_name(id), UnlinkatFlags::NoRemoveDir)?)
}
