//! Function names from ELF files: DWARF (addr2line), else the symbol table. Nothing is opened here: split DWARF, whose files are
//! found by names in the DWARF, is not followed.

use super::dwarf_names::{self, CodeFunction, qualified_name};
use super::symbol_table::CodeSymbols;
use crate::crash::demangle;
use crate::crash::text::cut;
use crate::elf::decompress_debugdata;
use addr2line::{Context, LookupContinuation, LookupResult};
use gimli::{AbbreviationsCacheStrategy, DwLang, DwarfSections, EndianSlice, RunTimeEndian, SectionId};
use object::{CompressionFormat, Object, ObjectSection, ReadCache};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cell::OnceCell;
use std::fs::File;
use std::io::{self, Cursor, ErrorKind, Read, Seek, SeekFrom};

/// A function that contains a frame. Several functions contain a frame if they are inlined into each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Function {
    pub(super) name: String,
    /// Source file without its directory, and line.
    pub(super) source: Option<String>,
    /// Whether it is not on the stack any more: it jumped to the function of the frame before (a tail call).
    #[serde(default)]
    pub(super) is_tail: bool,
}

/// A call within a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Call {
    /// An address in the call.
    pub(super) caller: u64,
    /// An address in the function of the frame before.
    pub(super) callee: u64,
}

/// The longest name that is shown, in bytes. C++ templates can make a name several KiB long.
pub(super) const MAX_NAME: usize = 500;
/// The most functions of one frame.
pub(super) const MAX_INLINED: usize = 32;
/// Most bytes that are read of one file, or made of one section of it.
const MAX_READ: u64 = 1 << 30;

/// An ELF file of which only those parts are read that are needed.
pub(super) struct ElfBytes(ReadCache<Source>);

enum Source {
    File { file: File, left: u64 },
    Memory(Cursor<Vec<u8>>),
}

impl ElfBytes {
    /// A file that may grow, shrink or change at any time: each part of it is read once.
    pub(super) fn of_file(file: File) -> Self {
        Self(ReadCache::new(Source::File { file, left: MAX_READ }))
    }

    pub(super) fn of_memory(bytes: Vec<u8>) -> Self {
        Self(ReadCache::new(Source::Memory(Cursor::new(bytes))))
    }

    /// The GNU build-id, in hexadecimal.
    pub(super) fn build_id(&self) -> Option<String> {
        let id = object::File::parse(&self.0).ok()?.build_id().ok()??.to_vec();
        Some(crate::crash::text::to_hexadecimal(&id))
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => bytes.read(buffer),
            Self::File { file, left } => {
                let count = file.read(buffer)?;
                *left = left.checked_sub(count as u64).ok_or(ErrorKind::FileTooLarge)?;
                Ok(count)
            }
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::Memory(bytes) => bytes.seek(to),
            Self::File { file, .. } => file.seek(to),
        }
    }
}

/// The file that has the parts of DWARF that dwz(1) moved out of several files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Supplement {
    /// As in records ([`crate::crash::text`]).
    pub(super) path: String,
    /// In hexadecimal.
    pub(super) build_id: String,
}

/// What was found in the files of one build.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The functions that contain each of the addresses, the innermost first; none where no file names them.
    pub(super) functions: Vec<Vec<Function>>,
    /// The functions that are not on the stack between caller and callee of each call, the innermost first.
    pub(super) tail_calls: Vec<Vec<Function>>,
    /// The name of a file with the DWARF, if no file has any.
    pub(super) debug_link: Option<String>,
    /// Whether no file has any DWARF.
    pub(super) lacks_dwarf: bool,
    /// The file that DWARF refers to, if it is not there.
    pub(super) lacks_supplement: Option<Supplement>,
    /// Whether there is DWARF that is damaged, or too large.
    pub(super) is_damaged: bool,
}

type ElfObject<'a> = object::File<'a, &'a ReadCache<Source>>;
type Sections<'a> = DwarfSections<Cow<'a, [u8]>>;
type Section<'a> = EndianSlice<'a, RunTimeEndian>;

/// The names in one file.
struct Image<'a> {
    object: &'a ElfObject<'a>,
    dwarf: Option<Context<Section<'a>>>,
    symbols: OnceCell<CodeSymbols>,
}

