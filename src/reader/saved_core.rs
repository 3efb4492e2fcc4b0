//! The memory of a process that is gone, read from a core file that a shim saved.
//!
//! coredump_filter leaves mapped files out of a core, and with them code and unwind tables. Those are read from the files
//! themselves, if the process saw the files of this machine and they have not changed since. The reader opens them before it gives up
//! to open anything, and before it parses anything: it knows the files by what the daemon found in the core's notes.

use crate::crash::text::to_path;
use crate::elf::{CoreLayout, MappedFile};
use crate::unwind::ReadMemory;
use coreward_sys::mounts::{Mounts, mount_id};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat};
use object::elf::PF_W;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path};

/// Length of a page, in bytes.
const PAGE_LEN: usize = 4096;
/// Mapped files that are opened at most. Each takes a descriptor.
const MAX_FILES: usize = 512;
/// Longest text of mounts that is read, in bytes.
const MAX_MOUNTINFO: u64 = 1 << 20;

/// A saved core, to be read by somebody else.
#[derive(Debug)]
pub struct SavedCoreFile {
    /// The file.
    pub file: File,
    /// Where in the file the core begins.
    pub at: u64,
    /// The files of this machine that the process had mapped.
    pub first_pages: Vec<FirstPage>,
}

/// A file that the process had mapped, by its first page, which has the build ID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstPage {
    /// The path of the file: text of the crashed process.
    pub(super) path: String,
    /// Where in the core the page is.
    pub(super) offset: u64,
}

impl FirstPage {
    /// Those that a core has.
    #[must_use]
    pub fn of_core(layout: &CoreLayout) -> Vec<Self> {
        let mut known = HashSet::new();
        let begins = layout.notes.files.iter().filter(|file| file.offset == 0);
        let in_core = begins.filter_map(|file| {
            let range = layout.file_range(file.start).filter(|range| range.end - range.start >= PAGE_LEN as u64)?;
            known.insert(&file.path).then(|| Self { path: file.path.clone(), offset: range.start })
        });
        in_core.take(MAX_FILES).collect()
    }
}

/// A core file, and the files of this machine that its process had mapped.
#[derive(Debug)]
pub(super) struct SavedCore {
    core: File,
    at: u64,
    mapped_files: HashMap<String, File>,
}

impl SavedCore {
    /// Opens those mapped files that have not changed.
    pub(super) fn open(core: File, at: u64, first_pages: Vec<FirstPage>) -> Self {
        let mut saved = Self { core, at, mapped_files: HashMap::new() };
        let mut mountinfo = Vec::new();
        // Without the list no mount is in it.
        let _ =
            File::open("/proc/self/mountinfo").and_then(|file| file.take(MAX_MOUNTINFO).read_to_end(&mut mountinfo));
        let mounts = Mounts::new(&mountinfo, false);
        for FirstPage { path, offset } in first_pages {
            let mut expected = [0; PAGE_LEN];
            if saved.read_core(offset, &mut expected)
                && let Ok(file) = open_if_unchanged(&to_path(&path), &mounts, &expected)
            {
                saved.mapped_files.insert(path, file);
            }
        }
        saved
    }

    /// The memory in the core that has this layout.
    pub(super) fn memory<'a>(&'a self, layout: &'a CoreLayout) -> SavedMemory<'a> {
        SavedMemory { saved: self, layout }
    }

    /// The file that was mapped from this path, if it has not changed.
    pub(super) fn mapped_file(&self, path: &str) -> Option<&File> {
        self.mapped_files.get(path)
    }

    fn read_core(&self, offset: u64, buffer: &mut [u8]) -> bool {
        self.at.checked_add(offset).is_some_and(|offset| self.core.read_exact_at(buffer, offset).is_ok())
    }
}

/// The memory in a saved core.
pub(super) struct SavedMemory<'a> {
    saved: &'a SavedCore,
    layout: &'a CoreLayout,
}

impl SavedMemory<'_> {
    /// Reads from the core itself.
    fn read_core(&self, address: u64, buffer: &mut [u8]) -> bool {
        let found = self.layout.file_range(address).filter(|range| range.end - range.start >= buffer.len() as u64);
        found.is_some_and(|range| self.saved.read_core(range.start, buffer))
    }

    /// Reads from the file that is mapped at `address`.
    fn read_mapped_file(&self, address: u64, buffer: &mut [u8]) -> bool {
        let Some(mapped) = self.mapped_file(address) else { return false };
        if self.layout.segment_at(address).is_none_or(|load| load.flags & PF_W != 0) {
            // The process may have changed its private copy of a writable mapping.
            return false;
        }
        let file = self.saved.mapped_files.get(&mapped.path);
        let offset = mapped.offset.checked_add(address - mapped.start);
        file.zip(offset).is_some_and(|(file, offset)| file.read_exact_at(buffer, offset).is_ok())
    }

    fn mapped_file(&self, address: u64) -> Option<&MappedFile> {
        let files = &self.layout.notes.files;
        let next = files.partition_point(|file| file.start <= address);
        files.get(next.checked_sub(1)?).filter(|file| address < file.end)
    }
}

