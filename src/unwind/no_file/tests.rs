#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use super::*;
use crate::elf::{CoreLayout, CrashNotes, LoadSegment, MappedFile, SigInfoNote, ThreadNote, test_headers};
use crate::unwind::ReadMemory;
use object::elf::{EM_386, EM_AARCH64, EM_X86_64, ET_DYN, PF_R, PF_X};

const CODE: u64 = 0x7000_0000;
const PROGRAM: u64 = 0x40_0000;
const GUEST: u64 = 0x20_0000;
const PAGE: usize = 4096;
const PID: u32 = 70;

/// Pages of a process, and what is in its notes.
struct Process {
    pages: Vec<(u64, Vec<u8>)>,
    notes: CrashNotes,
    machine: u16,
}

impl ReadMemory for Process {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        for (start, bytes) in &self.pages {
            let from = address.checked_sub(*start).and_then(|at| usize::try_from(at).ok());
            if let Some(found) = from.and_then(|at| bytes.get(at..at.checked_add(buffer.len())?)) {
                buffer.copy_from_slice(found);
                return true;
            }
        }
        false
    }
}

impl Process {
    /// With code that no file has, followed by data.
    fn new(registers: Registers, code: &[u8]) -> Self {
        let thread = ThreadNote { tid: PID, registers, system_call: u64::MAX, thread_pointer: None, blocked: 0 };
        let notes = CrashNotes { pid: Some(PID), threads: vec![thread], ..CrashNotes::default() };
        let mut page = vec![0x90; PAGE];
        page[..code.len()].copy_from_slice(code);
        Self { pages: vec![(CODE, page), (CODE + PAGE as u64, vec![0xaa; PAGE])], notes, machine: EM_X86_64 }
    }

    /// Maps a program for this machine in two parts.
    fn map(&mut self, address: u64, path: &str, machine: u16) {
        let mut page = vec![0; PAGE];
        page[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        page[16..18].copy_from_slice(&ET_DYN.to_le_bytes());
        page[18..20].copy_from_slice(&machine.to_le_bytes());
        self.pages.push((address, page));
        let length = PAGE as u64;
        for (start, offset) in [(address, 0), (address + length, length)] {
            self.notes.files.push(MappedFile { start, end: start + length, offset, path: path.to_owned() });
        }
        self.notes.files.sort_by_key(|file| file.start);
    }

    fn anonymous(&self, address: u64, signal: u32) -> Anonymous {
        let segment = |address, flags| LoadSegment { offset: 0..0, address, length: PAGE as u64, flags };
        let loads = vec![segment(CODE, PF_R | PF_X), segment(CODE + PAGE as u64, PF_R)];
        let mut layout = CoreLayout::read(&test_headers(&[], &[])).unwrap().with_mappings(loads);
        layout.header[18..20].copy_from_slice(&self.machine.to_le_bytes());
        layout.notes = self.notes.clone();
        let frame =
            Frame { address, module: None, offset: 0, trust: FrameTrust::Context, symbol: None, compiler: None };
        ProcessUnwinder::new(&layout, self).anonymous(&[frame], Some(signal))
    }
}

const X86: Registers = Registers::X86_64 { ip: CODE, sp: 0, bp: 0 };
const ARM: Registers = Registers::Aarch64 { pc: CODE, sp: 0, fp: 0, lr: 0 };

#[test]
fn what_is_not_of_the_instruction_does_not_count() {
    const SEGV: u32 = 11;
    const TRAP: u32 = 5;
    let at = |registers, code: &[u8], offset, signal| {
        Process::new(registers, code).anonymous(CODE + offset, signal).instruction.unwrap()
    };
    let load = [0x8b, 0x00, 0xc3, 0x90];
    assert_eq!(at(X86, &load, 0, SEGV), load);
    // What compilers put behind an instruction that ends a function may be an address.
    assert_eq!(at(X86, &[0x0f, 0x0b, 1, 2], 0, 4), [0x0f, 0x0b]);
    assert_eq!(at(X86, &[0xf4, 1, 2, 3], 0, SEGV), [0xf4]);
    assert_eq!(at(X86, &[0xcc, 1, 2, 3], 1, TRAP), [0xcc], "int3 has been executed");
    assert_eq!(at(X86, &[0xf1, 1, 2, 3], 1, TRAP), [0xf1]);
    assert_eq!(at(X86, &[0xcc, 0x8b, 0, 0xc3, 7], 1, SEGV), [0x8b, 0, 0xc3, 7], "padding before a function");
    assert_eq!(at(ARM, &[0xcc, 1, 2, 3], 0, TRAP), [0xcc, 1, 2, 3]);
    // The last bytes of the code.
    assert_eq!(at(X86, &[0x90; PAGE], PAGE as u64 - 2, SEGV), [0x90, 0x90]);
}

#[test]
fn an_emulators_own_abort_is_not_its_guests_signal() {
    let mut emulator = Process::new(X86, &[]);
    emulator.map(GUEST, "/usr/bin/guest", EM_AARCH64);
    for (code, expected) in [(0, true), (-1, true), (-6, false), (1, false)] {
        emulator.notes.siginfo = Some(SigInfoNote { code, address: 0, sender: (PID, 0) });
        let found = emulator.anonymous(CODE, 6);
        assert_eq!((found.guest.as_deref(), found.is_guests_signal), (Some("guest"), expected), "{code}");
    }
}

#[test]
fn a_64_bit_program_that_dies_in_32_bit_code_is_not_its_own_guest() {
    let mut process = Process::new(X86, &[]);
    process.map(PROGRAM, "/usr/bin/wine64", EM_X86_64);
    process.notes.program_headers = Some((PROGRAM + 64, 9));
    process.machine = EM_386;
    assert_eq!(process.anonymous(CODE, 11).guest, None);
    // An emulator of i386 on x86-64.
    process.map(GUEST, "/srv/old", EM_386);
    for machine in [EM_X86_64, EM_386] {
        process.machine = machine;
        assert_eq!(process.anonymous(CODE, 11).guest.as_deref(), Some("old"));
    }
    // An emulator that the notes tell nothing of.
    process.notes.program_headers = None;
    process.machine = EM_X86_64;
    assert_eq!(process.anonymous(CODE, 11).guest.as_deref(), Some("old"));
}
