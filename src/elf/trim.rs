//! Headers for a core of which only parts are there: p_filesz trimmed, every part where it is.

use super::layout::{CoreLayout, HEADER_LEN, SEGMENT_LEN, counting_section};
use object::elf::{PN_XNUM, PT_LOAD, PT_NOTE};
use std::ops::Range;

/// A part of a core, and where it lies in the trimmed one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it lies in the whole core.
    pub whole: Range<u64>,
    /// Where it begins in the trimmed core.
    pub at: u64,
}

/// The headers of a trimmed core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// The ELF header, in place of the kernel's.
    pub header: [u8; HEADER_LEN],
    /// The program headers, and a section header if they are too many to be counted otherwise; to stand at `table_at`.
    pub table: Vec<u8>,
}

/// Headers of a core that has `parts` of `layout`, its notes beginning at `notes_at`, and the program headers at `table_at`.
///
/// What is missing of a mapping stays in it as memory without bytes in the file (p_filesz < p_memsz), which debuggers take
/// from the executable and libraries where those have it, and otherwise call unavailable.
pub fn trimmed(layout: &CoreLayout, parts: &[Part], notes_at: u64, table_at: u64) -> Trimmed {
    let mut parts: Vec<&Part> = parts.iter().collect();
    parts.sort_by_key(|part| part.whole.start);
    let mut table = Vec::new();
    let notes_length = layout.notes.end - layout.notes.start;
    push(&mut table, PT_NOTE, 0, [notes_at, 0, 0, notes_length, 0, 4]);
    for load in &layout.loads {
        let mut pieces: Vec<(Range<u64>, u64)> = Vec::new();
        for part in &parts {
            // Parts may overlap: what a piece before has is not said twice.
            let begin = part.whole.start.max(load.offset.start).max(pieces.last().map_or(0, |(piece, _)| piece.end));
            let end = part.whole.end.min(load.offset.end);
            if begin >= end {
                continue;
            }
            let at = part.at + (begin - part.whole.start);
            match pieces.last_mut() {
                Some((piece, first)) if piece.end == begin && *first + (begin - piece.start) == at => piece.end = end,
                _ => pieces.push((begin..end, at)),
            }
        }
        let address = |offset: u64| load.address + (offset - load.offset.start);
        let mut entry = |at: u64, from: u64, to: u64, in_file: u64| {
            push(&mut table, PT_LOAD, load.flags, [at, from, 0, in_file, to - from, 4096]);
        };
        let first = pieces.first().map_or(load.address + load.length, |(piece, _)| address(piece.start));
        if first > load.address || pieces.is_empty() {
            entry(table_at, load.address, first, 0);
        }
        let ends = pieces.iter().skip(1).map(|(next, _)| address(next.start)).chain([load.address + load.length]);
        for ((piece, at), end) in pieces.iter().zip(ends) {
            entry(*at, address(piece.start), end, piece.end - piece.start);
        }
    }
    let count = table.len() / SEGMENT_LEN;
    let mut header = layout.header;
    header[32..40].copy_from_slice(&table_at.to_le_bytes());
    let counted = u16::try_from(count).ok().filter(|count| *count < PN_XNUM);
    header[56..58].copy_from_slice(&counted.unwrap_or(PN_XNUM).to_le_bytes());
    let (sections_at, section_length, sections) = match counted {
        Some(_) => (0, 0, 0_u16),
        None => {
            let at = table_at + table.len() as u64;
            table.extend(counting_section(count));
            (at, 64_u16, 1)
        }
    };
    header[40..48].copy_from_slice(&sections_at.to_le_bytes());
    header[58..60].copy_from_slice(&section_length.to_le_bytes());
    header[60..62].copy_from_slice(&sections.to_le_bytes());
    Trimmed { header, table }
}

/// A program header: type, flags, then offset, address, physical address, length in the file, in memory, alignment.
fn push(table: &mut Vec<u8>, kind: u32, flags: u32, values: [u64; 6]) {
    table.extend_from_slice(&kind.to_le_bytes());
    table.extend_from_slice(&flags.to_le_bytes());
    values.iter().for_each(|value| table.extend_from_slice(&value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::super::layout::tests::head;
    use super::*;
    use object::LittleEndian;
    use object::elf::{FileHeader64, ProgramHeader64};
    use object::read::elf::{FileHeader, ProgramHeader};
    use proptest::prelude::*;

    fn read(trimmed: &Trimmed, table_at: usize) -> Vec<(u64, u64, u64, u64)> {
        let mut file = trimmed.header.to_vec();
        file.resize(table_at, 0);
        file.extend_from_slice(&trimmed.table);
        let header = FileHeader64::<LittleEndian>::parse(file.as_slice()).unwrap();
        let table: &[ProgramHeader64<LittleEndian>] = header.program_headers(LittleEndian, file.as_slice()).unwrap();
        let loads = table.iter().filter(|entry| entry.p_type(LittleEndian) == PT_LOAD);
        let of = LittleEndian;
        loads.map(|entry| (entry.p_offset(of), entry.p_vaddr(of), entry.p_filesz(of), entry.p_memsz(of))).collect()
    }

    #[test]
    fn parts_stand_where_they_are_and_the_rest_has_no_bytes() {
        let layout = CoreLayout::read(&head(&[(0x10000, 0x8000, 0x8000), (0x40000, 0x2000, 0x3000)], b"")).unwrap();
        // The first mapping lies at 0x1000 in the whole core: its first page as it was, and one of its middle at the end.
        let parts = [Part { whole: 0..0x2000, at: 0 }, Part { whole: 0x5000..0x6000, at: 0x2000 }];
        let trimmed = trimmed(&layout, &parts, 200, 0x3000);
        assert_eq!(
            read(&trimmed, 0x3000),
            [(0x1000, 0x10000, 0x1000, 0x4000), (0x2000, 0x14000, 0x1000, 0x4000), (0x3000, 0x40000, 0, 0x3000),]
        );
    }

    #[test]
    fn too_many_to_be_counted_are_counted_in_a_section_header() {
        let mut layout = CoreLayout::read(&head(&[(0x10000, 0x1000, 0x1000)], b"")).unwrap();
        layout.loads = vec![layout.loads[0].clone(); 70_000];
        let trimmed = trimmed(&layout, &[], 200, 0x1000);
        assert_eq!(read(&trimmed, 0x1000).len(), 70_000);
    }

    proptest! {
        #[test]
        fn every_byte_of_memory_is_said_once(
            cuts in prop::collection::vec((0..20_u64, 1..6_u64), 0..6), missing in any::<bool>(),
        ) {
            let loads = [(0x10000, 0x8000, 0x8000), (0x40000, 0x2000, 0x3000), (0x80000, 0x4000, 0x4000)];
            let layout = CoreLayout::read(&head(&loads, b"")).unwrap();
            let mut at = if missing { 0x100 } else { 0x10000 };
            let mut parts = Vec::new();
            for (begin, length) in cuts {
                parts.push(Part { whole: begin * 0x1000..(begin + length) * 0x1000, at });
                at += length * 0x1000;
            }
            let entries = read(&trimmed(&layout, &parts, 0, 0x100000), 0x100000);
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
                    // Where it is said to be, there is a part that has it.
                    let whole = layout.find(from + page).unwrap().start;
                    prop_assert!(parts.iter().any(|part| part.whole.contains(&whole)
                        && part.at + (whole - part.whole.start) == offset + page));
                }
            }
            prop_assert!(left == 0 && expected.next().is_none());
        }
    }
}
