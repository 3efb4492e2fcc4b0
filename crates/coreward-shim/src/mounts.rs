//! The file systems that the crashed process sees.

use super::proc_dir::{ProcDir, read_beginning_at};
use super::warning::{ShimWarning, errno_of};
use coreward_sys::mounts::{self, Mounts, TrustedFileSystems};
use coreward_wire::{FdKind, Offer};
use nix::fcntl::AT_FDCWD;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// Bytes of `mountinfo` that are read. The root is in the first lines; what the rest of a longer table names is not trusted.
const MAX_MOUNTINFO: usize = 64 << 10;
/// The host's.
const OF_HOST: &str = "/proc/self/mountinfo";

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

/// What has the contents of a file that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backing {
    /// A file system of this machine.
    FileSystem,
    /// It is a memfd.
    Memory,
}

/// The mounts whose files are this machine's, and answer.
pub(super) struct LocalMounts<'a> {
    /// Texts of mounts, and whether a user namespace sees them. Those that nobody has needed are not read.
    unread: Box<dyn Iterator<Item = (Vec<u8>, bool)> + 'a>,
    read: Vec<(Vec<u8>, bool)>,
    known: BTreeMap<u32, Option<Backing>>,
}

impl<'a> LocalMounts<'a> {
    /// Those that the process with this directory sees, and the host's.
    pub(super) fn new(dir: &'a OwnedFd, in_user_namespace: bool) -> Self {
        // What is mounted outside of the process' root directory is in the second list only, which is read if the first does not do.
        let lists = [(dir.as_fd(), "mountinfo", in_user_namespace), (AT_FDCWD, OF_HOST, false)].into_iter();
        Self::of_lists(lists.map(|(dir, name, of_user)| (read_beginning_at(dir, name, MAX_MOUNTINFO).0, of_user)))
    }

    /// Those in these texts.
    pub(super) fn of_lists(lists: impl Iterator<Item = (Vec<u8>, bool)> + 'a) -> Self {
        Self { unread: Box::new(lists), read: Vec::new(), known: BTreeMap::new() }
    }

    /// Whether `file` is on one of them, and what of; `None` if it may not answer. The number of the device would not do: files of a btrfs subvolume or an overlay may report another
    /// one than their mount has. The file system would also have to be asked for it.
    pub(super) fn backing(&mut self, file: &OwnedFd) -> nix::Result<Option<Backing>> {
        let mount = mount_id(file)?;
        if let Some(known) = self.known.get(&mount) {
            return Ok(*known);
        }
        let backing = if self.is_listed(mount) {
            Some(Backing::FileSystem)
        } else {
            // A program may be executed from a memfd. The kernel has one mount for all of them, which is in no list.
            let of_memfds = mount_id(&memfd_create("coreward-mount", MFdFlags::MFD_CLOEXEC)?)?;
            (mount == of_memfds).then_some(Backing::Memory)
        };
        self.known.insert(mount, backing);
        Ok(backing)
    }

    fn is_listed(&mut self, mount: u32) -> bool {
        let has = |(text, in_user_namespace): &(Vec<u8>, bool)| Mounts::new(text, *in_user_namespace).has_local(mount);
        if self.read.iter().any(has) {
            return true;
        }
        for list in self.unread.by_ref() {
            let is_there = has(&list);
            self.read.push(list);
            if is_there {
                return true;
            }
        }
        false
    }
}

/// The mount that a file is on.
pub(super) fn mount_id(file: &OwnedFd) -> nix::Result<u32> {
    mounts::mount_id(file.as_fd()).map_err(|error| errno_of(&error))
}
