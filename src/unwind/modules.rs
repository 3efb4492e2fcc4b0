//! The ELF files that are mapped, and which of them an address is in. A file's headers are read when they are first needed.

use super::page_cache::PageCache;
use crate::crash::Module;
use crate::elf::{self, CoreLayout, ElfClass, LoadSegment, MappedImage};
use object::elf::PF_W;
use std::collections::HashMap;
use std::ops::Range;

/// A mapped ELF file whose headers were read.
pub(super) struct LoadedModule {
    pub(super) module: Module,
    /// Where the index of its unwind tables is in memory (PT_GNU_EH_FRAME).
    pub(super) eh_frame_hdr: Option<Range<u64>>,
}

/// A mapped file: its beginning, and the parts of it that follow in the address space.
struct FileSpan {
    range: Range<u64>,
    path: String,
}

/// The modules of a process.
pub(super) struct ModuleTable<'a> {
    layout: &'a CoreLayout,
    /// Mapped files, sorted by address.
    spans: Vec<FileSpan>,
    /// For each span that was looked at the number of its module; `None` if it is not an ELF file, or one too many.
    numbers: HashMap<usize, Option<u32>>,
    /// The modules that were read, by number.
    loaded: Vec<LoadedModule>,
}

/// Modules beyond this number are ignored, since the record has to fit into a message. Those of the frames are read first.
const MAX_MODULES: usize = 256;
const NOTES_PER_MODULE: usize = 8;
/// The path that stands for the vDSO, which is not a file.
pub(super) const VDSO: &str = "[vdso]";

impl<'a> ModuleTable<'a> {
    pub(super) fn new(layout: &'a CoreLayout) -> Self {
        let mut spans: Vec<FileSpan> = Vec::new();
        for file in &layout.notes.files {
            match spans.last_mut() {
                Some(span) if span.path == file.path && file.offset != 0 => span.range.end = file.end,
                _ => spans.push(FileSpan { range: file.start..file.end, path: file.path.clone() }),
            }
        }
        if let Some(load) = layout.notes.vdso.and_then(|address| layout.segment_at(address)) {
            spans.push(FileSpan { range: load.address..load.address + load.length, path: VDSO.to_owned() });
        }
        spans.sort_by_key(|span| span.range.start);
        Self { layout, spans, numbers: HashMap::new(), loaded: Vec::new() }
    }

    /// The class of the process and its modules.
    pub(super) fn class(&self) -> ElfClass {
        self.layout.class
    }

    /// Whether `address` is in an executable mapping.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.layout.is_code(address)
    }

    /// The rest of the stack from `address` on.
    pub(super) fn stack_from(&self, address: u64) -> Option<Range<u64>> {
        /// After a stack overflow the stack pointer is below the stack, in the gap or guard pages there.
        const GUARD: u64 = 1 << 20;
        let is_stack = |load: &&LoadSegment| load.flags & PF_W != 0;
        if let Some(load) = self.layout.segment_at(address).filter(is_stack) {
            return Some(address..load.address + load.length);
        }
        let load = self.layout.next_segment(address, |load| is_stack(&load))?;
        (load.address - address <= GUARD).then_some(load.address..load.address + load.length)
    }

    /// The number of the module that `address` is in.
    pub(super) fn number_at(&mut self, pages: &mut PageCache<'_>, address: u64) -> Option<u32> {
        let next = self.spans.partition_point(|span| span.range.start <= address);
        let index = next.checked_sub(1)?;
        self.spans.get(index).filter(|span| address < span.range.end)?;
        self.load(pages, index)
    }

    /// The module with this number.
    pub(super) fn get(&self, number: u32) -> Option<&LoadedModule> {
        self.loaded.get(number as usize)
    }

    /// Reads all modules, until `keep_going` returns false.
    pub(super) fn read_all(&mut self, pages: &mut PageCache<'_>, keep_going: &dyn Fn() -> bool) {
        for index in 0..self.spans.len() {
            if !keep_going() {
                return;
            }
            // A mapped file without code, such as a font or a database, is not a module.
            if self.spans.get(index).is_some_and(|span| self.layout.has_code(span.range.clone())) {
                self.load(pages, index);
            }
        }
    }

    /// The modules that were read, by number.
    pub(super) fn into_modules(self) -> Vec<Module> {
        self.loaded.into_iter().map(|loaded| loaded.module).collect()
    }

    fn load(&mut self, pages: &mut PageCache<'_>, index: usize) -> Option<u32> {
        if let Some(known) = self.numbers.get(&index) {
            return *known;
        }
        let span = self.spans.get(index)?;
        let next = u32::try_from(self.loaded.len()).ok().filter(|_| self.loaded.len() < MAX_MODULES);
        let image = elf::read_image(span.range.start, |address, length| pages.read(address, length));
        let number = next.filter(|_| image.is_some());
        self.numbers.insert(index, number);
        let module = read_module(pages, span, image?);
        self.loaded.extend(number.map(|_| module));
        number
    }
}

fn read_module(pages: &mut PageCache<'_>, span: &FileSpan, image: MappedImage) -> LoadedModule {
    let mut notes = Vec::new();
    for range in image.notes.iter().take(NOTES_PER_MODULE) {
        notes.extend(usize::try_from(range.length).ok().and_then(|length| pages.read(range.address, length)));
    }
    let module = Module {
        path: span.path.strip_suffix(" (deleted)").unwrap_or(&span.path).to_owned(),
        build_id: notes.iter().find_map(|bytes| elf::build_id(bytes)),
        package: notes.iter().find_map(|bytes| elf::package_metadata(bytes)),
        bias: image.bias,
        start: span.range.start,
        end: span.range.end,
    };
    LoadedModule { module, eh_frame_hdr: image.eh_frame_hdr }
}
