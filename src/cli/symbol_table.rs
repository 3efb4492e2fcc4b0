//! Functions by the symbol table of an ELF file.

use object::elf::{STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE};
use object::read::elf::{ElfFile, FileHeader, SectionHeader, Sym, SymbolTable};
use object::{Endianness, File, ReadRef, SectionIndex};
use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;

/// The functions and labels in the code of one file, by address.
#[derive(Default)]
pub(super) struct CodeSymbols {
    /// Sorted by address. Of several symbols at one address gdb shows the one that is the last of them in the file's table.
    symbols: Vec<CodeSymbol>,
    /// Where the sections with code are.
    code: Vec<(SectionIndex, Range<u64>)>,
    by_name: OnceCell<HashMap<Vec<u8>, Option<u64>>>,
}

struct CodeSymbol {
    address: u64,
    size: u64,
    /// Offset of its name in the string table.
    name: u32,
    section: SectionIndex,
}

impl CodeSymbols {
    /// Reads the symbol table of the file, or the dynamic one if it is stripped.
    pub(super) fn read<'data, R: ReadRef<'data>>(file: &File<'data, R>) -> Self {
        match file {
            File::Elf64(file) => read_symbols(file),
            File::Elf32(file) => read_symbols(file),
            _ => Self::default(),
        }
    }

    /// The address of the function `name`, if there is one of this name.
    pub(super) fn address_of<'data, R: ReadRef<'data>>(&self, file: &File<'data, R>, name: &str) -> Option<u64> {
        let strings = match file {
            File::Elf64(file) => strings(file),
            File::Elf32(file) => strings(file),
            _ => None,
        }?;
        let by_name = self.by_name.get_or_init(|| {
            let mut by_name = HashMap::new();
            for symbol in &self.symbols {
                let Some(rest) = strings.get(symbol.name as usize..) else { continue };
                let name = rest.split(|byte| *byte == 0 || *byte == b'@').next().unwrap_or_default();
                // Several functions of one name: nobody knows which.
                let known = by_name.entry(name.to_vec()).or_insert(Some(symbol.address));
                *known = known.filter(|address| *address == symbol.address);
            }
            by_name
        });
        by_name.get(name.as_bytes()).copied().flatten()
    }

    /// The index of the symbol that contains `address` in the string table, and its own address. These are the rules of gdb
    /// (`lookup_minimal_symbol_by_pc_section`): a symbol without a size reaches up to the next one, and is taken only if no symbol that has a
    /// size contains the address.
    pub(super) fn containing(&self, address: u64) -> Option<FoundSymbol> {
        let section = self.code.iter().find(|(_, range)| range.contains(&address)).map(|(index, _)| *index);
        if section.is_none() && !self.code.is_empty() {
            return None;
        }
        let end = self.symbols.partition_point(|symbol| symbol.address <= address);
        let mut sizeless = None;
        let mut sized = None;
        let before = self.symbols[..end].iter().rev();
        // Symbols that overlap are rare, and do so by a few levels.
        for symbol in before.filter(|symbol| section.is_none_or(|section| symbol.section == section)).take(MAX_STEPS) {
            if symbol.size == 0 {
                sizeless = sizeless.or(Some(symbol));
            } else if address - symbol.address < symbol.size {
                sized = Some(symbol);
                break;
            } else if sized.is_none() && sizeless.is_some() {
                // A function ended before the label.
                break;
            }
        }
        let found = sized.or(sizeless)?;
        Some(FoundSymbol { address: found.address, name: found.name })
    }
}

/// The most symbols before an address that are looked at.
const MAX_STEPS: usize = 16;

/// A symbol of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoundSymbol {
    pub(super) address: u64,
    /// Offset of its name in the string table.
    name: u32,
}

impl FoundSymbol {
    /// Its name, if that is UTF-8, without the version that a linker may have added.
    pub(super) fn name<'data, R: ReadRef<'data>>(self, file: &File<'data, R>) -> Option<&'data str> {
        let name = match file {
            File::Elf64(file) => name_at(file, self.name),
            File::Elf32(file) => name_at(file, self.name),
            _ => None,
        }?;
        let name = std::str::from_utf8(name).ok()?;
        Some(name.split_once('@').map_or(name, |(name, _)| name))
    }
}

fn table<'data, 'file, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
    file: &'file ElfFile<'data, Elf, R>,
) -> &'file SymbolTable<'data, Elf, R> {
    let regular = file.elf_symbol_table();
    if regular.is_empty() { file.elf_dynamic_symbol_table() } else { regular }
}

/// The string table of the symbols.
fn strings<'data, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
    file: &ElfFile<'data, Elf, R>,
) -> Option<&'data [u8]> {
    let section = file.elf_section_table().section(table(file).string_section()).ok()?;
    section.data(file.endian(), file.data()).ok()
}

fn name_at<'data, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
    file: &ElfFile<'data, Elf, R>,
    name: u32,
) -> Option<&'data [u8]> {
    table(file).strings().get(name).ok().filter(|name| !name.is_empty())
}

fn read_symbols<'data, Elf: FileHeader<Endian = Endianness>, R: ReadRef<'data>>(
    file: &ElfFile<'data, Elf, R>,
) -> CodeSymbols {
    /// Flag of a section with code (SHF_EXECINSTR).
    const EXECUTABLE: u64 = 4;
    let endian = file.endian();
    let table = table(file);
    let code = file.elf_section_table().enumerate().filter_map(|(index, section)| {
        let start = section.sh_addr(endian).into();
        let is_code = section.sh_flags(endian).into() & EXECUTABLE != 0;
        is_code.then(|| (index, start..start.saturating_add(section.sh_size(endian).into())))
    });
    let code: Vec<(SectionIndex, Range<u64>)> = code.collect();
    let mut symbols = Vec::new();
    for (index, symbol) in table.enumerate() {
        let kind = symbol.st_type();
        let name = symbol.st_name(endian);
        let is_function = kind == STT_FUNC || kind == STT_GNU_IFUNC;
        let Ok(Some(section)) = table.symbol_section(endian, symbol, index) else { continue };
        // Labels as those of assembler, but not data.
        let is_label = kind == STT_NOTYPE && code.iter().any(|(index, _)| *index == section);
        if name != 0 && (is_function || is_label) {
            let (address, size) = (symbol.st_value(endian).into(), symbol.st_size(endian).into());
            symbols.push(CodeSymbol { address, size, name, section });
        }
    }
    // Those at one address stay in the order of the table.
    symbols.sort_by_key(|symbol| symbol.address);
    CodeSymbols { symbols, code, by_name: OnceCell::new() }
}
