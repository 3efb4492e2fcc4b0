//! The mapped files of a process: what the kernel says of them, and the files themselves (`/proc/PID/map_files`, proc_pid_map_files(5)),
//! which are found without their names.

use super::warning::errno_of;
use coreward_sys::openat::{self, read_link_at};
use coreward_sys::procmap::{self, Mapping};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Bytes of `maps` that are read at most, on kernels without `PROCMAP_QUERY` (before Linux 6.11).
const MAX_MAPS: u64 = 16 << 20;

/// The mappings of files.
pub(super) struct FileMappings {
    maps: File,
    /// All of them, where the kernel cannot be asked for the next one.
    parsed: Option<Vec<Mapping>>,
}

impl FileMappings {
    /// Those of the process with this directory.
    pub(super) fn open(dir: &OwnedFd) -> nix::Result<Self> {
        let maps = openat(dir, "maps", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { maps: maps.into(), parsed: None })
    }

    /// The one that has `address`, or else the next; `None` if there is none.
    pub(super) fn next_after(&mut self, address: u64) -> nix::Result<Option<Mapping>> {
        if self.parsed.is_none() {
            match procmap::next_file_mapping(&self.maps, address) {
                Err(Errno::ENOTTY) => {}
                next => return next,
            }
        }
        let maps = &self.maps;
        let mappings = self.parsed.get_or_insert_with(|| parse(maps));
        let next = mappings.partition_point(|mapping| mapping.range.end <= address);
        Ok(mappings.get(next).cloned())
    }
}

/// The mappings of files in the text of `maps`, in order.
fn parse(maps: &File) -> Vec<Mapping> {
    let mut text = Vec::new();
    // As far as it can be read.
    let _ = maps.take(MAX_MAPS).read_to_end(&mut text);
    let lines = text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let mappings = lines.filter_map(|line| procmap::parse(&String::from_utf8_lossy(line)));
    mappings.filter(|mapping| !mapping.has_no_file()).collect()
}

/// The directory with the files of `thread`, if there is one: those below `task` have no `map_files` (`tid_base_stuff`, fs/proc/base.c), but
/// those of threads have, which are not listed. `dir` is the thread's below `task`.
pub(super) fn open_thread_dir(dir: &OwnedFd, thread: Option<Pid>) -> nix::Result<Option<OwnedFd>> {
    let Some(tid) = thread else { return Ok(None) };
    let of_thread = openat::open_dir(format!("/proc/{tid}").as_ref()).map_err(|error| errno_of(&error))?;
    // As long as the thread is there, nobody else has its number.
    read_link_at(dir.as_fd(), "exe")?;
    Ok(Some(of_thread))
}

/// The file of a mapping, of which nobody learns: devices do things when they are opened, and a server may not answer.
pub(super) fn open_path(dir: &OwnedFd, mapping: &Mapping) -> nix::Result<OwnedFd> {
    let link = format!("map_files/{:x}-{:x}", mapping.range.start, mapping.range.end);
    openat(dir, link.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

/// Opens a regular file for reading.
pub(super) fn open_to_read(path: &OwnedFd) -> nix::Result<OwnedFd> {
    // Somebody may have a lease on it (fcntl(2)).
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    open(format!("/proc/self/fd/{}", path.as_raw_fd()).as_str(), flags, Mode::empty())
}
