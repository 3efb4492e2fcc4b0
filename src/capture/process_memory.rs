//! The memory of a parked process. Only a reader process reads it (module `reader`).

use super::chunk::{SourceError, buffer_len};
use super::holes::Holes;
use super::page_access::{PageAccess, ReadablePages, TrustedFileSystems};
use super::plan::CapturePlan;
use crate::elf::{self, CoreLayout};
use crate::unwind::ReadMemory;
use coreward_sys::pagemap::{self, PAGE, PageKind};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The files of a parked process through which its memory is read.
#[derive(Debug)]
pub struct LiveFiles {
    /// `/proc/PID/mem`.
    pub mem: File,
    /// `/proc/PID/pagemap`. Without it every page of a mapping is read, touched or not.
    pub pagemap: Option<File>,
    /// `/proc/PID/maps`. Without it no memory is treated as sparse, and only the pages that exist anyway are read.
    pub maps: Option<File>,
    /// The file systems whose files can be waited for.
    pub trusted: TrustedFileSystems,
}

/// The memory of a parked process (proc_pid_mem(5), proc_pid_pagemap(5)).
#[derive(Debug)]
pub struct LiveMemory {
    mem: File,
    pagemap: Option<File>,
    access: Option<PageAccess>,
    /// Pages were left out, because nobody may ever answer for them.
    has_unread: AtomicBool,
    /// Pages that are there could not be read.
    has_refused: AtomicBool,
    /// The part of the page table that was read last.
    scanned: Mutex<Option<ScannedWindow>>,
    /// Reads at addresses that pread(2) takes for negative use the file's position, which there is only one of.
    position: Mutex<()>,
}

/// A part of the page table.
#[derive(Debug)]
struct ScannedWindow {
    range: Range<u64>,
    kind: PageKind,
    runs: Vec<Range<u64>>,
}

/// How much of the page table is read at once where ranges are small, in bytes of address space.
const WINDOW: u64 = 1 << 20;

/// Which pages are zeros in the core, though they may have been something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingPages {
    /// Those for which nobody may ever answer (decision 42).
    pub unanswered: bool,
    /// Those that the kernel refused to read: it reads memory that the process itself may not read only if `proc_mem.force_override=`
    /// lets it (Documentation/admin-guide/kernel-parameters.txt), and none that is damaged.
    pub refused: bool,
}

/// pread(2) takes addresses from here on for negative offsets. The vsyscall page of x86_64 is up there.
const FIRST_NEGATIVE: u64 = 1 << 63;

impl LiveMemory {
    /// The memory behind these files.
    #[must_use]
    pub fn new(files: LiveFiles) -> Self {
        let LiveFiles { mem, pagemap, maps, trusted } = files;
        let access = maps.map(|maps| PageAccess::new(maps, trusted));
        Self {
            mem,
            pagemap,
            access,
            has_unread: AtomicBool::new(false),
            has_refused: AtomicBool::new(false),
            scanned: Mutex::default(),
            position: Mutex::default(),
        }
    }

    /// The text of `/proc/PID/maps`; empty if it cannot be read.
    pub fn maps(&self) -> String {
        self.access.as_ref().and_then(PageAccess::text).unwrap_or_default()
    }

    /// Calls `found` with each line of `/proc/PID/maps`; of none if it cannot be read.
    pub fn for_each_mapping(&self, found: impl FnMut(&str)) {
        if let Some(access) = &self.access {
            access.for_each_line(found);
        }
    }

    /// Plans the capture of this memory, whose core has this layout and which has these holes; `None` if the process has no memory any
    /// more.
    pub fn plan(&self, layout: Arc<CoreLayout>, holes: Holes) -> Option<CapturePlan> {
        let libraries = layout.notes.program_headers.map(|(address, count)| {
            elf::link_map_ranges(layout.class, address, count, |address, length| self.read_vec(address, length))
        });
        let answers = |address| self.answers(address);
        let present_runs = |range, found: &mut dyn FnMut(Range<u64>)| self.present_runs(range, found);
        CapturePlan::new(layout, &self.maps(), holes, &libraries.unwrap_or_default(), &answers, present_runs).ok()
    }

    /// Which pages were left out so far.
    pub fn missing_pages(&self) -> MissingPages {
        let [unanswered, refused] = [&self.has_unread, &self.has_refused].map(|flag| flag.load(Ordering::Relaxed));
        MissingPages { unanswered, refused }
    }

