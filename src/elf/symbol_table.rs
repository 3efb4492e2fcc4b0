//! Entries of symbol tables (elf(5)), and which of them contain some addresses: the one rule by which functions without DWARF have their
//! names, in records and in `info`.

use super::class::ElfClass;
use super::notes::{u32_at, u64_at};
use crate::crash::Symbol;
use object::LittleEndian;
use object::elf::{SHN_LORESERVE, SHN_UNDEF, SHN_XINDEX, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, Sym32, Sym64};
use std::cmp::Reverse;
use std::ops::Range;

/// One entry of a symbol table.
#[derive(Clone, Copy, Debug)]
pub(super) struct SymbolEntry {
    /// Offset of the name in the table of strings.
    pub(super) name: u32,
    /// Type (STT_FUNC and others).
    pub(super) kind: u8,
    /// Number of the section that it is in; SHN_XINDEX if the number is too large for the entry.
    section: u16,
    /// Address, as in the file's headers.
    pub(super) value: u64,
    /// Length in bytes, or 0 if nobody said it.
    pub(super) size: u64,
}

impl SymbolEntry {
    /// Length of an entry in bytes.
    pub(super) fn length(class: ElfClass) -> usize {
        match class {
            ElfClass::Elf32 => size_of::<Sym32<LittleEndian>>(),
            ElfClass::Elf64 => size_of::<Sym64<LittleEndian>>(),
        }
    }

    /// The entry that `bytes` begin with.
    pub(super) fn read(class: ElfClass, bytes: &[u8]) -> Option<Self> {
        let name = u32_at(bytes, 0)?;
        let (value, size, rest) = match class {
            ElfClass::Elf32 => (u32_at(bytes, 4)?.into(), u32_at(bytes, 8)?.into(), bytes.get(12..16)?),
            ElfClass::Elf64 => (u64_at(bytes, 8)?, u64_at(bytes, 16)?, bytes.get(4..8)?),
        };
        let [info, _, section @ ..] = *rest.first_chunk::<4>()?;
        Some(Self { name, kind: info & 15, section: u16::from_le_bytes(section), value, size })
    }

    /// Whether it has an address in the file, and not elsewhere.
    pub(super) fn is_defined(&self) -> bool {
        self.value != 0 && self.section != SHN_UNDEF && (self.section < SHN_LORESERVE || self.section == SHN_XINDEX)
    }
}

/// The string at `at`, or its beginning if it is longer than `longest` bytes. It has no end, or one before `end`.
pub(super) fn read_name(
    mut at: u64,
    end: u64,
    longest: usize,
    read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    const AT_ONCE: u64 = 64;
    let mut name = Vec::new();
    while at < end && name.len() <= longest {
        let part = read(at, usize::try_from((end - at).min(AT_ONCE)).ok()?)?;
        let length = part.iter().position(|byte| *byte == 0);
        name.extend_from_slice(part.get(..length.unwrap_or(part.len()))?);
        if length.is_some() {
            break;
        }
        at += part.len() as u64;
    }
    Some(name)
}

/// A function of a symbol table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFunction {
    /// Its first address, as in the file's headers.
    pub start: u64,
    /// Its name as the compiler wrote it, without the version that a linker may have added.
    pub name: Vec<u8>,
}

impl FoundFunction {
    /// The place of `address`, which is in this function.
    pub(super) fn symbol(&self, address: u64) -> Symbol {
        Symbol::new(&self.name, address.wrapping_sub(self.start))
    }
}

/// A section with code: its number, and its addresses as in the file's headers.
pub(super) type CodeSection = (usize, Range<u64>);

/// A search for the functions that contain some addresses. The entries of a table are shown to it one after the other, in any order.
///
/// The rules are those of gdb (`lookup_minimal_symbol_by_pc_section`, `elf_symtab_read`), so that both show the same names:
///
/// - Functions and labels count, those of the section that the address is in. In a process the sections are not known.
/// - Of the symbols that contain the address that which begins last is taken.
/// - A symbol without a size, as those of assembly code, contains an address if it begins after every symbol with a size that begins before
///   the address. Where the sections are not known the next symbol must be of the same section: without this, what follows `_init` would be
///   in `_init`.
/// - Of several names of one address that is taken which is the last in the order of their bytes, that of a function before that of an
///   indirect function (STT_GNU_IFUNC), whose code is what selects the function. So it is `write` and not `__write`. Whether a name is local,
///   global or weak makes no difference.
pub(super) struct FunctionSearch {
    /// The addresses, sorted and different.
    addresses: Vec<u64>,
    /// What was found for each address.
    found: Vec<Found>,
    /// The sections with code; none if they are not known.
    code: Vec<CodeSection>,
    /// Comparisons that are left. Ordinary functions do not overlap, so that they need few.
    comparisons: usize,
}

