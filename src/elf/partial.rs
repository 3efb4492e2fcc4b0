//! Headers for a core of which only some ranges are stored: each segment covers what there is of it, and p_filesz says so.

use super::class::ElfClass;
use super::layout::{CoreLayout, HEADER_LEN, counting_section, put, put_word};
use object::elf::{PN_XNUM, PT_LOAD, PT_NOTE};
use std::ops::Range;

/// A range of a core that is stored, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRange {
    /// The range in the complete core, in bytes from its beginning.
    pub original: Range<u64>,
    /// Where it begins in the partial core.
    pub stored_at: u64,
}

/// The headers of a partial core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialHeaders {
    /// The ELF header, in place of the kernel's.
    pub header: [u8; HEADER_LEN],
    /// The program headers, and a section header if e_phnum cannot hold their number; to be stored at the given offset.
    pub table: Vec<u8>,
}

/// The headers of a core that has only the `stored` ranges of `layout`; its notes begin at offset `notes_at`, its program
/// headers at `table_at`.
///
/// What is missing of a mapping is described as memory without bytes in the file (p_filesz < p_memsz). A debugger takes it from
/// the executable and libraries if they have it, and otherwise reports it as unavailable.
#[must_use]
pub fn partial_headers(layout: &CoreLayout, stored: &[StoredRange], notes_at: u64, table_at: u64) -> PartialHeaders {
    let mut stored: Vec<&StoredRange> = stored.iter().collect();
    stored.sort_by_key(|range| range.original.start);
    let (class, mut table) = (layout.class, Vec::new());
    let notes_len = layout.notes_range.end - layout.notes_range.start;
    push_segment(&mut table, class, PT_NOTE, 0, [notes_at, 0, 0, notes_len, 0, 4]);
    for load in &layout.loads {
        // The stored ranges of this mapping, and where each is stored.
        let mut pieces: Vec<(Range<u64>, u64)> = Vec::new();
        for range in &stored {
            // Stored ranges may overlap: what the previous piece covers is left out.
            let covered = pieces.last().map_or(0, |(piece, _)| piece.end);
            let begin = range.original.start.max(load.offset.start).max(covered);
            let end = range.original.end.min(load.offset.end);
            if begin >= end {
                continue;
            }
            let at = range.stored_at + (begin - range.original.start);
            match pieces.last_mut() {
                Some((piece, first)) if piece.end == begin && *first + (begin - piece.start) == at => piece.end = end,
                _ => pieces.push((begin..end, at)),
            }
        }
        let address = |offset: u64| load.address + (offset - load.offset.start);
        let mut push_load = |at: u64, from: u64, to: u64, file_len: u64| {
            push_segment(&mut table, class, PT_LOAD, load.flags, [at, from, 0, file_len, to - from, 4096]);
        };
        let first = pieces.first().map_or(load.address + load.length, |(piece, _)| address(piece.start));
        if first > load.address || pieces.is_empty() {
            push_load(table_at, load.address, first, 0);
        }
        let ends = pieces.iter().skip(1).map(|(next, _)| address(next.start)).chain([load.address + load.length]);
        for ((piece, at), end) in pieces.iter().zip(ends) {
            push_load(*at, address(piece.start), end, piece.end - piece.start);
        }
    }
    let count = table.len() / class.segment_len();
    let in_header = u16::try_from(count).ok().filter(|count| *count < PN_XNUM);
    let (section_at, section_len, sections) = match in_header {
        Some(_) => (0, 0_u16, 0_u16),
        None => {
            let (at, section) = (table_at + table.len() as u64, counting_section(class, count));
            let length = u16::try_from(section.len()).unwrap_or(u16::MAX);
            table.extend(section);
            (at, length, 1)
        }
    };
    let mut header = layout.header;
    let fields = class.header_fields();
    put_word(&mut header, class, fields.phoff, table_at);
    put_word(&mut header, class, fields.shoff, section_at);
    put(&mut header, fields.phnum, in_header.unwrap_or(PN_XNUM).to_le_bytes());
    put(&mut header, fields.shentsize, section_len.to_le_bytes());
    put(&mut header, fields.shnum, sections.to_le_bytes());
    PartialHeaders { header, table }
}

