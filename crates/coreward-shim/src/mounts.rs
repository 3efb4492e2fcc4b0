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
    // What is cut off at the end of the text is not trusted.
    let mounts = || mountinfo.split_inclusive(|byte| *byte == b'\n').filter_map(parse);
    let distrusts_overlays = in_user_namespace && mounts().any(|(_, kind)| kind.starts_with("fuse"));
    for (minor, kind) in mounts() {
        let is_remote = REMOTE.contains(&kind);
        let is_trusted = is_remote || LOCAL.contains(&kind) && !(kind == "overlay" && distrusts_overlays);
        if is_trusted && found.iter().all(|known| known.minor != minor) {
            found.push(VirtualFileSystem { minor, is_remote });
        }
    }
}

/// Minor number and type of a mount whose device has the major number 0:
/// `36 35 0:45 /root /mount/point options optional... - type source options`. Spaces in paths are escaped.
fn parse(line: &[u8]) -> Option<(u32, &str)> {
    let line = line.strip_suffix(b"\n")?;
    let mut fields = line.split(|byte| *byte == b' ').filter_map(|field| std::str::from_utf8(field).ok());
    let minor = fields.nth(2)?.strip_prefix("0:")?.parse().ok()?;
    fields.find(|field| *field == "-")?;
    Some((minor, fields.next()?))
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
    fn a_line_that_is_cut_off_is_ignored() {
        for length in 0..MOUNTS.len() {
            let whole = MOUNTS[..length].rfind('\n').map_or(0, |end| end + 1);
            assert_eq!(minors(&MOUNTS[..length], false), minors(&MOUNTS[..whole], false));
        }
    }
}
