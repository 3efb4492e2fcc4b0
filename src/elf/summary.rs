//! The first bytes of a core, 32-bit or 64-bit: whether it is one, and how long it will be.

use super::class::ElfClass;
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
    /// Length in bytes according to the headers; `None` if the bytes given do not tell.
    pub expected_len: Option<u64>,
    /// Offset of the last program header, which tells the length: the kernel writes segments in their order. 0 without program headers.
    pub last_segment: u64,
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
    let mut summary = CoreSummary { expected_len: None, last_segment: 0, notes: None };
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
    let before_last = count.saturating_sub(1) * size_of::<Elf::ProgramHeader>();
    summary.last_segment = u64::try_from(before_last).ok().and_then(|before| table.checked_add(before)).unwrap_or(0);
    let sections: u64 = header.e_shoff(endian).into();
    if header.e_phnum(endian) == PN_XNUM && sections > 0 {
        // The core ends with the section header that has the number.
        summary.expected_len = sections.checked_add(size_of::<Elf::SectionHeader>() as u64);
    } else if let Ok(segments) = bytes.read_slice_at::<Elf::ProgramHeader>(table, count) {
        let ends = segments.iter().map(|segment| {
            let (offset, length): (u64, u64) = (segment.p_offset(endian).into(), segment.p_filesz(endian).into());
            offset.saturating_add(length)
        });
        summary.expected_len = ends.max();
    }
    Ok(summary)
}

/// Where the segment with the program header `bytes` ends in the core.
#[must_use]
pub fn segment_end(bytes: &[u8], class: ElfClass) -> Option<u64> {
    fn end<Elf: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Option<u64> {
        let segment = bytes.read_at::<Elf::ProgramHeader>(0).ok()?;
        let (offset, length): (u64, u64) =
            (segment.p_offset(Endianness::Little).into(), segment.p_filesz(Endianness::Little).into());
        offset.checked_add(length)
    }
    match class {
        ElfClass::Elf32 => end::<FileHeader32<Endianness>>(bytes),
        ElfClass::Elf64 => end::<FileHeader64<Endianness>>(bytes),
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
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

    #[test]
    fn the_last_program_header_tells_the_length_of_a_core_whose_table_is_cut_off() {
        let headers =
            crate::elf::test_headers(&[(0x1000, 4096, 4096), (0x8000, 8192, 8192), (0x20000, 4096, 4096)], &[]);
        let whole = summarize(&headers).unwrap();
        let cut = summarize(&headers[..200]).unwrap();
        assert_eq!((cut.expected_len, cut.last_segment), (None, 64 + 3 * 56));
        let last = usize::try_from(cut.last_segment).unwrap();
        assert_eq!(segment_end(&headers[last..][..ElfClass::Elf64.segment_len()], ElfClass::Elf64), whole.expected_len);
        assert_eq!(segment_end(&headers[last..][..20], ElfClass::Elf64), None);
    }

    #[test]
    fn a_core_with_very_many_mappings_ends_with_their_number() {
        let mut headers = crate::elf::test_headers(&[(0x1000, 4096, 4096)], &[]);
        headers[40..48].copy_from_slice(&12_345_678_u64.to_le_bytes());
        headers[56..58].copy_from_slice(&PN_XNUM.to_le_bytes());
        assert_eq!(summarize(&headers).unwrap().expected_len, Some(12_345_678 + 64));
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
