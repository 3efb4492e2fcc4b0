//! Protection of a core from eviction, by a pin or by a reader. A pin is an extended attribute of the core file, so it outlives
//! the catalog. A reader holds a shared lock on the file (flock(2)).

use super::core_dir::open_core;
use crate::crash::CrashId;
use coreward_sys::xattr;
use nix::fcntl::{Flock, FlockArg};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The attribute of a pinned core (xattr(7), namespace "user").
const PINNED: &CStr = c"user.coreward.pinned";

/// Whether a core may be evicted.
pub(super) enum Evictable {
    /// Yes. No reader can lock the file while this exists.
    Yes(#[expect(dead_code, reason = "held for its lock")] Flock<File>),
    /// The file is gone already.
    Gone,
    /// No, it is pinned.
    Pinned,
    /// No, somebody is reading it.
    BeingRead,
}

/// Locks the core of crash `id` for eviction, if it may be evicted.
pub(super) fn lock_for_eviction(dir: &OwnedFd, id: &CrashId) -> Evictable {
    let Ok(file) = open_core(dir, id) else { return Evictable::Gone };
    if xattr::has(file.as_fd(), PINNED) {
        return Evictable::Pinned;
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Evictable::Yes(lock),
        Err(_) => Evictable::BeingRead,
    }
}

/// Whether the core of crash `id` is pinned.
#[must_use]
pub fn is_pinned(dir: &OwnedFd, id: &CrashId) -> bool {
    open_core(dir, id).is_ok_and(|file| xattr::has(file.as_fd(), PINNED))
}

/// Pins the core of crash `id`, or removes its pin.
///
/// # Errors
/// The file cannot be opened, or its file system has no extended attributes for users.
pub fn set_pinned(dir: &OwnedFd, id: &CrashId, pinned: bool) -> io::Result<()> {
    let file = open_core(dir, id)?;
    if pinned { xattr::set(file.as_fd(), PINNED, b"1") } else { xattr::remove(file.as_fd(), PINNED) }
}

/// Protects an open core from eviction for as long as the lock is held.
///
/// # Errors
/// The file itself if it cannot be locked; it can be read nevertheless.
pub fn lock_for_reading(core: File) -> Result<Flock<File>, File> {
    Flock::lock(core, FlockArg::LockSharedNonblock).map_err(|(file, _)| file)
}
