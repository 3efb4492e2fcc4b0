//! The memory of a crashed process as the unwinder reads it: parked, or in a core that a shim saved alone.

use crate::elf::CoreLayout;
use crate::unwind::ReadMemory;
use nix::fcntl::OFlag;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Where memory is.
pub(super) enum Source {
    /// `/proc/PID/mem`.
    ProcessImage(File),
    /// A core in a file.
    Saved(Saved),
    Nowhere,
}

/// A core that has no code and no unwind tables (coredump_filter leaves mapped files out): those are read from the files.
pub(super) struct Saved {
    core: File,
    /// Where in the file the core begins.
    at: u64,
    /// The process saw the files of this machine.
    on_host: bool,
    files: RefCell<HashMap<String, Option<File>>>,
}

/// Memory with the layout of its core.
pub(super) struct Memory<'a> {
    pub(super) source: Source,
    pub(super) layout: &'a CoreLayout,
}

/// From here on an offset is negative to pread(2).
const NEGATIVE: u64 = 1 << 63;
const PAGE: usize = 4096;

impl ReadMemory for Memory<'_> {
    fn look(&self, address: u64, buffer: &mut [u8]) -> bool {
        match &self.source {
            Source::ProcessImage(mem) => address < NEGATIVE && mem.read_exact_at(buffer, address).is_ok(),
            Source::Saved(saved) => {
                saved.read(self.layout, address, buffer) || saved.read_file(self.layout, address, buffer)
            }
            Source::Nowhere => false,
        }
    }
}

impl Saved {
    pub(super) fn new(core: File, at: u64, on_host: bool) -> Self {
        Self { core, at, on_host, files: RefCell::default() }
    }

    fn read(&self, layout: &CoreLayout, address: u64, buffer: &mut [u8]) -> bool {
        let place = layout.find(address).filter(|place| place.end - place.start >= buffer.len() as u64);
        let place = place.and_then(|place| self.at.checked_add(place.start));
        place.is_some_and(|place| self.core.read_exact_at(buffer, place).is_ok())
    }

    fn read_file(&self, layout: &CoreLayout, address: u64, buffer: &mut [u8]) -> bool {
        let files = &layout.dump.files;
        let next = files.partition_point(|file| file.start <= address);
        let Some(mapped) = next.checked_sub(1).map(|index| &files[index]).filter(|mapped| address < mapped.end) else {
            return false;
        };
        if !self.on_host || layout.mapping(address).is_none_or(|load| load.flags & object::elf::PF_W != 0) {
            // What the process may have changed is no longer what the file has.
            return false;
        }
        let mut opened = self.files.borrow_mut();
        let file = opened.entry(mapped.path.clone()).or_insert_with(|| self.open(layout, &mapped.path));
        let place = mapped.offset.checked_add(address - mapped.start);
        file.as_ref().zip(place).is_some_and(|(file, place)| file.read_exact_at(buffer, place).is_ok())
    }

    /// The file of this path, if its first page is the one that the core has of it: the build-id is there.
    fn open(&self, layout: &CoreLayout, path: &str) -> Option<File> {
        let first = layout.dump.files.iter().find(|file| file.path == path && file.offset == 0)?;
        let mut mapped = vec![0; PAGE];
        if !path.starts_with('/') || !self.read(layout, first.start, &mut mapped) {
            return None;
        }
        // A name may lead to anything: nothing is waited for, and only a file is read.
        let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).ok()?;
        let mut found = vec![0; PAGE];
        let is_same = file.metadata().ok()?.is_file() && file.read_exact_at(&mut found, 0).is_ok() && found == mapped;
        is_same.then_some(file)
    }
}
