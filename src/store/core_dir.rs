//! The names in the directory of core files. A name reveals nothing about the crash, since anyone may list the directory.

use crate::crash::CrashId;
use coreward_sys::openat;
use nix::errno::Errno;
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

/// The name of the file that stands for a pin of this core, where the file system has no attributes for it.
pub(super) fn pin_file_name(id: &CrashId) -> PathBuf {
    PathBuf::from(format!("{id}.pinned"))
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
    unlinkat(dir, &core_file_name(id), UnlinkatFlags::NoRemoveDir)?;
    // A pin without a core protects nothing.
    let _ = remove_pin_file(dir, id);
    Ok(())
}

/// Removes the file of a pin, if there is one.
pub(super) fn remove_pin_file(dir: &OwnedFd, id: &CrashId) -> io::Result<()> {
    match unlinkat(dir, &pin_file_name(id), UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        removed => Ok(removed?),
    }
}
