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

    /// A command that runs `program` in this cgroup.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg("echo $$ > \"$0\" && exec \"$1\"").arg(self.dir.join("cgroup.procs")).arg(program);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for dir in self.dir.ancestors().take_while(|dir| *dir != self.mount_point) {
            let _ = std::fs::remove_dir(dir);
        }
        run_tool("umount", &["-l", self.mount_point.to_str().expect("UTF-8")]);
    }
}
