//! The file systems that the crashed process sees (`/proc/PID/mountinfo`, proc_pid_mountinfo(5)), as far as reading a page of their
//! files depends on nobody's good will. The kernel writes this text out of its own memory: reading it does not block.

use coreward_wire::VirtualFileSystem;

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

/// Adds the trusted file systems in `mountinfo` to `found`. Any user can be the server of a FUSE file system, so those are not.
///
/// Whoever has a user namespace of their own can mount an overlay over such a file system: `in_user_namespace` and with one in
/// sight, overlays are not trusted either.
pub(super) fn add_trusted(found: &mut Vec<VirtualFileSystem>, mountinfo: &[u8], in_user_namespace: bool) {
    let mounts = Mounts::new(mountinfo, in_user_namespace);
    for mount in mounts.iter() {
        let Some(minor) = mount.minor else { continue };
        let is_remote = REMOTE.contains(&mount.kind);
        if (is_remote || mounts.is_local(&mount)) && found.iter().all(|known| known.minor != minor) {
            found.push(VirtualFileSystem { minor, is_remote });
        }
    }
}

/// Whether the mount with this number is in `mountinfo`, and its files are this machine's: on a block device, or on one of [`LOCAL`].
/// Overlays are trusted as in [`add_trusted`].
pub(super) fn is_local(mountinfo: &[u8], id: u32, in_user_namespace: bool) -> bool {
    let mounts = Mounts::new(mountinfo, in_user_namespace);
    mounts.iter().any(|mount| mount.id == id && mounts.is_local(&mount))
}

/// The number of the mount in `/proc/PID/fdinfo/FD` (proc_pid_fdinfo(5)).
pub(super) fn parse_mount_id(fdinfo: &[u8]) -> Option<u32> {
    let line = fdinfo.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"mnt_id:"))?;
    str::from_utf8(line.trim_ascii()).ok()?.parse().ok()
}

/// The mounts in a text.
struct Mounts<'a> {
    text: &'a [u8],
    distrusts_overlays: bool,
}

impl<'a> Mounts<'a> {
    fn new(text: &'a [u8], in_user_namespace: bool) -> Self {
        let mut mounts = Self { text, distrusts_overlays: false };
        mounts.distrusts_overlays = in_user_namespace && mounts.iter().any(|mount| mount.is_fuse());
        mounts
    }

    /// What is cut off at the end of the text is left out.
    fn iter(&self) -> impl Iterator<Item = Mount<'a>> + use<'a> {
        self.text.split_inclusive(|byte| *byte == b'\n').filter_map(Mount::parse)
    }

    fn is_local(&self, mount: &Mount<'_>) -> bool {
        // FUSE has a kind for block devices too, and a program serves it all the same.
        let has_block_device = mount.minor.is_none() && !mount.is_fuse();
        has_block_device || LOCAL.contains(&mount.kind) && !(mount.kind == "overlay" && self.distrusts_overlays)
    }
}

struct Mount<'a> {
    id: u32,
    /// Minor number of a device with the major number 0; `None` for a block device.
    minor: Option<u32>,
    /// The type of the file system.
    kind: &'a str,
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

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
26 25 0:24 / /run rw,nosuid - tmpfs tmpfs rw\n\
27 25 0:44 / /var/lib/containers/x rw master:1 propagate_from:2 - overlay overlay rw,lowerdir=/a:/b\n\
28 25 0:45 /export /home/a\\040b\\040-\\040tmpfs rw - nfs4 server:/export rw\n\
29 25 0:46 / /home/user/mnt rw - fuse.sshfs host: rw\n\
30 25 0:47 / /sys rw - sysfs sysfs rw\n\
31 25 0:24 /x /x rw - tmpfs tmpfs rw\n";

    fn minors(text: &str, in_user_namespace: bool) -> Vec<(u32, bool)> {
        let mut found = Vec::new();
        add_trusted(&mut found, text.as_bytes(), in_user_namespace);
        found.iter().map(|found| (found.minor, found.is_remote)).collect()
    }

    #[test]
    fn what_a_user_serves_is_not_trusted() {
        assert_eq!(minors(MOUNTS, false), [(24, false), (44, false), (45, true)]);
    }

    #[test]
    fn an_overlay_is_only_trusted_if_no_user_can_have_put_it_over_fuse() {
        assert_eq!(minors(MOUNTS, true), [(24, false), (45, true)]);
        let without_fuse = MOUNTS.replace("fuse.sshfs", "proc");
        assert!(minors(&without_fuse, true).contains(&(44, false)));
    }

    #[test]
    fn mounts_on_block_devices_and_in_memory_are_local_and_what_users_or_other_machines_serve_is_not() {
        let text = format!(
            "{MOUNTS}32 25 8:17 / /media/user/stick rw - fuseblk /dev/sdb1 rw\n33 25 0:50 / /v rw - virtiofs v rw\n"
        );
        let local = |in_user_namespace| -> Vec<u32> {
            (0..100).filter(|id| is_local(text.as_bytes(), *id, in_user_namespace)).collect()
        };
        assert_eq!(local(false), [25, 26, 27, 31]);
        assert_eq!(local(true), [25, 26, 31], "an overlay may be over the user's own file system");
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
    fn a_line_that_is_cut_off_is_ignored() {
        for length in 0..MOUNTS.len() {
            let whole = MOUNTS[..length].rfind('\n').map_or(0, |end| end + 1);
            assert_eq!(minors(&MOUNTS[..length], false), minors(&MOUNTS[..whole], false));
        }
    }
}
