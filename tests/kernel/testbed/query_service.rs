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

/// A running service; dropping it ends it.
pub(crate) struct QueryService {
    child: Child,
}

impl QueryService {
    /// Starts the service. Its user becomes the owner of the catalog, which nobody else may read then, but root.
    pub(crate) fn start(bed: &TestBed) -> Self {
        let exe = bed.path("usr/libexec/coreward/coreward-query");
        fs::copy(env!("CARGO_BIN_EXE_coreward-query"), &exe).expect("the service");
        eventually(Duration::from_secs(10), || bed.path("var/lib/coreward/catalog.db-shm").exists());
        let owner = (Some(Uid::from_raw(USER)), Some(Gid::from_raw(USER)));
        for file in
            ["catalog.db", "catalog.db-wal", "catalog.db-shm"].map(|name| bed.path("var/lib/coreward").join(name))
        {
            chown(&file, owner.0, owner.1).expect("chown");
            fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("chmod");
        }
        let deletion = bed.root.deletion_socket();
        chown(&deletion, owner.0, owner.1).expect("chown");
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
