//! The notes of a core that describe the crash: registers of the threads, siginfo, mapped files, the vDSO.

use super::notes::{notes, u32_at, u64_at};
use crate::crash::text::from_bytes;
use object::elf::{EM_AARCH64, EM_X86_64};

/// The general registers that an unwinder needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registers {
    /// x86_64.
    X86_64 {
        /// Instruction pointer.
        ip: u64,
        /// Stack pointer.
        sp: u64,
        /// Frame pointer.
        bp: u64,
    },
    /// aarch64.
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

/// A thread according to its NT_PRSTATUS (struct elf_prstatus, include/linux/elfcore.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadNote {
    /// Thread id, in the PID namespace of the process.
    pub tid: u32,
    /// Its registers when the process crashed.
    pub registers: Registers,
    /// The number of the system call that it was in or had returned from; another number if it was in none.
    pub system_call: u64,
    /// The signals that it blocked: bit N - 1 for signal N (`pr_sighold`).
    pub blocked: u64,
}

/// Why the crashed thread received its signal (NT_SIGINFO; sigaction(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigInfoNote {
    /// `si_code`.
    pub code: i32,
    /// The union that follows it: `si_addr` of a fault; `si_pid` and `si_uid` of a signal that was sent.
    pub value: u64,
}

/// A part of a file that the process had mapped (NT_FILE).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedFile {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Where it begins in the file, in bytes.
    pub offset: u64,
    /// Path of the file in the mount namespace of the process.
    pub path: String,
}

/// What the notes say about the crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrashNotes {
    /// PID of the process, in its own PID namespace (NT_PRPSINFO).
    pub pid: Option<u32>,
    /// The threads, the crashed one first, as far as they are read.
    pub threads: Vec<ThreadNote>,
    /// How many threads there were, those that are not read included.
    pub thread_count: usize,
    /// Siginfo of the crashed thread.
    pub siginfo: Option<SigInfoNote>,
    /// The mapped files, sorted by address.
    pub files: Vec<MappedFile>,
    /// Address of the vDSO (AT_SYSINFO_EHDR).
    pub vdso: Option<u64>,
    /// Address and number of the executable's program headers (AT_PHDR, AT_PHNUM).
    pub program_headers: Option<(u64, u64)>,
}

/// Threads beyond this number are only counted: their stacks are captured like any other memory.
const MAX_THREADS: usize = 8192;
/// Mapped files beyond this number are ignored; vm.max_map_count is 65,530 by default.
const MAX_FILES: usize = 1 << 17;
/// PATH_MAX, in bytes.
const MAX_PATH: usize = 4096;

const NT_PRSTATUS: u32 = 1;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;
const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const AT_SYSINFO_EHDR: u64 = 33;