/// Looks up the functions at `offsets`, and between those of `calls`. The `files` are those of one build: the program, and its debug symbols. The build-id of
/// `supplement` was not yet compared with what the DWARF asks for.
pub(super) fn find_functions(
    files: &[ElfBytes],
    supplement: Option<&ElfBytes>,
    offsets: &[u64],
    calls: &[Call],
) -> Found {
    let objects: Vec<ElfObject<'_>> = files.iter().filter_map(|file| object::File::parse(&file.0).ok()).collect();
    let has_dwarf = |object: &ElfObject<'_>| object.section_by_name(".debug_info").is_some();
    let lacks_dwarf = !objects.iter().any(has_dwarf);
    let mut found = Found { lacks_dwarf, ..Found::default() };
    if lacks_dwarf {
        found.debug_link = objects.iter().find_map(debug_link);
    }
    // Without DWARF, and without a symbol table of its own, a program may have one that is compressed.
    let is_stripped = lacks_dwarf && objects.iter().all(|object| object.symbols().next().is_none());
    let embedded: Vec<ElfBytes> =
        if is_stripped { objects.iter().filter_map(mini_debug_info).collect() } else { Vec::new() };
    let objects: Vec<ElfObject<'_>> =
        objects.into_iter().chain(embedded.iter().filter_map(|file| object::File::parse(&file.0).ok())).collect();
    let supplement = supplement.and_then(|file| Some((file.build_id()?, object::File::parse(&file.0).ok()?)));
    let supplement = supplement.as_ref().and_then(|(build_id, object)| Some((build_id, load_sections(object)?)));
    let mut dwarf: Vec<Option<(Sections<'_>, bool)>> = Vec::new();
    for object in &objects {
        let wanted = has_dwarf(object).then(|| supplement_of(object)).flatten();
        let has_supplement = match (&wanted, &supplement) {
            (Some(wanted), Some((build_id, _))) => wanted.build_id == **build_id,
            _ => false,
        };
        if !has_supplement {
            found.lacks_supplement = found.lacks_supplement.or(wanted);
        }
        let sections = has_dwarf(object).then(|| load_sections(object));
        found.is_damaged |= matches!(sections, Some(None));
        dwarf.push(sections.flatten().map(|sections| (sections, has_supplement)));
    }
    let images: Vec<Image<'_>> = objects
        .iter()
        .zip(&dwarf)
        .map(|(object, dwarf)| {
            let dwarf = dwarf.as_ref().and_then(|(sections, has_supplement)| {
                let supplement = supplement.as_ref().filter(|_| *has_supplement).map(|(_, sections)| sections);
                let context = context(object, sections, supplement);
                found.is_damaged |= context.is_none();
                context
            });
            Image { object, dwarf, symbols: OnceCell::new() }
        })
        .collect();
    found.functions = offsets.iter().map(|offset| functions_at(&images, *offset)).collect();
    found.tail_calls = calls.iter().map(|call| tail_calls(&images, *call)).collect();
    found
}

fn tail_calls(images: &[Image<'_>], call: Call) -> Vec<Function> {
    let address_of = |name: &str| images.iter().find_map(|image| image.symbols().address_of(image.object, name));
    let described = images.iter().find_map(|image| Some(image.function_at(call.callee)?.start()));
    let symbol = || images.iter().filter_map(|image| image.symbol(call.callee)).map(|(address, _)| address).max();
    let Some(callee) = described.or_else(symbol) else { return Vec::new() };
    let addresses =
        images.iter().map(|image| image.tail_calls(call, callee, &address_of)).find(|calls| !calls.is_empty());
    let functions = addresses.unwrap_or_default().into_iter().flat_map(|behind| functions_at(images, behind - 1));
    functions.map(|function| Function { is_tail: true, ..function }).collect()
}

fn functions_at(images: &[Image<'_>], offset: u64) -> Vec<Function> {
    let mut source = None;
    for image in images {
        let (functions, place) = image.inlined_functions(offset);
        if !functions.is_empty() {
            return functions;
        }
        source = source.or(place);
    }
    // The closest symbol of all files, of the first file if they have the same.
    let symbols = images.iter().filter_map(|image| image.symbol(offset)).rev();
    let closest = symbols.max_by_key(|(address, _)| *address);
    closest.map(|(_, name)| Function { name, source, is_tail: false }).into_iter().collect()
}

fn context<'a>(
    object: &ElfObject<'_>,
    sections: &'a Sections<'_>,
    supplement: Option<&'a Sections<'_>>,
) -> Option<Context<Section<'a>>> {
    let endian = if object.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
    let mut dwarf = sections.borrow(|section| EndianSlice::new(section, endian));
    if let Some(supplement) = supplement {
        dwarf.set_sup(supplement.borrow(|section| EndianSlice::new(section, endian)));
    }
    dwarf.populate_abbreviations_cache(AbbreviationsCacheStrategy::Duplicates);
    Context::from_dwarf(dwarf).ok()
}

/// The result of a lookup. The file with the rest of a unit, where DWARF is split, is treated as missing.
fn complete<L: LookupContinuation>(mut lookup: LookupResult<L>) -> L::Output {
    loop {
        match lookup {
            LookupResult::Output(output) => return output,
            LookupResult::Load { continuation, .. } => lookup = continuation.resume(None),
        }
    }
}

impl<'a> Image<'a> {
    /// The functions as DWARF has them, and the line of the address, which may be known without any function.
    fn inlined_functions(&self, offset: u64) -> (Vec<Function>, Option<String>) {
        let mut functions = Vec::new();
        let mut line = None;
        let Some(dwarf) = &self.dwarf else { return (functions, line) };
        let Ok(mut frames) = complete(dwarf.find_frames(offset)) else { return (functions, line) };
        while let Ok(Some(frame)) = frames.next()
            && functions.len() < MAX_INLINED
        {
            let source = frame.location.and_then(|place| {
                let file = cut(place.file?.rsplit('/').next()?, MAX_NAME);
                Some(place.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}")))
            });
            let Some(name) = frame.function else {
                line = line.or(source);
                continue;
            };
            let Ok(raw) = name.raw_name() else { continue };
            // A function that is known in its file only may have no mangled name, and so no namespace.
            let qualified = match (name.language, frame.dw_die_offset) {
                (Some(language), Some(die)) if is_cpp(language) && !raw.starts_with("_Z") => {
                    complete(dwarf.find_dwarf_and_unit(offset)).and_then(|unit| qualified_name(unit, die, MAX_NAME))
                }
                _ => None,
            };
            let name = qualified.unwrap_or_else(|| demangle(&raw, MAX_NAME));
            functions.push(Function { name, source, is_tail: false });
        }
        (functions, line)
    }

    fn symbols(&self) -> &CodeSymbols {
        self.symbols.get_or_init(|| CodeSymbols::read(self.object))
    }

    fn function_at(&self, address: u64) -> Option<CodeFunction<'_, 'a>> {
        let dwarf = self.dwarf.as_ref()?;
        let mut frames = complete(dwarf.find_frames(address)).ok()?;
        let mut die = None;
        while let Ok(Some(frame)) = frames.next() {
            // The last is the function itself.
            die = frame.dw_die_offset;
        }
        CodeFunction::new(complete(dwarf.find_dwarf_and_unit(address))?, die?)
    }

    /// The addresses behind the calls of [`tail_calls`], the innermost first. The function of the callee starts at `callee`.
    fn tail_calls(&self, call: Call, callee: u64, address_of: &dyn Fn(&str) -> Option<u64>) -> Vec<u64> {
        let Some(caller) = self.function_at(call.caller) else { return Vec::new() };
        let function_at = |address| self.function_at(address);
        dwarf_names::tail_calls(&caller, call.caller.wrapping_add(1), callee, &function_at, address_of)
    }

    /// The symbol that contains the address, and its address.
    fn symbol(&self, offset: u64) -> Option<(u64, String)> {
        let symbol = self.symbols().containing(offset)?;
        Some((symbol.address, demangle(symbol.name(self.object)?, MAX_NAME)))
    }
}

fn is_cpp(language: DwLang) -> bool {
    matches!(
        language,
        gimli::DW_LANG_C_plus_plus
            | gimli::DW_LANG_C_plus_plus_03
            | gimli::DW_LANG_C_plus_plus_11
            | gimli::DW_LANG_C_plus_plus_14
            | gimli::DW_LANG_C_plus_plus_17
            | gimli::DW_LANG_C_plus_plus_20
    )
}

/// The sections with DWARF that are needed for names and lines, decompressed.
fn load_sections<'a>(object: &ElfObject<'a>) -> Option<Sections<'a>> {
    let load = |id: SectionId| match id {
        SectionId::DebugAbbrev
        | SectionId::DebugAddr
        | SectionId::DebugAranges
        | SectionId::DebugInfo
        | SectionId::DebugLine
        | SectionId::DebugLineStr
        | SectionId::DebugRanges
        | SectionId::DebugRngLists
        | SectionId::DebugStr
        | SectionId::DebugStrOffsets => {
            object.section_by_name(id.name()).map_or(Some(Cow::Borrowed(&[][..])), |section| uncompressed(&section))
        }
        _ => Some(Cow::Borrowed(&[][..])),
    };
    DwarfSections::load(|id| load(id).ok_or(())).ok()
}

