//! Protection of a core from eviction, by a pin or by a reader. A pin is an extended attribute of the core file, so it outlives
//! the catalog; where the file system has no such attributes, it is an empty file beside the core. A reader holds a shared lock on the
//! file (flock(2)).

use super::core_dir::{open_core, pin_file_name, remove_pin_file};
use crate::crash::CrashId;
use coreward_sys::xattr;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The attribute of a pinned core (xattr(7), namespace "user").
pub(super) const PINNED: &CStr = c"user.coreward.pinned";

/// Whether a core may be evicted.
pub(super) enum Evictable {
    /// Yes. No reader can lock the file while this exists.
    Yes(#[expect(dead_code, reason = "held for its lock")] Flock<File>),
    /// Yes, as far as anybody can tell: the file system has no locks.
    Unlocked,
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
    if has_pin(dir, &file, id) {
        return Evictable::Pinned;
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Evictable::Yes(lock),
        Err((_, Errno::EWOULDBLOCK)) => Evictable::BeingRead,
        Err(_) => Evictable::Unlocked,
    }
}

/// Whether the core of crash `id` is pinned.
#[must_use]
pub fn is_pinned(dir: &OwnedFd, id: &CrashId) -> bool {
    open_core(dir, id).is_ok_and(|file| has_pin(dir, &file, id))
}

fn has_pin(dir: &OwnedFd, file: &File, id: &CrashId) -> bool {
    xattr::has(file.as_fd(), PINNED) || fstatat(dir, &pin_file_name(id), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
}

/// Pins the core of crash `id`, or removes its pin.
///
/// # Errors
/// The file cannot be opened, or the pin not be written.
pub fn set_pinned(dir: &OwnedFd, id: &CrashId, pinned: bool) -> io::Result<()> {
    let file = open_core(dir, id)?;
    let is_unsupported =
        |result: &io::Result<()>| result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Unsupported);
    if pinned {
        let set = xattr::set(file.as_fd(), PINNED, b"1");
        if is_unsupported(&set) { create_pin_file(dir, id) } else { set }
    } else {
        remove_pin_file(dir, id)?;
        let removed = xattr::remove(file.as_fd(), PINNED);
        if is_unsupported(&removed) { Ok(()) } else { removed }
    }
}

fn create_pin_file(dir: &OwnedFd, id: &CrashId) -> io::Result<()> {
    let flags = OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(dir, &pin_file_name(id), flags, Mode::from_bits_truncate(0o600))?;
    Ok(())
}

/// Protects an open core from eviction for as long as the lock is held.
///
/// # Errors
/// The file itself if it cannot be locked; it can be read nevertheless.
pub fn lock_for_reading(core: File) -> Result<Flock<File>, File> {
    Flock::lock(core, FlockArg::LockSharedNonblock).map_err(|(file, _)| file)
}
