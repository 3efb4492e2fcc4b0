//! Go's table of functions: of a mapped program, in memory that consists of pages (see the target `dynamic_symbols`), and by itself.
#![no_main]

use coreward::elf::{ElfClass, GoFunctions, read_image};
use coreward::unwind::ReadMemory;
use coreward_fuzz::parse_pages;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((start, rest)) = bytes.split_first_chunk::<8>() else { return };
    let Some((offset, rest)) = rest.split_first_chunk::<8>() else { return };
    let (start, offset) = (u64::from_le_bytes(*start), u64::from_le_bytes(*offset));
    let memory = parse_pages(rest);
    let mut read = |address: u64, length: usize| {
        let mut bytes = vec![0; length];
        memory.read_exact_at(address, &mut bytes).then_some(bytes)
    };
    if let Some(image) = read_image(start, &mut read) {
        for class in [ElfClass::Elf32, ElfClass::Elf64] {
            if let Some(functions) = GoFunctions::find(&image, class, &mut read) {
                for address in [image.bias.wrapping_add(offset), offset, 0, u64::MAX] {
                    let symbol = functions.containing(address, &mut read);
                    assert!(symbol.is_none_or(|symbol| symbol.name.len() <= 4100));
                }
            }
        }
    }
    let mut read = |address: u64, length: usize| {
        let from = usize::try_from(address.checked_sub(0x1000)?).ok()?;
        bytes.get(from..from.checked_add(length)?).map(<[u8]>::to_vec)
    };
    let end = 0x1000 + bytes.len() as u64;
    if let Some(functions) = GoFunctions::read(0x1000..end, Some(0x40_0000), &mut read) {
        for address in [0, 0x40_0000, offset, u64::MAX] {
            let _ = functions.containing(address, &mut read);
        }
    }
});
