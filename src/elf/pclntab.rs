//! Go's table of functions, which no linker option removes: the runtime unwinds stacks with it (runtime/symtab.go and
//! cmd/link/internal/ld/pcln.go of Go; `go12LineTable` in debug/gosym reads the same).

use super::class::ElfClass;
use super::image::{MappedImage, is_of_go};
use super::notes::{u32_at, u64_at};
use super::symbol_table::read_name;
use crate::crash::Symbol;
use std::ops::Range;

/// The table of functions of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoFunctions {
    layout: Layout,
    word_len: u64,
    /// Where the table is, with all that belongs to it.
    range: Range<u64>,
    count: u64,
    /// What addresses of functions are relative to.
    text: u64,
    /// Where the names are.
    names: u64,
    /// Where the functions are, and what their places are relative to.
    functions: u64,
    /// Where the functions' descriptions are, and what their places are relative to.
    descriptions: u64,
}

/// How the table is laid out, by the first version of Go that has it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Layout {
    Go1_2,
    Go1_16,
    /// From here on addresses are relative to the text. Go 1.20 has the same with another magic number.
    Go1_18,
}

/// More functions than any program has.
const MAX_FUNCTIONS: u64 = 1 << 24;
/// The most bytes of data that are searched for the runtime's description of the program.
const MAX_SEARCHED: u64 = 8 << 20;
/// Bytes of data that are read at once.
const CHUNK: u64 = 64 << 10;
/// Where the build information is looked for: at the beginning of the data.
const MAX_BUILD_INFO: u64 = 4096;
/// The beginning of the build information, on a multiple of 16 bytes (debug/buildinfo).
const BUILD_INFO: &[u8] = b"\xff Go buildinf:";

/// Number of the word of `moduledata` that has the address of the text, from Go 1.16 on (runtime/symtab.go).
const TEXT_WORD: usize = 22;

impl GoFunctions {
    /// The table of the program or plugin that is mapped as `image`; `None` if it is not of Go. `read` returns the bytes at an address, or `None` if
    /// any of them cannot be read.
    ///
    /// No header says where the table is. The runtime has a pointer to it among its data, in front of pointers to the table's parts.
    pub fn find(
        image: &MappedImage,
        class: ElfClass,
        mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>,
    ) -> Option<Self> {
        if !is_go(image, &mut read) {
            return None;
        }
        let word_len = class.word_len();
        let mut searched = 0;
        for data in &image.data {
            let mut at = data.start;
            while at < data.end && searched < MAX_SEARCHED {
                let length = CHUNK.min(data.end - at);
                searched += length;
                // A description that is only partly in this chunk is whole in none: the next one begins where it may have begun.
                let chunk = read(at, usize::try_from(length).ok()?).unwrap_or_default();
                let table = chunk.chunks_exact(word_len).enumerate().find_map(|(index, _)| {
                    let rest = chunk.get(index * word_len..)?;
                    let address = class.word_at(rest, 0).filter(|address| image.extent.contains(address))?;
                    is_module_data(class, address, rest).then_some(())?;
                    let text = class.word_at(rest, TEXT_WORD * word_len);
                    Self::read(address..image.extent.end, text, &mut read)
                });
                if table.is_some() {
                    return table;
                }
                let overlap = (TEXT_WORD as u64 + 1) * word_len as u64;
                at += if length == CHUNK { length - overlap } else { length };
            }
        }
        None
    }

    /// The table that begins where `range` does; `None` if it is none of these. `text` is where the program's text begins, as far as it is
    /// known.
    pub fn read(
        range: Range<u64>,
        text: Option<u64>,
        mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>,
    ) -> Option<Self> {
        let start = range.start;
        let [m0, m1, m2, m3, 0, 0, 1 | 2 | 4, word_len @ (4 | 8)] = *read(start, 8)?.first_chunk()? else {
            return None;
        };
        let layout = match u32::from_le_bytes([m0, m1, m2, m3]) {
            0xffff_fffb => Layout::Go1_2,
            0xffff_fffa => Layout::Go1_16,
            0xffff_fff0 | 0xffff_fff1 => Layout::Go1_18,
            _ => return None,
        };
        let (class, word_len) = (if word_len == 4 { ElfClass::Elf32 } else { ElfClass::Elf64 }, u64::from(word_len));
        let word = |number: u64, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>| {
            class.word_at(&read(start.checked_add(8 + number * word_len)?, class.word_len())?, 0)
        };
        let count = word(0, &mut read)?;
        let mut part = |number: u64| start.checked_add(word(number, &mut read)?).filter(|part| range.contains(part));
        let (names, functions, descriptions) = match layout {
            Layout::Go1_2 => (start, start + 8 + word_len, start),
            Layout::Go1_16 => (part(2)?, part(6)?, part(6)?),
            Layout::Go1_18 => (part(3)?, part(7)?, part(7)?),
        };
        // Since Go 1.26 it is 0, and the runtime's description has it alone.
        let in_table = if layout == Layout::Go1_18 { word(2, &mut read) } else { None };
        let text = in_table.filter(|text| *text != 0).or(text).unwrap_or(0);
        (1..=MAX_FUNCTIONS).contains(&count).then_some(())?;
        Some(Self { layout, word_len, range, count, text, names, functions, descriptions })
    }

