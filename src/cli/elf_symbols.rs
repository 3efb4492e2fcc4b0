//! Function names from ELF files: DWARF (addr2line), else the symbol table ([`find_functions_in_file`]). Nothing is opened here: split DWARF, whose files are
//! found by names in the DWARF, is not followed.

use super::dwarf_names::{CodeFunction, Functions, qualified_name};
use super::function_addresses::{FunctionAddresses, functions};
use crate::crash::demangle;
use crate::crash::text::{self, cut};
use crate::elf::{FoundFunction, find_functions_in_file};
use addr2line::{Context, LookupContinuation, LookupResult};
use gimli::{AbbreviationsCacheStrategy, DwLang, DwarfSections, EndianSlice, RunTimeEndian, SectionId};
use object::{CompressionFormat, Object, ObjectSection, ReadCache, ReadRef};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
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

/// A way from a call to a function of another module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exit {
    /// The functions on the way, which jumped to the next one, the innermost first.
    pub(super) functions: Vec<Function>,
    /// The function of the other module, as the linker names it.
    pub(super) name: String,
}

/// A way from a function that another module called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The function that was called, as the linker names it.
    pub(super) name: String,
    /// An address in the function of the innermost frame.
    pub(super) callee: u64,
}

/// What is asked of the files of one build. All addresses are as in the headers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Questions {
    /// Addresses whose functions are looked up.
    pub(super) offsets: Vec<u64>,
    /// Calls within the module.
    pub(super) calls: Vec<Call>,
    /// Addresses in calls of functions of other modules.
    pub(super) exits: Vec<u64>,
    /// Addresses in functions that other modules called.
    pub(super) callees: Vec<u64>,
    pub(super) entries: Vec<Entry>,
}

/// The longest name that is shown, in bytes. C++ templates can make a name several KiB long.
pub(super) const MAX_NAME: usize = 500;
/// The longest name in a symbol table that is read, in bytes. It is demangled before it is cut.
const MAX_MANGLED: usize = 16 << 10;
/// The most names of one function.
const MAX_NAMES: usize = 64;
/// The most functions of one frame.
pub(super) const MAX_INLINED: usize = 32;
/// Most bytes that are read of one file, or made of one section of it.
const MAX_READ: u64 = 1 << 30;
/// What a section may expand to for each of its compressed bytes, beyond [`EXPANDED`]. Debug information shrinks to a third, and seldom to a tenth.
const MAX_EXPANSION: u64 = 100;
/// What any section may expand to, in bytes.
const EXPANDED: u64 = 1 << 20;

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
        Some(text::to_hexadecimal(&id))
    }

    /// Bytes at an offset; `None` if any of them are not there.
    fn read(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        (&self.0).read_bytes_at(offset, length as u64).ok().map(<[u8]>::to_vec)
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
    pub(super) outer: OuterCalls,
    /// The name of a file with the DWARF, if no file has any.
    pub(super) debug_link: Option<String>,
    /// Whether no file has any DWARF.
    pub(super) lacks_dwarf: bool,
    /// The file that DWARF refers to, if it is not there.
    pub(super) lacks_supplement: Option<Supplement>,
    /// Whether there is DWARF that is damaged, or too large.
    pub(super) is_damaged: bool,
}

/// What was found about calls between modules.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct OuterCalls {
    /// The ways from each of the exits.
    pub(super) exits: Vec<Vec<Exit>>,
    /// All names of the function that each of the callees is in, as the linker has them.
    pub(super) callee_names: Vec<Vec<String>>,
    /// The functions that are not on the stack from each of the entries to its callee, the innermost first; `None` if no way leads there.
    pub(super) entries: Vec<Option<Vec<Function>>>,
}

type ElfObject<'a> = object::File<'a, &'a ReadCache<Source>>;
type Sections<'a> = DwarfSections<Cow<'a, [u8]>>;
type Section<'a> = EndianSlice<'a, RunTimeEndian>;

/// The names in one file.
struct Image<'a> {
    bytes: &'a ElfBytes,
    object: &'a ElfObject<'a>,
    dwarf: Option<Context<Section<'a>>>,
    /// The functions of the symbol table by address, as far as they were looked up.
    symbols: RefCell<HashMap<u64, Option<FoundFunction>>>,
    addresses: OnceCell<FunctionAddresses<'a>>,
}

