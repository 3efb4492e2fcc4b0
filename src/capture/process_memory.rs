//! The memory of a crashed process: read from the process while it is parked, or from a core that a shim saved alone.

use super::chunk::SourceError;
use super::saved_core::SavedCore;
use crate::elf::CoreLayout;
use crate::unwind::ReadMemory;
use coreward_sys::pagemap::{self, PAGE};
use nix::errno::Errno;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the memory of a crashed process is read from.
#[derive(Debug)]
pub enum ProcessMemory {
    /// A parked process.
    Live(LiveMemory),
    /// A core file, and the mapped files that it leaves out.
    CoreFile(SavedCore),
}

impl ProcessMemory {
    /// The memory of a parked process: its `/proc/PID/mem`, and its `/proc/PID/pagemap` if it could be opened.
    #[must_use]
    pub fn live(mem: File, pagemap: Option<File>) -> Self {
        Self::Live(LiveMemory::new(mem, pagemap))
    }

    /// The memory in a core that begins at byte `at` of `core`. `on_host` says that the process saw the files of this
    /// machine, so that code and unwind tables, which coredump_filter leaves out, can be read from them.
    #[must_use]
    pub fn core_file(core: File, at: u64, on_host: bool, layout: Arc<CoreLayout>) -> Self {
        Self::CoreFile(SavedCore::new(core, at, on_host, layout))
    }
}

impl ReadMemory for ProcessMemory {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        match self {
            Self::Live(memory) => memory.read_exact_at(address, buffer),
            Self::CoreFile(core) => core.read_exact_at(address, buffer),
        }
    }
}

/// The memory of a parked process (proc_pid_mem(5), proc_pid_pagemap(5)).
#[derive(Debug)]
pub struct LiveMemory {
    mem: File,
    pagemap: Option<File>,
    /// Reads at addresses that pread(2) takes for negative use the file's position, which there is only one of.
    position: Mutex<()>,
}

/// pread(2) takes addresses from here on for negative offsets. The vsyscall page of x86_64 is up there.
const FIRST_NEGATIVE: u64 = 1 << 63;

impl LiveMemory {
    /// Without `pagemap` every page of a mapping is read, touched or not.
    #[must_use]
    pub fn new(mem: File, pagemap: Option<File>) -> Self {
        Self { mem, pagemap, position: Mutex::default() }
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
            match self.read_some(at, &mut buffer[filled..]) {
                // The process was killed, and its memory is gone.
                Ok(0) => return Err(SourceError::ProcessGone),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if concerns_one_page(&error) => {
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

    /// Calls `found` with each run of pages in `range` (addresses) that may hold something else than zeros, in order.
    ///
    /// # Errors
    /// The process has no memory any more.
    pub fn present_runs(&self, range: Range<u64>, mut found: impl FnMut(Range<u64>)) -> Result<(), SourceError> {
        let Some(pagemap) = &self.pagemap else {
            found(range);
            return Ok(());
        };
        match pagemap::for_each_populated_run(pagemap, range.clone(), &mut found) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(SourceError::ProcessGone),
            // The pagemap cannot be used: read all of it.
            Err(_) => {
                found(range);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

impl ReadMemory for LiveMemory {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        address < FIRST_NEGATIVE && self.mem.read_exact_at(buffer, address).is_ok()
    }
}

/// EIO: the page cannot be had (beyond the end of its file, poisoned, a guard page). EFAULT: it is no longer mapped.
fn concerns_one_page(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EIO | Errno::EFAULT))
}
