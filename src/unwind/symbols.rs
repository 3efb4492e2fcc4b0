//! Names of the functions that frames are in, as far as memory has them: the symbols that the dynamic linker uses, and Go's table of functions.
//! Static functions of other languages have none there.

use super::page_cache::{PageCache, ReadMemory};
use crate::crash::Symbol;
use crate::elf::{self, DynamicSymbols, ElfClass, GoFunctions};

/// Reads up to this length come from pages that are kept; longer ones are parts of tables, which are read once.
const KEPT: usize = 1024;

/// The functions of the module that begins at address `start` which contain `offsets`, addresses as in its program headers; in their order.
#[must_use]
pub fn find_symbols(start: u64, offsets: &[u64], memory: &dyn ReadMemory) -> Vec<Option<Symbol>> {
    let mut pages = PageCache::new(memory);
    let mut read = |address: u64, length: usize| {
        if length <= KEPT {
            pages.make_room();
            return pages.read(address, length);
        }
        let mut bytes = vec![0; length];
        memory.read_exact_at(address, &mut bytes).then_some(bytes)
    };
    let mut found = vec![None; offsets.len()];
    let class = read(start, ElfClass::Elf32.header_len()).and_then(|header| ElfClass::of(&header));
    let Some((class, image)) = class.zip(elf::read_image(start, &mut read)) else { return found };
    let addresses: Vec<u64> =
        offsets.iter().map(|offset| image.bias.wrapping_add(*offset) & class.max_offset()).collect();
    if let Some(symbols) = DynamicSymbols::read(&image, class, &mut read) {
        found = symbols.containing_all(&addresses, &mut read);
    }
    if found.iter().any(Option::is_none)
        && let Some(functions) = GoFunctions::find(&image, class, &mut read)
    {
        for (address, symbol) in addresses.iter().zip(&mut found).filter(|(_, symbol)| symbol.is_none()) {
            *symbol = functions.containing(*address, &mut read);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    struct OwnMemory(File);

    impl ReadMemory for OwnMemory {
        fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
            self.0.read_exact_at(buffer, address).is_ok()
        }
    }

    #[test]
    fn functions_of_a_library_have_names_and_what_is_no_module_has_none() {
        let memory = OwnMemory(File::open("/proc/self/mem").unwrap());
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| line.ends_with("/libc.so.6")).unwrap();
        let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        let read = |address: u64, length: usize| {
            let mut bytes = vec![0; length];
            memory.read_exact_at(address, &mut bytes).then_some(bytes)
        };
        let image = elf::read_image(start, read).unwrap();
        let symbols = DynamicSymbols::read(&image, ElfClass::Elf64, read).unwrap();
        let (abort, _) = symbols.find("abort", read).unwrap();
        let found = find_symbols(start, &[abort - start + 3, 0, u64::MAX], &memory);
        assert_eq!(found, [Some(Symbol::new(b"abort", 3)), None, None]);
        assert_eq!(find_symbols(start + 4096, &[0, 1], &memory), [None, None]);
        assert_eq!(find_symbols(0, &[0], &memory), [None]);
        assert_eq!(find_symbols(u64::MAX - 8, &[0], &memory), [None]);
    }
}
