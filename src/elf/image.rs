//! An executable as it lies in memory: where its notes are, and the build-id among them.

use super::notes::notes;
use object::elf::{
    FileHeader32, FileHeader64, PT_GNU_EH_FRAME, PT_LOAD, PT_NOTE, PT_PHDR, ProgramHeader32, ProgramHeader64,
};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, LittleEndian, ReadRef};
use std::ops::Range;

/// A stretch of notes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoteRange {
    /// Where it begins in the process.
    pub address: u64,
    /// How long it is.
    pub length: u64,
}

const NT_GNU_BUILD_ID: u32 = 3;
const NT_GO_BUILD_ID: u32 = 4;
const NT_FDO_PACKAGING_METADATA: u32 = 0xcafe_1a7e;
/// Distributions write some 150 bytes.
const MAX_PACKAGE: usize = 1024;
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

/// An ELF file as it is mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// What its headers' addresses are shifted by.
    pub bias: u64,
    /// Where its notes are in memory.
    pub notes: Vec<NoteRange>,
    /// Where the index of its unwind tables is in memory (PT_GNU_EH_FRAME).
    pub eh_frame_hdr: Option<Range<u64>>,
}

/// No linker makes more program headers than fit into so many bytes.
const MAX_TABLE: usize = 4096;
/// PT_LOAD begins on the page that its file offset is in.
const PAGE_MASK: u64 = !0xfff;

/// The image whose ELF header is at `start`. `read` reads a stretch of memory, whole or not at all. Images of other than 64
/// bits and little-endian are none.
pub fn image(start: u64, mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<Image> {
    let of = LittleEndian;
    let bytes = read(start, size_of::<FileHeader64<LittleEndian>>())?;
    let header: &FileHeader64<LittleEndian> = bytes.as_slice().read_at(0).ok()?;
    if !header.is_supported() || !header.is_class_64() || header.e_ident.data != 1 {
        return None;
    }
    let size = size_of::<ProgramHeader64<LittleEndian>>();
    let count = usize::from(header.e_phnum(of)).min(MAX_TABLE / size);
    let table = read(start.checked_add(header.e_phoff(of))?, count * size)?;
    let table: &[ProgramHeader64<LittleEndian>] = table.as_slice().read_slice_at(0, count).ok()?;
    let is_first =
        |header: &&ProgramHeader64<LittleEndian>| header.p_type(of) == PT_LOAD && header.p_offset(of) & PAGE_MASK == 0;
    let first = table.iter().find(is_first)?;
    let bias = start.wrapping_sub(first.p_vaddr(of) & PAGE_MASK);
    let placed = |header: &ProgramHeader64<LittleEndian>| {
        let address = bias.wrapping_add(header.p_vaddr(of));
        NoteRange { address, length: header.p_memsz(of).min(MAX_RANGE) }
    };
    let notes = table.iter().filter(|header| header.p_type(of) == PT_NOTE).map(placed).collect();
    let index = table.iter().find(|header| header.p_type(of) == PT_GNU_EH_FRAME);
    let eh_frame_hdr = index.and_then(|header| {
        let begin = bias.wrapping_add(header.p_vaddr(of));
        Some(begin..begin.checked_add(header.p_memsz(of))?)
    });
    Some(Image { bias, notes, eh_frame_hdr })
}

/// The package metadata among the notes in `bytes`: JSON (systemd's "ELF Package Metadata", type 0xcafe1a7e of owner FDO).
pub fn package(bytes: &[u8]) -> Option<String> {
    let text = notes(bytes).find(|(kind, name, _)| *kind == NT_FDO_PACKAGING_METADATA && *name == b"FDO")?.2;
    let text = std::str::from_utf8(text).ok()?.trim_end_matches(['\0', '\n']);
    (!text.is_empty() && text.len() <= MAX_PACKAGE).then(|| text.to_owned())
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

/// The build-id among the notes in `bytes`, hexadecimal. Go's linker writes one of its own kind (owner Go, type 4): that is text, with
/// `go:` in front of it.
pub fn build_id(bytes: &[u8]) -> Option<String> {
    let of = |wanted: u32, owner: &[u8]| {
        notes(bytes).find(|(kind, name, _)| *kind == wanted && *name == owner).map(|(_, _, id)| id)
    };
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect();
    let gnu = of(NT_GNU_BUILD_ID, b"GNU").filter(|id| (4..=64).contains(&id.len())).map(hex);
    gnu.or_else(|| {
        let text = of(NT_GO_BUILD_ID, b"Go\0").or_else(|| of(NT_GO_BUILD_ID, b"Go"))?;
        let is_sound = (4..=128).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        std::str::from_utf8(text).ok().filter(|_| is_sound).map(|text| format!("go:{text}"))
    })
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
    fn the_image_of_this_very_program_is_found_at_its_first_address() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let first = maps.lines().find(|line| line.ends_with(exe.to_str().unwrap())).unwrap();
        let start = u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap();
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let read = |address: u64, length: usize| {
            let mut bytes = vec![0; length];
            std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, address).ok().map(|()| bytes)
        };
        let image = image(start, read).unwrap();
        assert_eq!(image.bias, start, "a position-independent program is linked at 0");
        let index = read(image.eh_frame_hdr.unwrap().start, 1).unwrap();
        assert_eq!(index, [1], "version 1 of .eh_frame_hdr");
        let id = image.notes.iter().find_map(|range| build_id(&read(range.address, range.length as usize).unwrap()));
        let head = std::fs::read("/proc/self/exe").unwrap()[..65536].to_vec();
        assert_eq!(id, build_id_of_file(&head));
    }

    #[test]
    fn go_has_a_build_id_of_its_own_kind() {
        let note = b"\x04\0\0\0\x05\0\0\0\x04\0\0\0Go\0\0a/b-c\0\0\0";
        assert_eq!(build_id(note).unwrap(), "go:a/b-c");
        let foreign = b"\x04\0\0\0\x05\0\0\0\x04\0\0\0Go\0\0a\nb-c\0\0\0";
        assert_eq!(build_id(foreign), None);
    }

    #[test]
    fn a_package_note_is_text() {
        let note = |text: &[u8]| {
            let mut bytes = [4, text.len() as u32, 0xcafe_1a7e].map(u32::to_le_bytes).concat();
            bytes.extend_from_slice(b"FDO\0");
            bytes.extend_from_slice(text);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        assert_eq!(package(&note(b"{\"type\":\"deb\"}\0")).unwrap(), "{\"type\":\"deb\"}");
        assert_eq!(package(&note(b"\xff\xff")), None);
        assert_eq!(package(&note(&[b'x'; 2000])), None);
    }

    #[test]
    fn cut_tables_and_foreign_notes_yield_nothing() {
        assert_eq!(note_ranges(&[0; 55], 0x1000, true), []);
        assert_eq!(build_id(b"\x04\0\0\0\x04\0\0\0\x03\0\0\0GNX\0abcd"), None);
        assert_eq!(build_id(b"\x04\0\0\0\xff\xff\xff\xff\x03\0\0\0GNU\0abcd"), None);
        assert_eq!(build_id(b"\x04\0\0\0\x04\0\0\0\x03\0\0\0GNU\0abcd").unwrap(), "61626364");
    }
}
