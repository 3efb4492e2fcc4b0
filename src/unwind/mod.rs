//! The stack of a crashed process: frames from its parked memory or from its core, and the signature made of them.
//!
//! No file is opened: unwind tables, build-ids and package notes are mapped and read where the process has them. All bytes
//! are hostile; every loop is bounded, and the caller's clock ends the work.

mod cfi;
mod machine;
mod modules;
mod pages;
mod signature;
mod walk;

pub use pages::ReadMemory;
pub use signature::{SignatureInput, VERSION, compute_signature, is_runtime};

use crate::crash::{Frame, Module};
use crate::elf::CoreLayout;
use modules::Modules;
use pages::Pages;
use walk::StackWalker;

/// Frames of the crashed thread that are looked at: enough to see a recursion turn.
const DEPTH: usize = 256;

/// A process whose stacks are looked at.
pub struct Process<'a> {
    layout: &'a CoreLayout,
    pages: Pages<'a>,
    modules: Modules<'a>,
}

impl<'a> Process<'a> {
    /// The process whose core begins with `layout`, its memory read through `memory`.
    pub fn new(layout: &'a CoreLayout, memory: &'a dyn ReadMemory) -> Self {
        Self { layout, pages: Pages::new(memory), modules: Modules::new(layout) }
    }

    /// The crashed thread's frames, the innermost first, as far as `go_on` lets it look. Empty where the notes have no registers
    /// of an architecture that is known.
    pub fn crashed(&mut self, go_on: &dyn Fn() -> bool) -> Vec<Frame> {
        let Some(thread) = self.layout.dump.threads.first() else { return Vec::new() };
        let first = thread.registers;
        StackWalker::new(&mut self.pages, &mut self.modules, first).frames(first, DEPTH, go_on)
    }

    /// Id and frames of every other thread, `depth` frames at most of each, until `go_on` says no.
    pub fn others(&mut self, depth: usize, go_on: &dyn Fn() -> bool) -> Vec<(u32, Vec<Frame>)> {
        let threads = &self.layout.dump.threads;
        let Some(first) = threads.first() else { return Vec::new() };
        let mut walk = StackWalker::new(&mut self.pages, &mut self.modules, first.registers);
        let others = threads[1..].iter().take_while(|_| go_on());
        others.map(|thread| (thread.tid, walk.frames(thread.registers, depth, go_on))).collect()
    }

    /// All modules that have instructions, those of the frames before others.
    pub fn modules(mut self, go_on: &dyn Fn() -> bool) -> Vec<Module> {
        self.modules.load_all(&mut self.pages, go_on);
        self.modules.into_modules()
    }

    /// The modules that were looked at so far, by their numbers in the frames.
    pub fn module(&self, number: u32) -> Option<&Module> {
        self.modules.get(number).map(|loaded| &loaded.module)
    }
}