impl CrashNotes {
    /// Reads the notes of a 64-bit little-endian core; `machine` is its e_machine, which the layout of registers depends on.
    #[must_use]
    pub fn read(bytes: &[u8], machine: u16) -> Self {
        let mut found = Self::default();
        let (mut table, mut count) = (None, None);
        for (kind, _, data) in notes(bytes).filter(|(_, name, _)| *name == b"CORE") {
            match kind {
                NT_PRSTATUS => {
                    found.thread_count += 1;
                    if found.threads.len() < MAX_THREADS {
                        found.threads.extend(thread(data, machine));
                    }
                }
                // struct elf_prpsinfo: four chars, a long and its padding, pr_uid, pr_gid, then pr_pid.
                NT_PRPSINFO => found.pid = u32_at(data, 24),
                NT_SIGINFO if found.siginfo.is_none() => found.siginfo = siginfo(data),
                NT_FILE => found.files = files(data).unwrap_or_default(),
                NT_AUXV => {
                    for entry in data.as_chunks::<16>().0 {
                        match (u64_at(entry, 0), u64_at(entry, 8)) {
                            (Some(AT_PHDR), value) => table = value,
                            (Some(AT_PHNUM), value) => count = value,
                            (Some(AT_SYSINFO_EHDR), value) => found.vdso = value.filter(|at| *at != 0),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        found.program_headers = table.zip(count);
        found
    }

    /// Whether the process sent the signal to itself, with kill(2), tgkill(2) or rt_sigqueueinfo(2). Its PID and that of the sender are in the same
    /// namespace, whichever that is.
    #[must_use]
    pub fn is_sent_by_itself(&self) -> bool {
        const SI_USER: i32 = 0;
        const SI_QUEUE: i32 = -1;
        const SI_TKILL: i32 = -6;
        let Some(info) = self.siginfo.filter(|info| [SI_USER, SI_QUEUE, SI_TKILL].contains(&info.code)) else {
            return false;
        };
        // si_pid is the first half of the union.
        self.pid.is_some_and(|pid| u64::from(pid) == info.value & u64::from(u32::MAX))
    }
}

impl ThreadNote {
    /// Whether it sends a signal to one thread, as abort(3) and raise(3) do to their own: tkill(2) or tgkill(2).
    #[must_use]
    pub fn is_in_tkill(&self) -> bool {
        // arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h
        let calls = match self.registers {
            Registers::X86_64 { .. } => [200, 234],
            Registers::Aarch64 { .. } => [130, 131],
        };
        calls.contains(&self.system_call)
    }

    /// Whether it sends a signal to its process, or waits for one: kill(2) or rt_sigsuspend(2).
    #[must_use]
    pub fn is_in_kill(&self) -> bool {
        let calls = match self.registers {
            Registers::X86_64 { .. } => [62, 130],
            Registers::Aarch64 { .. } => [129, 133],
        };
        calls.contains(&self.system_call)
    }
}

impl MappedFile {
    /// The part of a file that a line of `/proc/PID/maps` describes (proc_pid_maps(5)): `begin-end perms offset device inode path`. `None`
    /// if it describes something else.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let offset = fields.nth(1)?;
        let path = fields.nth(2)?.trim_start();
        // Newlines in names are escaped, and other names are the kernel's.
        path.starts_with('/').then_some(())?;
        Some(Self { start: hex(start)?, end: hex(end)?, offset: hex(offset)?, path: path.to_owned() })
    }
}

impl Registers {
    /// The instruction pointer, or program counter.
    #[must_use]
    pub fn instruction_pointer(self) -> u64 {
        match self {
            Self::X86_64 { ip, .. } => ip,
            Self::Aarch64 { pc, .. } => pc,
        }
    }

    /// The stack pointer.
    #[must_use]
    pub fn stack_pointer(self) -> u64 {
        match self {
            Self::X86_64 { sp, .. } | Self::Aarch64 { sp, .. } => sp,
        }
    }
}

/// struct elf_prstatus: siginfo, signals, the blocked ones at byte 24, four ids from byte 32 on, times, and the general registers from byte
/// 112 on.
fn thread(data: &[u8], machine: u16) -> Option<ThreadNote> {
    let register = |index: usize| u64_at(data, 112 + index * 8);
    let (registers, system_call) = match machine {
        // struct user_regs_struct, arch/x86/include/asm/user_64.h
        EM_X86_64 => (Registers::X86_64 { ip: register(16)?, sp: register(19)?, bp: register(4)? }, register(15)?),
        // struct user_pt_regs, arch/arm64/include/uapi/asm/ptrace.h
        EM_AARCH64 => {
            let (sp, fp, lr) = (register(31)?, register(29)?, register(30)?);
            (Registers::Aarch64 { pc: register(32)?, sp, fp, lr }, register(8)?)
        }
        _ => return None,
    };
    Some(ThreadNote { tid: u32_at(data, 32)?, registers, system_call, blocked: u64_at(data, 24)? })
}

fn siginfo(data: &[u8]) -> Option<SigInfoNote> {
    // si_signo, si_errno, si_code, padding, then the union (include/uapi/asm-generic/siginfo.h).
    Some(SigInfoNote { code: u32_at(data, 8)?.cast_signed(), value: u64_at(data, 16)? })
}

/// fill_files_note in fs/binfmt_elf.c: count and page size; start, end and page offset of each mapping; then the paths.
fn files(data: &[u8]) -> Option<Vec<MappedFile>> {
    let (count, page) = (usize::try_from(u64_at(data, 0)?).ok()?, u64_at(data, 8)?);
    let (table, paths) = data.get(16..)?.split_at_checked(count.checked_mul(24)?)?;
    let mut paths = paths.split(|byte| *byte == 0);
    let mut files = Vec::with_capacity(count.min(MAX_FILES));
    for entry in table.as_chunks::<24>().0.iter().take(MAX_FILES) {
        let (start, end, page_offset) = (u64_at(entry, 0)?, u64_at(entry, 8)?, u64_at(entry, 16)?);
        let Some(path) = paths.next() else { break };
        let path = from_bytes(path.get(..MAX_PATH).unwrap_or(path));
        files.push(MappedFile { start, end, offset: page_offset.wrapping_mul(page), path });
    }
    files.sort_by_key(|file| file.start);
    Some(files)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test may panic")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A note whose owner is "CORE".
    fn note(kind: u32, data: &[u8]) -> Vec<u8> {
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
        status[24..32].copy_from_slice(&0x400_u64.to_le_bytes());
        status[32..36].copy_from_slice(&77_u32.to_le_bytes());
        status.extend(words(&(100..134).collect::<Vec<_>>()));
        let mut mapped = words(&[2, 4096, 0x7000, 0x9000, 3, 0x1000, 0x2000, 0]);
        mapped.extend_from_slice(b"/lib/b\0/bin/a\0");
        let mut info = vec![0; 128];
        info[8..12].copy_from_slice(&(-6_i32).to_le_bytes());
        info[16..24].copy_from_slice(&0xdead_u64.to_le_bytes());
        let mut process = vec![0; 136];
        process[24..28].copy_from_slice(&70_u32.to_le_bytes());
        let bytes = [
            note(NT_PRSTATUS, &status),
            note(NT_PRPSINFO, &process),
            note(NT_SIGINFO, &info),
            note(NT_FILE, &mapped),
            note(NT_AUXV, &words(&[3, 0x1040, 5, 9, 33, 0x7fff])),
        ]
        .concat();
        let found = CrashNotes::read(&bytes, EM_X86_64);
        let x86 = Registers::X86_64 { ip: 116, sp: 119, bp: 104 };
        assert_eq!(found.threads, [ThreadNote { tid: 77, registers: x86, system_call: 115, blocked: 0x400 }]);
        assert_eq!(found.pid, Some(70));
        assert_eq!(found.siginfo, Some(SigInfoNote { code: -6, value: 0xdead }));
        assert_eq!((found.vdso, found.program_headers), (Some(0x7fff), Some((0x1040, 9))));
        let file = |start, end, offset, path: &str| MappedFile { start, end, offset, path: path.to_owned() };
        assert_eq!(found.files, [file(0x1000, 0x2000, 0, "/bin/a"), file(0x7000, 0x9000, 0x3000, "/lib/b")]);
        let arm = CrashNotes::read(&bytes, EM_AARCH64);
        assert_eq!(arm.threads[0].registers, Registers::Aarch64 { pc: 132, sp: 131, fp: 129, lr: 130 });
        assert!(CrashNotes::read(&bytes, 8).threads.is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_notes_do_not_panic(kind in prop::sample::select(vec![NT_PRSTATUS, NT_SIGINFO, NT_FILE, NT_AUXV]),
                                        data in prop::collection::vec(any::<u8>(), 0..512), count: u64) {
            let _ = CrashNotes::read(&note(kind, &data), EM_X86_64);
            let mut data = data;
            data.splice(0..data.len().min(8), count.to_le_bytes());
            let _ = CrashNotes::read(&note(NT_FILE, &data), EM_X86_64);
        }
    }
}
