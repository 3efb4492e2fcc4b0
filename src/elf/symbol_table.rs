//! Entries of symbol tables (elf(5)), and which of them contain some addresses.

use super::class::ElfClass;
use super::notes::{u32_at, u64_at};
use crate::crash::Symbol;
use object::LittleEndian;
use object::elf::{SHN_LORESERVE, SHN_UNDEF, SHN_XINDEX, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, Sym32, Sym64};

/// One entry of a symbol table.
#[derive(Clone, Copy, Debug)]
pub(super) struct SymbolEntry {
    /// Offset of the name in the table of strings.
    pub(super) name: u32,
    /// Type (STT_FUNC and others).
    pub(super) kind: u8,
    binding: u8,
    /// Number of the section that it is in.
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
        Some(Self { name, kind: info & 15, binding: info >> 4, section: u16::from_le_bytes(section), value, size })
    }

    /// Whether it has an address in the file, and not elsewhere.
    pub(super) fn is_defined(&self) -> bool {
        self.value != 0 && self.section != SHN_UNDEF && (self.section < SHN_LORESERVE || self.section == SHN_XINDEX)
    }
}

/// The string at `at`, as far as a name may be long. It has no end, or one before `end`.
pub(super) fn read_name(mut at: u64, end: u64, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    const AT_ONCE: u64 = 64;
    let mut name = Vec::new();
    while at < end && name.len() <= Symbol::MAX_NAME {
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

/// A search for the functions that contain some addresses. The entries of a table are shown to it one after the other, in any order.
///
/// Symbols of assembly code may have no size. Such a symbol contains an address if it is the last before it, and the next one is of
/// the same section: without this, what follows `_init` would be in `_init`.
pub(super) struct FunctionSearch {
    /// The addresses, sorted and different.
    addresses: Vec<u64>,
    /// What was found for each address.
    found: Vec<Found>,
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

    /// The name that people know: `write` rather than `__write` or `__GI___libc_write`.
    fn best(&self, mut name_at: impl FnMut(u32) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
        let names = self.entries.iter().filter_map(|entry| Some((entry.binding, name_at(entry.name)?)));
        // Symbols such as $x and $d tell code of ARM from data.
        let names = names.filter(|(_, name)| !name.is_empty() && name.first() != Some(&b'$'));
        let rank = |(binding, name): &(u8, Vec<u8>)| {
            let underscores = name.iter().take_while(|byte| **byte == b'_').count();
            (*binding == STB_LOCAL, underscores, name.len(), name.clone())
        };
        names.min_by_key(rank).map(|(_, name)| name)
    }
}

impl FunctionSearch {
    const MAX_COMPARISONS: usize = 1 << 20;

    /// For these addresses, as in the file's headers.
    pub(super) fn new(addresses: &[u64]) -> Self {
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        addresses.dedup();
        Self { found: vec![Found::default(); addresses.len()], addresses, comparisons: Self::MAX_COMPARISONS }
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
            found.containing.offer(entry);
        }
    }

    /// The functions that contain `addresses`, in the order of these. `name_at` returns the string at an offset.
    pub(super) fn finish(
        mut self,
        addresses: &[u64],
        mut name_at: impl FnMut(u32) -> Option<Vec<u8>>,
    ) -> Vec<Option<Symbol>> {
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
        let mut symbol = |address: &u64| {
            let found = self.found.get(self.addresses.binary_search(address).ok()?)?;
            let names = found.names()?;
            Some(Symbol::new(&names.best(&mut name_at)?, address - names.start()?))
        };
        addresses.iter().map(&mut symbol).collect()
    }
}

impl Found {
    fn names(&self) -> Option<&Names> {
        if self.containing.start().is_some() {
            return Some(&self.containing);
        }
        let last = self.unsized_before.entries.first()?;
        let is_in_section = self.next.is_some_and(|(_, section)| section == last.section);
        (Some(last.value) > self.sized_before && is_in_section).then_some(&self.unsized_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::elf::{STB_GLOBAL, STB_WEAK};

    fn entry(name: u32, value: u64, size: u64) -> SymbolEntry {
        SymbolEntry { name, kind: STT_FUNC, binding: STB_GLOBAL, section: 12, value, size }
    }

    fn find(entries: &[SymbolEntry], addresses: &[u64]) -> Vec<Option<(String, u64)>> {
        let names = ["zero", "one", "two", "__write", "write", "__GI_write", "$x", "a_longer_name"];
        let mut search = FunctionSearch::new(addresses);
        entries.iter().for_each(|entry| search.add(*entry));
        let found = search.finish(addresses, |offset| Some(names.get(offset as usize)?.as_bytes().to_vec()));
        found.into_iter().map(|symbol| symbol.map(|symbol| (symbol.name, symbol.offset))).collect()
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
    fn of_several_names_the_plain_one_is_shown() {
        let local = SymbolEntry { binding: STB_LOCAL, ..entry(1, 0x1000, 0x10) };
        let weak = SymbolEntry { binding: STB_WEAK, ..entry(4, 0x1000, 0x10) };
        let mapping = SymbolEntry { kind: STT_NOTYPE, binding: STB_LOCAL, ..entry(6, 0x1000, 0x10) };
        let table = [entry(5, 0x1000, 0x10), local, entry(3, 0x1000, 0x10), weak, mapping, entry(7, 0x1000, 0x10)];
        assert_eq!(find(&table, &[0x1001]), [found("write", 1)]);
        assert_eq!(find(&[mapping], &[0x1001]), [None]);
    }

    #[test]
    fn functions_that_overlap_everywhere_take_bounded_time() {
        let addresses: Vec<u64> = (0x1000..0x1100).collect();
        let mut search = FunctionSearch::new(&addresses);
        for _ in 0..100_000 {
            search.add(entry(1, 0x1000, u64::MAX));
        }
        assert_eq!(search.comparisons, 0);
        assert_eq!(search.finish(&addresses, |_| Some(b"f".to_vec())).len(), 256);
    }
}
