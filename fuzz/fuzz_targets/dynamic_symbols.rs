//! The dynamic linker's symbols of a mapped ELF file, and Go's table of functions, in memory that consists of pages: eight bytes of address and
//! 4096 bytes each. The first eight bytes are the address of the file, the next eight an address in it.
#![no_main]

use coreward::crash::demangle;
use coreward::elf::{DynamicSymbols, ElfClass, read_image};
use coreward::unwind::{ReadMemory, find_symbols};
use coreward_fuzz::parse_pages;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((start, rest)) = bytes.split_first_chunk::<8>() else { return };
    let Some((offset, rest)) = rest.split_first_chunk::<8>() else { return };
    let (start, offset) = (u64::from_le_bytes(*start), u64::from_le_bytes(*offset));
    let memory = parse_pages(rest);
    let offsets = [offset, offset.wrapping_add(1), offset.wrapping_mul(2), 0, u64::MAX];
    for symbol in find_symbols(start, &offsets, &memory).iter().flatten() {
        assert!(symbol.name.len() <= 4100 && demangle(&symbol.name, 200).len() <= 200);
    }
    let mut count = 0;
    let mut read = |address: u64, length: usize| {
        count += length;
        let mut bytes = vec![0; length];
        memory.read_exact_at(address, &mut bytes).then_some(bytes)
    };
    if let Some(image) = read_image(start, &mut read) {
        for class in [ElfClass::Elf32, ElfClass::Elf64] {
            if let Some(symbols) = DynamicSymbols::read(&image, class, &mut read) {
                let _ = (symbols.find("malloc", &mut read), symbols.find("", &mut read));
            }
        }
    }
    assert!(count < 64 << 20);
});