/// Answers the questions. The `files` are those of one build: the program, and its debug symbols. The build-id of `supplement` was not yet compared with what the DWARF asks for.
pub(super) fn find_functions(files: &[ElfBytes], supplement: Option<&ElfBytes>, questions: &Questions) -> Found {
    let Questions { offsets, calls, exits, callees, entries } = questions;
    let objects: Vec<(&ElfBytes, ElfObject<'_>)> =
        files.iter().filter_map(|file| Some((file, object::File::parse(&file.0).ok()?))).collect();
    let has_dwarf = |object: &ElfObject<'_>| object.section_by_name(".debug_info").is_some();
    let lacks_dwarf = !objects.iter().any(|(_, object)| has_dwarf(object));
    let mut found = Found { lacks_dwarf, ..Found::default() };
    if lacks_dwarf {
        found.debug_link = objects.iter().find_map(|(_, object)| debug_link(object));
    }
    let supplement = supplement.and_then(|file| Some((file.build_id()?, object::File::parse(&file.0).ok()?)));
    let supplement = supplement.as_ref().and_then(|(build_id, object)| Some((build_id, load_sections(object)?)));
    let mut dwarf: Vec<Option<(Sections<'_>, bool)>> = Vec::new();
    for (_, object) in &objects {
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
        .map(|((bytes, object), dwarf)| {
            let dwarf = dwarf.as_ref().and_then(|(sections, has_supplement)| {
                let supplement = supplement.as_ref().filter(|_| *has_supplement).map(|(_, sections)| sections);
                let context = context(object, sections, supplement);
                found.is_damaged |= context.is_none();
                context
            });
            Image { bytes, object, dwarf, symbols: RefCell::default(), addresses: OnceCell::new() }
        })
        .collect();
    let described: Vec<Described> = offsets.iter().map(|offset| described(&images, *offset)).collect();
    let called = calls.iter().map(|call| call.callee).chain(callees.iter().copied());
    let called = called.chain(entries.iter().map(|entry| entry.callee));
    let called = called.filter(|callee| start_in_dwarf(&images, *callee).is_none());
    let unnamed = offsets.iter().zip(&described).filter(|(_, described)| described.functions.is_empty());
    // A table is read once for all of them.
    let unnamed: BTreeSet<u64> = unnamed.map(|(offset, _)| *offset).chain(called).collect();
    images.iter().for_each(|image| image.look_up_symbols(unnamed.iter().copied().collect()));
    let functions = offsets.iter().zip(described).map(|(offset, described)| described.or_symbol(&images, *offset));
    found.functions = functions.collect();
    found.tail_calls = calls.iter().map(|call| tail_calls(&images, *call)).collect();
    found.outer = OuterCalls {
        exits: exits.iter().map(|caller| outer_exits(&images, *caller)).collect(),
        callee_names: names_of(&images, callees),
        entries: entries.iter().map(|entry| way_from(&images, entry)).collect(),
    };
    found
}

fn start_in_dwarf(images: &[Image<'_>], address: u64) -> Option<u64> {
    images.iter().find_map(|image| Some(image.function_at(address)?.start()))
}

/// Where the function begins that `address` is in.
fn start_of(images: &[Image<'_>], address: u64) -> Option<u64> {
    let symbol = || images.iter().filter_map(|image| image.symbol(address)).map(|symbol| symbol.start).max();
    start_in_dwarf(images, address).or_else(symbol)
}

fn tail_calls(images: &[Image<'_>], call: Call) -> Vec<Function> {
    let Some(callee) = start_of(images, call.callee) else { return Vec::new() };
    let address_of = |name: &str| images.iter().find_map(|image| image.addresses().of(name));
    let calls =
        images.iter().map(|image| image.functions(&address_of, |functions| functions.tail_calls(call.caller, callee)));
    tail_callers(images, calls.into_iter().find(|calls| !calls.is_empty()).unwrap_or_default())
}

/// The functions with the calls that end at these addresses.
fn tail_callers(images: &[Image<'_>], calls: Vec<u64>) -> Vec<Function> {
    let functions = calls.into_iter().flat_map(|behind| functions_at(images, behind.wrapping_sub(1)));
    functions.map(|function| Function { is_tail: true, ..function }).collect()
}

fn outer_exits(images: &[Image<'_>], caller: u64) -> Vec<Exit> {
    let address_of = |name: &str| images.iter().find_map(|image| image.addresses().of(name));
    let exits = images.iter().map(|image| image.functions(&address_of, |functions| functions.exits(caller)));
    let exits = exits.into_iter().find(|exits| !exits.is_empty()).unwrap_or_default();
    let exits = exits.into_iter().filter(|(_, name)| name.len() <= MAX_MANGLED);
    exits.map(|(calls, name)| Exit { functions: tail_callers(images, calls), name }).collect()
}

fn way_from(images: &[Image<'_>], entry: &Entry) -> Option<Vec<Function>> {
    let address_of = |name: &str| images.iter().find_map(|image| image.addresses().of(name));
    let (start, callee) = (address_of(&entry.name)?, start_of(images, entry.callee)?);
    if start == callee {
        return Some(Vec::new());
    }
    let mut ways =
        images.iter().map(|image| image.functions(&address_of, |functions| functions.tail_calls_from(start, callee)));
    ways.find_map(|calls| calls).map(|calls| tail_callers(images, calls))
}

/// All names of the functions that these addresses are in.
fn names_of(images: &[Image<'_>], addresses: &[u64]) -> Vec<Vec<String>> {
    let starts: Vec<Option<u64>> = addresses.iter().map(|address| start_of(images, *address)).collect();
    let wanted: HashSet<u64> = starts.iter().flatten().copied().collect();
    let mut names: HashMap<u64, BTreeSet<&[u8]>> = HashMap::new();
    if !wanted.is_empty() {
        for (address, name) in
            images.iter().flat_map(|image| functions(image.object, |address| wanted.contains(&address)))
        {
            let names = names.entry(address).or_default();
            if names.len() < MAX_NAMES {
                names.insert(name);
            }
        }
    }
    let text = |name: &&[u8]| String::from_utf8(name.to_vec()).ok().filter(|name| name.len() <= MAX_MANGLED);
    let of = |start: &u64| names.get(start).into_iter().flatten().filter_map(text).collect();
    starts.iter().map(|start| start.as_ref().map(of).unwrap_or_default()).collect()
}

/// What DWARF tells of an address.
struct Described {
    functions: Vec<Function>,
    /// Its line, if that is known without any function.
    source: Option<String>,
}

fn described(images: &[Image<'_>], offset: u64) -> Described {
    let mut source = None;
    for image in images {
        let (functions, place) = image.inlined_functions(offset);
        if !functions.is_empty() {
            return Described { functions, source: None };
        }
        source = source.or(place);
    }
    Described { functions: Vec::new(), source }
}

impl Described {
    /// The functions, else the closest symbol of all files, of the first file if they have the same.
    fn or_symbol(self, images: &[Image<'_>], offset: u64) -> Vec<Function> {
        let Self { functions, source } = self;
        if !functions.is_empty() {
            return functions;
        }
        let closest = images.iter().filter_map(|image| image.symbol(offset)).rev().max_by_key(|symbol| symbol.start);
        let name = closest.map(|symbol| demangle(&text::from_bytes(&symbol.name), MAX_NAME));
        name.map(|name| Function { name, source, is_tail: false }).into_iter().collect()
    }
}

fn functions_at(images: &[Image<'_>], offset: u64) -> Vec<Function> {
    described(images, offset).or_symbol(images, offset)
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
    /// The DWARF, unless nothing can be at `address`: addr2line counts on to the next one.
    fn dwarf_at(&self, address: u64) -> Option<&Context<Section<'a>>> {
        self.dwarf.as_ref().filter(|_| address != u64::MAX)
    }

    /// The functions as DWARF has them, and the line of the address, which may be known without any function.
    fn inlined_functions(&self, offset: u64) -> (Vec<Function>, Option<String>) {
        let mut functions = Vec::new();
        let mut line = None;
        let Some(dwarf) = self.dwarf_at(offset) else { return (functions, line) };
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

    fn addresses(&self) -> &FunctionAddresses<'a> {
        self.addresses.get_or_init(|| FunctionAddresses::read(self.object))
    }

    /// Looks up these addresses in the symbol table, for [`Self::symbol`].
    fn look_up_symbols(&self, addresses: Vec<u64>) {
        if !addresses.is_empty() {
            let read = |offset, length| self.bytes.read(offset, length);
            let found = find_functions_in_file(&addresses, MAX_MANGLED, read);
            self.symbols.borrow_mut().extend(addresses.into_iter().zip(found));
        }
    }

    /// The symbol that contains the address.
    fn symbol(&self, address: u64) -> Option<FoundFunction> {
        let known = self.symbols.borrow().get(&address).cloned();
        known.unwrap_or_else(|| {
            self.look_up_symbols(vec![address]);
            self.symbols.borrow().get(&address).cloned().flatten()
        })
    }

    fn function_at(&self, address: u64) -> Option<CodeFunction<'_, 'a>> {
        let dwarf = self.dwarf_at(address)?;
        let mut frames = complete(dwarf.find_frames(address)).ok()?;
        let mut die = None;
        while let Ok(Some(frame)) = frames.next() {
            // The last is the function itself.
            die = frame.dw_die_offset;
        }
        CodeFunction::new(complete(dwarf.find_dwarf_and_unit(address))?, die?)
    }

    /// What `find` finds by the call sites of this file.
    fn functions<T>(
        &self,
        address_of: &dyn Fn(&str) -> Option<u64>,
        find: impl FnOnce(&Functions<'_, '_, 'a>) -> T,
    ) -> T {
        find(&Functions { at: &|address| self.function_at(address), address_of })
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

/// The content of a section. How long it says that it is does not count: memory is taken only for what is there, and no more than a compiler's
/// output can need.
fn uncompressed<'data>(section: &impl ObjectSection<'data>) -> Option<Cow<'data, [u8]>> {
    let compressed = section.compressed_data().ok()?;
    let limit = (compressed.data.len() as u64).saturating_mul(MAX_EXPANSION).saturating_add(EXPANDED).min(MAX_READ);
    match compressed.format {
        CompressionFormat::None => Some(Cow::Borrowed(compressed.data)),
        CompressionFormat::Zstandard => {
            let decoder = zstd::stream::read::Decoder::with_buffer(compressed.data).ok()?;
            read_up_to(decoder, limit).map(Cow::Owned)
        }
        _ if compressed.uncompressed_size <= limit => compressed.decompress().ok(),
        _ => None,
    }
}

fn read_up_to(from: impl Read, limit: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    from.take(limit + 1).read_to_end(&mut content).ok()?;
    (content.len() as u64 <= limit).then_some(content)
}

/// The name of the file with the debug symbols, without a directory.
fn debug_link(object: &ElfObject<'_>) -> Option<String> {
    let (name, _) = object.gnu_debuglink().ok()??;
    let is_name = !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/');
    is_name.then(|| text::from_bytes(name))
}

fn supplement_of(object: &ElfObject<'_>) -> Option<Supplement> {
    let (path, build_id) = object.gnu_debugaltlink().ok()??;
    Some(Supplement { path: text::from_bytes(path), build_id: text::to_hexadecimal(build_id) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(file: &[u8], address: u64) -> Vec<Vec<Function>> {
        find_functions(&[ElfBytes::of_memory(file.to_vec())], None, &at(address)).functions
    }

    fn at(address: u64) -> Questions {
        Questions { offsets: vec![address], ..Questions::default() }
    }

    #[test]
    fn a_function_of_this_program_has_its_name_and_a_damaged_file_has_none() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let first = maps.lines().find(|line| line.ends_with(exe.to_str().unwrap())).unwrap();
        // A position-independent program is linked at 0.
        let bias = u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap();
        let find_functions = find_functions as fn(&[ElfBytes], Option<&ElfBytes>, &Questions) -> Found;
        let address = find_functions as usize as u64 - bias;
        let mut file = std::fs::read(&exe).unwrap();
        let found = find(&file, address);
        let function = found[0].last().unwrap();
        assert!(function.name.ends_with("find_functions"), "{found:?}");
        assert!(function.source.as_ref().unwrap().starts_with("elf_symbols.rs:"), "{found:?}");
        let on_disk = ElfBytes::of_file(File::open(&exe).unwrap());
        assert_eq!(find_functions(&[on_disk], None, &at(address)).functions, found);
        assert_eq!(find(&file, u64::MAX), [[]; 1], "the last address");
        file.truncate(1 << 20);
        assert_eq!(find(&file, address), [[]; 1]);
    }
    /// A section that is compressed much better than any compiler's output.
    #[test]
    fn a_section_that_expands_without_end_is_not_read() {
        let zeros = zstd::encode_all(&vec![0; 16 << 20][..], 1).unwrap();
        assert!(read_up_to(zstd::stream::read::Decoder::new(&zeros[..]).unwrap(), EXPANDED).is_none());
        assert!(read_up_to(zstd::stream::read::Decoder::new(&zeros[..]).unwrap(), 16 << 20).is_some());
    }
}
