//! The memory of a parked process. Only a reader process reads it (module `reader`).

use super::chunk::{SourceError, buffer_len};
use super::holes::Holes;
use super::page_access::{KnownMapping, MountLists, PageAccess, ReadablePages};
use super::plan::{CapturePlan, MappingSlice};
use crate::elf::{self, CoreLayout, LoadSegment};
use crate::unwind::ReadMemory;
use coreward_sys::pagemap::{self, PageKind};
use nix::errno::Errno;
use object::elf::{PF_R, PF_W};
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
    /// They tell which files can be waited for.
    pub mounts: MountLists,
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
    /// Reads at addresses that pread(2) takes for negative use the file's position, which there is only one of.
    position: Mutex<()>,
}

/// Which pages are zeros in the core, though they may have been something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingPages {
    /// Those for which nobody may ever answer (decision 42).
    pub unanswered: bool,
    /// Those that the kernel refused to read: it reads memory that the process itself may not read only if `proc_mem.force_override=`
    /// lets it (Documentation/admin-guide/kernel-parameters.txt), and none that is damaged. The former come from the pipe, if they can.
    pub refused: bool,
}

/// pread(2) takes addresses from here on for negative offsets. The vsyscall page of x86_64 is up there.
const FIRST_NEGATIVE: u64 = 1 << 63;

impl LiveMemory {
    /// The memory behind these files.
    #[must_use]
    pub fn new(files: LiveFiles) -> Self {
        let LiveFiles { mem, pagemap, maps, mounts } = files;
        let access = maps.map(|maps| PageAccess::new(maps, mounts));
        Self {
            mem,
            pagemap,
            access,
            has_unread: AtomicBool::new(false),
            has_refused: AtomicBool::new(false),
            position: Mutex::default(),
        }
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
        if self.is_taken(&layout) {
            return None;
        }
        let libraries = layout.notes.program_headers.map(|(address, count)| {
            elf::link_map_ranges(layout.class, address, count, |address, length| self.read_vec(address, length))
        });
        let is_sparse = |addresses: &Range<u64>| self.is_sparse(addresses);
        let present_runs = |range, found: &mut dyn FnMut(Range<u64>)| self.scan_present(range, found);
        let mut plan =
            CapturePlan::new(layout, holes, &libraries.unwrap_or_default(), &is_sparse, present_runs).ok()?;
        // If the kernel would have to wait for somebody, the rest is worth more.
        plan.needs_pipe = self.is_refused(&plan) && self.answers_everywhere();
        let is_gone = |pagemap| pagemap::check_memory(pagemap).is_err();
        (!self.pagemap.as_ref().is_some_and(is_gone)).then_some(plan)
    }

    /// Whether the kernel has taken the anonymous memory, for want of memory, of a process that exits but has not ended
    /// (`oom_reap_task_mm`, mm/oom_kill.c). The page map then has nothing, and a page that would be zeros cannot be read.
    pub fn is_taken(&self, layout: &CoreLayout) -> bool {
        /// More than a program needs for its data, its heap and the stack of its main thread.
        const MAX_LOOKED_AT: usize = 64;
        let writable = layout.loads.iter().filter(|load| load.flags & (PF_R | PF_W) == PF_R | PF_W);
        // Of a stack the last page has been used, and the first may be a guard page.
        let last_page =
            |load: &LoadSegment| load.address.saturating_add(load.length).saturating_sub(pagemap::page_size());
        let anonymous = writable.map(last_page).filter(|address| self.mapping_at(*address).is_anonymous);
        let pages: Vec<u64> = anonymous.take(MAX_LOOKED_AT).collect();
        let is_refused = |address: u64| self.read_some(address, &mut [0]).is_err_and(|error| concerns_one_page(&error));
        !pages.iter().any(|address| self.is_there(*address)) && pages.last().is_some_and(|address| is_refused(*address))
    }

    /// Whether there is memory that the process may not read itself, and nobody else either, but the kernel as it dumps
    /// ([`MissingPages::refused`]).
    fn is_refused(&self, plan: &CapturePlan) -> bool {
        /// A page can be refused for another reason. If one is read, none is refused for this one.
        const TRIES: usize = 16;
        let forbidden = plan.layout.loads.iter().filter(|load| load.flags & PF_R == 0 && !load.offset.is_empty());
        let slices = forbidden.flat_map(|load| plan.mapping_slices(load.offset.clone()));
        let first_page = |slice: MappingSlice| match plan.present_runs(slice).filter(|_| slice.sparse) {
            Some(mut runs) => runs.next().map(|run| run.start),
            None => Some(slice.address),
        };
        let may_be_read =
            |address: &u64| self.mapping_at(*address).pages == ReadablePages::All && self.is_there(*address);
        let there = slices.filter_map(first_page).filter(may_be_read).take(TRIES);
        let mut is_refused = false;
        for address in there {
            match self.read_some(address, &mut [0]) {
                Ok(1) => return false,
                Err(error) if concerns_one_page(&error) => is_refused = true,
                _ => {}
            }
        }
        is_refused
    }

