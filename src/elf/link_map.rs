//! The dynamic linker's list of loaded libraries, which a debugger follows to find them (struct r_debug and struct link_map
//! in glibc's elf/link.h; musl has the same).

use super::notes::u64_at;
use object::elf::{DT_DEBUG, PT_DYNAMIC, PT_PHDR, ProgramHeader64};
use object::read::elf::ProgramHeader;
use object::{LittleEndian, ReadRef};
use std::ops::Range;

/// Libraries beyond this number are ignored.
const MAX_LIBRARIES: usize = 4096;
/// Longest table of program headers, and longest dynamic section, that is read, in bytes.
const MAX_TABLE: u64 = 4096;
/// How much is taken of a library's name, in bytes.
const NAME_LEN: u64 = 256;

/// The ranges of memory that hold the list and the names in it. `address` and `count` are those of the executable's program
/// headers (AT_PHDR, AT_PHNUM). `read` returns the bytes at an address, or `None` if any of them cannot be read. The list ends
/// where it cannot be followed, after 4096 entries at the latest.
pub fn link_map_ranges(
    address: u64,
    count: u64,
    mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    follow_list(address, count, &mut read, &mut found);
    found
}

/// Adds ranges to `found` until something is missing, and then returns `None`.
fn follow_list(
    address: u64,
    count: u64,
    read: &mut impl FnMut(u64, usize) -> Option<Vec<u8>>,
    found: &mut Vec<Range<u64>>,
) -> Option<()> {
    let endian = LittleEndian;
    let length = count.checked_mul(size_of::<ProgramHeader64<LittleEndian>>() as u64)?.min(MAX_TABLE);
    let table = read(address, usize::try_from(length).ok()?)?;
    let headers: &[ProgramHeader64<LittleEndian>] =
        table.as_slice().read_slice_at(0, table.len() / size_of::<ProgramHeader64<LittleEndian>>()).ok()?;
    let linked =
        headers.iter().find(|header| header.p_type(endian) == PT_PHDR).map_or(address, |header| header.p_vaddr(endian));
    let dynamic = headers.iter().find(|header| header.p_type(endian) == PT_DYNAMIC)?;
    let begin = address.wrapping_sub(linked).wrapping_add(dynamic.p_vaddr(endian));
    let length = dynamic.p_memsz(endian).min(MAX_TABLE);
    let entries = read(begin, usize::try_from(length).ok()?)?;
    found.push(begin..begin.checked_add(length)?);
    let is_debug = |entry: &&[u8; 16]| u64_at(*entry, 0) == Some(DT_DEBUG.cast_unsigned());
    let debug = u64_at(entries.as_chunks::<16>().0.iter().find(is_debug)?, 8)?;
    // struct r_debug: int r_version, struct link_map *r_map, ...
    let mut next = u64_at(&read(debug, 40)?, 8)?;
    found.push(debug..debug.checked_add(40)?);
    for _ in 0..MAX_LIBRARIES {
        if next == 0 {
            break;
        }
        // struct link_map: l_addr, l_name, l_ld, l_next, l_prev
        let entry = read(next, 40)?;
        found.push(next..next.checked_add(40)?);
        let name = u64_at(&entry, 8)?;
        found.extend(name.checked_add(NAME_LEN).filter(|_| name != 0).map(|end| name..end));
        next = u64_at(&entry, 24)?;
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
        let found = link_map_ranges(auxv.phdr.unwrap(), auxv.phnum.unwrap(), read);
        let is_libc = |range: &Range<u64>| {
            read(range.start, 64)
                .is_some_and(|name| name.split(|byte| *byte == 0).next().unwrap().ends_with(b"/libc.so.6"))
        };
        assert!(found.iter().any(is_libc), "{found:x?}");
    }

    #[test]
    fn a_circular_list_is_left() {
        // Every word of this memory is its own address: every pointer can be followed.
        let mut read_count = 0;
        let found = link_map_ranges(0x1000, 2, |at, length| {
            read_count += 1;
            let mut bytes = Vec::new();
            if at == 0x1000 {
                let mut header = [0; 56];
                header[..4].copy_from_slice(&PT_DYNAMIC.to_le_bytes());
                header[16..24].copy_from_slice(&0x2000_u64.to_le_bytes());
                header[40..48].copy_from_slice(&64_u64.to_le_bytes());
                bytes.extend_from_slice(&header);
            } else if at == 0x2000 {
                bytes.extend_from_slice(&DT_DEBUG.cast_unsigned().to_le_bytes());
                bytes.extend_from_slice(&0x3000_u64.to_le_bytes());
            } else {
                bytes = at.to_le_bytes().repeat(5);
            }
            bytes.resize(length, 0);
            Some(bytes)
        });
        assert!(found.len() <= 2 * MAX_LIBRARIES + 2 && read_count <= MAX_LIBRARIES + 3);
        assert!(link_map_ranges(0, u64::MAX, |_, _| None).is_empty());
    }
}
