//! The dynamic linker's list of loaded libraries, which a debugger follows to find them (struct r_debug and struct link_map
//! in glibc's elf/link.h; musl has the same).

use super::class::ElfClass;
use object::elf::{DT_DEBUG, PT_DYNAMIC, PT_PHDR, ProgramHeader32, ProgramHeader64};
use object::read::elf::ProgramHeader;
use object::{LittleEndian, ReadRef};
use std::ops::Range;

/// Libraries beyond this number are ignored.
const MAX_LIBRARIES: usize = 4096;
/// Longest table of program headers, and longest dynamic section, that is read, in bytes.
const MAX_TABLE: u64 = 4096;
/// How much is taken of a library's name, in bytes.
const NAME_LEN: u64 = 256;
/// The longest name of a library (PATH_MAX), and how much of it is read at once, in bytes.
const MAX_NAME: usize = 4096;
const PIECE: usize = 16;

/// The ranges of memory that hold the list and the names in it. `address` and `count` are those of the executable's program
/// headers (AT_PHDR, AT_PHNUM), which has this class. `read` returns the bytes at an address, or `None` if any of them cannot be read. The list ends
/// where it cannot be followed, after 4096 entries at the latest.
pub fn link_map_ranges(
    class: ElfClass,
    address: u64,
    count: u64,
    mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Vec<Range<u64>> {
    walk(class, address, count, &mut read).ranges
}

/// A library in the dynamic linker's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedLibrary {
    /// The address of its dynamic section.
    pub dynamic: u64,
    /// The path under which the linker opened it: mostly that of a link to the file. Its bytes are the process' own.
    pub name: Vec<u8>,
}

