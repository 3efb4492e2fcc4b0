//! The kernel settings from before `coreward register`, saved in the runtime directory for `coreward unregister`.
//!
//! Root restores what this file says, and a `core_pattern` names a program that the kernel runs as root. So the file counts
//! only if nobody but root can have written it, whoever owns the directory.

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
/// The most that is read of the file, in bytes. It has two short lines.
const MAX_LEN: u64 = 4096;

/// The settings as they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SysctlBackup {
    pub(super) core_pattern: String,
    pub(super) core_pipe_limit: String,
}

impl SysctlBackup {
    /// The path of the file.
    pub(super) fn path(root: &Root) -> PathBuf {
        root.run_dir().join(NAME)
    }

    /// Writes the file, replacing an older one.
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

    /// Reads the file; `None`: there is none.
    pub(super) fn read(root: &Root) -> io::Result<Option<Self>> {
        let dir = match File::open(root.run_dir()) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            dir => dir?,
        };
        let file = match openat::open_file_below(dir.as_fd(), Path::new(NAME)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => File::from(file?),
        };
        let metadata = file.metadata()?;
        let is_roots = metadata.uid() == 0 || metadata.uid() == geteuid().as_raw();
        if !metadata.is_file() || !is_roots || metadata.nlink() != 1 || metadata.mode() & 0o022 != 0 {
            return Err(io::Error::other("somebody other than root can have written it"));
        }
        let mut text = String::new();
        file.take(MAX_LEN).read_to_string(&mut text)?;
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
        match (value("core_pattern"), value("core_pipe_limit")) {
            (Some(core_pattern), Some(core_pipe_limit)) => Ok(Some(Self { core_pattern, core_pipe_limit })),
            _ => Err(io::Error::other("it does not contain both values")),
        }
    }

    /// Deletes the file.
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

    fn backup() -> SysctlBackup {
        SysctlBackup {
            core_pattern: "|/usr/lib/systemd/systemd-coredump %P %u=x".to_owned(),
            core_pipe_limit: "16".to_owned(),
        }
    }

    #[test]
    fn values_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(SysctlBackup::read(&root).unwrap(), None);
        backup().write(&root).unwrap();
        backup().write(&root).unwrap();
        assert_eq!(SysctlBackup::read(&root).unwrap(), Some(backup()));
        assert_eq!(std::fs::metadata(SysctlBackup::path(&root)).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(root.run_dir()).unwrap().count(), 1);
        SysctlBackup::remove(&root).unwrap();
        SysctlBackup::remove(&root).unwrap();
        assert_eq!(SysctlBackup::read(&root).unwrap(), None);
    }

    #[test]
    fn what_others_could_have_planted_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let path = SysctlBackup::path(&root);
        backup().write(&root).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        assert!(SysctlBackup::read(&root).is_err(), "writable by a group");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::hard_link(&path, dir.path().join("second")).unwrap();
        assert!(SysctlBackup::read(&root).is_err(), "a second name");
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(SysctlBackup::read(&root).is_err(), "a link");
        backup().write(&root).unwrap();
        assert_eq!(SysctlBackup::read(&root).unwrap(), Some(backup()), "a link is replaced, not followed");
    }

    #[test]
    fn half_a_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.run_dir()).unwrap();
        std::fs::write(SysctlBackup::path(&root), "core_pattern=core\n").unwrap();
        std::fs::set_permissions(SysctlBackup::path(&root), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(SysctlBackup::read(&root).is_err());
    }
}
