//! The stacks of a crashed process, and the signature of the crash.
//!
//! Frames come from the memory of the process while it is parked, or from its core. No file is opened: unwind tables,
//! build-ids and package metadata are mapped, and read where the process has them. All bytes are hostile; every loop is
//! bounded, and the caller's budget ends the work.
#![deny(clippy::indexing_slicing)]

mod arch;
mod cfi;
mod i386;
mod modules;
mod page_cache;
mod signature;
mod walk;

pub use page_cache::ReadMemory;
pub use signature::{SignatureInput, VERSION, compute_signature, is_runtime};

use crate::crash::{Frame, Module};
use crate::elf::CoreLayout;
use modules::ModuleTable;
use page_cache::PageCache;
use walk::StackWalker;

/// Frames of the crashed thread that are unwound: enough to recognize a recursion.
const MAX_DEPTH: usize = 256;

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

    /// The frames of the crashed thread, innermost first, until `keep_going` returns false. Empty if the notes have no registers
    /// of a known architecture.
    pub fn crashed_thread(&mut self, keep_going: &dyn Fn() -> bool) -> Vec<Frame> {
        let Some(thread) = self.layout.notes.threads.first() else { return Vec::new() };
        let registers = thread.registers;
        StackWalker::new(&mut self.pages, &mut self.modules, registers).frames(registers, MAX_DEPTH, keep_going)
    }

    /// Thread id and frames of every other thread, at most `max_depth` frames of each, until `keep_going` returns false.
    pub fn other_threads(&mut self, max_depth: usize, keep_going: &dyn Fn() -> bool) -> Vec<(u32, Vec<Frame>)> {
        let Some((crashed, others)) = self.layout.notes.threads.split_first() else { return Vec::new() };
        let mut walker = StackWalker::new(&mut self.pages, &mut self.modules, crashed.registers);
        let others = others.iter().take_while(|_| keep_going());
        others.map(|thread| (thread.tid, walker.frames(thread.registers, max_depth, keep_going))).collect()
    }

    /// The modules of the frames, by the numbers that the frames have, and after them the others that have code, which are
    /// read until `keep_going` returns false.
    pub fn into_modules(mut self, keep_going: &dyn Fn() -> bool) -> Vec<Module> {
        self.modules.read_all(&mut self.pages, keep_going);
        self.modules.into_modules()
    }
}
