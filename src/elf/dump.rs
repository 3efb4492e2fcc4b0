//! The notes of a core that tell of the crash: registers of the threads, siginfo, mapped files, the vDSO.

use super::notes::notes;
use object::elf::{EM_AARCH64, EM_X86_64};

/// The registers that an unwinder needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registers {
    /// Those of x86_64.
    X86_64 {
        /// Instruction pointer.
        ip: u64,
        /// Stack pointer.
        sp: u64,
        /// Frame pointer.
        bp: u64,
    },
    /// Those of aarch64.
    Aarch64 {
        /// Program counter.
        pc: u64,
        /// Stack pointer.
        sp: u64,
        /// Frame pointer (x29).
        fp: u64,
        /// Link register (x30).
        lr: u64,
    },
}

/// A thread as NT_PRSTATUS has it (struct elf_prstatus, include/linux/elfcore.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its id in its own PID namespace.
    pub tid: u32,
    /// Where it was.
    pub registers: Registers,
}

/// Why the crashed thread got its signal (NT_SIGINFO; sigaction(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigInfo {
    /// `si_code`.
    pub code: i32,
    /// The union behind it: `si_addr` of a fault; `si_pid` and `si_uid` of a signal that was sent.
    pub value: u64,
}

/// A part of a file that is mapped (NT_FILE).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// First address.
    pub start: u64,
    /// The address behind the last one.
    pub end: u64,
    /// Where in the file it begins, bytes.
    pub offset: u64,
    /// The file, as the process' own mount namespace names it.
    pub path: String,
}

/// What the notes tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// The threads, the crashed one first.
    pub threads: Vec<Thread>,
    /// Of the crashed thread.
    pub siginfo: Option<SigInfo>,
    /// By address.
    pub files: Vec<MappedFile>,
    /// Where the vDSO is (AT_SYSINFO_EHDR).
    pub vdso: Option<u64>,
    /// Where the program's own headers are in memory, and how many (AT_PHDR, AT_PHNUM).
    pub program: Option<(u64, u64)>,
}

/// More stacks than these are not told from other memory.
const MAX_THREADS: usize = 8192;
/// vm.max_map_count is 65,530 by default; what comes behind so many is of no module that matters.
const MAX_FILES: usize = 1 << 17;
/// A path is at most that long (PATH_MAX).
const MAX_PATH: usize = 4096;

const NT_PRSTATUS: u32 = 1;
const NT_AUXV: u32 = 6;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;
const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const AT_SYSINFO_EHDR: u64 = 33;

