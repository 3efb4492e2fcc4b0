//! A container that runc(8) runs: with a root directory, a hostname, namespaces and a control group of its own, as those of Docker have.

use super::TestBed;
use super::command::run_tool;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A container. What is left of it is removed when it is dropped.
pub(crate) struct Container {
    /// 64 hexadecimal digits, as Docker's.
    pub(crate) id: String,
    hostname: String,
    dir: PathBuf,
    mounts: Vec<Value>,
    is_mounted: bool,
}

impl Container {
    /// A container with an empty root directory, writable.
    pub(crate) fn new(bed: &TestBed, hostname: &str) -> Self {
        let dir = bed.path("containers").join(hostname);
        std::fs::create_dir_all(dir.join("root")).expect("a root directory");
        let number = std::process::id();
        let digits: String = hostname.bytes().map(|byte| format!("{byte:02x}")).collect();
        let id = format!("{digits:0<56.56}{number:08x}");
        let mounts = vec![
            json!({ "destination": "/proc", "type": "proc", "source": "proc" }),
            json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] }),
        ];
        Self { id, hostname: hostname.to_owned(), dir, mounts, is_mounted: false }
    }

    /// A container whose root directory is an image and a layer of its own.
    pub(crate) fn of_image(bed: &TestBed, hostname: &str, image: &Path) -> Self {
        let mut container = Self::new(bed, hostname);
        let [upper, work] = ["upper", "work"].map(|name| container.dir.join(name));
        [&upper, &work].iter().for_each(|dir| std::fs::create_dir(dir).expect("a directory"));
        let layers = format!("lowerdir={},upperdir={},workdir={}", image.display(), upper.display(), work.display());
        run_tool("mount", &["-t", "overlay", "-o", &layers, "overlay", container.root().to_str().expect("UTF-8")]);
        container.is_mounted = true;
        container
    }

    /// The root directory, as the host sees it.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Shows a file or directory of the host in the container, which cannot change it.
    pub(crate) fn share(&mut self, host: &Path, inside: &str) {
        let options = ["rbind", "ro"];
        self.mounts.push(json!({ "destination": inside, "type": "bind", "source": host, "options": options }));
    }

    /// A command that runs `arguments` in the container as user `uid`, without a terminal and without capabilities, and ends when they end.
    pub(crate) fn command(&self, uid: u32, arguments: &[&str]) -> Command {
        let namespaces = ["pid", "mount", "uts", "ipc", "network"].map(|kind| json!({ "type": kind }));
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false,
                "user": { "uid": uid, "gid": uid },
                "args": arguments,
                "env": ["PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": { "path": "root" },
            "hostname": self.hostname,
            "mounts": self.mounts,
            "linux": {
                "cgroupsPath": format!("/system.slice/docker-{}.scope", self.id),
                "namespaces": namespaces,
            },
        });
        std::fs::write(self.dir.join("config.json"), config.to_string()).expect("config.json");
        let mut command = self.runc(&["run", "--bundle"]);
        command.arg(&self.dir).arg(&self.id);
        command
    }

    /// Whether the runtime still knows the container.
    pub(crate) fn exists(&self) -> bool {
        self.runc(&["state", &self.id]).output().expect("runc is installed").status.success()
    }

    /// Deletes the container with its root directory.
    pub(crate) fn delete(mut self) {
        self.remove();
        assert!(!self.dir.exists(), "{}", self.dir.display());
    }

    fn runc(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.dir.join("state")).args(arguments);
        command
    }

    fn remove(&mut self) {
        let _ = self.runc(&["delete", "--force", &self.id]).output();
        if std::mem::take(&mut self.is_mounted) {
            // Lazily: the container of a test that failed may still run.
            run_tool("umount", &["-l", self.root().to_str().expect("UTF-8")]);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.dir.exists() {
            self.remove();
        }
    }
}
