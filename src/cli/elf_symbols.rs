//! Function names from the bytes of ELF files: DWARF (addr2line), else the symbol table. Nothing is opened here: split DWARF,
//! whose files are found by names in the DWARF, is not followed.

use crate::crash::text::cut;
use addr2line::{Context, LookupContinuation, LookupResult};
use gimli::{AbbreviationsCacheStrategy, DwarfSections, EndianSlice, RunTimeEndian};
use object::{Object, ObjectSection, SymbolMap, SymbolMapName};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A function that contains a frame. Several functions contain a frame if they are inlined into each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Function {
    pub(super) name: String,
    /// Source file without its directory, and line.
    pub(super) source: Option<String>,
}

/// The longest name that is shown, in bytes. C++ templates can make a name several KiB long.
pub(super) const MAX_NAME: usize = 200;
/// The most functions of one frame.
pub(super) const MAX_INLINED: usize = 32;

type Section<'a> = EndianSlice<'a, RunTimeEndian>;

/// The names in one file.
struct Image<'a> {
    dwarf: Option<Context<Section<'a>>>,
    symbols: SymbolMap<SymbolMapName<'a>>,
}

/// The functions that contain each of the addresses `offsets`, the innermost first; none where no file names them. The `files`
/// are those of one build: the program, and its debug symbols.
pub(super) fn find_functions(files: &[Vec<u8>], offsets: &[u64]) -> Vec<Vec<Function>> {
    let objects: Vec<object::File<'_>> =
        files.iter().filter_map(|bytes| object::File::parse(bytes.as_slice()).ok()).collect();
    let sections: Vec<Option<DwarfSections<Cow<'_, [u8]>>>> = objects.iter().map(load_sections).collect();
    let images: Vec<Image<'_>> =
        objects.iter().zip(&sections).map(|(object, sections)| Image::new(object, sections.as_ref())).collect();
    let functions = |offset: u64| {
        images
            .iter()
            .map(|image| image.inlined_functions(offset))
            .find(|functions| !functions.is_empty())
            .unwrap_or_else(|| images.iter().find_map(|image| image.symbol(offset)).into_iter().collect())
    };
    offsets.iter().map(|offset| functions(*offset)).collect()
}

impl<'a> Image<'a> {
    fn new(object: &object::File<'a>, sections: Option<&'a DwarfSections<Cow<'a, [u8]>>>) -> Self {
        let endian = if object.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let dwarf = sections.and_then(|sections| {
            let mut dwarf = sections.borrow(|section| EndianSlice::new(section, endian));
            dwarf.populate_abbreviations_cache(AbbreviationsCacheStrategy::Duplicates);
            Context::from_dwarf(dwarf).ok()
        });
        Self { dwarf, symbols: object.symbol_map() }
    }

    fn inlined_functions(&self, offset: u64) -> Vec<Function> {
        let Some(dwarf) = &self.dwarf else { return Vec::new() };
        let mut lookup = dwarf.find_frames(offset);
        let frames = loop {
            match lookup {
                LookupResult::Output(frames) => break frames,
                // The file with the rest of this unit is treated as missing.
                LookupResult::Load { continuation, .. } => lookup = continuation.resume(None),
            }
        };
        let mut functions = Vec::new();
        let Ok(mut frames) = frames else { return functions };
        while let Ok(Some(frame)) = frames.next()
            && functions.len() < MAX_INLINED
        {
            let name = frame.function.as_ref().and_then(|name| Some(name.demangle().ok()?.into_owned()));
            let source = frame.location.and_then(|place| {
                let file = cut(place.file?.rsplit('/').next()?, MAX_NAME);
                Some(place.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}")))
            });
            functions.extend(name.map(|name| Function { name: cut(&name, MAX_NAME).to_owned(), source }));
        }
        functions
    }

    fn symbol(&self, offset: u64) -> Option<Function> {
        let name = addr2line::demangle_auto(self.symbols.containing(offset)?.name().into(), None);
        Some(Function { name: cut(&name, MAX_NAME).to_owned(), source: None })
    }
}

/// The sections with DWARF, decompressed.
fn load_sections<'a>(object: &object::File<'a>) -> Option<DwarfSections<Cow<'a, [u8]>>> {
    DwarfSections::load(|id| match object.section_by_name(id.name()) {
        Some(section) => section.uncompressed_data(),
        None => Ok(Cow::Borrowed(&[])),
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_this_program_has_its_name_and_a_damaged_file_has_none() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let first = maps.lines().find(|line| line.ends_with(exe.to_str().unwrap())).unwrap();
        // A position-independent program is linked at 0.
        let bias = u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap();
        let address = (find_functions as fn(&[Vec<u8>], &[u64]) -> Vec<Vec<Function>>) as usize as u64 - bias;
        let mut file = std::fs::read(&exe).unwrap();
        let found = find_functions(std::slice::from_ref(&file), &[address]);
        let function = found[0].last().unwrap();
        assert!(function.name.ends_with("find_functions"), "{found:?}");
        assert!(function.source.as_ref().unwrap().starts_with("elf_symbols.rs:"), "{found:?}");
        file.truncate(1 << 20);
        assert_eq!(find_functions(&[file], &[address]), [[]]);
    }
}