/// What was found for an address. Of symbols without a size, and of those that follow, only those that are in no other address' part of the address
/// space, until [`FunctionSearch::finish`].
#[derive(Clone, Default)]
struct Found {
    /// The functions that contain it and begin last.
    containing: Names,
    /// The symbols without a size that begin last.
    unsized_before: Names,
    /// Where the last symbol with a size begins.
    sized_before: Option<u64>,
    /// Where the next symbol begins, and its section.
    next: Option<(u64, u16)>,
    /// The section that it is in, if the sections are known.
    section: Option<usize>,
}

/// Names that an address has.
#[derive(Clone, Default)]
struct Names {
    entries: Vec<SymbolEntry>,
}

impl Names {
    /// More names than this of one address are not compared.
    const MOST: usize = 16;

    /// Adds a symbol, unless one that begins later is known.
    fn offer(&mut self, entry: SymbolEntry) {
        if self.start().is_some_and(|start| start < entry.value) {
            self.entries.clear();
        }
        if self.start().is_none_or(|start| start == entry.value) && self.entries.len() < Self::MOST {
            self.entries.push(entry);
        }
    }

    fn start(&self) -> Option<u64> {
        self.entries.first().map(|entry| entry.value)
    }

    /// The name that is shown.
    fn best(&self, mut name_at: impl FnMut(u32) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
        let names = self.entries.iter().filter_map(|entry| Some((entry.kind, name_at(entry.name)?)));
        let names = names.map(|(kind, name)| (kind, without_version(name))).filter(|(_, name)| is_name(name));
        // Equal but for the kind, of which gdb takes the plain function.
        names.min_by_key(|(kind, name)| (*kind == STT_GNU_IFUNC, Reverse(name.clone()))).map(|(_, name)| name)
    }
}

/// `write` of `write@@GLIBC_2.2.5`.
fn without_version(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(at) = name.iter().position(|byte| *byte == b'@').filter(|at| *at > 0) {
        name.truncate(at);
    }
    name
}

/// Whether it names a function. Symbols such as `$x` and `$d` tell code of ARM from data, and `.L` begins a label of a compiler.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.starts_with(b"$") && !name.starts_with(b".L")
}

impl FunctionSearch {
    const MAX_COMPARISONS: usize = 1 << 20;

    /// For these addresses, as in the file's headers, and the sections with `code`, if any section of the file is known.
    pub(super) fn new(addresses: &[u64], code: &[CodeSection]) -> Self {
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        addresses.dedup();
        let section = |address: &u64| code.iter().find(|(_, range)| range.contains(address)).map(|(number, _)| *number);
        let found = addresses.iter().map(|address| Found { section: section(address), ..Found::default() }).collect();
        Self { addresses, found, code: code.to_vec(), comparisons: Self::MAX_COMPARISONS }
    }

    /// Takes an entry of the table into account.
    pub(super) fn add(&mut self, entry: SymbolEntry) {
        let is_code = matches!(entry.kind, STT_FUNC | STT_GNU_IFUNC | STT_NOTYPE);
        if !is_code || !entry.is_defined() {
            return;
        }
        let first = self.addresses.partition_point(|address| *address < entry.value);
        if let Some(found) = first.checked_sub(1).and_then(|before| self.found.get_mut(before))
            && found.next.is_none_or(|(next, _)| entry.value < next)
        {
            found.next = Some((entry.value, entry.section));
        }
        let are_known = !self.code.is_empty();
        if are_known && !self.code.iter().any(|(section, _)| is_of(&entry, *section)) {
            return;
        }
        if entry.size == 0 {
            if let Some(found) = self.found.get_mut(first) {
                found.unsized_before.offer(entry);
            }
            return;
        }
        for (index, (address, found)) in self.addresses.iter().zip(&mut self.found).enumerate().skip(first) {
            if index == first {
                found.sized_before = found.sized_before.max(Some(entry.value));
            }
            if address - entry.value >= entry.size || self.comparisons == 0 {
                return;
            }
            self.comparisons -= 1;
            if !are_known || found.section.is_some_and(|section| is_of(&entry, section)) {
                found.containing.offer(entry);
            }
        }
    }

