//! What only a process' own memory tells about it.

use crate::capture::LiveMemory;
use crate::crash::{ArgumentList, auxv};
use crate::elf;
use std::fs::File;
use std::io::Read;
use std::ops::Range;

/// Longest auxiliary vector that is read, in bytes. The kernel's has some 50 words.
const MAX_AUXV: usize = 4096;

/// Facts as they were read.
#[derive(Clone, Debug, Default)]
pub struct RawFacts {
    /// The command line.
    pub arguments: ArgumentList,
    /// `/proc/PID/auxv`.
    pub auxv: Vec<u8>,
    /// Build-id of the executable as it is mapped.
    pub exe_build_id: Option<String>,
}

/// Reads the facts of a process. Its command line is at `arguments`, where the process says, perhaps in a page that nobody answers for:
/// then it is left out.
pub(super) fn read_facts(
    cmdline: Option<&File>,
    auxv: Option<&File>,
    arguments: &Range<u64>,
    memory: Option<&LiveMemory>,
) -> RawFacts {
    let answers = memory.is_none_or(|memory| memory.answers_for(arguments));
    let arguments = cmdline.filter(|_| answers).map(|mut file| ArgumentList::read(&mut file)).unwrap_or_default();
    let mut vector = Vec::with_capacity(MAX_AUXV);
    // What cannot be read is missing from the record; the crash counts all the same.
    let _ = auxv.map(|file| file.take(MAX_AUXV as u64).read_to_end(&mut vector));
    let auxv = vector;
    let exe_build_id = memory.and_then(|memory| exe_build_id(memory, auxv::parse(&auxv)));
    RawFacts { arguments, auxv, exe_build_id }
}

/// The build-id of the executable as it is mapped: right also where the file was deleted or replaced since.
fn exe_build_id(memory: &LiveMemory, auxv: auxv::Auxv) -> Option<String> {
    /// No linker makes more program headers than a page holds, or longer notes.
    const MAX_READ: u64 = 4096;
    let read = |address: u64, length: u64| memory.read_vec(address, usize::try_from(length.min(MAX_READ)).ok()?);
    let size = if auxv.is_64bit { 56 } else { 32 };
    let table = read(auxv.phdr?, auxv.phnum?.checked_mul(size)?)?;
    let ranges = elf::note_ranges(&table, auxv.phdr?, auxv.is_64bit);
    ranges.into_iter().take(8).find_map(|range| elf::build_id(&read(range.address, range.length)?))
}

/// The build-id in an executable's file.
pub(super) fn build_id_of_file(executable: &File) -> Option<String> {
    /// Linkers put the notes into the first page.
    const BEGINNING: u64 = 64 << 10;
    let mut bytes = Vec::new();
    executable.take(BEGINNING).read_to_end(&mut bytes).ok()?;
    elf::build_id_of_file(&bytes)
}
