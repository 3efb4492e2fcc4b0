//! Errors of a write to a volume that takes no more data.

use nix::errno::Errno;

/// Whether `errno` means that the volume is full (`ENOSPC`) or that a quota of the file system is used up (`EDQUOT`); see
/// write(2).
#[must_use]
pub fn is_out_of_space(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSPC | Errno::EDQUOT)
}
