//! The headers of a core, as the kernel would write them for a process that is stopped: ELF header, program headers and notes
//! (elf_core_dump and fill_note_info in fs/binfmt_elf.c).

use super::class::ElfClass;
use super::crash_notes::MappedFile;
use super::note_types::{NT_AUXV, NT_FILE, NT_PRPSINFO, NT_PRSTATUS, NT_SIGINFO};
use crate::crash::text::to_bytes;
use object::elf::{ELFDATA2LSB, EM_386, EM_AARCH64, EM_ARM, EM_X86_64, ET_CORE, EV_CURRENT, PN_XNUM, PT_LOAD, PT_NOTE};

/// The page size of the architectures whose registers are known. Other sizes of arm64 are multiples of it.
const PAGE: u64 = 4096;
/// Bytes of a name and of the arguments in NT_PRPSINFO, each ended by a zero (struct elf_prpsinfo).
const COMM: usize = 16;
const ARGUMENTS: usize = 80;

/// What registers a kind of program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreAbi {
    /// Whether addresses have 32 bits or 64.
    pub class: ElfClass,
    machine: u16,
}

impl CoreAbi {
    /// The ABI of a thread whose general registers (NT_PRSTATUS of ptrace(2)) are so many bytes: no two have as many. `None`: an unknown one.
    #[must_use]
    pub fn of_registers(length: usize) -> Option<Self> {
        // struct user_regs_struct of x86-64 and i386, struct user_pt_regs of arm64, elf_gregset_t of 32-bit ARM.
        let (class, machine) = match length {
            216 => (ElfClass::Elf64, EM_X86_64),
            68 => (ElfClass::Elf32, EM_386),
            272 => (ElfClass::Elf64, EM_AARCH64),
            72 => (ElfClass::Elf32, EM_ARM),
            _ => return None,
        };
        Some(Self { class, machine })
    }
}

/// Further registers of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterNote {
    /// The owner of the note's type: `CORE` or `LINUX`.
    pub owner: &'static str,
    /// Its type.
    pub kind: u32,
    /// The registers as the kernel has them.
    pub bytes: Vec<u8>,
}

/// A thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadState {
    /// Its id, in the PID namespace of the process.
    pub tid: u32,
    /// The signals that wait for it: bit N - 1 for signal N.
    pub pending: u64,
    /// The signals that it blocks.
    pub blocked: u64,
    /// The general registers.
    pub registers: Vec<u8>,
    /// All others.
    pub others: Vec<RegisterNote>,
}

/// The process (struct elf_prpsinfo).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessState {
    /// The letter of its state (proc_pid_stat(5)).
    pub state: u8,
    /// Its nice value.
    pub nice: i8,
    /// The kernel's flags.
    pub flags: u64,
    /// Real user, and group.
    pub ids: [u32; 2],
    /// Its PID in its own namespace, its parent's, its process group and its session.
    pub pids: [u32; 4],
    /// Its name.
    pub comm: Vec<u8>,
    /// Its arguments, each ended by a zero.
    pub arguments: Vec<u8>,
}

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First address.
    pub address: u64,
    /// Bytes.
    pub length: u64,
    /// Bytes from the first address on that are in the core.
    pub stored: u64,
    /// PF_R, PF_W, PF_X.
    pub flags: u32,
}

/// A process that is stopped.
#[derive(Clone, Debug)]
pub struct StoppedImage {
    /// What its registers are.
    pub abi: CoreAbi,
    /// The threads, the one first that a debugger shows first.
    pub threads: Vec<ThreadState>,
    /// The process.
    pub process: ProcessState,
    /// The siginfo of the first thread, if there is one.
    pub siginfo: Option<Vec<u8>>,
    /// The auxiliary vector.
    pub auxv: Vec<u8>,
    /// The mapped files, by address.
    pub files: Vec<MappedFile>,
    /// The mappings, by address.
    pub segments: Vec<Segment>,
}

/// The core, but for the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreFrame {
    /// The bytes before the memory.
    pub headers: Vec<u8>,
    /// The bytes after it; mostly there are none.
    pub trailer: Vec<u8>,
}

