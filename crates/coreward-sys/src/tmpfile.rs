//! Files that get their name only when they are complete: `O_TMPFILE` (open(2)), then linkat(2). A writer that is killed leaves
//! nothing behind.
//!
//! NFS, 9p, CIFS, most FUSE and older overlay file systems have no such files. There the file has a hidden name until it is complete,
//! and is locked (flock(2)). The lock belongs to the open file, so it lasts as long as anybody has a descriptor of it, in whatever
//! process; what is left without a lock is removed by [`sweep`].

use super::rename;
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, fsync, linkat, unlinkat};
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How hidden names begin.
const HIDDEN: &str = ".unfinished-";
/// How long [`sweep`] leaves a file alone that was written to: it may not be locked yet.
const RECENT: Duration = Duration::from_secs(60);
/// How long it leaves one alone where files cannot be locked.
const ABANDONED: Duration = Duration::from_secs(86_400);

/// Creates a file in the file system of `dir` that [`publish`] can give a name.
///
/// # Errors
/// `PermissionDenied` if the file system keeps no permissions and others could access the file although `mode` does not allow it;
/// otherwise the error of openat(2).
pub fn create(dir: BorrowedFd<'_>, mode: Mode) -> io::Result<OwnedFd> {
    let (file, hidden) = create_hidden(dir, mode)?;
    if hidden.is_some() {
        // Where it cannot be locked, only its age tells whether it is in use.
        let _ = File::from(file.try_clone()?).try_lock();
    }
    Ok(file)
}

/// Creates a file in the file system of `dir` that never gets a name.
///
/// # Errors
/// As [`create`].
pub fn create_scratch(dir: BorrowedFd<'_>, mode: Mode) -> io::Result<OwnedFd> {
    let (file, hidden) = create_hidden(dir, mode)?;
    if let Some(hidden) = hidden {
        unlinkat(dir, hidden.as_path(), UnlinkatFlags::NoRemoveDir)?;
    }
    Ok(file)
}

/// Whether the file system of `dir` has files without a name.
#[must_use]
pub fn is_supported(dir: BorrowedFd<'_>) -> bool {
    open_unnamed(dir, Mode::from_bits_truncate(0o600)).is_ok()
}

fn create_hidden(dir: BorrowedFd<'_>, mode: Mode) -> io::Result<(OwnedFd, Option<PathBuf>)> {
    let (file, hidden) = match open_unnamed(dir, mode) {
        // EISDIR: a kernel or a server that does not know the flag. EINVAL: some that refuse unknown ones.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => {
            let (file, name) = open_hidden(dir, mode)?;
            (file, Some(name))
        }
        opened => (opened?, None),
    };
    let others = Mode::S_IRWXO;
    if !(Mode::from_bits_truncate(fstat(&file)?.st_mode) & others).difference(mode).is_empty() {
        if let Some(hidden) = hidden {
            let _ = unlinkat(dir, hidden.as_path(), UnlinkatFlags::NoRemoveDir);
        }
        let message =
            "the file system keeps no permissions, and everybody could read the file: mount it with umask=077";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    Ok((file, hidden))
}

fn open_unnamed(dir: BorrowedFd<'_>, mode: Mode) -> nix::Result<OwnedFd> {
    openat(dir, ".", OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC, mode)
}

fn open_hidden(dir: BorrowedFd<'_>, mode: Mode) -> nix::Result<(OwnedFd, PathBuf)> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    loop {
        // An earlier process with this PID may have left one.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = PathBuf::from(format!("{HIDDEN}{}-{number}", std::process::id()));
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        match openat(dir, name.as_path(), flags, mode) {
            Err(Errno::EEXIST) => {}
            opened => return Ok((opened?, name)),
        }
    }
}

/// Makes `file` durable, then gives it `name` in `dir` and makes that durable too.
///
/// # Errors
/// `EEXIST` if the name is taken; nothing is ever replaced. Otherwise the error of fsync(2), linkat(2) or rename(2).
pub fn publish(file: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    fsync(file)?;
    match hidden_name(file)? {
        Some(hidden) => {
            let renamed = rename::rename_new(dir, &hidden, name);
            if renamed == Err(Errno::EEXIST) {
                unlinkat(dir, hidden.as_path(), UnlinkatFlags::NoRemoveDir)?;
            }
            renamed?;
            // Whoever reads the file locks it.
            let _ = File::from(file.try_clone_to_owned()?).unlock();
        }
        None => {
            // Linking through /proc/self/fd needs no capability; AT_EMPTY_PATH needs CAP_DAC_READ_SEARCH before Linux 6.10.
            linkat(AT_FDCWD, own_link(file).as_str(), dir, name, AtFlags::AT_SYMLINK_FOLLOW)?;
        }
    }
    match fsync(dir) {
        // A file system that does not sync directories.
        Err(Errno::EINVAL) => Ok(()),
        synced => Ok(synced?),
    }
}

