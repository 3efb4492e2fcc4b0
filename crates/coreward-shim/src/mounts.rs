//! The file systems that the crashed process sees, as far as reading a page of their files depends on nobody's good will.

use coreward_sys::mounts::Mounts;
use coreward_wire::VirtualFileSystem;

/// File systems whose files another machine has.
const REMOTE: [&str; 13] =
    ["9p", "afs", "beegfs", "ceph", "cifs", "coda", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "smb3", "vboxsf"];

/// Adds the trusted file systems in `mountinfo` to `found`: those of this machine and of others, and none that a user serves.
/// `in_user_namespace` is as in [`Mounts::new`].
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
}
