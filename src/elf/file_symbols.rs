//! Names of functions in a whole ELF file, of which only a part is in memory: `.symtab`, which has static functions, `.gnu_debugdata`
//! ("MiniDebugInfo": an ELF file with a symbol table, compressed by xz), and Go's table of functions.

use super::class::ElfClass;
use super::pclntab::GoFunctions;
use super::symbol_table::{CodeSection, FoundFunction, FunctionSearch, SymbolEntry, read_name};
use crate::crash::Symbol;
use crate::crash::text::to_bytes;
use object::elf::{FileHeader32, FileHeader64, SHF_ALLOC, SHF_EXECINSTR, SHT_DYNSYM, SHT_NOBITS, SHT_SYMTAB};
use object::read::elf::{FileHeader, SectionHeader};
use object::{LittleEndian, ReadRef};
use std::io::{Cursor, Read};
use std::num::NonZeroUsize;
use std::ops::Range;
use xz4rust::{DICT_SIZE_MIN, XzDecoder, XzReader};

/// Sections beyond this number are not looked at.
const MAX_SECTIONS: u64 = 1 << 16;
/// Symbols beyond this number are not looked at. A web browser has about a million.
const MAX_SYMBOLS: u64 = 1 << 22;
/// Entries of a table that are read at once.
const CHUNK: u64 = 4096;
/// The longest compressed file in a file, and the longest one after decompression, in bytes.
const MAX_COMPRESSED: u64 = 16 << 20;
const MAX_DECOMPRESSED: u64 = 64 << 20;
/// The largest dictionary for it; xz(1) takes at most 64 MiB.
const MAX_DICTIONARY: usize = 64 << 20;
const BUFFER: usize = 64 << 10;
/// The longest table of sections' names that is read, in bytes. With a section for each function it may have a megabyte.
const MAX_SECTION_NAMES: u64 = 4 << 20;

/// Reads bytes at an offset in a file; `None` if any of them are not there.
type ReadFile<'a> = dyn FnMut(u64, usize) -> Option<Vec<u8>> + 'a;

/// A section of a file.
#[derive(Clone, Debug)]
struct Section {
    kind: u32,
    /// Offset of the name.
    name: u64,
    address: u64,
    /// Where it is in the file.
    file: Range<u64>,
    /// The number of another section that belongs to it.
    link: usize,
    is_loaded: bool,
    is_code: bool,
}

impl Section {
    /// Where it is in memory, as in the file's headers.
    fn addresses(&self) -> Range<u64> {
        self.address..self.address.saturating_add(self.file.end - self.file.start)
    }