fn own_link(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// The name of a file that has a hidden one.
fn hidden_name(file: BorrowedFd<'_>) -> io::Result<Option<PathBuf>> {
    let path = std::fs::read_link(own_link(file))?;
    Ok(path.file_name().filter(|name| is_hidden(name)).map(PathBuf::from))
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(HIDDEN.as_bytes())
}

/// Removes files with a hidden name that nobody has open any more; returns how many.
///
/// # Errors
/// The directory cannot be read.
pub fn sweep(dir: BorrowedFd<'_>) -> io::Result<usize> {
    let listing = Dir::openat(dir, ".", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let names =
        listing.into_iter().filter_map(|entry| Some(OsStr::from_bytes(entry.ok()?.file_name().to_bytes()).to_owned()));
    let abandoned = names.filter(|name| is_hidden(name) && is_abandoned(dir, Path::new(name)));
    let removed = abandoned.filter(|name| unlinkat(dir, name.as_os_str(), UnlinkatFlags::NoRemoveDir).is_ok());
    Ok(removed.count())
}

fn is_abandoned(dir: BorrowedFd<'_>, name: &Path) -> bool {
    let open =
        |access| openat(dir, name, access | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty());
    // NFS locks for writing only what is open for writing; others' files may be readable only.
    let Ok(file) = open(OFlag::O_RDWR).or_else(|_| open(OFlag::O_RDONLY)).map(File::from) else { return false };
    let written = file.metadata().and_then(|metadata| metadata.modified());
    let Some(age) = written.ok().and_then(|written| written.elapsed().ok()) else { return false };
    age >= match file.try_lock() {
        Ok(()) => RECENT,
        Err(TryLockError::WouldBlock) => return false,
        Err(TryLockError::Error(_)) => ABANDONED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::FileTimes;
    use std::os::fd::AsFd;
    use std::time::SystemTime;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A file with a hidden name, as on a file system without `O_TMPFILE`.
    fn hidden(dir: BorrowedFd<'_>) -> File {
        let file = File::from(open_hidden(dir, Mode::from_bits_truncate(0o600)).unwrap().0);
        file.try_lock().unwrap();
        file
    }

    fn grow_old(file: &File, age: Duration) {
        file.set_times(FileTimes::new().set_modified(SystemTime::now() - age)).unwrap();
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_published_and_never_that_of_another() {
        let tree = tempfile::tempdir().unwrap();
        let dir = File::open(tree.path()).unwrap();
        for (name, make) in [("unnamed", None), ("hidden", Some(()))] {
            let make = || match make {
                None => File::from(create(dir.as_fd(), Mode::from_bits_truncate(0o600)).unwrap()),
                Some(()) => hidden(dir.as_fd()),
            };
            let file = make();
            publish(file.as_fd(), dir.as_fd(), Path::new(name)).unwrap();
            assert!(tree.path().join(name).exists());
            let reader = File::open(tree.path().join(name)).unwrap();
            assert!(reader.try_lock_shared().is_ok(), "{name}: readers lock it");
            let second = publish(make().as_fd(), dir.as_fd(), Path::new(name));
            assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{name}");
        }
        assert_eq!(names(tree.path()), ["hidden", "unnamed"]);
    }

    #[test]
    fn what_nobody_has_open_any_more_is_swept() {
        let tree = tempfile::tempdir().unwrap();
        let dir = File::open(tree.path()).unwrap();
        let (used, unused, new) = (hidden(dir.as_fd()), hidden(dir.as_fd()), hidden(dir.as_fd()));
        for file in [&used, &unused] {
            grow_old(file, RECENT * 2);
        }
        // As a shim that keeps a core of a daemon that was killed.
        let kept = used.try_clone().unwrap();
        drop((used, unused, new));
        assert_eq!(sweep(dir.as_fd()).unwrap(), 1);
        assert_eq!(names(tree.path()).len(), 2);
        publish(kept.as_fd(), dir.as_fd(), Path::new("core")).unwrap();
        assert!(names(tree.path()).contains(&"core".to_owned()));
    }

    #[test]
    fn a_scratch_file_has_no_name() {
        let tree = tempfile::tempdir().unwrap();
        let dir = File::open(tree.path()).unwrap();
        let file = create_scratch(dir.as_fd(), Mode::from_bits_truncate(0o600)).unwrap();
        assert!(names(tree.path()).is_empty() && is_supported(dir.as_fd()));
        assert!(File::open(own_link(file.as_fd())).is_ok());
    }
}