impl StoppedImage {
    /// The headers of the core. `None` if they do not fit into the ABI's offsets.
    #[must_use]
    pub fn frame(&self) -> Option<CoreFrame> {
        let class = self.abi.class;
        let mut writer = Writer { class, bytes: Vec::new() };
        let notes = self.notes();
        let count = self.segments.len() + 1;
        let notes_at = class.header_len() + count * class.segment_len();
        let memory_at = (notes_at + notes.len()).next_multiple_of(usize::try_from(PAGE).ok()?) as u64;
        let stored: u64 = self.segments.iter().map(|segment| segment.stored).sum();
        let memory_end = memory_at.checked_add(stored)?;
        if memory_end > class.max_offset() {
            return None;
        }
        let is_short = count < usize::from(PN_XNUM);
        writer.file_header(self.abi.machine, if is_short { u16::try_from(count).ok()? } else { PN_XNUM }, memory_end);
        writer.segment(PT_NOTE, 0, notes_at as u64, 0, notes.len() as u64, 0, 4);
        let mut offset = memory_at;
        for Segment { address, length, stored, flags } in &self.segments {
            let lengths = [*stored, *length];
            writer.segment(PT_LOAD, *flags, offset, *address, lengths[0], lengths[1], PAGE);
            offset += stored;
        }
        writer.bytes.extend_from_slice(&notes);
        writer.bytes.resize(usize::try_from(memory_at).ok()?, 0);
        let trailer = if is_short { Vec::new() } else { Writer::section_of_count(class, u32::try_from(count).ok()?) };
        Some(CoreFrame { headers: writer.bytes, trailer })
    }

    fn notes(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        for (number, thread) in self.threads.iter().enumerate() {
            push_note(&mut notes, "CORE", NT_PRSTATUS, &self.thread_status(thread));
            if number == 0 {
                push_note(&mut notes, "CORE", NT_PRPSINFO, &self.process_info());
                if let Some(siginfo) = &self.siginfo {
                    push_note(&mut notes, "CORE", NT_SIGINFO, &siginfo_of(siginfo, self.abi.class));
                }
                push_note(&mut notes, "CORE", NT_AUXV, &self.auxv);
                if !self.files.is_empty() {
                    push_note(&mut notes, "CORE", NT_FILE, &self.mapped_files());
                }
            }
            for RegisterNote { owner, kind, bytes } in &thread.others {
                push_note(&mut notes, owner, *kind, bytes);
            }
        }
        notes
    }

    /// struct elf_prstatus. No signal is there that the thread got; its times are zero, which no debugger shows.
    fn thread_status(&self, thread: &ThreadState) -> Vec<u8> {
        let mut writer = Writer { class: self.abi.class, bytes: vec![0; 16] };
        if self.abi.class == ElfClass::Elf64 {
            writer.long(thread.pending);
            writer.long(thread.blocked);
        } else {
            writer.word(low_half(thread.pending));
            writer.word(low_half(thread.blocked));
        }
        let [_, parent, group, session] = self.process.pids;
        for id in [thread.tid, parent, group, session] {
            writer.word(id);
        }
        // Four times of two words each.
        writer.bytes.extend(std::iter::repeat_n(0, 8 * self.abi.class.word_len()));
        writer.bytes.extend_from_slice(&thread.registers);
        // pr_fpvalid.
        writer.word(u32::from(!thread.others.is_empty()));
        let aligned = writer.bytes.len().next_multiple_of(self.abi.class.word_len());
        writer.bytes.resize(aligned, 0);
        writer.bytes
    }

    /// struct elf_prpsinfo. That of a 32-bit process has user and group in 16 bits.
    fn process_info(&self) -> Vec<u8> {
        let ProcessState { state, nice, flags, ids, pids, comm, arguments } = &self.process;
        // The numbers of the states (fill_psinfo): R, S, D, T, Z, W.
        let number = b"RSDTZW".iter().position(|letter| letter == state).unwrap_or(0);
        let number = u8::try_from(number).unwrap_or(0);
        let mut writer = Writer {
            class: self.abi.class,
            bytes: vec![number, *state, u8::from(*state == b'Z'), nice.cast_unsigned()],
        };
        if self.abi.class == ElfClass::Elf64 {
            writer.word(0);
            writer.long(*flags);
            ids.iter().for_each(|id| writer.word(*id));
        } else {
            writer.word(low_half(*flags));
            // high2lowuid: what has no room is nobody's.
            ids.iter().for_each(|id| writer.short(u16::try_from(*id).unwrap_or(65534)));
        }
        pids.iter().for_each(|id| writer.word(*id));
        let mut text = |bytes: &[u8], length: usize| {
            let end = writer.bytes.len() + length;
            writer.bytes.extend(bytes.iter().take(length - 1));
            writer.bytes.resize(end, 0);
        };
        text(comm, COMM);
        let spaced: Vec<u8> = arguments.iter().map(|byte| if *byte == 0 { b' ' } else { *byte }).collect();
        text(spaced.strip_suffix(b" ").unwrap_or(&spaced), ARGUMENTS);
        writer.bytes
    }

