//! The query service, as systemd runs it: under a user of its own, with its socket, and with the right to read the catalog.

use super::{TestBed, eventually};
use nix::unistd::{Gid, Uid, chown};
use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The service's user.
const USER: u32 = 1299;

/// Gives a user, and nobody else, the right to read files (`struct posix_acl_xattr_header`, include/uapi/linux/posix_acl_xattr.h).
const GRANT: &str = r#"
import os, struct, sys
own, user, group, mask, other = 1, 2, 4, 16, 32
nobody = 0xffffffff
entries = [(own, 6, nobody), (user, 4, int(sys.argv[1])), (group, 0, nobody), (mask, 4, nobody), (other, 0, nobody)]
for path in sys.argv[2:]:
    os.setxattr(path, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries))
"#;

/// A running service; dropping it ends it.
pub(crate) struct QueryService {
    child: Child,
}

impl QueryService {
    /// Starts the service. Its user may read the catalog by an access list, as tmpfiles.d grants it, and nobody else but root may.
    pub(crate) fn start(bed: &TestBed) -> Self {
        let exe = bed.path("usr/libexec/coreward/coreward-query");
        fs::copy(env!("CARGO_BIN_EXE_coreward-query"), &exe).expect("the service");
        eventually(Duration::from_secs(10), || bed.path("var/lib/coreward/catalog.db-shm").exists());
        let files =
            ["catalog.db", "catalog.db-wal", "catalog.db-shm"].map(|name| bed.path("var/lib/coreward").join(name));
        let granted = Command::new("/usr/bin/python3").args(["-c", GRANT, &USER.to_string()]).args(files).status();
        assert!(granted.expect("python3").success());
        let deletion = bed.root.deletion_socket();
        chown(&deletion, Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER))).expect("chown");
        fs::set_permissions(&deletion, Permissions::from_mode(0o600)).expect("chmod");
        let listener = UnixListener::bind(bed.root.query_socket()).expect("the socket of the service");
        fs::set_permissions(bed.root.query_socket(), Permissions::from_mode(0o666)).expect("chmod");
        let child = Command::new("setpriv")
            .args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()])
            .args(["sh", "-c", "LISTEN_PID=$$ exec \"$@\" 3<&0 </dev/null", "sh"])
            .arg(exe)
            .arg("--root")
            .arg(bed.root.path())
            .env("LISTEN_FDS", "1")
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .spawn()
            .expect("the service");
        Self { child }
    }

    /// The memory of the service, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a running service");
        let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kibibytes.and_then(|text| text.parse::<u64>().ok()).expect("VmRSS") << 10
    }
}

impl Drop for QueryService {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
