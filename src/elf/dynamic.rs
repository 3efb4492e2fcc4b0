//! The symbols of a mapped ELF file that the dynamic linker uses, in the memory of a process: what PT_DYNAMIC leads to. Stripped files have
//! them as well.

use super::class::ElfClass;
use super::image::MappedImage;
use super::notes::u32_at;
use super::symbol_table::{FunctionSearch, SymbolEntry, read_name};
use crate::crash::Symbol;
use object::elf::{DT_GNU_HASH, DT_HASH, DT_NULL, DT_STRSZ, DT_STRTAB, DT_SYMTAB, STT_TLS};
use std::ops::Range;

/// Where the symbol table of a mapped ELF file is in memory, and what finds its entries.
#[derive(Clone, Debug)]
pub struct DynamicSymbols {
    class: ElfClass,
    bias: u64,
    symbols: u64,
    strings: Range<u64>,
    gnu_hash: Option<u64>,
    hash: Option<u64>,
}

/// Longest dynamic section that is read, in bytes; linkers write some hundred.
const MAX_DYNAMIC: u64 = 32 << 10;
/// Entries of a symbol table, and of a hash table, beyond this number are not read. A library of a thousand files has some ten thousand.
const MAX_SYMBOLS: u64 = 1 << 17;
/// Symbols with the same hash beyond this number are not compared.
const MAX_CHAIN: u32 = 4096;
/// Entries of a table that are read at once.
const CHUNK: u64 = 1024;

/// The table of DT_GNU_HASH: its header, and where its parts are.
struct GnuHash {
    bucket_count: u32,
    /// Number of the first symbol that is in the table. Those before it are not defined in the file.
    first: u32,
    buckets: u64,
    chains: u64,
}

impl DynamicSymbols {
    /// The symbols of `image`, which has this class; `None` if it has none. `read` returns the bytes at an address, or `None` if any of them cannot
    /// be read.
    pub fn read(
        image: &MappedImage,
        class: ElfClass,
        mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>,
    ) -> Option<Self> {
        let dynamic = image.dynamic.clone()?;
        let length = (dynamic.end - dynamic.start).min(MAX_DYNAMIC);
        let section = read(dynamic.start, usize::try_from(length).ok()?)?;
        let word_len = class.word_len();
        let entries = section
            .chunks_exact(2 * word_len)
            .map_while(|entry| Some((class.word_at(entry, 0)?, class.word_at(entry, word_len)?)))
            .take_while(|(tag, _)| *tag != DT_NULL.cast_unsigned());
        let entries: Vec<(u64, u64)> = entries.collect();
        let value =
            |wanted: i64| entries.iter().find(|(tag, _)| *tag == wanted.cast_unsigned()).map(|(_, value)| *value);
        // glibc's dynamic linker replaces the addresses of the file by those in memory; others, and the kernel for its vDSO, do not.
        let place = |tag: i64| {
            let value = value(tag)?;
            let biased = image.bias.wrapping_add(value) & class.max_offset();
            [value, biased].into_iter().find(|address| image.extent.contains(address))
        };
        let strings = place(DT_STRTAB)?;
        Some(Self {
            class,
            bias: image.bias,
            symbols: place(DT_SYMTAB)?,
            strings: strings..strings.checked_add(value(DT_STRSZ)?)?.min(image.extent.end),
            gnu_hash: place(DT_GNU_HASH),
            hash: place(DT_HASH),
        })
    }

