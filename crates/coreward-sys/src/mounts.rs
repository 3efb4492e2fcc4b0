//! What the kernel says of mounts (`mountinfo`, proc_pid_mountinfo(5)), as far as reading a file depends on nobody's good will. The
//! kernel writes this text out of its own memory: reading it does not block.

use nix::errno::Errno;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};

/// File systems without a block device of their own whose files are this machine's.
const LOCAL: [&str; 13] = [
    "aufs",
    "bcachefs",
    "btrfs",
    "devtmpfs",
    "erofs",
    "hugetlbfs",
    "overlay",
    "ramfs",
    "rootfs",
    "squashfs",
    "tmpfs",
    "ubifs",
    "zfs",
];

/// File systems whose files another machine has.
const REMOTE: [&str; 13] =
    ["9p", "afs", "beegfs", "ceph", "cifs", "coda", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "smb3", "vboxsf"];

/// The mounts in a text.
#[derive(Clone, Copy, Debug)]
pub struct Mounts<'a> {
    text: &'a [u8],
    distrusts_overlays: bool,
}

/// A mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Its number.
    pub id: u32,
    /// Minor number of a device with the major number 0; `None` for a block device.
    pub minor: Option<u32>,
    /// The type of the file system.
    pub kind: &'a str,
}

impl<'a> Mounts<'a> {
    /// The mounts in `mountinfo`. Whoever has a user namespace of their own can mount an overlay over a file system that a user serves:
    /// `in_user_namespace` and with one in sight, overlays are not local.
    #[must_use]
    pub fn new(mountinfo: &'a [u8], in_user_namespace: bool) -> Self {
        let mut mounts = Self { text: mountinfo, distrusts_overlays: false };
        mounts.distrusts_overlays = in_user_namespace && mounts.iter().any(|mount| mount.is_fuse());
        mounts
    }

    /// All of them. What is cut off at the end of the text is left out.
    pub fn iter(&self) -> impl Iterator<Item = Mount<'a>> + use<'a> {
        self.text.split_inclusive(|byte| *byte == b'\n').filter_map(Mount::parse)
    }

    /// Whether its files are this machine's: on a block device, or on a file system in memory. Any user can be the server of a FUSE file
    /// system, so those are not.
    #[must_use]
    pub fn is_local(&self, mount: &Mount<'_>) -> bool {
        // FUSE has a kind for block devices too, and a program serves it all the same.
        let has_block_device = mount.minor.is_none() && !mount.is_fuse();
        has_block_device || LOCAL.contains(&mount.kind) && !(mount.kind == "overlay" && self.distrusts_overlays)
    }

    /// Whether the mount with this number is among them, and local.
    #[must_use]
    pub fn has_local(&self, id: u32) -> bool {
        self.iter().any(|mount| mount.id == id && self.is_local(&mount))
    }
}

impl<'a> Mount<'a> {
    /// A line: `36 35 0:45 /root /mount/point options optional... - type source options`. Spaces in paths are escaped.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n")?;
        let mut fields = line.split(|byte| *byte == b' ').filter_map(|field| str::from_utf8(field).ok());
        let id = fields.next()?.parse().ok()?;
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        let minor = if major == "0" { Some(minor.parse().ok()?) } else { None };
        fields.find(|field| *field == "-")?;
        Some(Self { id, minor, kind: fields.next()? })
    }

    fn is_fuse(&self) -> bool {
        self.kind.starts_with("fuse")
    }
}

/// The file systems without a block device that a process sees and that can be trusted to answer, by the minor numbers of their
/// devices. All others are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedFileSystems {
    /// Those of this machine.
    pub local: Vec<u32>,
    /// Those of other machines.
    pub remote: Vec<u32>,
}

impl TrustedFileSystems {
    /// Adds those in `mountinfo`: of this machine and of others, and none that a user serves. `in_user_namespace` is as in
    /// [`Mounts::new`].
    pub fn add(&mut self, mountinfo: &[u8], in_user_namespace: bool) {
        let mounts = Mounts::new(mountinfo, in_user_namespace);
        for mount in mounts.iter() {
            let is_remote = REMOTE.contains(&mount.kind);
            let list = if is_remote { &mut self.remote } else { &mut self.local };
            if let Some(minor) = mount.minor.filter(|minor| !list.contains(minor))
                && (is_remote || mounts.is_local(&mount))
            {
                list.push(minor);
            }
        }
    }
}