    /// Whether absent pages of these addresses, which are those of one mapping, are zeros, or cannot be read.
    fn is_sparse(&self, addresses: &Range<u64>) -> bool {
        let mapping = self.mapping_at(addresses.start);
        mapping.is_anonymous && addresses.end <= mapping.end || mapping.pages != ReadablePages::All
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
        let entry = self.pagemap.as_ref().and_then(|pagemap| pagemap::entry(pagemap, address).ok());
        entry.is_some_and(|entry| entry >> 62 != 0 && entry & GUARD == 0)
    }

    /// Whether all pages of all mappings can be read without waiting for anybody. So it seems where nothing is known of them.
    pub fn answers_everywhere(&self) -> bool {
        self.access.as_ref().is_none_or(PageAccess::is_all_readable)
    }

    /// Whether all pages in `range` can be read without waiting for anybody.
    pub fn answers_for(&self, range: &Range<u64>) -> bool {
        let mut address = range.start;
        while address < range.end {
            let KnownMapping { end, pages, .. } = self.mapping_at(address);
            let part = address..end.min(range.end);
            if pages != ReadablePages::All && !self.has_all(&part, pages) {
                return false;
            }
            address = part.end;
        }
        true
    }

    /// What is known of the mapping that has `address`. Memory of which nothing is known can be read: that was so before.
    fn mapping_at(&self, address: u64) -> KnownMapping {
        let unknown = KnownMapping { end: u64::MAX, pages: ReadablePages::All, is_anonymous: false };
        match &self.access {
            // The kernel's own page up there is not among the mappings.
            Some(access) if address < FIRST_NEGATIVE => access.at(address).unwrap_or(unknown),
            _ => unknown,
        }
    }

    /// The runs of pages around `range` that can be read, of a mapping of which only these can.
    fn readable_runs(&self, range: &Range<u64>, pages: ReadablePages) -> io::Result<Vec<Range<u64>>> {
        let kind = match pages {
            ReadablePages::Nothing => return Ok(Vec::new()),
            ReadablePages::Anonymous => PageKind::Anonymous,
            ReadablePages::All | ReadablePages::Present => PageKind::Populated,
        };
        let mut runs = Vec::new();
        if let Some(pagemap) = &self.pagemap {
            pagemap::for_each_run(pagemap, pagemap::pages_of(range), kind, |run| runs.push(run))?;
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
            let KnownMapping { end, pages, .. } = self.mapping_at(at);
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
                    let page = pagemap::page_size();
                    let page_rest = usize::try_from(page - at % page).unwrap_or(usize::MAX);
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

    /// Calls `found` with each run of pages in `range` that may hold something else than zeros, in order. Pages that would have to be waited
    /// for are left out.
    ///
    /// # Errors
    /// The process has no memory any more.
    pub fn present_runs(&self, range: Range<u64>, mut found: impl FnMut(Range<u64>)) -> Result<(), SourceError> {
        self.scan_present(range, &mut found)?;
        self.pagemap.as_ref().map_or(Ok(()), |pagemap| pagemap::check_memory(pagemap).map_err(no_memory_is_gone))
    }

    /// As [`Self::present_runs`], but of a process without memory there is nothing.
    fn scan_present(&self, range: Range<u64>, found: &mut dyn FnMut(Range<u64>)) -> Result<(), SourceError> {
        let mut at = range.start;
        while at < range.end {
            let KnownMapping { mut end, pages, .. } = self.mapping_at(at);
            // Adjacent mappings of a kind together.
            while end < range.end {
                let next = self.mapping_at(end);
                if next.pages != pages {
                    break;
                }
                end = next.end;
            }
            let part = at..end.min(range.end);
            at = part.end;
            self.scan_part(part, pages, found)?;
        }
        Ok(())
    }

    /// As [`Self::scan_present`], where all mappings are of a kind.
    fn scan_part(
        &self,
        range: Range<u64>,
        pages: ReadablePages,
        found: &mut dyn FnMut(Range<u64>),
    ) -> Result<(), SourceError> {
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
        // Where a core is divided, larger pages need not end.
        let scanned = pagemap::scan(pagemap, pagemap::pages_of(&range), kind, |run| {
            let run = run.start.max(range.start)..run.end.min(range.end);
            length += run.end - run.start;
            found(run);
        });
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