    /// Address in the process, and size in bytes, of the function or variable with this name. One of each thread has no such address, and
    /// is not found.
    pub fn find(&self, name: &str, mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<(u64, u64)> {
        let is_wanted = |number: u32, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>| {
            let entry = self.entry(number, read)?;
            (entry.is_defined() && entry.kind != STT_TLS && self.has_name(&entry, name, read))
                .then(|| (self.bias.wrapping_add(entry.value) & self.class.max_offset(), entry.size))
        };
        let number_at =
            |address: u64, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>| u32_at(&read(address, 4)?, 0);
        if let Some(table) = self.gnu_table(&mut read) {
            let wanted = gnu_hash(name);
            let bucket = wanted.checked_rem(table.bucket_count)?;
            let mut number = number_at(table.buckets.checked_add(u64::from(bucket) * 4)?, &mut read)?;
            for _ in 0..MAX_CHAIN {
                let index = number.checked_sub(table.first)?;
                let hash = number_at(table.chains.checked_add(u64::from(index) * 4)?, &mut read)?;
                if hash | 1 == wanted | 1
                    && let Some(found) = is_wanted(number, &mut read)
                {
                    return Some(found);
                }
                // The last of its chain.
                if hash & 1 != 0 {
                    return None;
                }
                number = number.checked_add(1)?;
            }
            return None;
        }
        let table = self.hash?;
        let bucket_count = number_at(table, &mut read)?;
        let bucket = sysv_hash(name).checked_rem(bucket_count)?;
        let word = |index: u64| table.checked_add(index.checked_mul(4)?);
        let mut number = number_at(word(2 + u64::from(bucket))?, &mut read)?;
        for _ in 0..MAX_CHAIN {
            if number == 0 {
                return None;
            }
            if let Some(found) = is_wanted(number, &mut read) {
                return Some(found);
            }
            number = number_at(word(2 + u64::from(bucket_count) + u64::from(number))?, &mut read)?;
        }
        None
    }

    /// The function that contains an address of the process.
    pub fn containing(&self, address: u64, read: impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<Symbol> {
        self.containing_all(&[address], read).pop()?
    }

    /// The functions that contain addresses of the process, in the order of these: the table is read once.
    pub fn containing_all(
        &self,
        addresses: &[u64],
        mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>,
    ) -> Vec<Option<Symbol>> {
        let linked: Vec<u64> =
            addresses.iter().map(|address| address.wrapping_sub(self.bias) & self.class.max_offset()).collect();
        let mut search = FunctionSearch::new(&linked, &[]);
        let length = SymbolEntry::length(self.class) as u64;
        let Range { start: mut next, end } = self.numbers(&mut read).unwrap_or_default();
        while next < end {
            let count = CHUNK.min(end - next);
            let chunk = self.symbols.checked_add(next * length).zip(usize::try_from(count * length).ok());
            let chunk = chunk.and_then(|(address, length)| read(address, length)).unwrap_or_default();
            let entries = chunk.chunks_exact(SymbolEntry::length(self.class));
            entries.filter_map(|entry| SymbolEntry::read(self.class, entry)).for_each(|entry| search.add(entry));
            next += count;
        }
        let found = search.finish(&linked, |offset| {
            let at = self.strings.start.checked_add(offset.into())?;
            read_name(at, self.strings.end, Symbol::MAX_NAME, &mut read)
        });
        linked.iter().zip(found).map(|(address, found)| Some(found?.symbol(*address))).collect()
    }

    /// The numbers of the symbols that may be defined. Nothing says how many there are but the hash tables.
    fn numbers(&self, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<Range<u64>> {
        if let Some(table) = self.gnu_table(read) {
            let end = table.end_of_chains(read)?;
            let first = u64::from(table.first);
            return Some(first..end.min(first + MAX_SYMBOLS));
        }
        if let Some(table) = self.hash {
            let count = u32_at(&read(table.checked_add(4)?, 4)?, 0)?;
            return Some(1..u64::from(count).min(MAX_SYMBOLS));
        }
        // Linkers put the strings behind the symbols.
        let count = self.strings.start.checked_sub(self.symbols)? / SymbolEntry::length(self.class) as u64;
        Some(1..count.min(MAX_SYMBOLS))
    }

    fn gnu_table(&self, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<GnuHash> {
        let table = self.gnu_hash?;
        let header = read(table, 16)?;
        let (bucket_count, first, bloom_len) = (u32_at(&header, 0)?, u32_at(&header, 4)?, u32_at(&header, 8)?);
        let buckets = table.checked_add(16 + u64::from(bloom_len) * self.class.word_len() as u64)?;
        let chains = buckets.checked_add(u64::from(bucket_count) * 4)?;
        Some(GnuHash { bucket_count, first, buckets, chains })
    }

    fn entry(&self, number: u32, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<SymbolEntry> {
        let length = SymbolEntry::length(self.class);
        let address = self.symbols.checked_add(u64::from(number) * length as u64)?;
        SymbolEntry::read(self.class, &read(address, length)?)
    }

    fn has_name(&self, entry: &SymbolEntry, name: &str, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> bool {
        let address = self.strings.start.checked_add(entry.name.into());
        let found = address.filter(|address| self.strings.contains(address)).and_then(|at| read(at, name.len() + 1));
        found.is_some_and(|found| found.split_last() == Some((&0, name.as_bytes())))
    }
}

impl GnuHash {
    /// The number after that of the last symbol in it: the last of the chain that begins last.
    fn end_of_chains(&self, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<u64> {
        let mut words = |address: u64, index: u64, count: u64| {
            let bytes = read(address.checked_add(index.checked_mul(4)?)?, usize::try_from(count * 4).ok()?)?;
            Some(bytes.chunks_exact(4).filter_map(|word| u32_at(word, 0)).collect::<Vec<u32>>())
        };
        let bucket_count = u64::from(self.bucket_count).min(MAX_SYMBOLS);
        let mut last = 0;
        let mut begin = 0;
        while begin < bucket_count {
            let buckets = words(self.buckets, begin, CHUNK.min(bucket_count - begin))?;
            last = buckets.into_iter().fold(last, u32::max);
            begin += CHUNK;
        }
        // No symbol is in the self.
        let Some(mut index) = last.checked_sub(self.first).map(u64::from) else { return Some(self.first.into()) };
        const AT_ONCE: u64 = 16;
        for _ in 0..u64::from(MAX_CHAIN) / AT_ONCE {
            // The table may end before as many.
            let chain = words(self.chains, index, AT_ONCE).or_else(|| words(self.chains, index, 1))?;
            match chain.iter().position(|hash| hash & 1 != 0) {
                Some(end) => return Some(u64::from(self.first) + index + end as u64 + 1),
                None => index += chain.len() as u64,
            }
        }
        None
    }
}

/// The hash of DT_GNU_HASH (dl_new_hash in glibc's elf/dl-new-hash.h).
fn gnu_hash(name: &str) -> u32 {
    name.bytes().fold(5381, |hash: u32, byte| hash.wrapping_mul(33).wrapping_add(byte.into()))
}

/// The hash of DT_HASH (System V ABI, "Hash Table").
fn sysv_hash(name: &str) -> u32 {
    name.bytes().fold(0, |hash: u32, byte| {
        let hash = hash.wrapping_shl(4).wrapping_add(byte.into());
        let top = hash & 0xf000_0000;
        (hash ^ (top >> 24)) & !top
    })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::elf::read_image;
    use std::os::unix::fs::FileExt;

    fn read_self(address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        std::fs::File::open("/proc/self/mem").unwrap().read_exact_at(&mut bytes, address).ok().map(|()| bytes)
    }

    fn mapped_at(name: &str) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let first = maps.lines().find(|line| line.ends_with(name)).unwrap();
        u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap()
    }

    #[test]
    fn functions_of_this_process_libraries_and_vdso_are_found_both_ways() {
        for (library, name) in [("/libc.so.6", "getpid"), ("/libc.so.6", "getenv"), ("[vdso]", "__vdso_clock_gettime")]
        {
            let image = read_image(mapped_at(library), read_self).unwrap();
            let symbols = DynamicSymbols::read(&image, ElfClass::Elf64, read_self).unwrap();
            let (address, size) = symbols.find(name, read_self).unwrap();
            let by_hash = DynamicSymbols { gnu_hash: None, ..symbols.clone() };
            if by_hash.hash.is_some() {
                assert_eq!(by_hash.find(name, read_self), Some((address, size)), "{name}");
            }
            let plain = name.trim_start_matches("__vdso_");
            for symbols in [&symbols, &by_hash, &DynamicSymbols { hash: None, ..by_hash.clone() }] {
                let found = symbols.containing(address + size - 1, read_self).unwrap();
                assert_eq!((found.name.as_str(), found.offset), (plain, size - 1));
            }
            assert_eq!(symbols.find("no_such_function", read_self), None);
            assert_eq!(symbols.find("", read_self), None);
        }
        let image = read_image(mapped_at("/libc.so.6"), read_self).unwrap();
        let symbols = DynamicSymbols::read(&image, ElfClass::Elf64, read_self).unwrap();
        let own = (read_self as fn(u64, usize) -> Option<Vec<u8>>) as usize as u64;
        assert_eq!(symbols.containing(own, read_self), None, "not in this library");
        assert_eq!(symbols.find("errno", read_self), None, "one of each thread");
    }

    /// A library at 0x10000, which is linked at 0: dynamic section, symbol table with `names` at 0x100, 0x110 and so on, strings and a
    /// hash table. `is_relocated`: the dynamic section has addresses in memory.
    struct Library {
        class: ElfClass,
        bytes: Vec<u8>,
        image: MappedImage,
    }

    const BASE: u64 = 0x10000;

    impl Library {
        fn new(class: ElfClass, is_gnu: bool, is_relocated: bool, names: &[&str]) -> Self {
            let word = |value: u64| value.to_le_bytes()[..class.word_len()].to_vec();
            let mut names: Vec<&str> = names.to_vec();
            // One bucket: no order is needed, and the hashes of all names are in one chain.
            let mut strings = vec![0];
            let mut symbols = vec![0; SymbolEntry::length(class)];
            names.sort_unstable();
            for (number, name) in names.iter().enumerate() {
                let offset = (strings.len() as u32).to_le_bytes();
                strings.extend_from_slice(name.as_bytes());
                strings.push(0);
                let (value, size) = (word(0x100 + 0x10 * number as u64), word(0x10));
                let entry = match class {
                    ElfClass::Elf64 => [offset.to_vec(), vec![0x12, 0, 7, 0], value, size].concat(),
                    ElfClass::Elf32 => [offset.to_vec(), value, size, vec![0x12, 0, 7, 0]].concat(),
                };
                symbols.extend(entry);
            }
            let count = names.len() as u32;
            let table: Vec<u32> = if is_gnu {
                let bloom = [0; 2].into_iter().take(class.word_len() / 4);
                let hashes = names
                    .iter()
                    .enumerate()
                    .map(|(number, name)| gnu_hash(name) & !1 | u32::from(number + 1 == names.len()));
                [1, 1, 1, 0].into_iter().chain(bloom).chain([1]).chain(hashes).collect()
            } else {
                let chain = (1..=count).map(|number| if number == count { 0 } else { number + 1 });
                [1, count + 1, 1, 0].into_iter().chain(chain).collect()
            };
            let table: Vec<u8> = table.into_iter().flat_map(u32::to_le_bytes).collect();
            let (at_symbols, at_strings, at_table) = (0x1000, 0x4000, 0x8000);
            let shift = if is_relocated { BASE } else { 0 };
            let hash = if is_gnu { DT_GNU_HASH } else { DT_HASH };
            let entries = [
                (DT_STRTAB, at_strings + shift),
                (DT_SYMTAB, at_symbols + shift),
                (DT_STRSZ, strings.len() as u64),
                (hash, at_table + shift),
                (DT_NULL, 0),
            ];
            let dynamic: Vec<u8> = entries
                .into_iter()
                .flat_map(|(tag, value)| [word(tag.cast_unsigned()), word(value)].concat())
                .collect();
            let mut bytes = vec![0; 0x9000];
            for (at, part) in [(0, &dynamic), (at_symbols, &symbols), (at_strings, &strings), (at_table, &table)] {
                bytes[at as usize..at as usize + part.len()].copy_from_slice(part);
            }
            let image = MappedImage {
                bias: BASE,
                dynamic: Some(BASE..BASE + dynamic.len() as u64),
                extent: BASE..BASE + bytes.len() as u64,
                ..MappedImage::default()
            };
            Self { class, bytes, image }
        }

        fn read(&self, address: u64, length: usize) -> Option<Vec<u8>> {
            let from = usize::try_from(address.checked_sub(BASE)?).ok()?;
            self.bytes.get(from..from.checked_add(length)?).map(<[u8]>::to_vec)
        }
    }

    #[test]
    fn both_classes_both_tables_and_both_kinds_of_addresses_are_read() {
        for class in [ElfClass::Elf32, ElfClass::Elf64] {
            for (is_gnu, is_relocated) in [(true, true), (true, false), (false, true), (false, false)] {
                let names: Vec<String> = (0..300).map(|number| format!("function_{number:03}")).collect();
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                let library = Library::new(class, is_gnu, is_relocated, &names);
                let read = |address, length| library.read(address, length);
                let symbols = DynamicSymbols::read(&library.image, library.class, read).unwrap();
                assert_eq!(symbols.find("function_217", read), Some((BASE + 0x100 + 217 * 16, 16)));
                assert_eq!(symbols.find("function_21", read), None);
                let addresses = [BASE + 0x100 + 299 * 16 + 15, BASE + 0x100 + 300 * 16, BASE + 0xff, BASE + 0x100];
                let found = symbols.containing_all(&addresses, read);
                assert_eq!(found[0], Some(Symbol::new(b"function_299", 15)), "{class:?} {is_gnu} {is_relocated}");
                assert_eq!(found[1..], [None, None, Some(Symbol::new(b"function_000", 0))]);
            }
        }
    }

    #[test]
    fn hostile_tables_end() {
        let library = Library::new(ElfClass::Elf64, true, true, &["f"]);
        // Every word of this memory has no bit set, or all: chains without an end, tables of 2^32 entries.
        for byte in [0, 2, 0xff] {
            for is_gnu in [true, false] {
                let mut bytes_read = 0;
                let mut read = |address: u64, length: usize| {
                    bytes_read += length;
                    Some(if address == BASE { library.read(address, length)? } else { vec![byte; length] })
                };
                let mut symbols = DynamicSymbols::read(&library.image, ElfClass::Elf64, &mut read).unwrap();
                if !is_gnu {
                    symbols.hash = symbols.gnu_hash.take();
                }
                assert_eq!(symbols.find("f", &mut read), None);
                let _ = symbols.containing_all(&[BASE, BASE + 0x100], &mut read);
                assert!(bytes_read < 5 << 20, "{bytes_read}");
            }
        }
        let image = MappedImage { dynamic: Some(0..u64::MAX), ..library.image };
        assert!(DynamicSymbols::read(&image, ElfClass::Elf64, |_, length| Some(vec![0xff; length])).is_none());
    }
}
