//! The stacks of a crashed process, and the signature of the crash.
//!
//! Frames come from the memory of the process while it is parked, or from its core. No file is opened: unwind tables,
//! build-ids and package metadata are mapped, and read where the process has them. All bytes are hostile; every loop is
//! bounded, and the caller's budget ends the work.
#![deny(clippy::indexing_slicing)]

mod arch;
mod cfi;
mod failure;
mod fault;
mod i386;
mod leaf;
mod modules;
mod no_file;
mod page_cache;
mod signal_frame;
mod signature;
mod symbols;
mod walk;

pub use failure::{CrashedThread, FailedThread};
pub use fault::{Cause, prepare_disassembler};
pub use no_file::Anonymous;
pub use page_cache::{MAX_PAGES, PageCache, ReadMemory};
pub use signature::{SignatureInput, VERSION, compute_signature};
pub use symbols::find_symbols;

use crate::crash::{Frame, Module};
use crate::elf::{CoreLayout, ElfClass};
use modules::ModuleTable;
use std::ops::Range;
use walk::StackWalker;

/// Frames of the crashed thread that are unwound: enough to recognize a recursion.
const MAX_DEPTH: usize = 256;

/// The code of the function that `address` is in, by the unwind tables of its module, whose index is in the range `index` (PT_GNU_EH_FRAME).
pub fn function_at(pages: &mut PageCache<'_>, class: ElfClass, index: Range<u64>, address: u64) -> Option<Range<u64>> {
    cfi::find_table(pages, class, index, address).map(|table| table.code)
}

/// Unwinds the threads of one process.
pub struct ProcessUnwinder<'a> {
    layout: &'a CoreLayout,
    pages: PageCache<'a>,
    modules: ModuleTable<'a>,
}

impl<'a> ProcessUnwinder<'a> {
    /// For the process whose core has this `layout` and whose memory is read through `memory`.
    pub fn new(layout: &'a CoreLayout, memory: &'a dyn ReadMemory) -> Self {
        Self { layout, pages: PageCache::new(memory), modules: ModuleTable::new(layout) }
    }

    /// Thread id and frames of every thread but the one with the id `failed`, at most `max_depth` frames of each, until `keep_going` returns
    /// false.
    pub fn other_threads(
        &mut self,
        failed: Option<u32>,
        max_depth: usize,
        keep_going: &dyn Fn() -> bool,
    ) -> Vec<(u32, Vec<Frame>)> {
        let threads = &self.layout.notes.threads;
        let Some(dumping) = threads.first() else { return Vec::new() };
        let failed = failed.unwrap_or(dumping.tid);
        let mut walker = StackWalker::new(&mut self.pages, &mut self.modules, dumping.registers);
        let others = threads.iter().filter(|thread| thread.tid != failed).take_while(|_| keep_going());
        others.map(|thread| (thread.tid, walker.frames(thread.registers, max_depth, keep_going))).collect()
    }

    /// The modules of the frames, by the numbers that the frames have, and after them the others that have code, which are
    /// read until `keep_going` returns false.
    pub fn into_modules(mut self, keep_going: &dyn Fn() -> bool) -> Vec<Module> {
        self.modules.read_all(&mut self.pages, keep_going);
        self.modules.into_modules()
    }
}