/// The libraries in the list; arguments and limits are those of [`link_map_ranges`].
pub fn loaded_libraries(
    class: ElfClass,
    address: u64,
    count: u64,
    mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Vec<LoadedLibrary> {
    let mut libraries = Vec::new();
    for (dynamic, name_at) in walk(class, address, count, &mut read).libraries {
        let mut name = Vec::new();
        // Piece by piece: what follows a short name need not be in the core.
        while name.len() < MAX_NAME && !name.contains(&0) {
            let Some(piece) = name_at.checked_add(name.len() as u64).and_then(|at| read(at, PIECE)) else { break };
            name.extend(piece);
        }
        if let Some(end) = name.iter().position(|byte| *byte == 0).filter(|end| *end > 0) {
            name.truncate(end);
            libraries.push(LoadedLibrary { dynamic, name });
        }
    }
    libraries
}

/// What was found on the way through the list.
#[derive(Default)]
struct LinkMap {
    ranges: Vec<Range<u64>>,
    /// Addresses of dynamic sections and of names.
    libraries: Vec<(u64, u64)>,
}

fn walk(class: ElfClass, address: u64, count: u64, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> LinkMap {
    let mut found = LinkMap::default();
    let read_table = match class {
        ElfClass::Elf32 => find_dynamic::<ProgramHeader32<LittleEndian>>,
        ElfClass::Elf64 => find_dynamic::<ProgramHeader64<LittleEndian>>,
    };
    read_table(address, count, read).and_then(|dynamic| follow_list(class, dynamic, read, &mut found));
    found
}

/// The range of the executable's dynamic section.
fn find_dynamic<Header: ProgramHeader<Endian = LittleEndian>>(
    address: u64,
    count: u64,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Option<Range<u64>> {
    let endian = LittleEndian;
    let length = count.checked_mul(size_of::<Header>() as u64)?.min(MAX_TABLE);
    let table = read(address, usize::try_from(length).ok()?)?;
    let headers: &[Header] = table.as_slice().read_slice_at(0, table.len() / size_of::<Header>()).ok()?;
    let find = |kind| headers.iter().find(|header| header.p_type(endian) == kind);
    let linked = find(PT_PHDR).map_or(address, |header| header.p_vaddr(endian).into());
    let dynamic = find(PT_DYNAMIC)?;
    let (linked_at, length): (u64, u64) = (dynamic.p_vaddr(endian).into(), dynamic.p_memsz(endian).into());
    let begin = address.wrapping_sub(linked).wrapping_add(linked_at);
    Some(begin..begin.checked_add(length.min(MAX_TABLE))?)
}

/// Adds ranges to `found` until something is missing, and then returns `None`.
fn follow_list(
    class: ElfClass,
    dynamic: Range<u64>,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
    found: &mut LinkMap,
) -> Option<()> {
    let word_len = class.word_len();
    let word = |bytes: &[u8], index: usize| class.word_at(bytes, index * word_len);
    // Both structures have five words.
    let structure = |at: u64| Some(at..at.checked_add(5 * word_len as u64)?);
    let entries = read(dynamic.start, usize::try_from(dynamic.end - dynamic.start).ok()?)?;
    found.ranges.push(dynamic);
    let is_debug = |entry: &&[u8]| word(entry, 0) == Some(DT_DEBUG.cast_unsigned());
    let debug = word(entries.chunks_exact(2 * word_len).find(is_debug)?, 1)?;
    // struct r_debug: int r_version, struct link_map *r_map, ...
    let mut next = word(&read(debug, 5 * word_len)?, 1)?;
    found.ranges.push(structure(debug)?);
    for _ in 0..MAX_LIBRARIES {
        if next == 0 {
            break;
        }
        // struct link_map: l_addr, l_name, l_ld, l_next, l_prev
        let entry = read(next, 5 * word_len)?;
        found.ranges.push(structure(next)?);
        let name = word(&entry, 1)?;
        found.ranges.extend(name.checked_add(NAME_LEN).filter(|_| name != 0).map(|end| name..end));
        found.libraries.extend(word(&entry, 2).filter(|_| name != 0).map(|dynamic| (dynamic, name)));
        next = word(&entry, 3)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_libraries_of_this_program_are_found() {
        let auxv = crate::crash::auxv::parse(&std::fs::read("/proc/self/auxv").unwrap());
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let read = |address: u64, length: usize| {
            let mut bytes = vec![0; length];
            memory.read_exact_at(&mut bytes, address).ok().map(|()| bytes)
        };
        let found = link_map_ranges(ElfClass::Elf64, auxv.phdr.unwrap(), auxv.phnum.unwrap(), read);
        let is_libc = |range: &Range<u64>| {
            read(range.start, 64)
                .is_some_and(|name| name.split(|byte| *byte == 0).next().unwrap().ends_with(b"/libc.so.6"))
        };
        assert!(found.iter().any(is_libc), "{found:x?}");
        let libraries = loaded_libraries(ElfClass::Elf64, auxv.phdr.unwrap(), auxv.phnum.unwrap(), read);
        let libc = libraries.iter().find(|library| library.name.ends_with(b"/libc.so.6")).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let is_in = |line: &&str| {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            (hex(start)..hex(end)).contains(&libc.dynamic)
        };
        assert!(maps.lines().find(is_in).unwrap().ends_with("/libc.so.6"), "{libc:x?}");
    }

    /// The executable's one program header, of type PT_DYNAMIC, for a section of this length at 0x2000; its section, with where the
    /// linker's structure is; and other memory, which has the words of `structure` wherever it is read.
    fn memory(class: ElfClass, length: u64, structure: impl Fn(u64) -> [u64; 5]) -> impl Fn(u64, usize) -> Vec<u8> {
        let words = move |words: &[u64]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_le_bytes().into_iter().take(class.word_len())).collect()
        };
        move |at, wanted| {
            let mut bytes = match at {
                0x1000 => {
                    let flags = if class == ElfClass::Elf64 { vec![0; 4] } else { Vec::new() };
                    [PT_DYNAMIC.to_le_bytes().to_vec(), flags, words(&[0, 0x2000, 0, 0, length])].concat()
                }
                0x2000 => words(&[DT_DEBUG.cast_unsigned(), 0x3000]),
                at => words(&structure(at)),
            };
            bytes.resize(wanted, 0);
            bytes
        }
    }

    #[test]
    fn structures_have_the_words_of_their_class() {
        for (class, word) in [(ElfClass::Elf32, 4), (ElfClass::Elf64, 8)] {
            let structure = |at| match at {
                0x3000 => [1, 0x4000, 0, 0, 0],
                0x4000 => [0, 0x7000, 0, 0x5000, 0],
                _ => [0; 5],
            };
            let memory = memory(class, 2 * word, structure);
            let found = link_map_ranges(class, 0x1000, 1, |at, length| Some(memory(at, length)));
            let range = |start: u64, length: u64| start..start + length;
            let structures = [0x3000, 0x4000, 0x5000].map(|at| range(at, 5 * word));
            let [debug, first, second] = structures;
            assert_eq!(found, [range(0x2000, 2 * word), debug, first, range(0x7000, NAME_LEN), second], "{class:?}");
        }
    }

    #[test]
    fn a_circular_list_is_left() {
        // Every word of this memory is its own address: every pointer can be followed.
        for class in [ElfClass::Elf32, ElfClass::Elf64] {
            let (memory, mut read_count) = (memory(class, 64, |at| [at; 5]), 0);
            let found = link_map_ranges(class, 0x1000, 2, |at, length| {
                read_count += 1;
                Some(memory(at, length))
            });
            assert!(found.len() <= 2 * MAX_LIBRARIES + 2 && read_count <= MAX_LIBRARIES + 3);
            assert!(link_map_ranges(class, 0, u64::MAX, |_, _| None).is_empty());
            let libraries = loaded_libraries(class, 0x1000, 2, |at, length| Some(memory(at, length)));
            assert!(
                libraries.len() <= MAX_LIBRARIES
                    && libraries.iter().all(|library| library.name.len() < MAX_NAME + PIECE)
            );
        }
    }
}
