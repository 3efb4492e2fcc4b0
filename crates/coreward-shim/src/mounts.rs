//! The file systems that the crashed process sees.

use super::proc_dir::{ProcDir, read_beginning_at};
use super::warning::{ShimWarning, errno_of};
use coreward_sys::mounts::TrustedFileSystems;
use coreward_wire::{FdKind, Offer};
use nix::fcntl::AT_FDCWD;
use std::fs::File;
use std::os::fd::OwnedFd;

/// Bytes of `mountinfo` that are read. The root is in the first lines; what the rest of a longer table names is not trusted.
pub(super) const MAX_MOUNTINFO: usize = 64 << 10;
/// The host's.
pub(super) const OF_HOST: &str = "/proc/self/mountinfo";

/// The host's list for the offer of a process that has another root directory: the process' own leaves out what is mounted outside of
/// that, even the file system that it is on.
pub(super) fn open_of_host(offer: &Offer, warnings: &mut Vec<ShimWarning>) -> Option<(FdKind, OwnedFd)> {
    if offer.root == b"/" {
        return None;
    }
    match File::open(OF_HOST) {
        Ok(file) => Some((FdKind::HostMountinfo, file.into())),
        Err(error) => {
            warnings.push(ShimWarning::Open { what: "the host's mountinfo", errno: errno_of(&error) });
            None
        }
    }
}

/// The minor numbers of the file systems without a block device whose files are this machine's.
pub(super) fn local_minors(dir: &ProcDir, offer: &Offer, warnings: &mut Vec<ShimWarning>) -> Vec<u32> {
    let mut trusted = TrustedFileSystems::default();
    trusted.add(&dir.read_beginning("mountinfo", MAX_MOUNTINFO, warnings), offer.namespaces.may_be_of_user());
    if offer.root != b"/" {
        trusted.add(&read_beginning_at(AT_FDCWD, OF_HOST, MAX_MOUNTINFO).0, false);
    }
    trusted.local
}