/// The content of a section. How long it says that it is does not count: memory is taken only for what is there.
fn uncompressed<'data>(section: &impl ObjectSection<'data>) -> Option<Cow<'data, [u8]>> {
    let compressed = section.compressed_data().ok()?;
    match compressed.format {
        CompressionFormat::None => Some(Cow::Borrowed(compressed.data)),
        CompressionFormat::Zstandard => {
            let decoder = zstd::stream::read::Decoder::with_buffer(compressed.data).ok()?;
            read_up_to(decoder, MAX_READ).map(Cow::Owned)
        }
        _ if compressed.uncompressed_size <= MAX_READ => compressed.decompress().ok(),
        _ => None,
    }
}

fn read_up_to(from: impl Read, limit: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    from.take(limit + 1).read_to_end(&mut content).ok()?;
    (content.len() as u64 <= limit).then_some(content)
}

/// The symbol table that a stripped program has in `.gnu_debugdata`, compressed with xz (gdb's MiniDebugInfo).
fn mini_debug_info(object: &ElfObject<'_>) -> Option<ElfBytes> {
    decompress_debugdata(object.section_by_name(".gnu_debugdata")?.data().ok()?.to_vec()).map(ElfBytes::of_memory)
}

/// The name of the file with the debug symbols, without a directory.
fn debug_link(object: &ElfObject<'_>) -> Option<String> {
    let (name, _) = object.gnu_debuglink().ok()??;
    let is_name = !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/');
    is_name.then(|| crate::crash::text::from_bytes(name))
}

