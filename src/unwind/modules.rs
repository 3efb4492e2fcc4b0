//! The ELF files that are mapped, and which of them an address is in. A file's headers are read when they are first needed.

use super::page_cache::PageCache;
use crate::crash::Module;
use crate::crash::text::file_name;
use crate::elf::{self, CoreLayout, ElfClass, LoadSegment, MappedFile, MappedImage};
use object::elf::{ELFDATA2MSB, ET_DYN, ET_EXEC, PF_W};
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
    /// The end of its first part.
    first_end: u64,
    path: String,
}

impl FileSpan {
    /// Whether `file`, the next mapping of a file, is a further part of this one. A part that is mapped a second time elsewhere is none: V8 has a
    /// copy of its own code near that which it compiles.
    fn is_continued_by(&self, file: &MappedFile) -> bool {
        /// No linker leaves more between two parts, in bytes.
        const MAX_GAP: u64 = 1 << 30;
        self.path == file.path && file.offset != 0 && file.start.saturating_sub(self.range.end) <= MAX_GAP
    }
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
/// Offsets of fields of `Elf64_Ehdr` and `Elf32_Ehdr` (elf(5)).
const E_TYPE: usize = 16;
const E_MACHINE: usize = 18;
const NOTES_PER_MODULE: usize = 8;

impl<'a> ModuleTable<'a> {
    pub(super) fn new(layout: &'a CoreLayout) -> Self {
        let mut spans: Vec<FileSpan> = Vec::new();
        for file in &layout.notes.files {
            match spans.last_mut() {
                Some(span) if span.is_continued_by(file) => span.range.end = file.end,
                _ => {
                    let (range, first_end) = (file.start..file.end, file.end);
                    spans.push(FileSpan { range, first_end, path: file.path.clone() });
                }
            }
        }
        if let Some(load) = layout.notes.vdso.and_then(|address| layout.segment_at(address)) {
            let range = load.address..load.address + load.length;
            spans.push(FileSpan { first_end: range.end, range, path: Module::VDSO.to_owned() });
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

    /// The program that an emulator runs, as its build-id, else its file name, and its first part in memory: the first mapped file that is a program
    /// for another machine and in several parts, as a loader maps it and nobody who only reads it. Libraries do not count.
    pub(super) fn guest(&mut self, pages: &mut PageCache<'_>) -> Option<(String, Range<u64>)> {
        let of_core = || self.layout.header.get(E_MACHINE..)?.first_chunk().copied().map(u16::from_le_bytes);
        let own = self.own_machine(pages).or_else(of_core)?;
        let is_guest = |span: &FileSpan, pages: &mut PageCache<'_>| {
            span.first_end < span.range.end
                && !file_name(&span.path).contains(".so")
                && machine_of_program(pages, span.range.start).is_some_and(|machine| machine != own)
        };
        let index = (0..self.spans.len().min(MAX_MODULES))
            .find(|index| self.spans.get(*index).is_some_and(|span| is_guest(span, pages)))?;
        let build_id = self.load(pages, index).and_then(|number| self.get(number)?.module.build_id.clone());
        let span = self.spans.get(index)?;
        let name = || file_name(span.path.strip_suffix(" (deleted)").unwrap_or(&span.path)).to_owned();
        Some((build_id.unwrap_or_else(name), span.range.start..span.first_end))
    }

    /// The machine of the program that the kernel started. That of the core is another one if a 64-bit process died in 32-bit code.
    fn own_machine(&self, pages: &mut PageCache<'_>) -> Option<u16> {
        let (table, _) = self.layout.notes.program_headers?;
        let span = self.spans.iter().find(|span| span.range.contains(&table))?;
        machine_of_program(pages, span.range.start)
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

/// The e_machine of the executable or shared object at `address`; `None` if there is none (elf(5)).
fn machine_of_program(pages: &mut PageCache<'_>, address: u64) -> Option<u16> {
    const EXECUTABLES: Range<u16> = ET_EXEC..ET_DYN + 1;
    let header = pages.read(address, E_MACHINE + 2)?;
    let [b'\x7f', b'E', b'L', b'F', _, order, ..] = header.as_slice() else { return None };
    let number = |at: usize| {
        let bytes = *header.get(at..)?.first_chunk()?;
        Some(if *order == ELFDATA2MSB { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    };
    number(E_TYPE).filter(|kind| EXECUTABLES.contains(kind))?;
    number(E_MACHINE)
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
        owner: None,
        bias: image.bias,
        start: span.range.start,
        end: span.range.end,
    };
    LoadedModule { module, eh_frame_hdr: image.eh_frame_hdr }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_mapped_again_far_away_is_not_of_the_module() {
        let span = FileSpan { range: 0x40_0000..0x60_0000, first_end: 0x50_0000, path: "/usr/bin/node".to_owned() };
        let part = |path: &str, start: u64, offset: u64| MappedFile {
            start,
            end: start + 0x1000,
            offset,
            path: path.to_owned(),
        };
        assert!(span.is_continued_by(&part("/usr/bin/node", 0x60_0000, 0x20_0000)));
        assert!(span.is_continued_by(&part("/usr/bin/node", 0x80_0000, 0x20_0000)), "after what is aligned or empty");
        assert!(!span.is_continued_by(&part("/usr/bin/node", 0x7f2a_4760_0000, 0x14c_4000)));
        assert!(!span.is_continued_by(&part("/usr/bin/node", 0x60_0000, 0)), "loaded again");
        assert!(!span.is_continued_by(&part("/usr/lib/x.so", 0x60_0000, 0x20_0000)));
    }
}
