//! What keeps a core from being evicted: a pin, which is an attribute of its file and so survives the catalog; and a reader, who
//! holds a shared lock on it.

use super::core_file::file_name;
use crate::crash::CrashId;
use coreward_sys::{openat, xattr};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The attribute of a pinned core (xattr(7), namespace "user").
const PINNED: &std::ffi::CStr = c"user.coreward.pinned";

/// Whether a core may go.
pub(super) enum Hold {
    /// Yes; nobody can begin to read it while this lives.
    #[expect(dead_code, reason = "held for its lock")]
    Free(Flock<File>),
    /// It is not there.
    Gone,
    /// It is pinned.
    Pinned,
    /// Somebody reads it.
    Read,
}

pub(super) fn hold(dir: &OwnedFd, id: &CrashId) -> Hold {
    let Ok(file) = openat::open_file_below(dir.as_fd(), &file_name(id)) else { return Hold::Gone };
    let file = File::from(file);
    if xattr::has(file.as_fd(), PINNED) {
        return Hold::Pinned;
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Hold::Free(lock),
        Err(_) => Hold::Read,
    }
}

/// Whether a core is pinned.
pub fn is_pinned(dir: &OwnedFd, id: &CrashId) -> bool {
    openat::open_file_below(dir.as_fd(), &file_name(id)).is_ok_and(|file| xattr::has(file.as_fd(), PINNED))
}

/// Pins a core, or takes the pin away.
///
/// # Errors
/// The file can't be opened, or its file system has no attributes of users.
pub fn set_pinned(dir: &OwnedFd, id: &CrashId, pinned: bool) -> io::Result<()> {
    let file = openat::open_file_below(dir.as_fd(), &file_name(id))?;
    if pinned { xattr::set(file.as_fd(), PINNED, b"1") } else { xattr::remove(file.as_fd(), PINNED) }
}

/// Holds a core against eviction while it is read. Where that can't be, it is read all the same.
pub fn reading(file: File) -> Result<Flock<File>, File> {
    Flock::lock(file, FlockArg::LockSharedNonblock).map_err(|(file, _)| file)
}
