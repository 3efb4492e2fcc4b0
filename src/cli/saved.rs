//! What was set before `coreward register`, kept in the runtime directory.
//!
//! Root writes back what it reads here, and a `core_pattern` is a program that the kernel runs as root: the file counts only if nobody
//! but root can have written it, whoever the directory belongs to.

use coreward_sys::openat;
use coreward_wire::paths::Root;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const NAME: &str = "saved-sysctl";
const NEW: &str = ".saved-sysctl.new";
/// Two short lines.
const MAX_LEN: u64 = 4096;

/// The values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) core_pattern: String,
    pub(super) core_pipe_limit: String,
}

impl Saved {
    /// Where they are, for messages.
    pub(super) fn path(root: &Root) -> PathBuf {
        root.run_dir().join(NAME)
    }

    /// Writes them, in place of what may be there.
    pub(super) fn write(&self, root: &Root) -> io::Result<()> {
        std::fs::create_dir_all(root.run_dir())?;
        let dir = File::open(root.run_dir())?;
        match unlinkat(&dir, NEW, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(&dir, NEW, flags, Mode::from_bits_truncate(0o644))?);
        fchmod(&file, Mode::from_bits_truncate(0o644))?;
        let Self { core_pattern, core_pipe_limit } = self;
        file.write_all(format!("core_pattern={core_pattern}\ncore_pipe_limit={core_pipe_limit}\n").as_bytes())?;
        renameat(&dir, NEW, &dir, NAME)?;
        Ok(())
    }

    /// Reads them; `None`: there are none.
    pub(super) fn read(root: &Root) -> io::Result<Option<Self>> {
        let dir = match File::open(root.run_dir()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            dir => dir?,
        };
        let file = match openat::open_file_below(dir.as_fd(), Path::new(NAME)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => File::from(file?),
        };
        let about = file.metadata()?;
        let ours = about.uid() == 0 || about.uid() == geteuid().as_raw();
        if !about.is_file() || !ours || about.nlink() != 1 || about.mode() & 0o022 != 0 {
            return Err(io::Error::other("not a file that only root can have written"));
        }
        let mut text = String::new();
        file.take(MAX_LEN).read_to_string(&mut text)?;
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        match (value("core_pattern"), value("core_pipe_limit")) {
            (Some(core_pattern), Some(core_pipe_limit)) => Ok(Some(Self { core_pattern, core_pipe_limit })),
            _ => Err(io::Error::other("it does not have both values")),
        }
    }

    /// Forgets them.
    pub(super) fn remove(root: &Root) -> io::Result<()> {
        match std::fs::remove_file(Self::path(root)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn saved() -> Saved {
        Saved {
            core_pattern: "|/usr/lib/systemd/systemd-coredump %P %u=x".to_owned(),
            core_pipe_limit: "16".to_owned(),
        }
    }

    #[test]
    fn values_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(Saved::read(&root).unwrap(), None);
        saved().write(&root).unwrap();
        saved().write(&root).unwrap();
        assert_eq!(Saved::read(&root).unwrap(), Some(saved()));
        assert_eq!(std::fs::metadata(Saved::path(&root)).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(root.run_dir()).unwrap().count(), 1);
        Saved::remove(&root).unwrap();
        Saved::remove(&root).unwrap();
        assert_eq!(Saved::read(&root).unwrap(), None);
    }

    #[test]
    fn what_others_could_have_planted_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let path = Saved::path(&root);
        saved().write(&root).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        assert!(Saved::read(&root).is_err(), "writable by a group");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::hard_link(&path, dir.path().join("second")).unwrap();
        assert!(Saved::read(&root).is_err(), "a second name");
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(Saved::read(&root).is_err(), "a link");
        saved().write(&root).unwrap();
        assert_eq!(Saved::read(&root).unwrap(), Some(saved()), "a link is replaced, not followed");
    }

    #[test]
    fn half_a_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.run_dir()).unwrap();
        std::fs::write(Saved::path(&root), "core_pattern=core\n").unwrap();
        std::fs::set_permissions(Saved::path(&root), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Saved::read(&root).is_err());
    }
}
