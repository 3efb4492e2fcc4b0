//! Small file systems that fill up, turn read-only or block.

use super::TestBed;
use super::command::{RunToEnd, run_tool};
use std::path::PathBuf;
use std::process::Command;

/// A small file system, in a file, mounted on the state directory until it is dropped.
pub(crate) struct Volume {
    pub(crate) mounted: PathBuf,
}

impl Volume {
    /// An ext4 of `size`, as truncate(1) reads it.
    pub(crate) fn new(bed: &TestBed, size: &str) -> Self {
        Self::make(bed, size, &["mkfs.ext4", "-q", "-m", "0"])
    }

    /// A btrfs with more free space than its quota lets anybody use, root included.
    pub(crate) fn with_quota(bed: &TestBed, limit: &str) -> Self {
        let volume = Self::make(bed, "512M", &["mkfs.btrfs", "-q"]);
        let mounted = volume.mounted.to_str().unwrap();
        run_tool("btrfs", &["quota", "enable", mounted]);
        run_tool("btrfs", &["qgroup", "limit", limit, mounted]);
        volume
    }

    fn make(bed: &TestBed, size: &str, mkfs: &[&str]) -> Self {
        let image = bed.path("volume");
        let image = image.to_str().unwrap();
        run_tool("truncate", &["-s", size, image]);
        run_tool(mkfs[0], &[&mkfs[1..], &[image]].concat());
        let volume = Self::mount(bed);
        for dir in ["cores", "spool"] {
            std::fs::create_dir_all(volume.mounted.join(dir)).unwrap();
        }
        volume
    }

    /// Mounts the file system that an earlier volume of this test left.
    pub(crate) fn mount(bed: &TestBed) -> Self {
        let (image, mounted) = (bed.path("volume"), bed.root.state_dir());
        run_tool("mount", &["-o", "loop", image.to_str().unwrap(), mounted.to_str().unwrap()]);
        Self { mounted }
    }

    /// Freezes the file system, or thaws it: while it is frozen, writes to it block.
    pub(crate) fn freeze(&self, frozen: bool) {
        run_tool("fsfreeze", &[if frozen { "-f" } else { "-u" }, self.mounted.to_str().unwrap()]);
    }

    /// Remounts with the option `mode`.
    pub(crate) fn remount(&self, mode: &str) {
        run_tool("mount", &["-o", &format!("remount,{mode}"), self.mounted.to_str().unwrap()]);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.mounted).quiet().status();
        // Lazily: the daemon of a test that failed may still use it.
        run_tool("umount", &["-l", self.mounted.to_str().unwrap()]);
    }
}
