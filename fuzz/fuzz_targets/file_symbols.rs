//! Names of functions in a whole ELF file. The first eight bytes are an address in it.
#![no_main]

use coreward::crash::demangle;
use coreward::elf::find_in_file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((address, file)) = bytes.split_first_chunk::<8>() else { return };
    let address = u64::from_le_bytes(*address);
    let read = |offset: u64, length: usize| {
        let from = usize::try_from(offset).ok()?;
        file.get(from..from.checked_add(length)?).map(<[u8]>::to_vec)
    };
    let found = find_in_file(&[address, 0, address.wrapping_add(9), u64::MAX], read);
    assert_eq!(found.len(), 4);
    for symbol in found.iter().flatten() {
        assert!(symbol.name.len() <= 4100 && demangle(&symbol.name, 200).len() <= 200);
    }
});