/// Appends a program header of the given type and flags. `values` are p_offset, p_vaddr, p_paddr, p_filesz, p_memsz and p_align.
fn push_segment(table: &mut Vec<u8>, class: ElfClass, kind: u32, flags: u32, values: [u64; 6]) {
    // The flags are before the last field of a 32-bit header, and before all others of a 64-bit one (elf(5)).
    let before = match class {
        ElfClass::Elf32 => 5,
        ElfClass::Elf64 => 0,
    };
    let (before, after) = values.split_at(before);
    let push_words = |table: &mut Vec<u8>, values: &[u64]| {
        values.iter().for_each(|value| table.extend(value.to_le_bytes().into_iter().take(class.word_len())));
    };
    table.extend_from_slice(&kind.to_le_bytes());
    push_words(table, before);
    table.extend_from_slice(&flags.to_le_bytes());
    push_words(table, after);
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::super::layout::tests::{CLASSES, headers, headers_of};
    use super::*;
    use object::LittleEndian;
    use object::elf::{FileHeader32, FileHeader64};
    use object::read::elf::{FileHeader, ProgramHeader};
    use proptest::prelude::*;

    /// Offset, address, and lengths in the file and in memory of the mappings that these headers describe.
    fn read(partial: &PartialHeaders, table_at: usize) -> Vec<(u64, u64, u64, u64)> {
        match ElfClass::of(&partial.header).unwrap() {
            ElfClass::Elf32 => read_as::<FileHeader32<LittleEndian>>(partial, table_at),
            ElfClass::Elf64 => read_as::<FileHeader64<LittleEndian>>(partial, table_at),
        }
    }

    fn read_as<Elf: FileHeader<Endian = LittleEndian>>(
        partial: &PartialHeaders,
        table_at: usize,
    ) -> Vec<(u64, u64, u64, u64)> {
        let mut file = partial.header.to_vec();
        file.resize(table_at, 0);
        file.extend_from_slice(&partial.table);
        let header = Elf::parse(file.as_slice()).unwrap();
        let table = header.program_headers(LittleEndian, file.as_slice()).unwrap();
        let of = LittleEndian;
        let loads = table.iter().filter(|entry| entry.p_type(of) == PT_LOAD && entry.p_flags(of) == 6);
        let place = |entry: &Elf::ProgramHeader| {
            (entry.p_offset(of).into(), entry.p_vaddr(of).into(), entry.p_filesz(of).into(), entry.p_memsz(of).into())
        };
        loads.map(place).collect()
    }

    #[test]
    fn stored_ranges_have_bytes_and_the_rest_has_none() {
        for class in CLASSES {
            let loads = [(0x10000, 0x8000, 0x8000), (0x40000, 0x2000, 0x3000)];
            let layout = CoreLayout::read(&headers_of(class, &loads, b"")).unwrap();
            // The first mapping is at 0x1000 in the complete core. Stored are its first page, in place, and one from its middle.
            let stored = [
                StoredRange { original: 0..0x2000, stored_at: 0 },
                StoredRange { original: 0x5000..0x6000, stored_at: 0x2000 },
            ];
            let partial = partial_headers(&layout, &stored, 200, 0x3000);
            assert_eq!(
                read(&partial, 0x3000),
                [(0x1000, 0x10000, 0x1000, 0x4000), (0x2000, 0x14000, 0x1000, 0x4000), (0x3000, 0x40000, 0, 0x3000)]
            );
        }
    }

    #[test]
    fn a_section_header_counts_too_many_program_headers() {
        for class in CLASSES {
            let mut layout = CoreLayout::read(&headers_of(class, &[(0x10000, 0x1000, 0x1000)], b"")).unwrap();
            layout.loads = vec![layout.loads[0].clone(); 70_000];
            let partial = partial_headers(&layout, &[], 200, 0x1000);
            assert_eq!(read(&partial, 0x1000).len(), 70_000);
        }
    }

    proptest! {
        #[test]
        fn every_byte_of_memory_is_described_once(
            cuts in prop::collection::vec((0..20_u64, 1..6_u64), 0..6), missing in any::<bool>(),
        ) {
            let loads = [(0x10000, 0x8000, 0x8000), (0x40000, 0x2000, 0x3000), (0x80000, 0x4000, 0x4000)];
            let layout = CoreLayout::read(&headers(&loads, b"")).unwrap();
            let mut at = if missing { 0x100 } else { 0x10000 };
            let mut stored = Vec::new();
            for (begin, length) in cuts {
                stored.push(StoredRange { original: begin * 0x1000..(begin + length) * 0x1000, stored_at: at });
                at += length * 0x1000;
            }
            let entries = read(&partial_headers(&layout, &stored, 0, 0x100000), 0x100000);
            // In order, without gaps or overlaps, and as long as the mappings are.
            let mut expected = loads.iter().map(|(address, _, length)| (*address, *length)).peekable();
            let (mut address, mut left) = expected.next().unwrap();
            for (offset, from, in_file, in_memory) in entries {
                if left == 0 {
                    (address, left) = expected.next().unwrap();
                }
                prop_assert_eq!(from, address);
                prop_assert!(in_file <= in_memory && in_memory <= left);
                address += in_memory;
                left -= in_memory;
                for page in (0..in_file).step_by(0x1000) {
                    // A stored range has this page, at the offset that the program header gives.
                    let original = layout.file_range(from + page).unwrap().start;
                    prop_assert!(stored.iter().any(|range| range.original.contains(&original)
                        && range.stored_at + (original - range.original.start) == offset + page));
                }
            }
            prop_assert!(left == 0 && expected.next().is_none());
        }
    }
}