    /// fill_files_note: count and page size; start, end and page offset of each mapping; then the paths.
    fn mapped_files(&self) -> Vec<u8> {
        let mut writer = Writer { class: self.abi.class, bytes: Vec::new() };
        writer.address(self.files.len() as u64);
        writer.address(PAGE);
        for file in &self.files {
            [file.start, file.end, file.offset / PAGE].into_iter().for_each(|word| writer.address(word));
        }
        for file in &self.files {
            writer.bytes.extend_from_slice(&to_bytes(&file.path));
            writer.bytes.push(0);
        }
        writer.bytes
    }
}

/// The siginfo of a 64-bit process, with `si_pid` and `si_uid`, in the layout of the class (struct compat_siginfo, include/linux/compat.h).
fn siginfo_of(siginfo: &[u8], class: ElfClass) -> Vec<u8> {
    if class == ElfClass::Elf64 {
        return siginfo.to_vec();
    }
    let mut short: Vec<u8> = siginfo.iter().take(12).chain(siginfo.iter().skip(16).take(8)).copied().collect();
    short.resize(siginfo.len(), 0);
    short
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
}

fn push_note(notes: &mut Vec<u8>, owner: &str, kind: u32, data: &[u8]) {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    for word in [length(owner.len() + 1), length(data.len()), kind] {
        notes.extend_from_slice(&word.to_le_bytes());
    }
    for part in [owner.as_bytes(), b"\0"].concat().chunks(usize::MAX).chain([data]) {
        notes.extend_from_slice(part);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
}

/// Numbers in the layout of a class.
struct Writer {
    class: ElfClass,
    bytes: Vec<u8>,
}

impl Writer {
    fn short(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn word(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn long(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A value that has been found to fit.
    fn address(&mut self, value: u64) {
        match self.class {
            ElfClass::Elf32 => self.word(low_half(value)),
            ElfClass::Elf64 => self.long(value),
        }
    }

    fn file_header(&mut self, machine: u16, segments: u16, memory_end: u64) {
        let class = match self.class {
            ElfClass::Elf32 => 1,
            ElfClass::Elf64 => 2,
        };
        self.bytes.extend_from_slice(&[0x7f, b'E', b'L', b'F', class, ELFDATA2LSB, EV_CURRENT]);
        self.bytes.resize(16, 0);
        self.short(ET_CORE);
        self.short(machine);
        self.word(u32::from(EV_CURRENT));
        let has_sections = segments == PN_XNUM;
        self.address(0);
        self.address(self.class.header_len() as u64);
        self.address(if has_sections { memory_end } else { 0 });
        self.word(0);
        let lengths = [self.class.header_len(), self.class.segment_len()];
        lengths.into_iter().for_each(|length| self.short(u16::try_from(length).unwrap_or(0)));
        self.short(segments);
        let section = if has_sections { self.class.section_len() } else { 0 };
        self.short(u16::try_from(section).unwrap_or(0));
        self.short(u16::from(has_sections));
        self.short(0);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a program header")]
    fn segment(&mut self, kind: u32, flags: u32, offset: u64, address: u64, stored: u64, length: u64, align: u64) {
        self.word(kind);
        if self.class == ElfClass::Elf64 {
            self.word(flags);
        }
        for field in [offset, address, 0, stored, length] {
            self.address(field);
        }
        if self.class == ElfClass::Elf32 {
            self.word(flags);
        }
        self.address(align);
    }

    /// The section header that has the number of program headers (fill_extnum_info).
    fn section_of_count(class: ElfClass, count: u32) -> Vec<u8> {
        let mut writer = Self { class, bytes: Vec::new() };
        writer.word(0);
        writer.word(0);
        for field in [0, 0, 0, 1] {
            writer.address(field);
        }
        writer.word(0);
        writer.word(count);
        writer.address(0);
        writer.address(0);
        writer.bytes
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::elf::{CoreLayout, Registers};

    fn image(registers: usize) -> StoppedImage {
        let thread = |tid, first: u8| ThreadState {
            tid,
            blocked: 0x400,
            registers: (0..registers).map(|at| first.wrapping_add(u8::try_from(at & 0xff).unwrap())).collect(),
            others: vec![RegisterNote { owner: "LINUX", kind: 0x202, bytes: vec![7; 576] }],
            ..ThreadState::default()
        };
        StoppedImage {
            abi: CoreAbi::of_registers(registers).unwrap(),
            threads: vec![thread(70, 1), thread(71, 2)],
            process: ProcessState {
                state: b'S',
                ids: [1000, 70_000],
                pids: [70, 1, 70, 70],
                comm: b"a name that is too long".to_vec(),
                arguments: b"prog\0an argument\0".to_vec(),
                ..ProcessState::default()
            },
            siginfo: Some((0..128).collect()),
            auxv: Vec::new(),
            files: vec![MappedFile { start: 0x1000, end: 0x3000, offset: 0x2000, path: "/lib/x".to_owned() }],
            segments: vec![
                Segment { address: 0x1000, length: 0x2000, stored: 0x1000, flags: 5 },
                Segment { address: 0x8000, length: 0x1000, stored: 0, flags: 4 },
                Segment { address: 0x9000, length: 0x3000, stored: 0x3000, flags: 6 },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read_back_for_each_abi() {
        for registers in [216, 68, 272] {
            let image = image(registers);
            let frame = image.frame().unwrap();
            assert!(frame.headers.len().is_multiple_of(4096) && frame.trailer.is_empty());
            let layout = CoreLayout::read(&frame.headers).unwrap();
            assert_eq!(layout.class, image.abi.class);
            assert_eq!(layout.total_len, frame.headers.len() as u64 + 0x4000);
            let loads: Vec<_> = layout.loads.iter().map(|load| (load.address, load.length, load.offset.end)).collect();
            let at = frame.headers.len() as u64;
            assert_eq!(
                loads,
                [(0x1000, 0x2000, at + 0x1000), (0x8000, 0x1000, at + 0x1000), (0x9000, 0x3000, at + 0x4000)]
            );
            let notes = &layout.notes;
            assert_eq!((notes.pid, notes.thread_count), (Some(70), 2));
            let threads: Vec<_> = notes.threads.iter().map(|thread| (thread.tid, thread.blocked)).collect();
            assert_eq!(threads, [(70, 0x400), (71, 0x400)]);
            assert_eq!(notes.files, image.files);
            assert!(notes.siginfo.is_some());
            let byte = |at: usize| u64::try_from((at + 1) & 0xff).unwrap();
            let long = |at: usize| (0..8).fold(0, |value, byte_at| value | byte(at + byte_at) << (8 * byte_at));
            match notes.threads[0].registers {
                Registers::X86_64 { ip, sp, .. } => assert_eq!((ip, sp), (long(128), long(152))),
                Registers::Aarch64 { pc, .. } => assert_eq!(pc, long(256)),
                Registers::I386(found) => assert_eq!(u64::from(found.eip), long(48) & 0xffff_ffff),
            }
        }
        assert_eq!(CoreAbi::of_registers(100), None);
    }

    #[test]
    fn more_mappings_than_fit_into_the_header_are_counted_behind_the_memory() {
        let mut image = image(216);
        let segment = |number: u64| Segment { address: number << 13, length: 0x1000, stored: 0, flags: 4 };
        image.segments = (0..70_000).map(segment).collect();
        let frame = image.frame().unwrap();
        assert_eq!(frame.trailer.len(), 64);
        let layout = CoreLayout::read(&frame.headers).unwrap();
        assert_eq!((layout.loads.len(), layout.trailer.len()), (70_000, 64));
        assert_eq!(layout.trailer, frame.trailer);
        image.abi = CoreAbi::of_registers(68).unwrap();
        image.segments = vec![Segment { address: 0, length: 1 << 33, stored: 1 << 33, flags: 4 }];
        assert_eq!(image.frame(), None, "no 32-bit process has as much");
    }
}