    /// Whether it is called so in the table of all `names`.
    fn is_named(&self, name: &[u8], names: &[u8]) -> bool {
        let at = usize::try_from(self.name).ok().and_then(|at| names.get(at..));
        at.and_then(|own| own.strip_prefix(name)).is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// The functions of a file that contain `addresses`, which are those of its program headers; in their order. `read` returns the bytes at an
/// offset, or `None` if any of them are not there.
pub fn find_in_file(addresses: &[u64], read: impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Vec<Option<Symbol>> {
    let found = find_functions_in_file(addresses, Symbol::MAX_NAME, read);
    addresses.iter().zip(found).map(|(address, found)| Some(found?.symbol(*address))).collect()
}

/// The same with the functions' addresses, and names of about `longest` bytes at most.
pub fn find_functions_in_file(
    addresses: &[u64],
    longest: usize,
    mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Vec<Option<FoundFunction>> {
    let mut found = vec![None; addresses.len()];
    find(addresses, longest, &mut found, &mut read, true);
    found
}

/// Adds what is not found yet.
fn find(
    addresses: &[u64],
    longest: usize,
    found: &mut [Option<FoundFunction>],
    read: &mut ReadFile<'_>,
    may_decompress: bool,
) {
    let Some((class, sections, names)) = read_sections(read) else { return };
    for kind in [SHT_SYMTAB, SHT_DYNSYM] {
        for table in sections.iter().filter(|section| section.kind == kind).take(1) {
            add(addresses, found, |missing| in_table(class, table, &sections, missing, longest, read));
        }
    }
    if found.iter().all(Option::is_some) {
        return;
    }
    let names = read_section_names(&names, read);
    let named = |wanted: &[u8]| sections.iter().find(|section| section.is_named(wanted, &names));
    let (table, text) = (named(b".gopclntab").or_else(|| named(b".data.rel.ro.gopclntab")), named(b".text"));
    let debug_data = named(b".gnu_debugdata").filter(|_| may_decompress);
    if let Some(table) = table {
        let end = table.address.saturating_add(table.file.end - table.file.start);
        let mut read_section = |address: u64, length: usize| {
            let at = table.file.start.checked_add(address.checked_sub(table.address)?)?;
            (at.checked_add(length as u64)? <= table.file.end).then(|| read(at, length)).flatten()
        };
        let functions = GoFunctions::read(table.address..end, text.map(|section| section.address), &mut read_section);
        if let Some(functions) = functions {
            add(addresses, found, |missing| {
                let function = |address: &u64| {
                    let symbol = functions.containing(*address, &mut read_section)?;
                    Some(FoundFunction { start: address - symbol.offset, name: to_bytes(&symbol.name).into_owned() })
                };
                missing.iter().map(function).collect()
            });
        }
    }
    if let Some(data) = debug_data
        && let Some(file) = decompress(data, read)
    {
        let mut read = |offset: u64, length: usize| {
            let from = usize::try_from(offset).ok()?;
            file.get(from..from.checked_add(length)?).map(<[u8]>::to_vec)
        };
        find(addresses, longest, found, &mut read, false);
    }
}

/// Adds what `find` finds of that which is missing, if there is any.
fn add(
    addresses: &[u64],
    found: &mut [Option<FoundFunction>],
    find: impl FnOnce(&[u64]) -> Vec<Option<FoundFunction>>,
) {
    let missing: Vec<u64> =
        addresses.iter().zip(&*found).filter(|(_, found)| found.is_none()).map(|(address, _)| *address).collect();
    if !missing.is_empty() {
        let new = find(&missing);
        for (place, function) in found.iter_mut().filter(|found| found.is_none()).zip(new) {
            *place = function;
        }
    }
}

/// The names of all sections; none if the file does not have all of them.
fn read_section_names(at: &Range<u64>, read: &mut ReadFile<'_>) -> Vec<u8> {
    let length = usize::try_from((at.end - at.start).min(MAX_SECTION_NAMES)).ok();
    length.and_then(|length| read(at.start, length)).unwrap_or_default()
}

/// The class of a file, its sections, and where their names are.
fn read_sections(read: &mut ReadFile<'_>) -> Option<(ElfClass, Vec<Section>, Range<u64>)> {
    let class = ElfClass::of(&read(0, ElfClass::Elf32.header_len())?)?;
    let header = read(0, class.header_len())?;
    let (sections, names) = match class {
        ElfClass::Elf32 => read_sections_as::<FileHeader32<LittleEndian>>(&header, read)?,
        ElfClass::Elf64 => read_sections_as::<FileHeader64<LittleEndian>>(&header, read)?,
    };
    let names = sections.get(names)?.file.clone();
    Some((class, sections, names))
}

fn read_sections_as<Elf: FileHeader<Endian = LittleEndian>>(
    header: &[u8],
    read: &mut ReadFile<'_>,
) -> Option<(Vec<Section>, usize)> {
    let endian = LittleEndian;
    let header: &Elf = header.read_at(0).ok()?;
    let size = size_of::<Elf::SectionHeader>();
    let at: u64 = header.e_shoff(endian).into();
    let mut read_headers = |count: u64| {
        let bytes = read(at, usize::try_from(count).ok()?.checked_mul(size)?)?;
        let headers: &[Elf::SectionHeader] = bytes.as_slice().read_slice_at(0, bytes.len() / size).ok()?;
        let section = |header: &Elf::SectionHeader| {
            let (offset, length): (u64, u64) = (header.sh_offset(endian).into(), header.sh_size(endian).into());
            let flags: u64 = header.sh_flags(endian).into();
            Some(Section {
                kind: header.sh_type(endian),
                name: header.sh_name(endian).into(),
                address: header.sh_addr(endian).into(),
                file: offset..offset.saturating_add(length),
                link: usize::try_from(header.sh_link(endian)).ok()?,
                is_loaded: flags & u64::from(SHF_ALLOC) != 0,
                is_code: flags & u64::from(SHF_EXECINSTR) != 0,
            })
        };
        Some(headers.iter().filter_map(section).collect::<Vec<Section>>())
    };
    // Numbers that are too large for the header are in the first section (elf(5)).
    let first = read_headers(1)?.into_iter().next()?;
    let count = match u64::from(header.e_shnum(endian)) {
        0 => first.file.end - first.file.start,
        count => count,
    };
    let names = match header.e_shstrndx(endian) {
        object::elf::SHN_XINDEX => first.link,
        number => usize::from(number),
    };
    Some((read_headers(count.min(MAX_SECTIONS))?, names))
}

/// The functions in a symbol table that contain `addresses`.
fn in_table(
    class: ElfClass,
    table: &Section,
    sections: &[Section],
    addresses: &[u64],
    longest: usize,
    read: &mut ReadFile<'_>,
) -> Vec<Option<FoundFunction>> {
    let code = sections.iter().enumerate().filter(|(_, section)| section.is_code);
    let code: Vec<CodeSection> = code.map(|(number, section)| (number, section.addresses())).collect();
    let mut search = FunctionSearch::new(addresses, &code);
    let length = SymbolEntry::length(class) as u64;
    let count = ((table.file.end - table.file.start) / length).min(MAX_SYMBOLS);
    let mut first = 0;
    while first < count {
        let wanted = usize::try_from(CHUNK.min(count - first) * length).ok();
        let at = table.file.start.checked_add(first * length);
        // A file that is shorter than its header says has no more.
        let Some(chunk) = at.zip(wanted).and_then(|(at, wanted)| read(at, wanted)) else { break };
        let entries = chunk.chunks_exact(SymbolEntry::length(class));
        entries.filter_map(|entry| SymbolEntry::read(class, entry)).for_each(|entry| search.add(entry));
        first += CHUNK;
    }
    let strings = sections.get(table.link).map(|section| section.file.clone()).unwrap_or_default();
    search.finish(addresses, |offset| read_name(strings.start.checked_add(offset.into())?, strings.end, longest, read))
}

/// The file in `.gnu_debugdata`, as far as it can be read.
fn decompress(data: &Section, read: &mut ReadFile<'_>) -> Option<Vec<u8>> {
    let length = data.file.end - data.file.start;
    if length > MAX_COMPRESSED || data.kind == SHT_NOBITS || data.is_loaded {
        return None;
    }
    decompress_debugdata(read(data.file.start, usize::try_from(length).ok()?)?)
}

/// The file that the content of a section `.gnu_debugdata` is, decompressed as far as it can be read. `None` if there is nothing, or if it is
/// longer than any linker makes.
fn decompress_debugdata(compressed: Vec<u8>) -> Option<Vec<u8>> {
    if compressed.len() as u64 > MAX_COMPRESSED {
        return None;
    }
    let buffer = NonZeroUsize::new(BUFFER)?;
    let decoder = XzDecoder::in_heap_with_alloc_dict_size(DICT_SIZE_MIN, MAX_DICTIONARY);
    let decompressed = XzReader::new_with_buffer_size_and_decoder(Cursor::new(compressed), buffer, decoder);
    let mut file = Vec::new();
    // What comes before an error is as good as a file that is cut off.
    let _ = decompressed.take(MAX_DECOMPRESSED).read_to_end(&mut file);
    (!file.is_empty()).then_some(file)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    fn seed(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/fuzz/corpus/file_symbols/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    /// The name at the address that the seed of the fuzz target begins with.
    fn find(name: &str, length: usize) -> Vec<Option<Symbol>> {
        let seed = seed(name);
        let (address, file) = seed.split_first_chunk().unwrap();
        let file = &file[..file.len().min(length)];
        let read = |offset: u64, length: usize| {
            let from = usize::try_from(offset).ok()?;
            file.get(from..from.checked_add(length)?).map(<[u8]>::to_vec)
        };
        let address = u64::from_le_bytes(*address);
        let found = find_in_file(&[address, 0, address], read);
        assert_eq!((found.len(), &found[1], &found[0]), (3, &None, &found[2]));
        found
    }

    #[test]
    fn static_functions_are_found_in_both_classes_and_in_compressed_tables() {
        for name in ["static", "static-i386", "library", "debugdata"] {
            assert_eq!(find(name, usize::MAX)[0], Some(Symbol::new(b"inner", 1)), "{name}");
        }
        assert_eq!(find("stripped", usize::MAX)[0], None);
    }

    #[test]
    fn files_that_are_cut_off_have_no_names() {
        let whole = Symbol::new(b"inner", 1);
        for name in ["static", "library", "debugdata"] {
            let seed = seed(name);
            // e_shoff of ELFCLASS64: where the table of sections is, without which there are no names.
            let table = usize::try_from(u64::from_le_bytes(*seed[8 + 0x28..].first_chunk().unwrap())).unwrap();
            assert!(table > 64 && table < seed.len() - 8);
            for length in (0..seed.len() - 8).step_by(16) {
                let found = find(name, length);
                let found: Vec<Symbol> = found.into_iter().flatten().collect();
                let are_right = found.iter().all(|symbol| *symbol == whole);
                assert!(found.is_empty() || (are_right && length > table), "{name} {length}: {found:?}");
            }
            assert_eq!(find(name, usize::MAX)[0].as_ref(), Some(&whole), "{name}");
        }
    }
}
