//! A mapped ELF file and the dynamic linker's list of libraries, in memory that has the input at 0x1000.
#![no_main]

use coreward::elf::{ElfClass, build_id, build_id_of_file, link_map_ranges, note_ranges, package_metadata, read_image};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let read = |address: u64, length: usize| {
        let from = usize::try_from(address.checked_sub(0x1000)?).ok()?;
        bytes.get(from..from.checked_add(length)?).map(<[u8]>::to_vec)
    };
    if let Some(image) = read_image(0x1000, read) {
        for range in image.notes {
            let notes = read(range.address, range.length as usize).unwrap_or_default();
            let _ = (build_id(&notes), package_metadata(&notes));
        }
    }
    let _ = (build_id(bytes), package_metadata(bytes), build_id_of_file(bytes));
    let _ = (note_ranges(bytes, 0x1000, ElfClass::Elf64), note_ranges(bytes, 0x1000, ElfClass::Elf32));
    for class in [ElfClass::Elf32, ElfClass::Elf64] {
        let _ = link_map_ranges(class, 0x1040, 16, read);
    }
});
