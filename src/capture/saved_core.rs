//! The memory of a process that is gone, read from a core file that a shim saved.
//!
//! coredump_filter leaves mapped files out of a core, and with them code and unwind tables. Those are read from the files
//! themselves, if the process saw the files of this machine and they have not changed since.

use crate::elf::{CoreLayout, MappedFile};
use crate::unwind::ReadMemory;
use nix::fcntl::OFlag;
use object::elf::PF_W;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, PoisonError};

/// A core file, and the files of this machine that its process had mapped.
#[derive(Debug)]
pub struct SavedCore {
    core: File,
    /// Where in the file the core begins.
    at: u64,
    /// The process saw the files of this machine.
    on_host: bool,
    layout: Arc<CoreLayout>,
    /// Mapped files by path; `None`: not there, or not the file that was mapped.
    mapped_files: Mutex<HashMap<String, Option<File>>>,
}

/// Length of a page, in bytes.
const PAGE_LEN: usize = 4096;

impl SavedCore {
    /// The memory in a core that begins at byte `at` of `core`. `on_host` says that the process saw the files of this
    /// machine, so that code and unwind tables, which coredump_filter leaves out, can be read from them.
    #[must_use]
    pub fn new(core: File, at: u64, on_host: bool, layout: Arc<CoreLayout>) -> Self {
        Self { core, at, on_host, layout, mapped_files: Mutex::default() }
    }

    /// Reads from the core itself.
    fn read_core(&self, address: u64, buffer: &mut [u8]) -> bool {
        let found = self.layout.file_range(address).filter(|range| range.end - range.start >= buffer.len() as u64);
        let offset = found.and_then(|range| self.at.checked_add(range.start));
        offset.is_some_and(|offset| self.core.read_exact_at(buffer, offset).is_ok())
    }

    /// Reads from the file that is mapped at `address`.
    fn read_mapped_file(&self, address: u64, buffer: &mut [u8]) -> bool {
        let Some(mapped) = self.mapped_file(address).filter(|_| self.on_host) else { return false };
        if self.layout.segment_at(address).is_none_or(|load| load.flags & PF_W != 0) {
            // The process may have changed its private copy of a writable mapping.
            return false;
        }
        let mut files = self.mapped_files.lock().unwrap_or_else(PoisonError::into_inner);
        let file = files.entry(mapped.path.clone()).or_insert_with(|| self.open_if_unchanged(&mapped.path));
        let offset = mapped.offset.checked_add(address - mapped.start);
        file.as_ref().zip(offset).is_some_and(|(file, offset)| file.read_exact_at(buffer, offset).is_ok())
    }

    fn mapped_file(&self, address: u64) -> Option<&MappedFile> {
        let files = &self.layout.notes.files;
        let next = files.partition_point(|file| file.start <= address);
        files.get(next.checked_sub(1)?).filter(|file| address < file.end)
    }

    /// Opens a mapped file if its first page, which has the build-id, is the one that the core has of it.
    fn open_if_unchanged(&self, path: &str) -> Option<File> {
        let first = self.layout.notes.files.iter().find(|file| file.path == path && file.offset == 0)?;
        let mut expected = [0; PAGE_LEN];
        if !path.starts_with('/') || !self.read_core(first.start, &mut expected) {
            return None;
        }
        // The path is the crashed process' own text: do not block on a FIFO, and read nothing but a regular file.
        let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).ok()?;
        let mut actual = [0; PAGE_LEN];
        let unchanged =
            file.metadata().ok()?.is_file() && file.read_exact_at(&mut actual, 0).is_ok() && actual == expected;
        unchanged.then_some(file)
    }
}

impl ReadMemory for SavedCore {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.read_core(address, buffer) || self.read_mapped_file(address, buffer)
    }
}
