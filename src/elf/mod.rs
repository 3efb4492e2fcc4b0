//! ELF: hostile bytes in, plain data out. Bounded, no panics, no I/O.

mod core;
mod dump;
mod image;
mod layout;
mod link_map;
mod notes;
mod trim;

pub use self::core::{CoreHead, ElfError, MAX_HEADERS, inspect};
pub use dump::{Dump, MappedFile, Registers, SigInfo, Thread};
pub use image::{Image, NoteRange, build_id, build_id_of_file, image, note_ranges, package};
#[cfg(test)]
pub(crate) use layout::tests::head as test_head;
pub use layout::{CoreLayout, HEADER_LEN, Load, head_length};
pub use link_map::link_map;
pub use notes::{ProcessNotes, process_notes};
pub use trim::{Part, Trimmed, trimmed};