impl Dump {
    /// Reads the notes of a 64-bit little-endian core for `machine` (e_machine).
    pub fn read(bytes: &[u8], machine: u16) -> Self {
        let mut dump = Self::default();
        let (mut table, mut count) = (None, None);
        for (kind, _, data) in notes(bytes).filter(|(_, name, _)| *name == b"CORE") {
            match kind {
                NT_PRSTATUS if dump.threads.len() < MAX_THREADS => dump.threads.extend(thread(data, machine)),
                NT_SIGINFO if dump.siginfo.is_none() => dump.siginfo = siginfo(data),
                NT_FILE => dump.files = files(data).unwrap_or_default(),
                NT_AUXV => {
                    for entry in data.as_chunks::<16>().0 {
                        match (word(entry, 0), word(entry, 8)) {
                            (Some(AT_PHDR), value) => table = value,
                            (Some(AT_PHNUM), value) => count = value,
                            (Some(AT_SYSINFO_EHDR), value) => dump.vdso = value.filter(|at| *at != 0),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        dump.program = table.zip(count);
        dump
    }
}

impl Registers {
    /// The address of the instruction.
    pub fn counter(self) -> u64 {
        match self {
            Self::X86_64 { ip, .. } => ip,
            Self::Aarch64 { pc, .. } => pc,
        }
    }

    /// The stack pointer.
    pub fn stack(self) -> u64 {
        match self {
            Self::X86_64 { sp, .. } | Self::Aarch64 { sp, .. } => sp,
        }
    }
}

fn word(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*data.get(at..)?.first_chunk()?))
}

fn half(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*data.get(at..)?.first_chunk()?))
}

/// struct elf_prstatus: siginfo, signals, four ids from 32 on, times, and the general registers from 112 on.
fn thread(data: &[u8], machine: u16) -> Option<Thread> {
    let register = |index: usize| word(data, 112 + index * 8);
    let registers = match machine {
        // struct user_regs_struct, arch/x86/include/asm/user_64.h
        EM_X86_64 => Registers::X86_64 { ip: register(16)?, sp: register(19)?, bp: register(4)? },
        // struct user_pt_regs, arch/arm64/include/uapi/asm/ptrace.h
        EM_AARCH64 => Registers::Aarch64 { pc: register(32)?, sp: register(31)?, fp: register(29)?, lr: register(30)? },
        _ => return None,
    };
    Some(Thread { tid: half(data, 32)?, registers })
}

fn siginfo(data: &[u8]) -> Option<SigInfo> {
    // si_signo, si_errno, si_code, padding, then the union (include/uapi/asm-generic/siginfo.h).
    Some(SigInfo { code: half(data, 8)?.cast_signed(), value: word(data, 16)? })
}

/// fill_files_note in fs/binfmt_elf.c: count, page size, then start, end and page offset of each, then the names.
fn files(data: &[u8]) -> Option<Vec<MappedFile>> {
    let (count, page) = (usize::try_from(word(data, 0)?).ok()?, word(data, 8)?);
    let (table, names) = data.get(16..)?.split_at_checked(count.checked_mul(24)?)?;
    let mut names = names.split(|byte| *byte == 0);
    let mut files = Vec::with_capacity(count.min(MAX_FILES));
    for entry in table.as_chunks::<24>().0.iter().take(MAX_FILES) {
        let (Some(start), Some(end), Some(at)) = (word(entry, 0), word(entry, 8), word(entry, 16)) else { break };
        let Some(name) = names.next() else { break };
        let path = String::from_utf8_lossy(&name[..name.len().min(MAX_PATH)]).into_owned();
        files.push(MappedFile { start, end, offset: at.wrapping_mul(page), path });
    }
    files.sort_by_key(|file| file.start);
    Some(files)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A note of "CORE".
    pub(crate) fn note(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [5, data.len() as u32, kind] {
            note.extend_from_slice(&word.to_le_bytes());
        }
        note.extend_from_slice(b"CORE\0\0\0\0");
        note.extend_from_slice(data);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn registers_files_and_siginfo_are_found() {
        let mut status = vec![0; 112];
        status[32..36].copy_from_slice(&77_u32.to_le_bytes());
        status.extend(words(&(100..134).collect::<Vec<_>>()));
        let mut mapped = words(&[2, 4096, 0x7000, 0x9000, 3, 0x1000, 0x2000, 0]);
        mapped.extend_from_slice(b"/lib/b\0/bin/a\0");
        let mut info = vec![0; 128];
        info[8..12].copy_from_slice(&(-6_i32).to_le_bytes());
        info[16..24].copy_from_slice(&0xdead_u64.to_le_bytes());
        let bytes = [
            note(NT_PRSTATUS, &status),
            note(NT_SIGINFO, &info),
            note(NT_FILE, &mapped),
            note(NT_AUXV, &words(&[3, 0x1040, 5, 9, 33, 0x7fff])),
        ]
        .concat();
        let dump = Dump::read(&bytes, EM_X86_64);
        let x86 = Registers::X86_64 { ip: 116, sp: 119, bp: 104 };
        assert_eq!(dump.threads, [Thread { tid: 77, registers: x86 }]);
        assert_eq!(dump.siginfo, Some(SigInfo { code: -6, value: 0xdead }));
        assert_eq!((dump.vdso, dump.program), (Some(0x7fff), Some((0x1040, 9))));
        let file = |start, end, offset, path: &str| MappedFile { start, end, offset, path: path.to_owned() };
        assert_eq!(dump.files, [file(0x1000, 0x2000, 0, "/bin/a"), file(0x7000, 0x9000, 0x3000, "/lib/b")]);
        let arm = Dump::read(&bytes, EM_AARCH64);
        assert_eq!(arm.threads[0].registers, Registers::Aarch64 { pc: 132, sp: 131, fp: 129, lr: 130 });
        assert!(Dump::read(&bytes, 8).threads.is_empty());
    }

    proptest! {
        #[test]
        fn no_notes_make_it_panic(kind in prop::sample::select(vec![NT_PRSTATUS, NT_SIGINFO, NT_FILE, NT_AUXV]),
                                  data in prop::collection::vec(any::<u8>(), 0..512), count: u64) {
            let _ = Dump::read(&note(kind, &data), EM_X86_64);
            let mut data = data;
            data.splice(0..data.len().min(8), count.to_le_bytes());
            let _ = Dump::read(&note(NT_FILE, &data), EM_X86_64);
        }
    }
}
