//! Which ELF file an address lies in. Files are looked at when an address in them is asked for.

use super::pages::Pages;
use crate::crash::Module;
use crate::elf::{self, CoreLayout, Image, Load};
use object::elf::PF_W;
use std::collections::HashMap;
use std::ops::Range;

/// A mapped ELF file.
pub(super) struct Loaded {
    pub(super) module: Module,
    /// Where the index of its unwind tables is in memory.
    pub(super) eh_frame_hdr: Option<Range<u64>>,
}

/// A file whose parts lie one behind the other in the address space, its beginning first.
struct Group {
    range: Range<u64>,
    path: String,
}

/// The modules of a process.
pub(super) struct Modules<'a> {
    layout: &'a CoreLayout,
    groups: Vec<Group>,
    /// By their place among the groups; `None`: no ELF file.
    places: HashMap<usize, Option<u32>>,
    /// Those that were looked at.
    loaded: Vec<Loaded>,
}

/// More of them are not told: the record goes through a message. Those that frames lie in come first.
pub(super) const MAX_MODULES: usize = 256;
const NOTES_PER_MODULE: usize = 8;
/// The name of the kernel's own module.
pub(super) const VDSO: &str = "[vdso]";

impl<'a> Modules<'a> {
    pub(super) fn new(layout: &'a CoreLayout) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for file in &layout.dump.files {
            match groups.last_mut() {
                Some(group) if group.path == file.path && file.offset != 0 => group.range.end = file.end,
                _ => groups.push(Group { range: file.start..file.end, path: file.path.clone() }),
            }
        }
        if let Some(load) = layout.dump.vdso.and_then(|at| layout.mapping(at)) {
            groups.push(Group { range: load.address..load.address + load.length, path: VDSO.to_owned() });
        }
        groups.sort_by_key(|group| group.range.start);
        Self { layout, groups, places: HashMap::new(), loaded: Vec::new() }
    }

    /// Whether instructions may lie there.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.layout.is_code(address)
    }

    /// What is left of a stack from `address` on.
    pub(super) fn stack(&self, address: u64) -> Option<Range<u64>> {
        /// An overflowing stack pointer is below its stack, in the gap or the guard that no stack grows into.
        const GUARD: u64 = 1 << 20;
        let is_stack = |load: &&Load| load.flags & PF_W != 0;
        if let Some(load) = self.layout.mapping(address).filter(is_stack) {
            return Some(address..load.address + load.length);
        }
        let load = self.layout.next_mapping(address, |load| is_stack(&load))?;
        (load.address - address <= GUARD).then_some(load.address..load.address + load.length)
    }

    /// The number of the module at `address`.
    pub(super) fn at(&mut self, pages: &mut Pages<'_>, address: u64) -> Option<u32> {
        let next = self.groups.partition_point(|group| group.range.start <= address);
        let place = next.checked_sub(1).filter(|place| address < self.groups[*place].range.end)?;
        self.load(pages, place)
    }

    pub(super) fn get(&self, number: u32) -> Option<&Loaded> {
        self.loaded.get(number as usize)
    }

    /// Looks at all of them, while `go_on` says so.
    pub(super) fn load_all(&mut self, pages: &mut Pages<'_>, go_on: &dyn Fn() -> bool) {
        for place in 0..self.groups.len() {
            if !go_on() {
                return;
            }
            // Only what has instructions is a module; fonts and databases are mapped as well.
            let range = self.groups[place].range.clone();
            if self.layout.has_code(range) {
                self.load(pages, place);
            }
        }
    }

    /// The modules that were looked at.
    pub(super) fn into_modules(self) -> Vec<Module> {
        self.loaded.into_iter().map(|loaded| loaded.module).collect()
    }

    fn load(&mut self, pages: &mut Pages<'_>, place: usize) -> Option<u32> {
        if let Some(known) = self.places.get(&place) {
            return *known;
        }
        let group = &self.groups[place];
        let number = (self.loaded.len() < MAX_MODULES).then_some(self.loaded.len() as u32);
        let image = elf::image(group.range.start, |at, length| pages.read(at, length));
        let number = number.filter(|_| image.is_some());
        self.places.insert(place, number);
        let loaded = look(pages, group, image?);
        self.loaded.extend(number.map(|_| loaded));
        number
    }
}

fn look(pages: &mut Pages<'_>, group: &Group, image: Image) -> Loaded {
    let mut notes = Vec::new();
    for range in image.notes.iter().take(NOTES_PER_MODULE) {
        notes.extend(pages.read(range.address, range.length as usize));
    }
    let module = Module {
        path: group.path.strip_suffix(" (deleted)").unwrap_or(&group.path).to_owned(),
        build_id: notes.iter().find_map(|bytes| elf::build_id(bytes)),
        package: notes.iter().find_map(|bytes| elf::package(bytes)),
        bias: image.bias,
        start: group.range.start,
        end: group.range.end,
    };
    Loaded { module, eh_frame_hdr: image.eh_frame_hdr }
}