    /// The function that contains an address.
    pub fn containing(&self, address: u64, mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<Symbol> {
        // The last entry is the end of the last function.
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if self.entry(middle, &mut read)?.0 <= address {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        let (begin, place) = self.entry(low, &mut read)?;
        if begin > address || low == self.count {
            return None;
        }
        let place = self.descriptions.checked_add(place).filter(|place| self.range.contains(place))?;
        // The address once more, and the offset of the name.
        let address_len = if self.layout == Layout::Go1_18 { 4 } else { self.word_len };
        let name = u32_at(&read(place.checked_add(address_len)?, 4)?, 0)?;
        let name = read_name(self.names.checked_add(name.into())?, self.range.end, Symbol::MAX_NAME, &mut read)?;
        (!name.is_empty()).then(|| Symbol::new(&name, address - begin))
    }

    /// Address of a function, and place of its description.
    fn entry(&self, number: u64, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<(u64, u64)> {
        let part_len = if self.layout == Layout::Go1_18 { 4 } else { self.word_len };
        let part_at = |bytes: &[u8], at: usize| {
            if part_len == 4 { u32_at(bytes, at).map(u64::from) } else { u64_at(bytes, at) }
        };
        let address = self.functions.checked_add(number * 2 * part_len)?;
        // What belongs to the end is not there.
        let length = if number == self.count { part_len } else { 2 * part_len };
        let bytes = read(address, usize::try_from(length).ok()?)?;
        let place = part_at(&bytes, usize::try_from(part_len).ok()?).unwrap_or(0);
        let begin = part_at(&bytes, 0)?;
        Some((if self.layout == Layout::Go1_18 { self.text.wrapping_add(begin) } else { begin }, place))
    }
}

/// Whether Go's linker made the image: a note says so, or the build information at the beginning of its data.
fn is_go(image: &MappedImage, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> bool {
    let mut read_up_to = |address, length: u64| usize::try_from(length).ok().and_then(|length| read(address, length));
    let has_note =
        image.notes.iter().any(|range| read_up_to(range.address, range.length).is_some_and(|notes| is_of_go(&notes)));
    has_note
        || image.data.iter().any(|data| {
            let beginning = read_up_to(data.start, (data.end - data.start).min(MAX_BUILD_INFO)).unwrap_or_default();
            beginning.chunks(16).any(|line| line.starts_with(BUILD_INFO))
        })
}

/// Whether words that begin with `address` may be the runtime's `moduledata`: the address of the table, and a slice of its first part (since Go
/// 1.16); or a slice of the whole table, and one of its first part.
fn is_module_data(class: ElfClass, address: u64, words: &[u8]) -> bool {
    const MAX_HEADER: u64 = 256;
    let word_len = class.word_len();
    let word = |number: usize| class.word_at(words, number * word_len);
    let [Some(first), Some(second), Some(third)] = [word(1), word(2), word(3)] else { return false };
    let is_slice = |length: u64, capacity: u64| length == capacity && length != 0;
    let is_header = |part: u64| part > address && part - address <= MAX_HEADER;
    is_header(first) && is_slice(second, third) || is_slice(first, second) && is_header(third)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Memory at [`BASE`]: the table of three functions at 0x1000, and data with what the runtime has at 0x4000.
    struct Program {
        class: ElfClass,
        bytes: Vec<u8>,
        image: MappedImage,
    }

    const BASE: u64 = 0x40_0000;
    const FUNCTIONS: [(&str, u64); 3] = [("runtime.text", 0), ("main.(*T).fault", 0x40), ("main.main", 0xc0)];
    const TEXT: u64 = BASE + 0x100;
    const END: u64 = 0x100;

    impl Program {
        fn new(class: ElfClass, magic: u32, has_text: bool) -> Self {
            let word_len = class.word_len();
            let word = |value: u64| value.to_le_bytes()[..word_len].to_vec();
            let is_relative = (0xffff_fff0..0xffff_fffa).contains(&magic);
            let part = |value: u64| if is_relative { (value as u32).to_le_bytes().to_vec() } else { word(value) };
            let first = if is_relative { 0 } else { TEXT };
            let table = BASE + 0x1000;
            let mut names = vec![0];
            let name_offsets: Vec<u32> = FUNCTIONS
                .iter()
                .map(|(name, _)| {
                    let at = names.len() as u32;
                    names.extend_from_slice(name.as_bytes());
                    names.push(0);
                    at
                })
                .collect();
            // Names at 0x100 and functions at 0x400 of the table, their descriptions at 0x100 from there.
            let (names_at, functions_at) =
                if magic == 0xffff_fffb { (0x100, 8 + word_len as u64) } else { (0x100, 0x400) };
            let described_from = if magic == 0xffff_fffb { 0x400 } else { 0x100 };
            let header: Vec<u64> = match magic {
                0xffff_fffb => vec![3],
                0xffff_fffa => vec![3, 1, names_at, 0x200, 0x200, 0x200, functions_at],
                _ => vec![3, 1, if has_text { TEXT } else { 0 }, names_at, 0x200, 0x200, 0x200, functions_at],
            };
            let mut bytes = vec![0; 0x6000];
            let mut put = |at: u64, content: &[u8]| {
                bytes[at as usize..at as usize + content.len()].copy_from_slice(content);
            };
            put(0x1000, &magic.to_le_bytes());
            put(0x1006, &[1, word_len as u8]);
            put(0x1008, &header.into_iter().flat_map(word).collect::<Vec<u8>>());
            put(0x1000 + names_at, &names);
            let mut functions = Vec::new();
            for (number, ((_, at), name)) in FUNCTIONS.iter().zip(name_offsets).enumerate() {
                let place = described_from + number as u64 * 0x20;
                functions.extend([part(first + at), part(place)].concat());
                let name = if magic == 0xffff_fffb { name + names_at as u32 } else { name };
                let from = if magic == 0xffff_fffb { 0 } else { functions_at };
                put(0x1000 + from + place, &[part(first + at), name.to_le_bytes().to_vec()].concat());
            }
            functions.extend(part(first + END));
            put(0x1000 + functions_at, &functions);
            let slice = |at: u64| [at, 0x80, 0x80];
            let module_data: Vec<u64> = if magic == 0xffff_fffb {
                [slice(table), slice(table + functions_at)].concat()
            } else {
                let mut words = [vec![table], slice(table + 0x80).to_vec(), vec![0; 18]].concat();
                words.push(TEXT);
                words
            };
            // Pointers to the table that are something else, and the build information.
            put(0x4000, BUILD_INFO);
            put(0x4040, &[word(table), word(table), word(7), word(7)].concat());
            put(0x4400, &module_data.into_iter().flat_map(word).collect::<Vec<u8>>());
            let (extent, data) = (BASE..BASE + 0x6000, std::iter::once(BASE + 0x4000..BASE + 0x5000).collect());
            Self { class, bytes, image: MappedImage { bias: BASE, extent, data, ..MappedImage::default() } }
        }

        fn read(&self, address: u64, length: usize) -> Option<Vec<u8>> {
            let from = address.checked_sub(BASE)? as usize;
            self.bytes.get(from..from.checked_add(length)?).map(<[u8]>::to_vec)
        }

        fn names(&self, addresses: &[u64]) -> Vec<Option<Symbol>> {
            let read = |address, length| self.read(address, length);
            let functions = GoFunctions::find(&self.image, self.class, read).unwrap();
            addresses.iter().map(|address| functions.containing(*address, read)).collect()
        }
    }

    #[test]
    fn functions_of_all_layouts_have_names() {
        for class in [ElfClass::Elf32, ElfClass::Elf64] {
            for magic in [0xffff_fffb, 0xffff_fffa, 0xffff_fff0, 0xffff_fff1] {
                for has_text in [true, false] {
                    let program = Program::new(class, magic, has_text);
                    let addresses = [TEXT, TEXT + 0x3f, TEXT + 0x40, TEXT + 0xff, TEXT + 0x100, TEXT - 1];
                    let found = program.names(&addresses);
                    let expected = [
                        Some(Symbol::new(b"runtime.text", 0)),
                        Some(Symbol::new(b"runtime.text", 0x3f)),
                        Some(Symbol::new(b"main.(*T).fault", 0)),
                        Some(Symbol::new(b"main.main", 0x3f)),
                        None,
                        None,
                    ];
                    assert_eq!(found, expected, "{class:?} {magic:#x} {has_text}");
                }
            }
        }
    }

    #[test]
    fn a_program_of_another_language_is_not_searched_and_hostile_tables_end() {
        let mut program = Program::new(ElfClass::Elf64, 0xffff_fff1, true);
        program.bytes[0x4000..0x4010].fill(0);
        let mut count = 0;
        let read = |address, length| {
            count += 1;
            program.read(address, length)
        };
        assert_eq!(GoFunctions::find(&program.image, program.class, read), None);
        assert!(count <= 2, "{count}");
        let program = Program::new(ElfClass::Elf64, 0xffff_fff1, true);
        for byte in [0, 1, 0xff] {
            let functions =
                GoFunctions::find(&program.image, program.class, |at, length| program.read(at, length)).unwrap();
            let mut count = 0;
            let _ = functions.containing(TEXT + 0x50, |_, length| {
                count += 1;
                Some(vec![byte; length])
            });
            assert!(count < 64, "{count}");
        }
        let image =
            MappedImage { extent: 0..u64::MAX, data: std::iter::once(0..u64::MAX - 1).collect(), ..program.image };
        let mut bytes_read = 0;
        let everywhere = |_, length| {
            bytes_read += length;
            Some(BUILD_INFO.iter().copied().chain([0]).cycle().take(length).collect())
        };
        assert_eq!(GoFunctions::find(&image, ElfClass::Elf64, everywhere), None);
        assert!(bytes_read < 32 << 20, "{bytes_read}");
    }
}
