//! Small file systems that fill up, turn read-only or block, and such that lack what others have.

use super::TestBed;
use super::command::{RunToEnd, run_tool};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directories in the state directory.
const DIRS: [&str; 2] = ["cores", "spool"];

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

    /// A tmpfs.
    pub(crate) fn in_memory(bed: &TestBed, size: &str) -> Self {
        let mounted = bed.root.state_dir();
        let (size, to) = (format!("size={size}"), mounted.to_str().unwrap());
        run_tool("mount", &["-t", "tmpfs", "-o", &size, "coreward-test", to]);
        Self::with_dirs(mounted)
    }

    /// A directory of the disk served through FUSE: no files without a name, no renaming without replacing, and with `direct_io` no
    /// shared mappings, as NFS and 9p.
    pub(crate) fn served(bed: &TestBed, options: &[&str]) -> Self {
        let (below, mounted) = (bed.path("below"), bed.root.state_dir());
        std::fs::create_dir(&below).unwrap();
        let paths = [below.to_str().unwrap(), mounted.to_str().unwrap()];
        remove_dirs(&mounted);
        run_tool("bindfs", &[options, paths.as_slice()].concat());
        Self::with_dirs(mounted)
    }

    /// An exFAT: no owners, permissions, links, holes, attributes or access lists.
    pub(crate) fn exfat(bed: &TestBed, size: &str, options: &str) -> Self {
        let (image, mounted) = (bed.path("volume"), bed.root.state_dir());
        run_tool("truncate", &["-s", size, image.to_str().unwrap()]);
        run_tool("mkfs.exfat", &[image.to_str().unwrap()]);
        let options = format!("loop,{options}");
        let paths = [image.to_str().unwrap(), mounted.to_str().unwrap()];
        remove_dirs(&mounted);
        run_tool("mount", &[["-t", "exfat-fuse", "-o", &options].as_slice(), &paths].concat());
        Self::with_dirs(mounted)
    }

    /// An overlay over a directory of the disk.
    pub(crate) fn overlay(bed: &TestBed) -> Self {
        let mounted = bed.root.state_dir();
        let dirs = ["lower", "upper", "work"].map(|name| bed.path(name));
        dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let [lower, upper, work] = dirs.map(|dir| dir.display().to_string());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        run_tool("mount", &["-t", "overlay", "-o", &options, "coreward-test", mounted.to_str().unwrap()]);
        Self::with_dirs(mounted)
    }

    fn with_dirs(mounted: PathBuf) -> Self {
        let volume = Self { mounted };
        volume.create_dirs();
        volume
    }

    fn create_dirs(&self) {
        for dir in DIRS {
            std::fs::create_dir_all(self.mounted.join(dir)).unwrap();
        }
    }

    fn make(bed: &TestBed, size: &str, mkfs: &[&str]) -> Self {
        let image = bed.path("volume");
        let image = image.to_str().unwrap();
        run_tool("truncate", &["-s", size, image]);
        run_tool(mkfs[0], &[&mkfs[1..], &[image]].concat());
        let volume = Self::mount(bed);
        volume.create_dirs();
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

/// FUSE mounts over empty directories only.
fn remove_dirs(state: &Path) {
    for dir in DIRS {
        std::fs::remove_dir(state.join(dir)).expect("an empty directory");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.mounted).quiet().status();
        // Lazily: the daemon of a test that failed may still use it.
        run_tool("umount", &["-l", self.mounted.to_str().unwrap()]);
    }
}
