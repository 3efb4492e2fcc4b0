//! ELF: hostile bytes in, plain data out. Bounded, no panics, no I/O.

mod core;
mod image;
mod notes;

pub use self::core::{CoreHead, ElfError, MAX_HEADERS, inspect};
pub use image::{NoteRange, build_id, build_id_of_file, note_ranges};
pub use notes::{ProcessNotes, process_notes};
