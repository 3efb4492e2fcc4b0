//! An executable as it lies in memory: where its notes are, and the build-id among them.

use super::notes::notes;
use object::elf::{FileHeader32, FileHeader64, PT_NOTE, PT_PHDR, ProgramHeader32, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadRef};

/// A stretch of notes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoteRange {
    /// Where it begins in the process.
    pub address: u64,
    /// How long it is.
    pub length: u64,
}

const NT_GNU_BUILD_ID: u32 = 3;
/// Longest range that is worth reading: a build-id has 20 bytes, and a package note some hundred.
const MAX_RANGE: u64 = 64 * 1024;

/// Where the notes of an image lie whose program headers (AT_PHDR) are `table`, found at `address`.
pub fn note_ranges(table: &[u8], address: u64, is_64bit: bool) -> Vec<NoteRange> {
    if is_64bit {
        ranges::<ProgramHeader64<Endianness>>(table, address)
    } else {
        ranges::<ProgramHeader32<Endianness>>(table, address)
    }
}

fn ranges<Header: ProgramHeader<Endian = Endianness>>(table: &[u8], address: u64) -> Vec<NoteRange> {
    let endian = Endianness::Little;
    let count = table.len() / size_of::<Header>();
    let Ok(headers) = table.read_slice_at::<Header>(0, count) else { return Vec::new() };
    // A position-independent program says in PT_PHDR where its table should lie; the difference is the load bias.
    let linked: Option<u64> =
        headers.iter().find(|header| header.p_type(endian) == PT_PHDR).map(|header| header.p_vaddr(endian).into());
    let bias = address.wrapping_sub(linked.unwrap_or(address));
    let notes = headers.iter().filter(|header| header.p_type(endian) == PT_NOTE);
    notes
        .map(|header| NoteRange {
            address: bias.wrapping_add(header.p_vaddr(endian).into()),
            length: header.p_memsz(endian).into().min(MAX_RANGE),
        })
        .collect()
}

/// The build-id of an ELF file, from its first bytes.
pub fn build_id_of_file(head: &[u8]) -> Option<String> {
    match FileHeader64::<Endianness>::parse(head) {
        Ok(header) => file_notes(header, head),
        Err(_) => file_notes(FileHeader32::<Endianness>::parse(head).ok()?, head),
    }
}

fn file_notes<Elf: FileHeader<Endian = Endianness>>(header: &Elf, head: &[u8]) -> Option<String> {
    let endian = header.endian().ok()?;
    let headers = header.program_headers(endian, head).ok()?;
    let notes = headers.iter().filter(|header| header.p_type(endian) == PT_NOTE);
    notes.filter_map(|header| header.data(endian, head).ok()).find_map(build_id)
}

/// The build-id among the notes in `bytes`, hexadecimal.
pub fn build_id(bytes: &[u8]) -> Option<String> {
    let id = notes(bytes).find(|(kind, name, _)| *kind == NT_GNU_BUILD_ID && *name == b"GNU").map(|(_, _, id)| id);
    id.filter(|id| (4..=64).contains(&id.len())).map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_id_of_this_very_program_is_found_in_its_memory() {
        let auxv = crate::crash::auxv::parse(&std::fs::read("/proc/self/auxv").unwrap());
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let read = |address: u64, length: u64| {
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, address).unwrap();
            bytes
        };
        let table = read(auxv.phdr.unwrap(), auxv.phnum.unwrap() * 56);
        let found = note_ranges(&table, auxv.phdr.unwrap(), true)
            .into_iter()
            .find_map(|range| build_id(&read(range.address, range.length)));
        let file = std::fs::read("/proc/self/exe").unwrap();
        let file = object::File::parse(file.as_slice()).unwrap();
        let expected = object::Object::build_id(&file).unwrap().unwrap();
        let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found.as_deref(), Some(expected.as_str()));
        let head = std::fs::read("/proc/self/exe").unwrap()[..65536].to_vec();
        assert_eq!(build_id_of_file(&head).as_deref(), Some(expected.as_str()));
    }

    #[test]
    fn cut_tables_and_foreign_notes_yield_nothing() {
        assert_eq!(note_ranges(&[0; 55], 0x1000, true), []);
        assert_eq!(build_id(b"\x04\0\0\0\x04\0\0\0\x03\0\0\0GNX\0abcd"), None);
        assert_eq!(build_id(b"\x04\0\0\0\xff\xff\xff\xff\x03\0\0\0GNU\0abcd"), None);
        assert_eq!(build_id(b"\x04\0\0\0\x04\0\0\0\x03\0\0\0GNU\0abcd").unwrap(), "61626364");
    }
}