    /// Whether the page at `address` has contents: in memory or in swap (proc_pid_pagemap(5)). A page that is guarded has none, though the
    /// page table has an entry for it.
    fn is_there(&self, address: u64) -> bool {
        const GUARD: u64 = 1 << 58;
        let mut entry = [0; 8];
        let read = self.pagemap.as_ref().map(|pagemap| pagemap.read_exact_at(&mut entry, address / PAGE * 8));
        let entry = u64::from_le_bytes(entry);
        matches!(read, Some(Ok(()))) && entry >> 62 != 0 && entry & GUARD == 0
    }

    /// Whether all pages of the mapping at `address` can be read, or some would have to be waited for. Memory of which nothing is
    /// known can be read: that was so before.
    pub fn answers(&self, address: u64) -> bool {
        self.pages_at(address).1 == ReadablePages::All
    }

    /// Whether all pages of all mappings can be read without waiting for anybody. So it seems where nothing is known of them.
    pub fn answers_everywhere(&self) -> bool {
        self.access.as_ref().is_none_or(PageAccess::is_all_readable)
    }

    /// Whether all pages in `range` can be read without waiting for anybody.
    pub fn answers_for(&self, range: &Range<u64>) -> bool {
        let mut address = range.start;
        while address < range.end {
            let (end, pages) = self.pages_at(address);
            let part = address..end.min(range.end);
            if pages != ReadablePages::All && !self.has_all(&part, pages) {
                return false;
            }
            address = part.end;
        }
        true
    }

    /// The pages that answer at `address`, and up to where that holds.
    fn pages_at(&self, address: u64) -> (u64, ReadablePages) {
        let everything = (u64::MAX, ReadablePages::All);
        match &self.access {
            // The kernel's own page up there is not among the mappings.
            Some(access) if address < FIRST_NEGATIVE => access.at(address).unwrap_or(everything),
            _ => everything,
        }
    }

    /// The runs of pages around `range` that can be read, of a mapping of which only these can.
    fn readable_runs(&self, range: &Range<u64>, pages: ReadablePages) -> io::Result<Vec<Range<u64>>> {
        let kind = match pages {
            ReadablePages::Nothing => return Ok(Vec::new()),
            ReadablePages::Anonymous => PageKind::Anonymous,
            ReadablePages::All | ReadablePages::Present => PageKind::Populated,
        };
        let whole = range.start & !(PAGE - 1)..range.end.checked_next_multiple_of(PAGE).unwrap_or(range.end);
        let mut runs = Vec::new();
        if let Some(pagemap) = &self.pagemap {
            pagemap::for_each_run(pagemap, whole, kind, |run| runs.push(run))?;
        }
        Ok(runs)
    }

    fn has_all(&self, range: &Range<u64>, pages: ReadablePages) -> bool {
        let runs = self.readable_runs(range, pages).unwrap_or_default();
        let covered: u64 =
            runs.iter().map(|run| run.end.min(range.end).saturating_sub(run.start.max(range.start))).sum();
        covered == range.end - range.start
    }

