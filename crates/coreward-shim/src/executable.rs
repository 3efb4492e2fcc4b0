//! The crashed process' executable, the only link of `/proc/PID` that is followed.
//!
//! It may be on a file system whose server does not answer, or waits on purpose: any user can be the server of a FUSE file system.
//! Closing such a file already waits for the server, and not even SIGKILL ends that wait (`fuse_flush`, fs/fuse/file.c). So the file
//! is first opened with `O_PATH`, of which FUSE learns nothing (open(2)), and only then for reading, if the mount that it is on
//! depends on no server.

use super::mounts::LocalMounts;
use super::proc_dir::ProcDir;
use super::warning::ShimWarning;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// How long opening the executable may take. A network file system may be asked whether the file is still the same.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long finding out the number of its names may take.
const NAMES_TIMEOUT: Duration = Duration::from_millis(250);

/// Opens the executable for reading, unless it is on a file system that may not answer.
pub(super) fn open_to_read(dir: &ProcDir, in_user_namespace: bool) -> Result<OwnedFd, ShimWarning> {
    on_local(dir, OPEN_TIMEOUT, in_user_namespace, |file| {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        open(format!("/proc/self/fd/{}", file.as_raw_fd()).as_str(), flags, Mode::empty())
    })
}

/// Whether the executable has no name any more, unless it is on a file system that may not answer.
pub(super) fn has_no_name(dir: &ProcDir, in_user_namespace: bool) -> Result<bool, ShimWarning> {
    on_local(dir, NAMES_TIMEOUT, in_user_namespace, |file| Ok(fstat(file)?.st_nlink == 0))
}

/// Calls `access` with an `O_PATH` descriptor of the executable, in a thread that is abandoned if it blocks.
fn on_local<T: Send + 'static>(
    dir: &ProcDir,
    limit: Duration,
    in_user_namespace: bool,
    access: impl FnOnce(&OwnedFd) -> nix::Result<T> + Send + 'static,
) -> Result<T, ShimWarning> {
    let accessed =
        dir.in_thread(limit, move |dir| access_if_local(dir, LocalMounts::new(dir, in_user_namespace), access));
    match accessed {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(ShimWarning::ExecutableNotLocal),
        Err(errno) => Err(ShimWarning::Open { what: "exe", errno }),
    }
}

/// `None` if the executable is on a file system that may not answer.
fn access_if_local<T>(
    dir: &OwnedFd,
    mut mounts: LocalMounts<'_>,
    access: impl FnOnce(&OwnedFd) -> nix::Result<T>,
) -> nix::Result<Option<T>> {
    let file = openat(dir, "exe", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    if mounts.backing(&file)?.is_some() { access(&file).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::super::mounts::mount_id;
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::fs::{self, File};
    use std::io::{Read, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    /// A process with the executable `path`, until it is dropped.
    struct Process(Child);

    impl Process {
        fn start(path: &Path) -> Self {
            Self(Command::new(path).arg("60").stdin(Stdio::null()).spawn().unwrap())
        }

        fn dir(&self) -> ProcDir {
            ProcDir::open(nix::unistd::Pid::from_raw(self.0.id().cast_signed()), None).unwrap()
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// sleep(1) in `dir`, written and closed by another process: a file that is open for writing cannot be executed, and a child that
    /// another test has just forked may have it open.
    fn program_in(dir: &Path) -> std::path::PathBuf {
        let path = dir.join("program");
        assert!(Command::new("cp").arg("/bin/sleep").arg(&path).status().unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_program_on_a_disk_and_one_in_memory_are_opened_also_when_they_have_no_name_any_more() {
        for parent in [std::env::temp_dir(), "/dev/shm".into()] {
            let dir = tempfile::tempdir_in(&parent).unwrap();
            let path = program_in(dir.path());
            let process = Process::start(&path);
            let expected = fs::metadata(&path).unwrap();
            assert_eq!(has_no_name(&process.dir(), false), Ok(false), "{}", parent.display());
            fs::remove_file(&path).unwrap();
            assert_eq!(has_no_name(&process.dir(), false), Ok(true), "{}", parent.display());
            let mut opened = File::from(open_to_read(&process.dir(), false).unwrap());
            let found = opened.metadata().unwrap();
            assert_eq!((found.dev(), found.ino()), (expected.dev(), expected.ino()));
            let mut magic = [0; 4];
            opened.read_exact(&mut magic).unwrap();
            assert_eq!(&magic, b"\x7fELF");
        }
    }

    #[test]
    fn a_program_that_runs_from_a_memfd_is_opened() {
        // Inherited by the child, so that it has the path below /proc/self/fd.
        let mut memfd = File::from(memfd_create("program", MFdFlags::empty()).unwrap());
        memfd.write_all(&fs::read("/bin/sleep").unwrap()).unwrap();
        let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
        let process = Process::start(Path::new(&path));
        assert_eq!(has_no_name(&process.dir(), false), Ok(true));
        assert!(open_to_read(&process.dir(), false).is_ok());
        drop(memfd);
    }

    #[test]
    fn a_program_that_a_user_or_another_machine_serves_is_not_accessed() {
        // The directory of a process with this executable, and the lists of mounts that it might have.
        let program = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        let mount = mount_id(&File::open(program.path()).unwrap().into()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(program.path(), dir.path().join("exe")).unwrap();
        let dir = OwnedFd::from(File::open(dir.path()).unwrap());
        let access = |mountinfo: &str| {
            let lists = [(mountinfo.into(), false), (Vec::new(), false)].into_iter();
            access_if_local(&dir, LocalMounts::of_lists(lists), |_| Ok(()))
        };
        for (kind, expected) in [
            ("tmpfs", Some(())),
            ("overlay", Some(())),
            ("fuse", None),
            ("fuse.sshfs", None),
            ("nfs4", None),
            ("virtiofs", None),
        ] {
            let line = |id: u32| format!("{id} 1 0:99 / /dev/shm rw shared:5 - {kind} x rw\n");
            assert_eq!(access(&line(mount)), Ok(expected), "{kind}");
            // As a mount that was removed while it was in use.
            assert_eq!(access(&line(mount + 1)), Ok(None), "{kind}");
        }
    }
}
