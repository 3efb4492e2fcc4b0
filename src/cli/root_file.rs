//! Small files of root's in the runtime directories, replaced as a whole and without following links.

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Writes a file that everybody may read, and its directory if that is missing.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    std::fs::create_dir_all(parent)?;
    let dir = File::open(parent)?;
    let mut new = OsString::from(".");
    new.push(name);
    new.push(".new");
    match unlinkat(&dir, new.as_os_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(&dir, new.as_os_str(), flags, Mode::from_bits_truncate(0o644))?);
    fchmod(&file, Mode::from_bits_truncate(0o644))?;
    file.write_all(content)?;
    renameat(&dir, new.as_os_str(), &dir, name)?;
    Ok(())
}

/// Deletes a file, if there is one.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
