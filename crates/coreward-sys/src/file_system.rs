//! What a file system has its files in, and how much room it has (statfs(2), statvfs(3)).

use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use nix::sys::statvfs::fstatvfs;
use std::io;
use std::os::fd::BorrowedFd;

/// `RAMFS_MAGIC` (include/uapi/linux/magic.h).
const RAMFS: FsType = FsType(0x8584_58f6);
/// The size of a file system that does not tell it, in bytes: as that of a large one.
const UNKNOWN_SIZE: u64 = 1 << 40;

/// Size and free space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub size: u64,
    /// What is free for this user.
    pub free: u64,
}

impl Space {
    /// The space on the file system of `dir`.
    ///
    /// # Errors
    /// The error of fstatvfs(3).
    pub fn of(dir: BorrowedFd<'_>) -> io::Result<Self> {
        let found = fstatvfs(dir)?;
        // ramfs and some FUSE file systems have no size.
        if found.blocks() == 0 {
            return Ok(Self { size: UNKNOWN_SIZE, free: u64::MAX });
        }
        let unit = found.fragment_size();
        Ok(Self { size: found.blocks() * unit, free: found.blocks_available() * unit })
    }
}

/// Whether the files of the file system of `dir` take memory.
#[must_use]
pub fn is_in_memory(dir: BorrowedFd<'_>) -> bool {
    fstatfs(dir).is_ok_and(|found| [TMPFS_MAGIC, RAMFS].contains(&found.filesystem_type()))
}
