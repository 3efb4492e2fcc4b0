//! ELF: hostile bytes in, plain data out. No I/O, no panics, and bounded work for any input.
//!
//! The *headers* of a core are everything that the kernel writes before the memory: ELF header, program headers and notes
//! (elf_core_dump in fs/binfmt_elf.c).
#![deny(clippy::indexing_slicing)]

mod class;
mod core_headers;
mod crash_notes;
mod dynamic;
mod file_symbols;
mod image;
mod layout;
mod link_map;
mod note_types;
mod notes;
mod partial;
mod pclntab;
mod perf_map;
mod process_notes;
mod summary;
mod symbol_table;

pub use class::ElfClass;
pub use core_headers::{CoreAbi, CoreFrame, ProcessState, RegisterNote, Segment, StoppedImage, ThreadState};
pub use crash_notes::{CrashNotes, I386Registers, MappedFile, Registers, SigInfoNote, ThreadNote};
pub use dynamic::DynamicSymbols;
pub use file_symbols::{find_functions_in_file, find_in_file};
pub use image::{
    BEGINNING, MappedImage, NoteRange, build_id, build_id_of_file, note_ranges, package_metadata, read_beginning,
    read_build_id, read_image,
};
#[cfg(test)]
pub(crate) use layout::tests::headers as test_headers;
pub use layout::{
    CoreLayout, HEADER_LEN, LoadSegment, beginning_of_headers, headers_len, notes_range, unknown_machine,
};
pub use link_map::{LoadedLibrary, link_map_ranges, loaded_libraries};
pub use note_types::NT_PRSTATUS;
pub use partial::{PartialHeaders, StoredRange, partial_headers};
pub use pclntab::GoFunctions;
pub use perf_map::find_in_perf_map;
pub use process_notes::{ProcessNotes, process_notes};
pub use summary::{CoreSummary, ElfError, MAX_HEADERS, segment_end, summarize};
pub use symbol_table::FoundFunction;
