//! A control group for the programs of one test, such as systemd makes for a unit and a container runtime for a container.

use super::TestBed;
use super::command::run_tool;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cgroup, removed with those that it is in when dropped. A path of several names starts at the root of the hierarchy.
pub(crate) struct Cgroup {
    /// Where the test mounted the hierarchy of version 2. A mount of its own, so that the test does not depend on where
    /// the machine has it, or whether it is writable there.
    mount_point: PathBuf,
    dir: PathBuf,
}

impl Cgroup {
    pub(crate) fn new(bed: &TestBed, name: &str) -> Self {
        let mount_point = bed.path("cgroup");
        std::fs::create_dir_all(&mount_point).expect("a mount point");
        run_tool("mount", &["-t", "cgroup2", "none", mount_point.to_str().expect("UTF-8")]);
        let dir = mount_point.join(name);
        std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
        Self { mount_point, dir }
    }

    /// Stops its processes, or lets them go on.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        std::fs::write(self.dir.join("cgroup.freeze"), if is_frozen { "1" } else { "0" }).expect("cgroup.freeze");
    }

    /// A command that runs `program` in this cgroup, with the arguments that are added to it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg("echo $$ > \"$0\" && exec \"$@\"").arg(self.dir.join("cgroup.procs")).arg(program);
        command
    }
}

/// A cgroup that counts and limits memory. It is removed when dropped.
pub(crate) struct MemoryCgroup {
    group: Cgroup,
    /// The names of the files that have the limit and the highest use so far.
    limit: &'static str,
    peak: &'static str,
}

impl MemoryCgroup {
    /// A cgroup whose processes may use `limit` bytes. The hierarchy is that of version 1 where the machine has the controller there.
    pub(crate) fn new(bed: &TestBed, limit: u64) -> Self {
        let mount_point = bed.path("memory-cgroup");
        std::fs::create_dir_all(&mount_point).expect("a mount point");
        let mounted = Command::new("mount").args(["-t", "cgroup", "-o", "memory", "none"]).arg(&mount_point).output();
        let is_version_1 = mounted.expect("mount(8)").status.success();
        if !is_version_1 {
            run_tool("mount", &["-t", "cgroup2", "none", mount_point.to_str().expect("UTF-8")]);
            std::fs::write(mount_point.join("cgroup.subtree_control"), "+memory").expect("the memory controller");
        }
        let dir = mount_point.join(format!("coreward-test-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
        let (limit_file, peak) = match is_version_1 {
            true => ("memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            false => ("memory.max", "memory.peak"),
        };
        let group = Self { group: Cgroup { mount_point, dir }, limit: limit_file, peak };
        std::fs::write(group.group.dir.join(group.limit), limit.to_string()).expect("a limit");
        group
    }

    /// A command that runs `program` with `arguments` in this cgroup.
    pub(crate) fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg("echo $$ > \"$0\" && exec \"$@\"").arg(self.group.dir.join("cgroup.procs"));
        command.arg(program).args(arguments);
        command
    }

    /// How often the kernel has killed one of its processes because of the limit.
    pub(crate) fn kills(&self) -> u64 {
        oom_kills(&self.group.dir)
    }

    /// The most that its processes have used at a time, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        let text = std::fs::read_to_string(self.group.dir.join(self.peak)).expect("the highest use");
        text.trim().parse().expect("a number of bytes")
    }
}

/// How often the kernel has killed a process of the memory cgroup `dir` because of its limit.
pub(super) fn oom_kills(dir: &Path) -> u64 {
    // Version 2 of the hierarchy has the first file, version 1 the second.
    let text =
        ["memory.events", "memory.oom_control"].iter().find_map(|file| std::fs::read_to_string(dir.join(file)).ok());
    let text = text.expect("the events");
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
    count.expect("a count of kills")
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for dir in self.dir.ancestors().take_while(|dir| *dir != self.mount_point) {
            let _ = std::fs::remove_dir(dir);
        }
        run_tool("umount", &["-l", self.mount_point.to_str().expect("UTF-8")]);
    }
}
