//! The notes of a core that describe the crash: registers of the threads, siginfo, mapped files, the vDSO.

use super::class::ElfClass;
use super::note_types::{NT_AUXV, NT_FILE, NT_PRPSINFO, NT_PRSTATUS, NT_SIGINFO};
use super::notes::{notes, u32_at, u64_at};
use crate::crash::MapsLine;
use crate::crash::text::from_bytes;
use object::elf::{EM_386, EM_AARCH64, EM_X86_64};

/// The general registers that an unwinder needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registers {
    /// i386.
    I386(I386Registers),
    /// x86_64, and x32, where only addresses are shorter.
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

/// Registers of an i386: instruction pointer, stack pointer, and those that a function preserves for its caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the registers")]
pub struct I386Registers {
    pub eip: u32,
    pub esp: u32,
    pub ebp: u32,
    pub ebx: u32,
    pub esi: u32,
    pub edi: u32,
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
    /// Where its own data begins, which is pthread_self(3) with glibc and musl: `fs_base`. `None` where no register of this note has it.
    pub thread_pointer: Option<u64>,
    /// The signals that it blocked: bit N - 1 for signal N (`pr_sighold`).
    pub blocked: u64,
}

/// Why the crashed thread received its signal (NT_SIGINFO; sigaction(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigInfoNote {
    /// `si_code`.
    pub code: i32,
    /// `si_addr`, if this is a fault.
    pub address: u64,
    /// `si_pid` and `si_uid`, if the signal was sent.
    pub sender: (u32, u32),
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
    /// The general registers of the thread that crashed, by name.
    pub general_registers: Vec<(&'static str, u64)>,
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

const SI_USER: i32 = 0;
const SI_QUEUE: i32 = -1;
const SI_TKILL: i32 = -6;

const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const AT_SYSINFO_EHDR: u64 = 33;

impl CrashNotes {
    /// Reads the notes of a little-endian core of this class; `machine` is its e_machine, which the layout of registers depends on.
    #[must_use]
    pub fn read(bytes: &[u8], class: ElfClass, machine: u16) -> Self {
        let mut found = Self::default();
        let (mut table, mut count) = (None, None);
        for (kind, _, data) in notes(bytes).filter(|(_, name, _)| *name == b"CORE") {
            match kind {
                NT_PRSTATUS => {
                    found.thread_count += 1;
                    if found.thread_count == 1 {
                        found.general_registers = general_registers(data, class, machine);
                    }
                    if found.threads.len() < MAX_THREADS {
                        found.threads.extend(thread(data, class, machine));
                    }
                }
                // struct elf_prpsinfo: four chars, a long and its padding, pr_uid, pr_gid, then pr_pid; of a 32-bit process without padding and with
                // IDs of 16 bits.
                NT_PRPSINFO => {
                    found.pid = u32_at(data, if class == ElfClass::Elf32 { 12 } else { 24 });
                }
                NT_SIGINFO if found.siginfo.is_none() => found.siginfo = siginfo(data, class),
                NT_FILE => found.files = files(data, class).unwrap_or_default(),
                NT_AUXV => {
                    for entry in data.chunks_exact(2 * class.word_len()) {
                        match (class.word_at(entry, 0), class.word_at(entry, class.word_len())) {
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
        self.sender().is_some_and(|sender| self.pid == Some(sender))
    }

    /// Whether another process sent the signal, in one of these ways. `false` if the PID of this one is not known.
    #[must_use]
    pub fn is_sent_by_another(&self) -> bool {
        self.pid.zip(self.sender()).is_some_and(|(own, sender)| own != sender)
    }

    /// Whether the process sent the signal to itself, and not to one of its threads: with kill(2) or rt_sigqueueinfo(2).
    #[must_use]
    pub fn is_killed_by_itself(&self) -> bool {
        self.is_sent_by_itself() && self.siginfo.is_some_and(|info| info.code != SI_TKILL)
    }

    /// `si_pid`, if a system call sent the signal. 0 is a process outside of the namespace.
    fn sender(&self) -> Option<u32> {
        self.siginfo.filter(|info| [SI_USER, SI_QUEUE, SI_TKILL].contains(&info.code)).map(|info| info.sender.0)
    }
}

impl ThreadNote {
    /// Whether it sends a signal to one thread, as abort(3) and raise(3) do to their own: tkill(2) or tgkill(2).
    #[must_use]
    pub fn is_in_tkill(&self) -> bool {
        // arch/x86/entry/syscalls/; include/uapi/asm-generic/unistd.h
        let calls = match self.registers {
            Registers::I386(_) => [238, 270],
            Registers::X86_64 { .. } => [200, 234],
            Registers::Aarch64 { .. } => [130, 131],
        };
        calls.contains(&self.system_call)
    }

    /// Whether it waits for another thread: futex(2) and its successors, futex_waitv(2) and futex_wait(2), which have a number for all machines.
    #[must_use]
    pub fn is_in_futex(&self) -> bool {
        let calls: &[u64] = match self.registers {
            Registers::I386(_) => &[240, 422],
            Registers::X86_64 { .. } => &[202],
            Registers::Aarch64 { .. } => &[98],
        };
        calls.contains(&self.system_call) || [449, 455].contains(&self.system_call)
    }

    /// Whether it sends a signal to its process, or waits for one: kill(2) or rt_sigsuspend(2).
    #[must_use]
    pub fn is_in_kill(&self) -> bool {
        let calls = match self.registers {
            Registers::I386(_) => [37, 179],
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
        let MapsLine { start, end, offset, name, .. } = MapsLine::parse(line)?;
        // Newlines in names are escaped, and other names are the kernel's.
        name.starts_with('/').then_some(())?;
        Some(Self { start, end, offset: offset?, path: name.to_owned() })
    }
}

impl Registers {
    /// The instruction pointer, or program counter.
    #[must_use]
    pub fn instruction_pointer(self) -> u64 {
        match self {
            Self::I386(registers) => registers.eip.into(),
            Self::X86_64 { ip, .. } => ip,
            Self::Aarch64 { pc, .. } => pc,
        }
    }

    /// The stack pointer.
    #[must_use]
    pub fn stack_pointer(self) -> u64 {
        match self {
            Self::I386(registers) => registers.esp.into(),
            Self::X86_64 { sp, .. } | Self::Aarch64 { sp, .. } => sp,
        }
    }

    /// Length of an address on the stack, in bytes: that of a general register.
    #[must_use]
    pub fn word_len(self) -> u64 {
        match self {
            Self::I386(_) => 4,
            Self::X86_64 { .. } | Self::Aarch64 { .. } => 8,
        }
    }
}

/// Whether the registers of this kind of processor (e_machine) are known.
pub(super) fn is_known(machine: u16) -> bool {
    [EM_386, EM_X86_64, EM_AARCH64].contains(&machine)
}

/// Where the general registers begin in struct elf_prstatus, in bytes.
fn registers_at(class: ElfClass) -> usize {
    match class {
        ElfClass::Elf32 => 72,
        ElfClass::Elf64 => 112,
    }
}

/// The general registers of a thread, by name, as its NT_PRSTATUS has them. Those that tell nothing to a reader are left out.
fn general_registers(data: &[u8], class: ElfClass, machine: u16) -> Vec<(&'static str, u64)> {
    // struct user_regs_struct, arch/x86/include/asm/user_64.h and user_32.h.
    const X86_64: [&str; 23] = [
        "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi", "",
        "rip", "", "eflags", "rsp", "", "fs_base", "gs_base",
    ];
    const I386: [&str; 16] =
        ["ebx", "ecx", "edx", "esi", "edi", "ebp", "eax", "", "", "", "", "", "eip", "", "eflags", "esp"];
    let (names, word): (&[&str], usize) = match machine {
        EM_X86_64 => (&X86_64, 8),
        EM_386 => (&I386, 4),
        _ => return Vec::new(),
    };
    let value = |index: usize| {
        let at = registers_at(class) + index * word;
        if word == 8 { u64_at(data, at) } else { u32_at(data, at).map(u64::from) }
    };
    let named = (0..).zip(names).filter(|(_, name)| !name.is_empty());
    named.filter_map(|(index, name)| Some((*name, value(index)?))).collect()
}

/// struct elf_prstatus (struct compat_elf_prstatus of a 32-bit process, include/linux/elfcore-compat.h): siginfo of 12 bytes,
/// pr_cursig, two masks of signals, four ids, four times, and the general registers. The class is that of the program, the
/// machine that of the code which was running.
fn thread(data: &[u8], class: ElfClass, machine: u16) -> Option<ThreadNote> {
    /// In the numbers of x32, most of which are otherwise those of x86-64 (arch/x86/include/uapi/asm/unistd.h).
    const X32_SYSCALL_BIT: u64 = 1 << 30;
    let (blocked, ids) = match class {
        ElfClass::Elf32 => (u32_at(data, 20).map(u64::from), 24),
        ElfClass::Elf64 => (u64_at(data, 24), 32),
    };
    let registers = registers_at(class);
    let long = |index: usize| u64_at(data, registers + index * 8);
    let short = |index: usize| u32_at(data, registers + index * 4);
    let (registers, system_call) = match machine {
        // struct user_regs_struct, arch/x86/include/asm/user_32.h
        EM_386 => {
            let registers = I386Registers {
                eip: short(12)?,
                esp: short(15)?,
                ebp: short(5)?,
                ebx: short(0)?,
                esi: short(3)?,
                edi: short(4)?,
            };
            (Registers::I386(registers), short(11)?.into())
        }
        // struct user_regs_struct, arch/x86/include/asm/user_64.h
        EM_X86_64 => (Registers::X86_64 { ip: long(16)?, sp: long(19)?, bp: long(4)? }, long(15)? & !X32_SYSCALL_BIT),
        // struct user_pt_regs, arch/arm64/include/uapi/asm/ptrace.h
        EM_AARCH64 => (Registers::Aarch64 { pc: long(32)?, sp: long(31)?, fp: long(29)?, lr: long(30)? }, long(8)?),
        _ => return None,
    };
    // struct user_regs_struct, arch/x86/include/asm/user_64.h
    let thread_pointer = if machine == EM_X86_64 { long(21).filter(|pointer| *pointer != 0) } else { None };
    Some(ThreadNote { tid: u32_at(data, ids)?, registers, system_call, thread_pointer, blocked: blocked? })
}

fn siginfo(data: &[u8], class: ElfClass) -> Option<SigInfoNote> {
    // si_signo, si_errno, si_code, then the union, which is aligned as an address is (include/uapi/asm-generic/siginfo.h; struct
    // compat_siginfo in include/linux/compat.h).
    let union = match class {
        ElfClass::Elf32 => 12,
        ElfClass::Elf64 => 16,
    };
    let sender = (u32_at(data, union)?, u32_at(data, union + 4)?);
    Some(SigInfoNote { code: u32_at(data, 8)?.cast_signed(), address: class.word_at(data, union)?, sender })
}

/// fill_files_note in fs/binfmt_elf.c: count and page size; start, end and page offset of each mapping; then the paths.
fn files(data: &[u8], class: ElfClass) -> Option<Vec<MappedFile>> {
    let word = |bytes: &[u8], index: usize| class.word_at(bytes, index * class.word_len());
    let (count, page, entry_len) = (usize::try_from(word(data, 0)?).ok()?, word(data, 1)?, 3 * class.word_len());
    let (table, paths) = data.get(2 * class.word_len()..)?.split_at_checked(count.checked_mul(entry_len)?)?;
    let mut paths = paths.split(|byte| *byte == 0);
    let mut files = Vec::with_capacity(count.min(MAX_FILES));
    for entry in table.chunks_exact(entry_len).take(MAX_FILES) {
        let (start, end, page_offset) = (word(entry, 0)?, word(entry, 1)?, word(entry, 2)?);
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
        info[16..24].copy_from_slice(&0x7_0000_dead_u64.to_le_bytes());
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
        let found = CrashNotes::read(&bytes, ElfClass::Elf64, EM_X86_64);
        let x86 = Registers::X86_64 { ip: 116, sp: 119, bp: 104 };
        assert_eq!(
            found.threads,
            [ThreadNote { tid: 77, registers: x86, system_call: 115, thread_pointer: Some(121), blocked: 0x400 }]
        );
        assert_eq!(found.pid, Some(70));
        assert_eq!(found.siginfo, Some(SigInfoNote { code: -6, address: 0x7_0000_dead, sender: (0xdead, 7) }));
        assert_eq!((found.vdso, found.program_headers), (Some(0x7fff), Some((0x1040, 9))));
        let file = |start, end, offset, path: &str| MappedFile { start, end, offset, path: path.to_owned() };
        assert_eq!(found.files, [file(0x1000, 0x2000, 0, "/bin/a"), file(0x7000, 0x9000, 0x3000, "/lib/b")]);
        let arm = CrashNotes::read(&bytes, ElfClass::Elf64, EM_AARCH64);
        assert_eq!(arm.threads[0].registers, Registers::Aarch64 { pc: 132, sp: 131, fp: 129, lr: 130 });
        assert!(CrashNotes::read(&bytes, ElfClass::Elf64, 8).threads.is_empty());
    }

    fn short_words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn notes_of_32_bit_processes_have_shorter_words() {
        let mut mapped = short_words(&[2, 4096, 0x7000, 0x9000, 0xf_ffff, 0x1000, 0x2000, 0]);
        mapped.extend_from_slice(b"/lib/b\0/bin/a\0");
        let mut info = short_words(&[11, 0, 1, 0xdead, 7]);
        info.resize(128, 0);
        let mut status = vec![0; 72];
        status[24..28].copy_from_slice(&77_u32.to_le_bytes());
        status[20..24].copy_from_slice(&0x400_u32.to_le_bytes());
        let rest = [
            note(NT_SIGINFO, &info),
            note(NT_FILE, &mapped),
            note(NT_AUXV, &short_words(&[3, 0x1040, 5, 9, 33, 0xf7ff])),
        ]
        .concat();
        let read = |registers: &[u8], machine| {
            let status = [status.as_slice(), registers].concat();
            CrashNotes::read(&[note(NT_PRSTATUS, &status), rest.clone()].concat(), ElfClass::Elf32, machine)
        };
        // i386: 17 registers of 4 bytes; x32: 27 of 8.
        let found = read(&short_words(&(100..117).collect::<Vec<_>>()), EM_386);
        let registers = Registers::I386(I386Registers { eip: 112, esp: 115, ebp: 105, ebx: 100, esi: 103, edi: 104 });
        assert_eq!(
            found.threads,
            [ThreadNote { tid: 77, registers, system_call: 111, thread_pointer: None, blocked: 0x400 }]
        );
        assert_eq!(found.siginfo, Some(SigInfoNote { code: 1, address: 0xdead, sender: (0xdead, 7) }));
        assert_eq!((found.vdso, found.program_headers), (Some(0xf7ff), Some((0x1040, 9))));
        let file = |start, end, offset, path: &str| MappedFile { start, end, offset, path: path.to_owned() };
        let files = [file(0x1000, 0x2000, 0, "/bin/a"), file(0x7000, 0x9000, 0xffff_f000, "/lib/b")];
        assert_eq!(found.files, files);
        let mut x32: Vec<u64> = (100..127).collect();
        x32[15] = 1 << 30 | 234;
        let x32 = read(&words(&x32), EM_X86_64);
        assert!(x32.threads[0].is_in_tkill() && !x32.threads[0].is_in_futex());
        assert_eq!(x32.threads[0].registers, Registers::X86_64 { ip: 116, sp: 119, bp: 104 });
        assert_eq!((x32.threads[0].tid, x32.files), (77, found.files));
    }

    proptest! {
        #[test]
        fn arbitrary_notes_do_not_panic(kind in prop::sample::select(vec![NT_PRSTATUS, NT_SIGINFO, NT_FILE, NT_AUXV]),
                                        data in prop::collection::vec(any::<u8>(), 0..512), count: u64,
                                        class in prop::sample::select(vec![ElfClass::Elf32, ElfClass::Elf64]),
                                        machine in prop::sample::select(vec![EM_386, EM_X86_64, EM_AARCH64])) {
            let _ = CrashNotes::read(&note(kind, &data), class, machine);
            let mut data = data;
            data.splice(0..data.len().min(8), count.to_le_bytes());
            let _ = CrashNotes::read(&note(NT_FILE, &data), class, machine);
        }
    }
}
