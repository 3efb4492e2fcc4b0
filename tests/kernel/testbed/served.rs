//! Directories whose files a program serves.

use super::command::run_tool;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory that a program serves until this is dropped: bindfs(1), a FUSE file system.
pub(crate) struct Served {
    pub(crate) path: PathBuf,
    server: String,
}

impl Served {
    /// Serves the files of `dir` at `path`.
    pub(crate) fn new(dir: &Path, path: &Path) -> Self {
        fs::create_dir_all(path).unwrap();
        run_tool("bindfs", &[dir.to_str().unwrap(), path.to_str().unwrap()]);
        let found = Command::new("pgrep").args(["-f", &format!("bindfs .*{}", path.display())]).output().unwrap();
        Self { path: path.to_owned(), server: String::from_utf8(found.stdout).unwrap().trim().to_owned() }
    }

    /// The server answers no more: whoever asks it for anything hangs.
    pub(crate) fn stop(&self) {
        run_tool("kill", &["-STOP", &self.server]);
    }

    pub(crate) fn go_on(&self) {
        run_tool("kill", &["-CONT", &self.server]);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.server]).status();
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
