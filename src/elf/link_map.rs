//! The dynamic linker's list of loaded libraries, in memory: what a debugger follows to find them (struct r_debug and struct
//! link_map, glibc's elf/link.h; musl has the same).

use object::elf::{DT_DEBUG, PT_DYNAMIC, PT_PHDR, ProgramHeader64};
use object::read::elf::ProgramHeader;
use object::{LittleEndian, ReadRef};
use std::ops::Range;

/// More libraries than any program loads.
const MAX_LIBRARIES: usize = 4096;
/// No linker makes a longer table of program headers, or a longer dynamic section that matters.
const MAX_TABLE: u64 = 4096;
/// A name is at most as long as a path.
const NAME: u64 = 256;

/// The stretches of memory that the list and its names are in, found from the program's own headers (`at`, `count`). `read` reads
/// a stretch of memory, whole or not at all. Hostile memory yields at most [`MAX_LIBRARIES`] entries.
pub fn link_map(at: u64, count: u64, mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    follow(at, count, &mut read, &mut found);
    found
}

fn follow(
    at: u64,
    count: u64,
    read: &mut impl FnMut(u64, usize) -> Option<Vec<u8>>,
    found: &mut Vec<Range<u64>>,
) -> Option<()> {
    let of = LittleEndian;
    let length = count.checked_mul(size_of::<ProgramHeader64<LittleEndian>>() as u64)?.min(MAX_TABLE);
    let table = read(at, length as usize)?;
    let headers: &[ProgramHeader64<LittleEndian>] =
        table.as_slice().read_slice_at(0, table.len() / size_of::<ProgramHeader64<LittleEndian>>()).ok()?;
    let own = headers.iter().find(|header| header.p_type(of) == PT_PHDR).map_or(at, |header| header.p_vaddr(of));
    let dynamic = headers.iter().find(|header| header.p_type(of) == PT_DYNAMIC)?;
    let begin = at.wrapping_sub(own).wrapping_add(dynamic.p_vaddr(of));
    let length = dynamic.p_memsz(of).min(MAX_TABLE);
    let entries = read(begin, length as usize)?;
    found.push(begin..begin.checked_add(length)?);
    let word = |bytes: &[u8], index: usize| Some(u64::from_le_bytes(*bytes.get(index * 8..)?.first_chunk()?));
    let debug = entries.as_chunks::<16>().0.iter().find(|entry| word(*entry, 0) == Some(DT_DEBUG.cast_unsigned()))?;
    let debug = word(debug, 1)?;
    // struct r_debug: int r_version, struct link_map *r_map, ...
    let mut next = word(&read(debug, 40)?, 1)?;
    found.push(debug..debug.checked_add(40)?);
    for _ in 0..MAX_LIBRARIES {
        if next == 0 {
            break;
        }
        // struct link_map: l_addr, l_name, l_ld, l_next, l_prev
        let entry = read(next, 40)?;
        found.push(next..next.checked_add(40)?);
        let name = word(&entry, 1)?;
        found.extend(name.checked_add(NAME).filter(|_| name != 0).map(|end| name..end));
        next = word(&entry, 3)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn the_libraries_of_this_very_program_are_found() {
        let auxv = crate::crash::auxv::parse(&std::fs::read("/proc/self/auxv").unwrap());
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let read = |address: u64, length: usize| {
            let mut bytes = vec![0; length];
            memory.read_exact_at(&mut bytes, address).ok().map(|()| bytes)
        };
        let found = link_map(auxv.phdr.unwrap(), auxv.phnum.unwrap(), read);
        let is_libc = |range: &Range<u64>| {
            read(range.start, 64)
                .is_some_and(|name| name.split(|byte| *byte == 0).next().unwrap().ends_with(b"/libc.so.6"))
        };
        assert!(found.iter().any(is_libc), "{found:x?}");
    }

    #[test]
    fn a_list_without_an_end_ends() {
        // Every word of this memory is its own address: every pointer leads on.
        let mut read_count = 0;
        let found = link_map(0x1000, 2, |at, length| {
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
        assert!(link_map(0, u64::MAX, |_, _| None).is_empty());
    }
}