impl ReadMemory for SavedMemory<'_> {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.read_core(address, buffer) || self.read_mapped_file(address, buffer)
    }
}

/// Opens a file if its first page is the one that the core has of it.
fn open_if_unchanged(path: &Path, mounts: &Mounts<'_>, expected: &[u8; PAGE_LEN]) -> io::Result<File> {
    let found = find_local(path, mounts)?;
    if fstat(&found)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(Errno::ENOTSUP.into());
    }
    // O_NONBLOCK: somebody may have a lease on the file (fcntl(2)).
    let by_descriptor = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(by_descriptor)?;
    let mut actual = [0; PAGE_LEN];
    file.read_exact_at(&mut actual, 0)?;
    if actual == *expected { Ok(file) } else { Err(Errno::ESTALE.into()) }
}

/// The file with this path, without asking a file system about it that may not answer: each directory is on one of this machine before a
/// name is looked up in it. With `O_PATH` a file system is not even asked when its root directory is found (open(2)). Links are not
/// followed: the kernel wrote the path when there were none in it.
pub(super) fn find_local(path: &Path, mounts: &Mounts<'_>) -> io::Result<OwnedFd> {
    const FLAGS: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
    let check = |file: &OwnedFd| {
        let is_local = mounts.has_local(mount_id(file.as_fd())?);
        if is_local { Ok(()) } else { Err(io::Error::from(Errno::EREMOTE)) }
    };
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err(Errno::EINVAL.into());
    }
    let mut found = open("/", FLAGS, Mode::empty())?;
    check(&found)?;
    for component in components {
        let Component::Normal(name) = component else { return Err(Errno::EINVAL.into()) };
        found = openat(&found, name, FLAGS, Mode::empty())?;
        check(&found)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn mountinfo() -> Vec<u8> {
        std::fs::read("/proc/self/mountinfo").unwrap()
    }

    #[test]
    fn only_a_regular_file_with_the_same_first_page_and_no_link_in_its_path_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (page, mountinfo) = ([7; PAGE_LEN], mountinfo());
        let open = |name: &str| open_if_unchanged(&dir.join(name), &Mounts::new(&mountinfo, false), &page);
        std::fs::create_dir(dir.join("real")).unwrap();
        std::fs::write(dir.join("real/same"), page).unwrap();
        std::fs::write(dir.join("real/other"), [8; PAGE_LEN]).unwrap();
        std::fs::write(dir.join("real/short"), [7; 9]).unwrap();
        symlink("real", dir.join("linked")).unwrap();
        symlink("same", dir.join("real/link")).unwrap();
        nix::unistd::mkfifo(&dir.join("real/fifo"), Mode::S_IRWXU).unwrap();
        assert!(open("real/same").is_ok());
        for name in
            ["real/other", "real/short", "real/link", "real/fifo", "real", "linked/same", "real/../real/same", "gone"]
        {
            assert!(open(name).is_err(), "{name}");
        }
        assert!(open_if_unchanged(Path::new("real/same"), &Mounts::new(&mountinfo, false), &page).is_err());
    }

    #[test]
    fn nothing_is_looked_up_on_a_mount_that_is_not_local() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (path, page) = (dir.path().join("same"), [7; PAGE_LEN]);
        std::fs::write(&path, page).unwrap();
        let text = String::from_utf8(mountinfo()).unwrap();
        let opened = |text: &str| open_if_unchanged(&path, &Mounts::new(text.as_bytes(), false), &page).map(drop);
        assert!(opened(&text).is_ok());
        let mount = mount_id(File::open("/dev/shm").unwrap().as_fd()).unwrap();
        let lines = text.lines().map(|line| {
            let is_it = line.starts_with(&format!("{mount} "));
            if is_it { line.replace(" - tmpfs ", " - fuse.sshfs ") } else { line.to_owned() }
        });
        let served = lines.collect::<Vec<_>>().join("\n") + "\n";
        assert_eq!(opened(&served).unwrap_err().raw_os_error(), Some(Errno::EREMOTE as i32));
        assert!(opened("").is_err(), "a mount that is not known");
    }
}