fn supplement_of(object: &ElfObject<'_>) -> Option<Supplement> {
    let (path, build_id) = object.gnu_debugaltlink().ok()??;
    Some(Supplement {
        path: crate::crash::text::from_bytes(path),
        build_id: crate::crash::text::to_hexadecimal(build_id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(file: &[u8], address: u64) -> Vec<Vec<Function>> {
        find_functions(&[ElfBytes::of_memory(file.to_vec())], None, &[address], &[]).functions
    }

    #[test]
    fn a_function_of_this_program_has_its_name_and_a_damaged_file_has_none() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let first = maps.lines().find(|line| line.ends_with(exe.to_str().unwrap())).unwrap();
        // A position-independent program is linked at 0.
        let bias = u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap();
        let find_functions = find_functions as fn(&[ElfBytes], Option<&ElfBytes>, &[u64], &[Call]) -> Found;
        let address = find_functions as usize as u64 - bias;
        let mut file = std::fs::read(&exe).unwrap();
        let found = find(&file, address);
        let function = found[0].last().unwrap();
        assert!(function.name.ends_with("find_functions"), "{found:?}");
        assert!(function.source.as_ref().unwrap().starts_with("elf_symbols.rs:"), "{found:?}");
        let on_disk = ElfBytes::of_file(File::open(&exe).unwrap());
        assert_eq!(find_functions(&[on_disk], None, &[address], &[]).functions, found);
        file.truncate(1 << 20);
        assert_eq!(find(&file, address), [[]; 1]);
    }
}