    /// The functions that contain `addresses`, in the order of these. `name_at` returns the string at an offset.
    pub(super) fn finish(
        mut self,
        addresses: &[u64],
        mut name_at: impl FnMut(u32) -> Option<Vec<u8>>,
    ) -> Vec<Option<FoundFunction>> {
        let (mut symbols, mut sized) = (Names::default(), None);
        for found in &mut self.found {
            symbols =
                if found.unsized_before.start() > symbols.start() { found.unsized_before.clone() } else { symbols };
            found.unsized_before = symbols.clone();
            sized = found.sized_before.max(sized);
            found.sized_before = sized;
        }
        let mut next = None;
        for found in self.found.iter_mut().rev() {
            next = found.next.or(next);
            found.next = next;
        }
        let are_known = !self.code.is_empty();
        let mut function = |address: &u64| {
            let found = self.found.get(self.addresses.binary_search(address).ok()?)?;
            let names = found.names(are_known)?;
            Some(FoundFunction { start: names.start()?, name: names.best(&mut name_at)? })
        };
        addresses.iter().map(&mut function).collect()
    }
}

/// Whether a symbol is in this section, as far as the entry tells.
fn is_of(entry: &SymbolEntry, section: usize) -> bool {
    entry.section == SHN_XINDEX || usize::from(entry.section) == section
}

