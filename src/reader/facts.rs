//! What only a process' own memory tells about it.

use crate::capture::LiveMemory;
use crate::crash::{ArgumentList, auxv};
use crate::elf;
use std::fs::File;
use std::io::{Read, Seek};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Facts as they were read.
#[derive(Clone, Debug, Default)]
pub struct RawFacts {
    /// The command line.
    pub arguments: ArgumentList,
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
    // What cannot be read is missing from the record; the crash counts all the same.
    let arguments = cmdline.filter(|_| answers).and_then(|mut file| {
        // An earlier reader may have come as far as the end.
        file.rewind().ok()?;
        Some(ArgumentList::read(&mut file))
    });
    let exe_build_id = memory.zip(auxv).and_then(|(memory, auxv)| exe_build_id(memory, read_auxv(auxv)));
    RawFacts { arguments: arguments.unwrap_or_default(), exe_build_id }
}

/// Reads `/proc/PID/auxv`, wherever its position is. The kernel has a copy of its own (auxv_read, fs/proc/base.c), so this waits for nobody.
/// What cannot be read is missing.
#[must_use]
pub fn read_auxv(file: &File) -> auxv::Auxv {
    /// The kernel's has some 50 words.
    const MAX_AUXV: usize = 4096;
    let mut vector = vec![0; MAX_AUXV];
    let length = file.read_at(&mut vector, 0).unwrap_or(0);
    auxv::parse(&vector[..length])
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