    /// Fills `buffer` with the memory at `address`. Pages that cannot be read are zeros, as in the kernel's own cores:
    /// dump_user_range in fs/coredump.c skips those that get_dump_page cannot provide.
    ///
    /// # Errors
    /// The process has no memory any more, or the kernel reports an error that does not concern a single page.
    pub fn read_pages(&self, address: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = address + filled as u64;
            let (end, pages) = self.pages_at(at);
            let length = (buffer.len() - filled).min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let part = &mut buffer[filled..filled + length];
            match pages {
                ReadablePages::All => self.read_all(at, part)?,
                pages => self.read_some_pages(at, part, pages)?,
            }
            filled += length;
        }
        Ok(())
    }

    /// As [`Self::read_pages`], of a mapping of which only some pages can be read.
    fn read_some_pages(&self, address: u64, buffer: &mut [u8], pages: ReadablePages) -> Result<(), SourceError> {
        let range = address..address + buffer.len() as u64;
        let runs = self.readable_runs(&range, pages).map_err(no_memory_is_gone)?;
        buffer.fill(0);
        let mut read = 0;
        for run in runs {
            let (from, to) = (run.start.max(range.start), run.end.min(range.end));
            if from < to {
                self.read_all(from, &mut buffer[buffer_len(&(address..from))..buffer_len(&(address..to))])?;
                read += to - from;
            }
        }
        if read < range.end - range.start && pages != ReadablePages::Nothing {
            self.has_unread.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn read_all(&self, address: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = address + filled as u64;
            match self.read_some(at, &mut buffer[filled..]) {
                // The process was killed, and its memory is gone.
                Ok(0) => return Err(SourceError::ProcessGone),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if concerns_one_page(&error) => {
                    if !self.has_refused.load(Ordering::Relaxed) && self.is_there(at) {
                        self.has_refused.store(true, Ordering::Relaxed);
                    }
                    let page_rest = usize::try_from(PAGE - at % PAGE).unwrap_or(usize::MAX);
                    let end = buffer.len().min(filled.saturating_add(page_rest));
                    buffer[filled..end].fill(0);
                    filled = end;
                }
                Err(error) => return Err(SourceError::Read(error)),
            }
        }
        Ok(())
    }

    fn read_some(&self, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if address < FIRST_NEGATIVE {
            return self.mem.read_at(buffer, address);
        }
        let _guard = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        // For lseek(2) on this file the kernel allows offsets above i64::MAX (FMODE_UNSIGNED_OFFSET).
        let mut mem = &self.mem;
        mem.seek(SeekFrom::Start(address))?;
        mem.read(buffer)
    }

    /// The `length` bytes at `address`; `None` if any of them cannot be read.
    pub fn read_vec(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_exact_at(address, &mut bytes).then_some(bytes)
    }

    /// Calls `found` with each run of pages in `range` (addresses within one mapping) that may hold something else than zeros, in
    /// order. Pages that would have to be waited for are left out.
    ///
    /// # Errors
    /// The process has no memory any more.
    pub fn present_runs(&self, range: Range<u64>, mut found: impl FnMut(Range<u64>)) -> Result<(), SourceError> {
        let pages = self.pages_at(range.start).1;
        if pages == ReadablePages::Nothing {
            // The kernel's own core has zeros there as well.
            return Ok(());
        }
        let kind = if pages == ReadablePages::Anonymous { PageKind::Anonymous } else { PageKind::Populated };
        let Some(pagemap) = &self.pagemap else {
            if pages == ReadablePages::All {
                found(range);
            } else {
                self.has_unread.store(true, Ordering::Relaxed);
            }
            return Ok(());
        };
        let mut length = 0;
        let count_and_call = |run: Range<u64>| {
            length += run.end - run.start;
            found(run);
        };
        let scanned = self.for_each_run(pagemap, range.clone(), kind, count_and_call);
        if pages != ReadablePages::All && length < range.end - range.start {
            self.has_unread.store(true, Ordering::Relaxed);
        }
        match scanned {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(SourceError::ProcessGone),
            // The pagemap cannot be used: read all of it.
            Err(_) if pages == ReadablePages::All => {
                found(range);
                Ok(())
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl LiveMemory {
    /// As [`pagemap::for_each_run`]. Of small ranges those that follow are asked for at once: most mappings of a process with many thousand
    /// are next to each other. As long as the process is parked, its page table only gets pages that it had mapped before.
    fn for_each_run(
        &self,
        pagemap: &File,
        range: Range<u64>,
        kind: PageKind,
        found: impl FnMut(Range<u64>),
    ) -> io::Result<()> {
        if range.end - range.start >= WINDOW || range.start >= FIRST_NEGATIVE - WINDOW {
            return pagemap::for_each_run(pagemap, range, kind, found);
        }
        let mut scanned = self.scanned.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |scanned: &ScannedWindow| {
            scanned.kind == kind && scanned.range.start <= range.start && range.end <= scanned.range.end
        };
        if !scanned.as_ref().is_some_and(is_known) {
            let window = range.start..range.start + WINDOW;
            let mut runs = Vec::new();
            pagemap::for_each_run(pagemap, window.clone(), kind, |run| runs.push(run))?;
            *scanned = Some(ScannedWindow { range: window, kind, runs });
        }
        let runs = scanned.as_ref().map_or(&[][..], |scanned| &scanned.runs);
        let first = runs.partition_point(|run| run.end <= range.start);
        let runs = runs[first..].iter().take_while(|run| run.start < range.end);
        runs.map(|run| run.start.max(range.start)..run.end.min(range.end)).for_each(found);
        Ok(())
    }
}

impl ReadMemory for LiveMemory {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        let range = address..address.saturating_add(buffer.len() as u64);
        address < FIRST_NEGATIVE && self.answers_for(&range) && self.mem.read_exact_at(buffer, address).is_ok()
    }
}

/// The error of a pagemap that cannot be read. Of a process without memory it has nothing.
fn no_memory_is_gone(error: io::Error) -> SourceError {
    if error.kind() == ErrorKind::UnexpectedEof { SourceError::ProcessGone } else { SourceError::Read(error) }
}

/// EIO: the page cannot be had (beyond the end of its file, poisoned, a guard page). EFAULT: it is no longer mapped.
fn concerns_one_page(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EIO | Errno::EFAULT))
}
