//! Opening a file whose path a crashed process chose. By now anything may be in its place: a FIFO, a device, a link, the file of
//! a stranger.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whose files are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owners {
    /// Root's, and those of the user who called the command.
    RootAnd(Uid),
    /// Everybody's, because the user asked for it.
    All,
}

/// Why a file is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// There is none, or it cannot be read.
    Missing,
    /// A link, a device, a FIFO, a directory or a socket.
    NotAFile,
    /// It belongs to this user.
    Foreign(u32),
    /// Everybody may change it.
    WritableByAll,
}

/// Opens the regular file `path`. A symbolic link as its last component is not followed, nothing else is opened on the way, and
/// neither this nor reading waits.
pub(super) fn open_foreign(path: &Path, owners: Owners) -> Result<File, Refusal> {
    let missing = |_: Errno| Refusal::Missing;
    // O_PATH finds the file but does not open it: opening a device may already have an effect (open(2)).
    let found = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).map_err(missing)?;
    let found = File::from(found);
    let metadata = found.metadata().map_err(|_| Refusal::Missing)?;
    if !metadata.is_file() {
        return Err(Refusal::NotAFile);
    }
    if let Owners::RootAnd(caller) = owners {
        if metadata.uid() != 0 && metadata.uid() != caller.as_raw() {
            return Err(Refusal::Foreign(metadata.uid()));
        }
        if metadata.mode() & 0o002 != 0 {
            return Err(Refusal::WritableByAll);
        }
    }
    // The link in /proc leads to the file that was found, whatever its name means by now.
    let found = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(found.as_str(), flags, Mode::empty()).map(File::from).map_err(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn only_regular_files_of_the_right_owners_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let me = Uid::current();
        let [file, link, fifo] = ["file", "link", "fifo"].map(path);
        std::fs::write(&file, "").unwrap();
        symlink(&file, &link).unwrap();
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o600)).unwrap();
        let opened = |path: &Path, owners| open_foreign(path, owners).map(drop);
        assert_eq!(opened(&file, Owners::RootAnd(me)), Ok(()));
        for owners in [Owners::RootAnd(me), Owners::All] {
            for other in [link.as_path(), &fifo, dir.path(), Path::new("/dev/null")] {
                assert_eq!(opened(other, owners), Err(Refusal::NotAFile), "{}", other.display());
            }
            assert_eq!(opened(&path("none"), owners), Err(Refusal::Missing));
        }
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o646)).unwrap();
        assert_eq!(opened(&file, Owners::RootAnd(me)), Err(Refusal::WritableByAll));
        assert_eq!(opened(&file, Owners::All), Ok(()));
    }
}
