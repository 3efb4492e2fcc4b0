//! A volume that takes nothing more.

use nix::errno::Errno;

/// Whether an error says so: the volume is full, or a quota of the kernel is (write(2)).
pub fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSPC | Errno::EDQUOT)
}