impl Found {
    /// The names of the address; `are_known` says whether the sections are.
    fn names(&self, are_known: bool) -> Option<&Names> {
        if self.containing.start().is_some() {
            return Some(&self.containing);
        }
        let last = self.unsized_before.entries.first()?;
        let is_in_section = match self.section {
            Some(section) => is_of(last, section),
            None => !are_known && self.next.is_some_and(|(_, section)| section == last.section),
        };
        (Some(last.value) > self.sized_before && is_in_section).then_some(&self.unsized_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::elf::STT_SECTION;

    fn entry(name: u32, value: u64, size: u64) -> SymbolEntry {
        SymbolEntry { name, kind: STT_FUNC, section: 12, value, size }
    }

    const NAMES: [&str; 10] =
        ["zero", "one", "two", "__write", "write@@GLIBC_2.2.5", "__GI_write", "$x", "a_longer_name", ".L5", ""];

    fn find(entries: &[SymbolEntry], addresses: &[u64]) -> Vec<Option<(String, u64)>> {
        find_in(&[], entries, addresses)
    }

    fn find_in(code: &[CodeSection], entries: &[SymbolEntry], addresses: &[u64]) -> Vec<Option<(String, u64)>> {
        let mut search = FunctionSearch::new(addresses, code);
        entries.iter().for_each(|entry| search.add(*entry));
        let found = search.finish(addresses, |offset| Some(NAMES.get(offset as usize)?.as_bytes().to_vec()));
        let symbols = addresses.iter().zip(found).map(|(address, found)| Some(found?.symbol(*address)));
        symbols.map(|symbol| symbol.map(|symbol| (symbol.name, symbol.offset))).collect()
    }

    #[expect(clippy::unnecessary_wraps, reason = "as it is compared")]
    fn found(name: &str, offset: u64) -> Option<(String, u64)> {
        Some((name.to_owned(), offset))
    }

    #[test]
    fn functions_contain_their_bytes_and_no_others() {
        let table = [entry(1, 0x1000, 0x10), entry(0, 0x2000, 0x20)];
        let addresses = [0x2010, 0xfff, 0x1000, 0x100f, 0x1010, 0x2020, 0x1000];
        let expected = [found("zero", 0x10), None, found("one", 0), found("one", 0xf), None, None, found("one", 0)];
        assert_eq!(find(&table, &addresses), expected);
        assert_eq!(
            find(&[entry(1, 0x1000, 0x100), entry(2, 0x1010, 0x10)], &[0x1018, 0x1050]),
            [found("two", 8), found("one", 0x50)]
        );
        let other = |change: fn(&mut SymbolEntry)| {
            let mut other = entry(1, 0x1000, 0x10);
            change(&mut other);
            find(&[other], &[0x1000])
        };
        assert_eq!(other(|entry| entry.section = 0), [None], "undefined");
        assert_eq!(other(|entry| entry.section = 0xfff1), [None], "an absolute value");
        assert_eq!(other(|entry| entry.kind = 1), [None], "data");
        assert_eq!(other(|entry| entry.kind = 10), [found("one", 0)], "an indirect function");
    }

    #[test]
    fn a_symbol_without_a_size_reaches_to_the_next_of_its_section() {
        let init = SymbolEntry { section: 10, ..entry(0, 0x900, 0) };
        let table = [entry(2, 0x1020, 0), entry(1, 0x1000, 0x10), init, entry(7, 0x1040, 0)];
        let addresses = [0x910, 0x1018, 0x1020, 0x103f, 0x1040, 0x2000];
        assert_eq!(find(&table, &addresses), [None, None, found("two", 0), found("two", 0x1f), None, None]);
    }

    #[test]
    fn where_sections_are_known_a_symbol_reaches_to_the_end_of_its_own() {
        let code = [(10, 0x900..0x920), (12, 0x1000..0x1040), (14, 0x1040..0x1060)];
        let init = SymbolEntry { section: 10, ..entry(0, 0x900, 0) };
        let beyond = SymbolEntry { section: 14, ..entry(1, 0x1040, 0) };
        let data = SymbolEntry { section: 20, ..entry(7, 0x1010, 0x20) };
        let table = [entry(2, 0x1000, 0x100), init, beyond, data];
        let addresses = [0x910, 0x920, 0xfff, 0x1018, 0x1048, 0x1060];
        let expected = [found("zero", 0x10), None, None, found("two", 0x18), found("one", 8), None];
        assert_eq!(find_in(&code, &table, &addresses), expected);
        // The number of the section is in a table of its own.
        let many = SymbolEntry { section: SHN_XINDEX, ..entry(1, 0x1000, 0x10) };
        assert_eq!(find_in(&code, &[many], &[0x1001, 0x1041]), [found("one", 1), None]);
    }

    /// The names of an address in every order of these entries.
    fn best_of(entries: &[SymbolEntry]) -> Vec<Option<(String, u64)>> {
        let mut rotated = entries.to_vec();
        let mut best: Vec<_> = (0..entries.len())
            .flat_map(|_| {
                rotated.rotate_left(1);
                find(&rotated, &[0x1001])
            })
            .collect();
        best.dedup();
        best
    }

    #[test]
    fn of_several_names_gdbs_is_shown() {
        let named = |name: u32| entry(name, 0x1000, 0x10);
        // Aliases: the last in the order of bytes, and the binding is not part of an entry at all.
        assert_eq!(best_of(&[named(5), named(3), named(4), named(7)]), [found("write", 1)]);
        assert_eq!(best_of(&[named(3), named(5)]), [found("__write", 1)]);
        // A symbol with a size goes before one without.
        assert_eq!(best_of(&[entry(4, 0x1000, 0), named(7)]), [found("a_longer_name", 1)]);
        // Longer and shorter ones that begin together: whichever contains the address.
        assert_eq!(best_of(&[entry(4, 0x1000, 1), named(7)]), [found("a_longer_name", 1)]);
        // A function before the code that selects one.
        let indirect = SymbolEntry { kind: STT_GNU_IFUNC, ..named(4) };
        assert_eq!(best_of(&[indirect, named(7)]), [found("a_longer_name", 1)]);
        assert_eq!(best_of(&[indirect]), [found("write", 1)]);
        // Sections, mapping symbols, labels of the compiler and symbols without a name are no functions.
        let section = SymbolEntry { kind: STT_SECTION, ..named(0) };
        let others = [6, 8, 9].map(|name| SymbolEntry { kind: STT_NOTYPE, ..named(name) });
        assert_eq!(best_of(&[section, others[0], others[1], others[2], named(7)]), [found("a_longer_name", 1)]);
        assert_eq!(best_of(&[section, others[0], others[1], others[2]]), [None]);
    }

    #[test]
    fn functions_that_overlap_everywhere_take_bounded_time() {
        let addresses: Vec<u64> = (0x1000..0x1100).collect();
        let mut search = FunctionSearch::new(&addresses, &[]);
        for _ in 0..100_000 {
            search.add(entry(1, 0x1000, u64::MAX));
        }
        assert_eq!(search.comparisons, 0);
        assert_eq!(search.finish(&addresses, |_| Some(b"f".to_vec())).len(), 256);
    }
}
