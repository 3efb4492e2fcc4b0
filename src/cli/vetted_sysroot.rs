//! A directory in which gdb finds the libraries of somebody else's crash, and nothing else.
//!
//! A core names files: those that were mapped, and those that the dynamic linker's list names, which is the process' memory and
//! may say anything. gdb opens them all, also a FIFO, where it waits for ever, or a device. In this directory only files that are
//! root's or the caller's own can be found under those names.

use super::foreign_file::{Owners, open_foreign};
use crate::crash::Record;
use crate::crash::text::to_path;
use coreward_sys::{fork, pidfd};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Uid, getpid, mkdtemp, setsid};
use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// Directories that are links into /usr on a merged system (file-hierarchy(7)), where the dynamic linker is found.
const MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Where the link to the dynamic linker is.
const LINKER_DIR: &str = "/usr/lib64";

/// The directory. [`VettedSysroot::keep_until_exit`] must follow: nothing else removes it.
pub(super) struct VettedSysroot {
    /// Cannot be searched, so no name leads out of the directory in it with "..".
    parent: PathBuf,
    dir: File,
}

impl VettedSysroot {
    /// Creates it below `place`, with the mapped files of `record` that may be opened.
    pub(super) fn create(place: &Path, record: &Record, caller: Uid) -> io::Result<Self> {
        let parent = mkdtemp(&place.join("coreward-XXXXXX"))?;
        let dir = parent.join("root");
        let vetted: BTreeSet<PathBuf> = record
            .modules
            .iter()
            .map(|module| to_path(&module.path))
            .filter(|path| is_plain(path) && open_foreign(path, Owners::RootAnd(caller)).is_ok())
            .collect();
        let created = fill(&dir, &vetted).and_then(|()| File::open(&dir)).and_then(|opened| {
            fs::set_permissions(&parent, Permissions::from_mode(0o000))?;
            Ok(opened)
        });
        match created {
            Ok(dir) => Ok(Self { parent, dir }),
            Err(error) => {
                remove(&parent);
                Err(error)
            }
        }
    }

    /// The path for a program that this process executes. It does not lead through the parent.
    fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.dir.as_raw_fd()).into()
    }

    /// Keeps the directory for the program that this process executes next, and returns its path for that program. A second
    /// process removes it when the program has ended.
    pub(super) fn keep_until_exit(self) -> io::Result<PathBuf> {
        let path = self.path();
        let kept = pidfd::open(getpid().as_raw()).and_then(|user| {
            fcntl(&self.dir, FcntlArg::F_SETFD(FdFlag::empty()))?;
            fork::spawn(|| {
                // Keys that end or stop the debugger are not for this process.
                let _ = setsid();
                let mut ended = [PollFd::new(user.as_fd(), PollFlags::POLLIN)];
                while poll(&mut ended, PollTimeout::NONE) == Err(Errno::EINTR) {}
                remove(&self.parent);
                0
            })
        });
        if kept.is_err() {
            remove(&self.parent);
        }
        kept?;
        // The program inherits it.
        let _ = self.dir.into_raw_fd();
        Ok(path)
    }
}

/// Removes the directory and what is in it.
fn remove(parent: &Path) {
    let _ = fs::set_permissions(parent, Permissions::from_mode(0o700));
    let _ = fs::remove_dir_all(parent);
}

/// Whether the path is absolute, and has no "..".
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

/// Creates links to the files, and to the links to them that are beside them, such as libz.so.1 beside libz.so.1.3.
fn fill(dir: &Path, vetted: &BTreeSet<PathBuf>) -> io::Result<()> {
    let below = |path: &Path| dir.join(path.strip_prefix("/").unwrap_or(path));
    fs::create_dir(dir)?;
    let mut places: BTreeSet<&Path> = vetted.iter().filter_map(|path| path.parent()).collect();
    places.insert(Path::new(LINKER_DIR));
    for place in &places {
        fs::create_dir_all(below(place))?;
    }
    for path in vetted {
        symlink(path, below(path))?;
    }
    for place in places {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if let Some(target) = is_link.then(|| entry.path().canonicalize().ok()).flatten()
                && vetted.contains(&target)
            {
                symlink(target, below(&entry.path()))?;
            }
        }
    }
    for name in MERGED {
        if fs::read_link(Path::new("/").join(name)).is_ok_and(|target| target == Path::new("usr").join(name)) {
            symlink(Path::new("usr").join(name), dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::Module;
    use crate::store::fixtures::listed;

    #[test]
    fn only_vetted_files_are_found_and_nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let [own, fifo] = ["own.so.1.0", "fifo.so"].map(|name| dir.path().join(name));
        fs::write(&own, "own").unwrap();
        symlink("own.so.1.0", dir.path().join("own.so.1")).unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let mut record = listed(7).record;
        record.modules = [own.as_path(), &fifo, Path::new("/../etc/passwd"), Path::new("etc/passwd")]
            .map(|path| Module {
                path: path.display().to_string(),
                build_id: None,
                package: None,
                bias: 0,
                start: 0,
                end: 0,
            })
            .to_vec();
        let sysroot = VettedSysroot::create(dir.path(), &record, Uid::current()).unwrap();
        let found = |path: &Path| sysroot.path().join(path.strip_prefix("/").unwrap_or(path));
        assert_eq!(fs::read(found(&own)).unwrap(), b"own");
        assert_eq!(fs::read(found(&dir.path().join("own.so.1"))).unwrap(), b"own");
        assert!(fs::symlink_metadata(found(&fifo)).is_err());
        assert!(fs::symlink_metadata(found(Path::new("etc/passwd"))).is_err());
        // Root may search every directory.
        assert!(Uid::effective().is_root() || fs::metadata(found(Path::new("../root"))).is_err());
        remove(&sysroot.parent);
        assert!(!sysroot.parent.exists());
    }
}
