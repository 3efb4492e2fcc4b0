//! The memory of a parked process, read through `/proc/PID/mem`: what exists of it, page by page.

use super::chunk::{Fill, Filled, SourceError};
use super::plan::Plan;
use crate::elf::CoreLayout;
use crate::unwind::ReadMemory;
use coreward_sys::pagemap::{self, PAGE};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, PoisonError};

/// Descriptors of a parked process.
#[derive(Debug)]
pub struct LiveMemory {
    mem: File,
    pagemap: Option<File>,
    /// Reads at addresses that pread(2) takes for negative share the file's one position.
    position: Mutex<()>,
}

/// From here on addresses are negative offsets to pread(2): the vsyscall page of x86_64 is there.
const NEGATIVE: u64 = 1 << 63;

impl LiveMemory {
    /// `mem`, and `pagemap` where it could be opened: without it everything is read.
    pub fn new(mem: File, pagemap: Option<File>) -> Self {
        Self { mem, pagemap, position: Mutex::default() }
    }

    /// Fills `buffer` from `address`. Pages that can't be read are zeros, as they are in a core of the kernel's (dump_user_range
    /// in fs/coredump.c skips what get_dump_page can't get); returns how many those were.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<u64, SourceError> {
        let (mut at, mut unreadable) = (0, 0);
        while at < buffer.len() {
            match self.read_some(address + at as u64, &mut buffer[at..]) {
                // The process has been killed, and its memory is gone.
                Ok(0) => return Err(SourceError::Gone),
                Ok(count) => at += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_of_the_page(&error) => {
                    let rest = PAGE - (address + at as u64) % PAGE;
                    let end = buffer.len().min(at + rest as usize);
                    buffer[at..end].fill(0);
                    at = end;
                    unreadable += 1;
                }
                Err(error) => return Err(SourceError::Io(error)),
            }
        }
        Ok(unreadable)
    }

    fn read_some(&self, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if address < NEGATIVE {
            return self.mem.read_at(buffer, address);
        }
        let _mine = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        // The kernel takes the position for unsigned (FMODE_UNSIGNED_OFFSET of /proc/PID/mem).
        let mut mem = &self.mem;
        mem.seek(SeekFrom::Start(address))?;
        mem.read(buffer)
    }

    /// A small piece, whole or not at all.
    pub fn piece(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.mem.read_exact_at(&mut bytes, address).ok().map(|()| bytes)
    }

    /// Calls `found` with the runs of pages in `range` of the process that may hold something.
    ///
    /// # Errors
    /// The process has no memory any more.
    pub fn runs(&self, range: Range<u64>, mut found: impl FnMut(Range<u64>)) -> Result<(), SourceError> {
        let Some(pagemap) = &self.pagemap else {
            found(range);
            return Ok(());
        };
        match pagemap::runs(pagemap, range.clone(), &mut found) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(SourceError::Gone),
            // Nobody knows: then all of it is read.
            Err(_) => {
                found(range);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

/// EIO: the page can't be had (behind the end of its file, poisoned, guarded). EFAULT: it is not mapped any more.
fn is_of_the_page(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EIO | Errno::EFAULT))
}

/// The core of a parked process, put together as the kernel would write it.
#[derive(Debug)]
pub struct ProcessImage {
    /// What lies where.
    pub plan: Arc<Plan>,
    /// Its memory.
    pub memory: Arc<LiveMemory>,
    /// Headers and notes, at their place in the core.
    pub head: Arc<File>,
}

impl ProcessImage {
    /// Calls `take` with every stretch of `range` of the core that may hold something: its place in the core and its bytes,
    /// at most a buffer at once.
    ///
    /// # Errors
    /// The process is gone, or `take`'s own.
    pub fn copy(
        &self,
        range: Range<u64>,
        buffer: &mut [u8],
        mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), SourceError> {
        for part in self.plan.parts(range) {
            let to_core = part.offset.wrapping_sub(part.address);
            let mut runs = Vec::new();
            if part.sparse {
                self.memory.runs(part.address..part.address + part.length, |run| runs.push(run))?;
            } else {
                runs.push(part.address..part.address + part.length);
            }
            for run in runs {
                let mut at = run.start;
                while at < run.end {
                    let length = usize::try_from(run.end - at).unwrap_or(usize::MAX).min(buffer.len());
                    self.memory.read(at, &mut buffer[..length])?;
                    take(at.wrapping_add(to_core), &buffer[..length]).map_err(SourceError::Write)?;
                    at += length as u64;
                }
            }
        }
        Ok(())
    }
}

