//! Names of the functions that frames are in: from the memory of the process while it is there, and from its mapped files when it has gone.

use super::saved_core::SavedCore;
use super::stack::until;
use crate::crash::Symbol;
use crate::elf;
use crate::unwind::{self, ReadMemory};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The process waits while names are looked up in its memory. A module takes some ten microseconds, and a large one a millisecond or two.
const MEMORY_TIMEOUT: Duration = Duration::from_millis(100);
/// No process waits while they are looked up in files.
const FILES_TIMEOUT: Duration = Duration::from_secs(2);

/// Places in one module whose functions are looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleFrames {
    /// The number of the module in the record.
    pub number: u32,
    /// Its path, as in the record.
    pub path: String,
    /// Its build-id, as in the record.
    pub build_id: Option<String>,
    /// Its first address.
    pub start: u64,
    /// Addresses, as in its program headers.
    pub offsets: Vec<u64>,
}

/// The functions at the places of some modules, in the order of the request; what there was no time for is missing at the end.
pub type Names = Vec<Vec<Option<Symbol>>>;

/// Whether this may be the answer to a request. Somebody who read hostile bytes may send any.
pub(super) fn are_well_formed(names: &Names) -> bool {
    // A byte that is no character takes four, and an ellipsis three.
    const MAX_NAME: usize = Symbol::MAX_NAME * 4 + 3;
    names.iter().flatten().flatten().all(|symbol| symbol.name.len() <= MAX_NAME)
}

/// Looks up the names that memory has.
pub(super) fn find_in_memory(modules: &[ModuleFrames], memory: &dyn ReadMemory) -> Names {
    let goes_on = until(MEMORY_TIMEOUT);
    let modules = modules.iter().take_while(|_| goes_on());
    modules.map(|module| unwind::find_symbols(module.start, &module.offsets, memory)).collect()
}

/// Looks up the names that files have: `files` are those of the modules, in their order. Of a saved core they are those of this machine.
pub(super) fn find_in_files(modules: &[ModuleFrames], files: &[File], saved: Option<&SavedCore>) -> Names {
    let goes_on = until(FILES_TIMEOUT);
    let names = |(number, module): (usize, &ModuleFrames)| {
        let file = match saved {
            Some(saved) => saved.mapped_file(&module.path),
            None => files.get(number),
        };
        let Some(file) = file.filter(|file| is_build(file, module.build_id.as_deref())) else { return Vec::new() };
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        elf::find_in_file(&module.offsets, |at, length| if goes_on() { read(file, size, at, length) } else { None })
    };
    modules.iter().enumerate().take_while(|_| goes_on()).map(names).collect()
}

/// Looks up the names of code that was compiled at run time, in the map of it that the process wrote.
pub(super) fn find_in_perf_map(addresses: &[u64], map: File) -> Vec<Option<Symbol>> {
    elf::find_in_perf_map(BufReader::new(map), addresses, until(FILES_TIMEOUT)).unwrap_or_default()
}

/// Whether the file is still the build that was mapped. Who copies a new version over the old one changes what is mapped as well.
fn is_build(file: &File, build_id: Option<&str>) -> bool {
    let found = || elf::read_build_id(|buffer, at| file.read_at(buffer, at)).ok().flatten();
    build_id.is_none_or(|build_id| found().as_deref() == Some(build_id))
}

/// Bytes of a file of this size; `None` if it does not have them.
fn read(file: &File, size: u64, at: u64, length: usize) -> Option<Vec<u8>> {
    // What hostile headers want is not even asked for.
    if at.checked_add(length as u64)? > size {
        return None;
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_this_program_names_its_functions_if_it_is_the_build_that_was_mapped() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let line = maps.lines().find(|line| line.ends_with(exe.to_str().unwrap())).unwrap();
        // A position-independent program is linked at 0.
        let bias = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        let own = (are_well_formed as fn(&Names) -> bool) as usize as u64 - bias;
        let file = File::open("/proc/self/exe").unwrap();
        let build_id = elf::read_build_id(|buffer, at| file.read_at(buffer, at)).unwrap();
        assert!(build_id.is_some());
        let module = ModuleFrames { number: 0, path: String::new(), build_id, start: bias, offsets: vec![own, 1] };
        let names = find_in_files(std::slice::from_ref(&module), std::slice::from_ref(&file), None);
        let symbol = names[0][0].as_ref().unwrap();
        assert!(symbol.name.contains("are_well_formed") && symbol.offset == 0, "{symbol:?}");
        assert!(names[0][1].is_none() && are_well_formed(&names));
        let other = ModuleFrames { build_id: Some("00".repeat(20)), ..module };
        assert_eq!(find_in_files(&[other.clone(), other], &[file], None), [[], []]);
    }

    #[test]
    fn names_have_a_bound() {
        let named = |length: usize| vec![vec![None, Some(Symbol { name: "x".repeat(length), offset: 0 })]];
        assert!(are_well_formed(&named(Symbol::MAX_NAME)) && !are_well_formed(&named(5 * Symbol::MAX_NAME)));
        assert!(are_well_formed(&vec![vec![Some(Symbol::new(&[0xff; 5000], 0))]]));
    }
}
