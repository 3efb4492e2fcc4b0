//! A limit on the daemon's memory, as `MemoryMax=` of its unit is one.

use super::TestBed;
use std::fs;
use std::path::{Path, PathBuf};

/// A control group with a limit, in which the daemons of a test bed start. Removed when dropped.
pub(crate) struct MemoryLimit {
    dir: PathBuf,
}

impl MemoryLimit {
    /// Daemons that `bed` starts from now on may use `bytes` of memory.
    pub(crate) fn on_daemons(bed: &TestBed, bytes: u64) -> Self {
        let top = Path::new("/sys/fs/cgroup");
        let is_version_1 = top.join("memory").is_dir();
        if !is_version_1 {
            fs::write(top.join("cgroup.subtree_control"), "+memory").expect("the memory controller");
        }
        let top = if is_version_1 { top.join("memory") } else { top.to_owned() };
        let dir = top.join(format!("coreward-test-{}", std::process::id()));
        fs::create_dir(&dir).expect("a cgroup");
        let file = if is_version_1 { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(dir.join(file), bytes.to_string()).expect("a limit");
        let daemon = bed.root.daemon_exe();
        let real = daemon.with_extension("real");
        fs::rename(&daemon, &real).expect("the daemon");
        let script = format!("#!/bin/sh\necho $$ >{}/cgroup.procs\nexec {} \"$@\"\n", dir.display(), real.display());
        fs::write(&daemon, script).expect("a script in place of the daemon");
        fs::set_permissions(&daemon, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        Self { dir }
    }

    /// How often the kernel has killed a process because of the limit.
    pub(crate) fn kills(&self) -> u64 {
        super::cgroup::oom_kills(&self.dir)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