/// The mount that an open file is on (proc_pid_fdinfo(5)): the kernel knows it without asking the file system, and as long as the file
/// is open, no other mount gets the number.
///
/// # Errors
/// The text cannot be read; `ENODATA`: it has no such number.
pub fn mount_id(file: BorrowedFd<'_>) -> io::Result<u32> {
    // The number stands in the third line; what comes after it may be long.
    let mut text = [0; 128];
    let length = File::open(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?.read(&mut text)?;
    parse_mount_id(&text[..length]).ok_or_else(|| Errno::ENODATA.into())
}

fn parse_mount_id(fdinfo: &[u8]) -> Option<u32> {
    // A number that is cut off is another one.
    let mut lines = fdinfo.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let line = lines.find_map(|line| line.strip_prefix(b"mnt_id:"))?;
    str::from_utf8(line.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const MOUNTS: &str = "\
25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
26 25 0:24 / /run rw,nosuid - tmpfs tmpfs rw\n\
27 25 0:44 / /var/lib/containers/x rw master:1 propagate_from:2 - overlay overlay rw,lowerdir=/a:/b\n\
28 25 0:45 /export /home/a\\040b\\040-\\040tmpfs rw - nfs4 server:/export rw\n\
29 25 0:46 / /home/user/mnt rw - fuse.sshfs host: rw\n\
30 25 0:47 / /sys rw - sysfs sysfs rw\n\
31 25 0:24 /x /x rw - tmpfs tmpfs rw\n\
32 25 8:17 / /media/user/stick rw - fuseblk /dev/sdb1 rw\n\
33 25 0:50 / /v rw - virtiofs v rw\n";

    #[test]
    fn mounts_on_block_devices_and_in_memory_are_local_and_what_users_or_other_machines_serve_is_not() {
        let local = |text: &str, in_user_namespace| -> Vec<u32> {
            let mounts = Mounts::new(text.as_bytes(), in_user_namespace);
            (0..100).filter(|id| mounts.has_local(*id)).collect()
        };
        assert_eq!(local(MOUNTS, false), [25, 26, 27, 31]);
        assert_eq!(local(MOUNTS, true), [25, 26, 31], "an overlay may be over the user's own file system");
        let without_fuse = MOUNTS.replace("fuse", "proc");
        assert_eq!(local(&without_fuse, true), [25, 26, 27, 31, 32]);
    }

    #[test]
    fn what_a_user_serves_is_not_trusted() {
        let trusted = |text: &str, in_user_namespace| {
            let mut trusted = TrustedFileSystems::default();
            trusted.add(text.as_bytes(), in_user_namespace);
            (trusted.local, trusted.remote)
        };
        assert_eq!(trusted(MOUNTS, false), (vec![24, 44], vec![45]));
        assert_eq!(trusted(MOUNTS, true), (vec![24], vec![45]));
        assert_eq!(trusted(&MOUNTS.replace("fuse", "proc"), true), (vec![24, 44], vec![45]));
    }

    #[test]
    fn the_number_of_a_mount_stands_in_its_line() {
        let text = b"pos:\t0\nflags:\t012000000\nmnt_id:\t29\nino:\t7\n";
        assert_eq!(parse_mount_id(text), Some(29));
        for text in [&b""[..], b"pos:\t0\n", b"mnt_id:\t\n", b"mnt_id:\t-1\n", b"mnt_id:\t29 30\n"] {
            assert_eq!(parse_mount_id(text), None);
        }
    }

    #[test]
    fn the_root_directory_is_on_a_mount_of_the_list() {
        let root = File::open("/").unwrap();
        let id = mount_id(root.as_fd()).unwrap();
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        assert!(Mounts::new(&text, false).iter().any(|mount| mount.id == id));
    }

    #[test]
    fn a_line_that_is_cut_off_is_ignored() {
        let all = |text: &'static str| Mounts::new(text.as_bytes(), false).iter().collect::<Vec<_>>();
        for length in 0..MOUNTS.len() {
            let whole = MOUNTS[..length].rfind('\n').map_or(0, |end| end + 1);
            assert_eq!(all(&MOUNTS[..length]), all(&MOUNTS[..whole]));
        }
    }
}
