//! The kernel settings from before `coreward register`, saved in the runtime directory for `coreward unregister`.
//!
//! Root restores what this file says, and a `core_pattern` names a program that the kernel runs as root. So the file counts
//! only if nobody but root can have written it, whoever owns the directory. The package's `postrm` reads it as well.

use super::root_file;
use crate::registration::{KernelSettings, SysctlKey};
use coreward_sys::openat;
use coreward_wire::paths::Root;
use nix::unistd::geteuid;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const NAME: &str = "saved-sysctl";
/// The most that is read of the file, in bytes. It has three short lines.
const MAX_LEN: u64 = 4096;

/// The path of the file.
pub(super) fn path(root: &Root) -> PathBuf {
    root.run_dir().join(NAME)
}

/// Writes the file, replacing an older one.
pub(super) fn write(root: &Root, settings: &KernelSettings) -> io::Result<()> {
    let lines = SysctlKey::ALL.map(|key| format!("{}={}\n", key.name(), settings.get(key)));
    root_file::replace(&path(root), lines.concat().as_bytes())
}

/// Reads the file; `None`: there is none. Version 0.1.0 neither saved nor set `fs.suid_dumpable`: of its files, that of the
/// settings `now` is used.
pub(super) fn read(root: &Root, now: &KernelSettings) -> io::Result<Option<KernelSettings>> {
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
    let value = |key: SysctlKey| {
        text.lines().find_map(|line| line.strip_prefix(key.name())?.strip_prefix('=')).map(str::to_owned)
    };
    match (value(SysctlKey::CorePattern), value(SysctlKey::CorePipeLimit)) {
        (Some(core_pattern), Some(core_pipe_limit)) => {
            let suid_dumpable = value(SysctlKey::SuidDumpable).unwrap_or_else(|| now.suid_dumpable.clone());
            Ok(Some(KernelSettings { core_pattern, core_pipe_limit, suid_dumpable }))
        }
        _ => Err(io::Error::other("it does not contain the values")),
    }
}

/// Deletes the file.
pub(super) fn remove(root: &Root) -> io::Result<()> {
    root_file::remove(&path(root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn backup() -> KernelSettings {
        KernelSettings {
            core_pattern: "|/usr/lib/systemd/systemd-coredump %P %u=x".to_owned(),
            core_pipe_limit: "16".to_owned(),
            suid_dumpable: "1".to_owned(),
        }
    }

    #[test]
    fn values_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert_eq!(read(&root, &backup()).unwrap(), None);
        write(&root, &backup()).unwrap();
        write(&root, &backup()).unwrap();
        assert_eq!(read(&root, &backup()).unwrap(), Some(backup()));
        assert_eq!(std::fs::metadata(path(&root)).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(root.run_dir()).unwrap().count(), 1);
        remove(&root).unwrap();
        remove(&root).unwrap();
        assert_eq!(read(&root, &backup()).unwrap(), None);
    }

    #[test]
    fn what_others_could_have_planted_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let path = path(&root);
        write(&root, &backup()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        assert!(read(&root, &backup()).is_err(), "writable by a group");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::hard_link(&path, dir.path().join("second")).unwrap();
        assert!(read(&root, &backup()).is_err(), "a second name");
        std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(read(&root, &backup()).is_err(), "a link");
        write(&root, &backup()).unwrap();
        assert_eq!(read(&root, &backup()).unwrap(), Some(backup()), "a link is replaced, not followed");
    }

    #[test]
    fn the_file_of_an_earlier_version_has_two_values() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        root_file::replace(&path(&root), b"core_pattern=core\ncore_pipe_limit=4\n").unwrap();
        let settings = read(&root, &backup()).unwrap().unwrap();
        assert_eq!((settings.core_pipe_limit.as_str(), settings.suid_dumpable.as_str()), ("4", "1"));
    }

    #[test]
    fn half_a_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.run_dir()).unwrap();
        std::fs::write(path(&root), "core_pattern=core\n").unwrap();
        std::fs::set_permissions(path(&root), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read(&root, &backup()).is_err());
    }
}