impl ProcessImage {
    /// How many bytes of `range` of the core may be something else than zeros.
    ///
    /// # Errors
    /// The process is gone.
    pub fn present(&self, range: Range<u64>) -> Result<u64, SourceError> {
        let mut present = 0;
        for part in self.plan.parts(range) {
            if part.sparse {
                self.memory.runs(part.address..part.address + part.length, |run| present += run.end - run.start)?;
            } else {
                present += part.length;
            }
        }
        Ok(present)
    }
}

impl Fill for ProcessImage {
    fn fill(&self, range: Range<u64>, buffer: &mut [u8]) -> Result<Filled, SourceError> {
        if !self.plan.may_hold(range.clone()) {
            return Ok(Filled::Zeros);
        }
        let place = |offset: u64| usize::try_from(offset - range.start).unwrap_or(usize::MAX);
        // What lies between the parts is zero.
        let mut zero_from = 0;
        for part in self.plan.parts(range.clone()) {
            let begin = place(part.offset);
            let end = begin + part.length as usize;
            buffer[zero_from..begin].fill(0);
            zero_from = end;
            if !part.sparse {
                self.memory.read(part.address, &mut buffer[begin..end])?;
                continue;
            }
            let mut runs = Vec::new();
            self.memory.runs(part.address..part.address + part.length, |run| runs.push(run))?;
            let mut at = begin;
            for run in runs {
                let from = begin + (run.start - part.address) as usize;
                let to = begin + (run.end - part.address) as usize;
                buffer[at..from].fill(0);
                self.memory.read(run.start, &mut buffer[from..to])?;
                at = to;
            }
            buffer[at..end].fill(0);
        }
        let length = place(range.end);
        buffer[zero_from..length].fill(0);
        let head_end = self.plan.layout.notes.end.min(range.end);
        if range.start < head_end {
            self.head.read_exact_at(&mut buffer[..place(head_end)], range.start).map_err(SourceError::Io)?;
        }
        let tail = self.plan.tail_range();
        if tail.start < range.end && tail.end > range.start {
            let from = tail.start.max(range.start);
            let to = tail.end.min(range.end);
            let bytes = &self.plan.layout.tail[(from - tail.start) as usize..(to - tail.start) as usize];
            buffer[place(from)..place(to)].copy_from_slice(bytes);
        }
        Ok(Filled::Data)
    }
}

/// Memory as the unwinder reads it.
pub enum ProcessMemory {
    /// `/proc/PID/mem`.
    Live(LiveMemory),
    /// A core in a file.
    CoreFile(SavedCore),
}

/// A core that has no code and no unwind tables (coredump_filter leaves mapped files out): those are read from the files.
pub struct SavedCore {
    core: File,
    /// Where in the file the core begins.
    at: u64,
    /// The process saw the files of this machine.
    on_host: bool,
    layout: Arc<CoreLayout>,
    files: RefCell<HashMap<String, Option<File>>>,
}

impl ProcessMemory {
    /// Live.
    pub fn live(mem: File, pagemap: Option<File>) -> Self {
        Self::Live(LiveMemory::new(mem, pagemap))
    }

    /// Saved.
    pub fn core_file(core: File, at: u64, on_host: bool, layout: Arc<CoreLayout>) -> Self {
        Self::CoreFile(SavedCore { core, at, on_host, layout, files: RefCell::default() })
    }
}

impl ReadMemory for ProcessMemory {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        match self {
            Self::Live(live) => address < NEGATIVE && live.mem.read_exact_at(buffer, address).is_ok(),
            Self::CoreFile(saved) => {
                saved.read(&saved.layout, address, buffer) || saved.read_file(&saved.layout, address, buffer)
            }
        }
    }
}

impl SavedCore {
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
        let mut mapped = vec![0; PAGE as usize];
        if !path.starts_with('/') || !self.read(layout, first.start, &mut mapped) {
            return None;
        }
        // A name may lead to anything: nothing is waited for, and only a file is read.
        let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).ok()?;
        let mut found = vec![0; PAGE as usize];
        let is_same = file.metadata().ok()?.is_file() && file.read_exact_at(&mut found, 0).is_ok() && found == mapped;
        is_same.then_some(file)
    }
}
