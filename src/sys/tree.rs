//! Opening below a directory that somebody else may write to, without being led out of it.

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// Opens the directory `path`; no component of it may be a symbolic link (openat2(2), RESOLVE_NO_SYMLINKS).
///
/// # Errors
/// `ELOOP` where a symbolic link stands in the way, otherwise what openat2(2) says.
pub fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat2(AT_FDCWD, path, no_links(OFlag::O_DIRECTORY | OFlag::O_RDONLY, ResolveFlag::empty()))?)
}

/// Opens the directory `name` below `dir`, never leaving `dir`.
///
/// # Errors
/// As [`open_dir`]; `EXDEV` where the name leads out of `dir`.
pub fn open_dir_below(dir: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    Ok(openat2(dir, name, no_links(OFlag::O_DIRECTORY | OFlag::O_RDONLY, ResolveFlag::RESOLVE_BENEATH))?)
}

/// Opens the regular file `name` below `dir` for reading. A FIFO that somebody planted does not make it wait.
///
/// # Errors
/// As [`open_dir_below`].
pub fn open_file_below(dir: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    Ok(openat2(dir, name, no_links(OFlag::O_RDONLY | OFlag::O_NONBLOCK, ResolveFlag::RESOLVE_BENEATH))?)
}

fn no_links(flags: OFlag, resolve: ResolveFlag) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(Mode::empty())
        .resolve(resolve | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}
