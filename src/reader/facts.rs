//! What only a process' own memory tells about it.

use crate::capture::LiveMemory;
use crate::crash::text::from_bytes;
use crate::crash::{ArgumentList, auxv};
use crate::elf::{self, ElfClass};
use std::fs::File;
use std::io::Seek;
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
    let exe_build_id = memory.zip(auxv).and_then(|(memory, auxv)| exe_build_id(memory, auxv::parse(&read_auxv(auxv))));
    RawFacts { arguments: arguments.unwrap_or_default(), exe_build_id }
}

/// Reads `/proc/PID/auxv`, wherever its position is. The kernel has a copy of its own (auxv_read, fs/proc/base.c), so this waits for nobody.
/// What cannot be read is missing.
#[must_use]
pub fn read_auxv(file: &File) -> Vec<u8> {
    /// The kernel's has some 50 words.
    const MAX_AUXV: usize = 4096;
    let mut vector = vec![0; MAX_AUXV];
    let length = file.read_at(&mut vector, 0).unwrap_or(0);
    vector.truncate(length);
    vector
}

/// The build-id of the executable as it is mapped: right also where the file was deleted or replaced since.
fn exe_build_id(memory: &LiveMemory, auxv: auxv::Auxv) -> Option<String> {
    /// No linker makes more program headers than a page holds, or longer notes.
    const MAX_READ: u64 = 4096;
    let read = |address: u64, length: u64| memory.read_vec(address, usize::try_from(length.min(MAX_READ)).ok()?);
    let class = if auxv.is_64bit { ElfClass::Elf64 } else { ElfClass::Elf32 };
    let table = read(auxv.phdr?, auxv.phnum?.checked_mul(class.segment_len() as u64)?)?;
    let ranges = elf::note_ranges(&table, auxv.phdr?, class);
    ranges.into_iter().take(8).find_map(|range| elf::build_id(&read(range.address, range.length)?))
}

/// The strings of the environment, which follow the command line in memory (`/proc/PID/environ` has the same).
pub(super) fn environment_block(cmdline: &File, arguments: &Range<u64>, memory: &LiveMemory) -> Option<Vec<u8>> {
    /// What of a longer environment is read. That of a usual process has some thousand bytes.
    const MAX_BLOCK: u64 = 256 << 10;
    let start = arguments.start.checked_add(length_of(cmdline)?)?;
    let length = arguments.end.checked_sub(start)?.min(MAX_BLOCK);
    let block = start..start.checked_add(length)?;
    memory.answers_for(&block).then(|| memory.read_vec(start, usize::try_from(length).ok()?)).flatten()
}

/// The length of a file that does not tell it.
fn length_of(file: &File) -> Option<u64> {
    /// No program is started with more arguments (execve(2)).
    const LONGEST: u64 = 8 << 20;
    let mut chunk = vec![0; 64 << 10];
    let mut length = 0;
    while length <= LONGEST {
        match file.read_at(&mut chunk, length).ok()? {
            0 => return Some(length),
            count => length += count as u64,
        }
    }
    None
}

/// A line for each variable with one of these names. Long values are cut.
pub(super) fn variables(block: &[u8], names: &[String]) -> String {
    const MAX_VARIABLE: usize = 1024;
    const MAX_ALL: usize = 4096;
    let mut lines = String::new();
    for string in block.split(|byte| *byte == 0) {
        let Some(name) = string.iter().position(|byte| *byte == b'=').and_then(|end| string.get(..end)) else {
            continue;
        };
        if names.iter().any(|wanted| wanted.as_bytes() == name) {
            let text = from_bytes(string.get(..MAX_VARIABLE).unwrap_or(string)).replace('\n', "\\n");
            let ellipsis = if string.len() > MAX_VARIABLE { "..." } else { "" };
            if lines.len() + text.len() < MAX_ALL {
                lines.extend([text.as_str(), ellipsis, "\n"]);
            }
        }
    }
    lines
}

/// The build-id in an executable's file.
pub(super) fn build_id_of_file(executable: &File) -> Option<String> {
    elf::read_build_id(|buffer, at| executable.read_at(buffer, at)).ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_variables_that_are_asked_for_leave_the_reader() {
        let block = b"TOKEN=secret\0LANG=C\0LANGUAGE=de\0EMPTY=\0no-variable\0TWO=a\nb\0=LANG\0";
        let names = ["LANG", "TWO", "EMPTY", ""].map(str::to_owned);
        assert_eq!(variables(block, &names[..3]), "LANG=C\nEMPTY=\nTWO=a\\nb\n");
        assert_eq!(variables(b"", &names), "");
        let long = [b"LANG=".as_slice(), &[b'x'; 5000]].concat();
        assert!(variables(&long, &names).ends_with("x...\n"));
    }
}
