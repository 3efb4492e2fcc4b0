//! An ELF file as it is mapped in memory: where its notes are, and the build-id and package metadata in them.

use super::class::ElfClass;
use super::notes::notes;
use crate::crash::text::to_hexadecimal;
use object::elf::{
    FileHeader32, FileHeader64, PF_W, PT_DYNAMIC, PT_GNU_EH_FRAME, PT_LOAD, PT_NOTE, PT_PHDR, ProgramHeader32,
    ProgramHeader64,
};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, LittleEndian, ReadRef};
use std::io;
use std::ops::Range;

/// A range of notes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoteRange {
    /// Address in the process.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
}

const NT_GNU_BUILD_ID: u32 = 3;
const NT_GO_BUILD_ID: u32 = 4;
const NT_FDO_PACKAGING_METADATA: u32 = 0xcafe_1a7e;
/// Longest package metadata that is accepted, in bytes; distributions write about 150.
const MAX_PACKAGE: usize = 1024;
/// Longest range of notes that is read, in bytes: a build-id has 20, package metadata a few hundred.
const MAX_NOTES: u64 = 64 * 1024;

/// Where the notes of an image are in memory; `table` are its program headers, found at `address` (AT_PHDR).
#[must_use]
pub fn note_ranges(table: &[u8], address: u64, class: ElfClass) -> Vec<NoteRange> {
    match class {
        ElfClass::Elf32 => note_ranges_as::<ProgramHeader32<Endianness>>(table, address),
        ElfClass::Elf64 => note_ranges_as::<ProgramHeader64<Endianness>>(table, address),
    }
}

fn note_ranges_as<Header: ProgramHeader<Endian = Endianness>>(table: &[u8], address: u64) -> Vec<NoteRange> {
    let endian = Endianness::Little;
    let count = table.len() / size_of::<Header>();
    let Ok(headers) = table.read_slice_at::<Header>(0, count) else { return Vec::new() };
    // PT_PHDR has the address that the table was linked at; the difference is the load bias.
    let linked: Option<u64> =
        headers.iter().find(|header| header.p_type(endian) == PT_PHDR).map(|header| header.p_vaddr(endian).into());
    let bias = address.wrapping_sub(linked.unwrap_or(address));
    let notes = headers.iter().filter(|header| header.p_type(endian) == PT_NOTE);
    notes
        .map(|header| NoteRange {
            address: bias.wrapping_add(header.p_vaddr(endian).into()),
            length: header.p_memsz(endian).into().min(MAX_NOTES),
        })
        .collect()
}

/// An ELF file that is mapped in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappedImage {
    /// Load bias: the difference between an address in memory and the same address in the file's headers.
    pub bias: u64,
    /// Where its notes are in memory.
    pub notes: Vec<NoteRange>,
    /// Where the index of its unwind tables is in memory (PT_GNU_EH_FRAME).
    pub eh_frame_hdr: Option<Range<u64>>,
    /// Where its dynamic section is in memory (PT_DYNAMIC).
    pub dynamic: Option<Range<u64>>,
    /// From its first address in memory to its last (PT_LOAD).
    pub extent: Range<u64>,
    /// Where its writable data is in memory, as far as it came from the file.
    pub data: Vec<Range<u64>>,
}

/// Longest table of program headers that is read, in bytes; linkers write less than a page.
const MAX_TABLE: usize = 4096;
/// A mapping begins on the page that the offset of its PT_LOAD is in.
const PAGE_MASK: u64 = !0xfff;

