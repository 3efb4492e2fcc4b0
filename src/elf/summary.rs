//! The first bytes of a core, 32-bit or 64-bit: whether it is one, and how long it will be.

use object::elf::{ET_CORE, FileHeader32, FileHeader64, PN_XNUM, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadRef};
use thiserror::Error;

/// Longest headers that are accepted, in bytes. A program header has 56 bytes and vm.max_map_count is 65,530 by default,
/// a million on the largest hosts.
pub const MAX_HEADERS: usize = 64 << 20;

/// Why bytes are not the headers of a core.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ElfError {
    /// There are no bytes.
    #[error("the stream is empty")]
    Empty,
    /// Too short, or without the ELF magic.
    #[error("the stream does not begin with an ELF header")]
    NotElf,
    /// An ELF file of another type (e_type).
    #[error("an ELF file of type {0}, not a core")]
    NotCore(u16),
    /// Headers that contradict each other, or that the kernel would not write.
    #[error("the program headers are not where the ELF header says")]
    Headers,
}

/// What the first bytes of a core tell about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreSummary {
    /// Length in bytes according to the program headers; `None` if some of them are missing from the bytes given.
    pub expected_len: Option<u64>,
    /// Offset and length of the notes, in bytes. They are the first segment (elf_core_dump in fs/binfmt_elf.c).
    pub notes: Option<(u64, u64)>,
}

/// Reads the headers of a core from its first bytes.
///
/// # Errors
/// The bytes are not those of a core. Headers that are incomplete are not an error: what they do not tell is `None`.
pub fn summarize(bytes: &[u8]) -> Result<CoreSummary, ElfError> {
    if bytes.is_empty() {
        return Err(ElfError::Empty);
    }
    if let Ok(header) = FileHeader64::<Endianness>::parse(bytes) {
        summarize_as(header, bytes)
    } else if let Ok(header) = FileHeader32::<Endianness>::parse(bytes) {
        summarize_as(header, bytes)
    } else {
        Err(ElfError::NotElf)
    }
}

fn summarize_as<Elf: FileHeader<Endian = Endianness>>(header: &Elf, bytes: &[u8]) -> Result<CoreSummary, ElfError> {
    let endian = header.endian().map_err(|_| ElfError::NotElf)?;
    let kind = header.e_type(endian);
    if kind != ET_CORE {
        return Err(ElfError::NotCore(kind));
    }
    let mut summary = CoreSummary { expected_len: None, notes: None };
    let table: u64 = header.e_phoff(endian).into();
    let Ok(first) = bytes.read_at::<Elf::ProgramHeader>(table) else { return Ok(summary) };
    let notes_offset: u64 = first.p_offset(endian).into();
    let is_notes = first.p_type(endian) == PT_NOTE;
    if is_notes {
        summary.notes = Some((notes_offset, first.p_filesz(endian).into()));
    }
    let mut count = usize::from(header.e_phnum(endian));
    if count == usize::from(PN_XNUM) {
        // From 65,535 program headers on their number is in a section header that follows the memory (elf(5)), which has
        // not arrived yet. The kernel writes the notes directly after the table, so they tell where it ends.
        let length = notes_offset.checked_sub(table).filter(|_| is_notes).ok_or(ElfError::Headers)?;
        count = usize::try_from(length).map_err(|_| ElfError::Headers)? / size_of::<Elf::ProgramHeader>();
    }
    if count * size_of::<Elf::ProgramHeader>() > MAX_HEADERS {
        return Err(ElfError::Headers);
    }
    if let Ok(segments) = bytes.read_slice_at::<Elf::ProgramHeader>(table, count) {
        let ends = segments.iter().map(|segment| {
            let (offset, length): (u64, u64) = (segment.p_offset(endian).into(), segment.p_filesz(endian).into());
            offset.saturating_add(length)
        });
        summary.expected_len = ends.max();
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_that_are_not_a_core_are_refused() {
        assert_eq!(summarize(b""), Err(ElfError::Empty));
        assert_eq!(summarize(b"\x7fELF"), Err(ElfError::NotElf));
        assert_eq!(summarize(&[0x41; 4096]), Err(ElfError::NotElf));
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert!(matches!(summarize(&program), Err(ElfError::NotCore(2 | 3))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..4096), cut in 0..4096_usize) {
            let _ = summarize(&bytes);
            // Again with a valid identification, so that the code behind that check is reached.
            let ident = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0];
            for (byte, valid) in bytes.iter_mut().zip(ident) {
                *byte = valid;
            }
            bytes.truncate(cut);
            let _ = summarize(&bytes);
        }
    }
}