/// Reads the image whose ELF header is at address `start`; `None` if there is none that is little-endian. `read` returns the bytes
/// at an address, or `None` if any of them cannot be read.
pub fn read_image(start: u64, mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<MappedImage> {
    // The shortest header there is, and then as much as it needs.
    let class = ElfClass::of(&read(start, ElfClass::Elf32.header_len())?)?;
    let header = read(start, class.header_len())?;
    match class {
        ElfClass::Elf32 => read_image_as::<FileHeader32<LittleEndian>>(start, &header, read),
        ElfClass::Elf64 => read_image_as::<FileHeader64<LittleEndian>>(start, &header, read),
    }
}

fn read_image_as<Elf: FileHeader<Endian = LittleEndian>>(
    start: u64,
    header: &[u8],
    mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Option<MappedImage> {
    let endian = LittleEndian;
    let header: &Elf = header.read_at(0).ok()?;
    let size = size_of::<Elf::ProgramHeader>();
    let count = usize::from(header.e_phnum(endian)).min(MAX_TABLE / size);
    let table = read(start.checked_add(header.e_phoff(endian).into())?, count * size)?;
    let table: &[Elf::ProgramHeader] = table.as_slice().read_slice_at(0, count).ok()?;
    let is_first = |header: &&Elf::ProgramHeader| {
        header.p_type(endian) == PT_LOAD && header.p_offset(endian).into() & PAGE_MASK == 0
    };
    let first: u64 = table.iter().find(is_first)?.p_vaddr(endian).into();
    let bias = start.wrapping_sub(first & PAGE_MASK);
    // Address in memory, and length.
    let place = |header: &Elf::ProgramHeader| {
        let (address, length): (u64, u64) = (header.p_vaddr(endian).into(), header.p_memsz(endian).into());
        (bias.wrapping_add(address), length)
    };
    let is_note = |header: &&Elf::ProgramHeader| header.p_type(endian) == PT_NOTE;
    let notes = table.iter().filter(is_note).map(place);
    let notes = notes.map(|(address, length)| NoteRange { address, length: length.min(MAX_NOTES) }).collect();
    let range = |header: &Elf::ProgramHeader| {
        let (begin, length) = place(header);
        Some(begin..begin.checked_add(length)?)
    };
    let find = |kind| table.iter().find(|header| header.p_type(endian) == kind).and_then(range);
    let loads = table.iter().filter(|header| header.p_type(endian) == PT_LOAD).filter_map(range);
    let extent = loads.fold(start..start, |extent, load| extent.start..extent.end.max(load.end));
    let is_data = |header: &&Elf::ProgramHeader| header.p_type(endian) == PT_LOAD && header.p_flags(endian) & PF_W != 0;
    let in_file = |header: &Elf::ProgramHeader| {
        let (begin, length) = (place(header).0, header.p_filesz(endian).into());
        Some(begin..begin.checked_add(length)?)
    };
    let data = table.iter().filter(is_data).filter_map(in_file).collect();
    Some(MappedImage { bias, notes, eh_frame_hdr: find(PT_GNU_EH_FRAME), dynamic: find(PT_DYNAMIC), extent, data })
}

/// The package metadata among the notes in `bytes`, which is JSON ("Package Metadata for Executable Files", UAPI group: type
/// 0xcafe1a7e, owner FDO).
#[must_use]
pub fn package_metadata(bytes: &[u8]) -> Option<String> {
    let text = notes(bytes).find(|(kind, name, _)| *kind == NT_FDO_PACKAGING_METADATA && *name == b"FDO")?.2;
    let text = std::str::from_utf8(text).ok()?.trim_end_matches(['\0', '\n']);
    (!text.is_empty() && text.len() <= MAX_PACKAGE).then(|| text.to_owned())
}

/// Bytes of a file that are read to find its build-id. Linkers put the notes near the beginning.
pub const BEGINNING: usize = 64 << 10;

/// The beginning of a file, as far as its build-id needs it. `read` reads at an offset into a buffer, as pread(2) does, so that it leaves the
/// position of the file alone: that may be somebody else's as well.
///
/// # Errors
/// Those of `read`, but for interruptions.
pub fn read_beginning(mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; BEGINNING];
    let mut count = 0;
    while let Some(rest) = bytes.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match read(rest, count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(count);
    Ok(bytes)
}

/// The build-id of an ELF file, whose beginning is read as by [`read_beginning`]. `None` if it has none, or is something else.
///
/// # Errors
/// Those of `read`, but for interruptions.
pub fn read_build_id(read: impl FnMut(&mut [u8], u64) -> io::Result<usize>) -> io::Result<Option<String>> {
    Ok(build_id_of_file(&read_beginning(read)?))
}

/// The build-id of an ELF file, read from its first bytes.
#[must_use]
pub fn build_id_of_file(start: &[u8]) -> Option<String> {
    match FileHeader64::<Endianness>::parse(start) {
        Ok(header) => build_id_as(header, start),
        Err(_) => build_id_as(FileHeader32::<Endianness>::parse(start).ok()?, start),
    }
}

fn build_id_as<Elf: FileHeader<Endian = Endianness>>(header: &Elf, start: &[u8]) -> Option<String> {
    let endian = header.endian().ok()?;
    let headers = header.program_headers(endian, start).ok()?;
    let notes = headers.iter().filter(|header| header.p_type(endian) == PT_NOTE);
    notes.filter_map(|header| header.data(endian, start).ok()).find_map(build_id)
}

/// Whether the notes in `bytes` are those of a program that Go's linker made.
pub(super) fn is_of_go(bytes: &[u8]) -> bool {
    notes(bytes).any(|(kind, name, _)| kind == NT_GO_BUILD_ID && matches!(name, b"Go" | b"Go\0"))
}

/// The build-id among the notes in `bytes`: the GNU linker's in hexadecimal (owner GNU, type 3), else that of Go's linker
/// (owner Go, type 4), which is text, with `go:` in front.
#[must_use]
pub fn build_id(bytes: &[u8]) -> Option<String> {
    let find = |wanted: u32, owner: &[u8]| {
        notes(bytes).find(|(kind, name, _)| *kind == wanted && *name == owner).map(|(_, _, id)| id)
    };
    let gnu = find(NT_GNU_BUILD_ID, b"GNU").filter(|id| (4..=64).contains(&id.len())).map(to_hexadecimal);
    gnu.or_else(|| {
        let text = find(NT_GO_BUILD_ID, b"Go\0").or_else(|| find(NT_GO_BUILD_ID, b"Go"))?;
        let is_valid = (4..=128).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        std::str::from_utf8(text).ok().filter(|_| is_valid).map(|text| format!("go:{text}"))
    })
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test may panic")]
mod tests {
    use super::*;
    use std::io::Seek;
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_build_id_of_this_program_is_found_in_its_memory() {
        let auxv = crate::crash::auxv::parse(&std::fs::read("/proc/self/auxv").unwrap());
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let read = |address: u64, length: u64| {
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            FileExt::read_exact_at(&memory, &mut bytes, address).unwrap();
            bytes
        };
        let table = read(auxv.phdr.unwrap(), auxv.phnum.unwrap() * 56);
        let found = note_ranges(&table, auxv.phdr.unwrap(), ElfClass::Elf64)
            .into_iter()
            .find_map(|range| build_id(&read(range.address, range.length)));
        let file = std::fs::read("/proc/self/exe").unwrap();
        let file = object::File::parse(file.as_slice()).unwrap();
        let expected = object::Object::build_id(&file).unwrap().unwrap();
        let expected = to_hexadecimal(expected);
        assert_eq!(found.as_deref(), Some(expected.as_str()));
        let head = std::fs::read("/proc/self/exe").unwrap()[..65536].to_vec();
        assert_eq!(build_id_of_file(&head).as_deref(), Some(expected.as_str()));
    }

    #[test]
    fn the_image_of_this_program_is_found_at_its_first_address() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let first = maps.lines().find(|line| line.ends_with(exe.to_str().unwrap())).unwrap();
        let start = u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap();
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let read = |address: u64, length: usize| {
            let mut bytes = vec![0; length];
            FileExt::read_exact_at(&memory, &mut bytes, address).ok().map(|()| bytes)
        };
        let image = read_image(start, read).unwrap();
        assert_eq!(image.bias, start, "a position-independent program is linked at 0");
        let index = read(image.eh_frame_hdr.unwrap().start, 1).unwrap();
        assert_eq!(index, [1], "version 1 of .eh_frame_hdr");
        let id = image.notes.iter().find_map(|range| build_id(&read(range.address, range.length as usize).unwrap()));
        let head = std::fs::read("/proc/self/exe").unwrap()[..65536].to_vec();
        assert_eq!(id, build_id_of_file(&head));
    }

    #[test]
    fn images_of_both_classes_are_read() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/image/");
        for (name, bias) in [("bugs", 0x1000), ("bugs-i386", 0x1000), ("bugs-static", 0x1000)] {
            let file = std::fs::read(format!("{seeds}{name}")).unwrap();
            let read = |address: u64, length: usize| {
                let from = address.checked_sub(0x1000)? as usize;
                file.get(from..from.checked_add(length)?).map(<[u8]>::to_vec)
            };
            let image = read_image(0x1000, read).unwrap();
            let notes = image.notes.iter().filter_map(|range| read(range.address, range.length as usize));
            let id = notes.into_iter().find_map(|notes| build_id(&notes));
            assert_eq!((image.bias, id), (bias, build_id_of_file(&file)), "{name}");
            assert!(image.eh_frame_hdr.is_some_and(|index| index.start > 0x2000), "{name}");
        }
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
        assert_eq!(package_metadata(&note(b"{\"type\":\"deb\"}\0")).unwrap(), "{\"type\":\"deb\"}");
        assert_eq!(package_metadata(&note(b"\xff\xff")), None);
        assert_eq!(package_metadata(&note(&[b'x'; 2000])), None);
    }

    #[test]
    fn incomplete_tables_and_foreign_notes_yield_nothing() {
        assert_eq!(note_ranges(&[0; 55], 0x1000, ElfClass::Elf64), []);
        assert_eq!(build_id(b"\x04\0\0\0\x04\0\0\0\x03\0\0\0GNX\0abcd"), None);
        assert_eq!(build_id(b"\x04\0\0\0\xff\xff\xff\xff\x03\0\0\0GNU\0abcd"), None);
        assert_eq!(build_id(b"\x04\0\0\0\x04\0\0\0\x03\0\0\0GNU\0abcd").unwrap(), "61626364");
    }

    #[test]
    fn a_build_id_is_read_in_pieces_and_through_interruptions() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let mut calls = 0;
        let in_pieces = |buffer: &mut [u8], at: u64| {
            calls += 1;
            let end = buffer.len().min(1000);
            if calls % 3 == 0 { Err(io::ErrorKind::Interrupted.into()) } else { file.read_at(&mut buffer[..end], at) }
        };
        let found = read_build_id(in_pieces).unwrap();
        assert!(found.is_some());
        assert_eq!(found, read_build_id(|buffer, at| file.read_at(buffer, at)).unwrap());
        assert_eq!((&file).stream_position().unwrap(), 0);
        assert_eq!(read_build_id(|_, _| Ok(0)).unwrap(), None);
        assert_eq!(read_build_id(|_, _| Err(io::ErrorKind::Other.into())).unwrap_err().kind(), io::ErrorKind::Other);
    }
}
