use super::*;
use crate::crash::{Frame, FrameTrust};
use crate::elf::{CoreLayout, CrashNotes, MappedFile, SigInfoNote, ThreadNote, test_headers};
use crate::unwind::ReadMemory;

const CODE: u64 = 0x40_0000;
const RODATA: u64 = 0x41_0000;
const HEAP: u64 = 0x50_0000;
const GUARD_PAGE: u64 = 0x6f_f000;
const STACK: u64 = 0x70_0000;
const MAIN_STACK: u64 = 0x7fff_0000_0000;
const PID: u32 = 70;
const OTHER: u32 = 71;

/// A program with this code, of two threads: the stack of the second has a guard page, that of the main thread a gap.
struct Process {
    code: Vec<u8>,
    sp: u64,
    rax: u64,
    is_unwound: bool,
}

impl ReadMemory for Process {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        buffer.fill(0);
        buffer.iter_mut().zip(&self.code).for_each(|(to, from)| *to = *from);
        address == CODE
    }
}

impl Process {
    fn of(code: &[u8]) -> Self {
        Self { code: code.to_vec(), sp: STACK + 0x100, rax: 0, is_unwound: true }
    }

    /// The fault of the second thread, at `pc`.
    fn fault_at(&self, pc: u64, cause: Cause) -> Option<Fault> {
        let segment = |address, length, flags| LoadSegment { offset: 0..0, address, length, flags };
        let loads = vec![
            segment(CODE, 0x1000, PF_R | PF_X),
            segment(RODATA, 0x1000, PF_R),
            segment(HEAP, 0x2000, PF_R | PF_W),
            segment(GUARD_PAGE, 0x1000, 0),
            segment(STACK, 0x1000, PF_R | PF_W),
            segment(MAIN_STACK, 0x2000, PF_R | PF_W),
        ];
        let mut layout = CoreLayout::read(&test_headers(&[], &[])).unwrap().with_mappings(loads);
        let registers = Registers::X86_64 { ip: pc, sp: self.sp, bp: 0 };
        let thread = |tid, registers| ThreadNote { tid, registers, system_call: 101, thread_pointer: None, blocked: 0 };
        let main = Registers::X86_64 { ip: CODE, sp: MAIN_STACK + 0x1800, bp: 0 };
        let file = |start, path: &str| MappedFile { start, end: start + 0x1000, offset: 0, path: path.to_owned() };
        layout.notes = CrashNotes {
            pid: Some(PID),
            threads: vec![thread(OTHER, registers), thread(PID, main)],
            siginfo: Some(SigInfoNote { code: 1, address: 0, sender: (0, 0) }),
            files: vec![file(CODE, "/srv/app"), file(RODATA, "/srv/app")],
            general_registers: vec![("rax", self.rax), ("rcx", 0), ("rsp", self.sp), ("rip", pc), ("fs_base", 0x1000)],
            ..CrashNotes::default()
        };
        let frame = |trust| Frame { address: pc, module: None, offset: 0, trust, symbol: None, compiler: None };
        let caller = if self.is_unwound { FrameTrust::CallFrameInfo } else { FrameTrust::Scan };
        let frames = vec![frame(FrameTrust::Context), frame(caller)];
        let crashed = CrashedThread { frames, registers: Some(registers), ..CrashedThread::default() };
        ProcessUnwinder::new(&layout, self).fault(&crashed, cause)
    }

    fn fault(&self, signal: u32, code: i32, address: Option<u64>) -> Fault {
        let fault = self.fault_at(CODE, Cause { signal, code: Some(code), address }).unwrap();
        assert!(fault.is_well_formed(), "{fault:?}");
        fault
    }
}

/// mov DWORD PTR [rax+0x11], 1
const STORE: &[u8] = &[0xc7, 0x40, 0x11, 1, 0, 0, 0];
/// mov rcx, QWORD PTR [rax]
const LOAD: &[u8] = &[0x48, 0x8b, 0x08];
/// push rax
const PUSH: &[u8] = &[0x50];

#[test]
fn the_instruction_its_registers_and_its_access_are_told() {
    let fault = Process::of(STORE).fault(11, 1, Some(0x11));
    assert_eq!(fault.instruction.as_deref(), Some("mov dword ptr [rax+0x11], 1"));
    assert_eq!(fault.code, "c7401101000000");
    assert_eq!(fault.registers, [("rax".to_owned(), 0)].into());
    assert_eq!((fault.access, fault.size), (Some(Access::Write), Some(4)));
    assert_eq!(fault.place, Some(Place::Null { offset: 0x11 }));
    let below = Process { rax: u64::MAX - 7, ..Process::of(LOAD) }.fault(11, 1, Some(u64::MAX - 7));
    assert_eq!((below.access, below.place), (Some(Access::Read), Some(Place::Null { offset: -8 })));
    // Another thread may have changed what the registers lead to.
    let other = Process::of(LOAD).fault(11, 1, Some(0x1234));
    assert_eq!((other.access, other.size), (None, None));
}

#[test]
fn an_address_is_told_in_relation_to_the_mappings() {
    let store_at = |address: u64, code| {
        Process { rax: address.wrapping_sub(0x11), ..Process::of(STORE) }.fault(11, code, Some(address))
    };
    let place = |address, code| store_at(address, code).place.unwrap();
    let mapping = |start, permissions: &str, name: &str| Mapping {
        start,
        permissions: permissions.to_owned(),
        name: Some(name.to_owned()),
    };
    assert_eq!(place(RODATA + 0x10, 2), Place::Mapped(mapping(RODATA, "r--", "app")));
    assert_eq!(place(0xffff_8000_0000_0000, 1), Place::Kernel);
    let Place::Unmapped { below, above } = place(HEAP + 0x3000, 1) else { panic!() };
    let (below, above) = (below.unwrap(), above.unwrap());
    assert_eq!((below.mapping.start, below.distance, below.mapping.name), (HEAP, 0x1001, None));
    assert_eq!((above.mapping.start, above.distance), (GUARD_PAGE, GUARD_PAGE - HEAP - 0x3000));
    assert_eq!(
        place(MAIN_STACK + 0x10, 2),
        Place::Mapped(mapping(MAIN_STACK, "rw-", &format!("[stack of thread {PID}]")))
    );
}

#[test]
fn a_stack_overflow_needs_a_pointer_there_and_frames_on_the_stack() {
    let guard = |tid, overflow, distance| Some(Place::StackGuard { tid, overflow, distance });
    let push = |sp: u64| Process { sp, ..Process::of(PUSH) };
    let overflow = push(STACK).fault(11, 2, Some(STACK - 8));
    assert_eq!((overflow.access, overflow.size, overflow.place), (Some(Access::Write), Some(8), guard(OTHER, true, 8)));
    assert_eq!(push(MAIN_STACK).fault(11, 1, Some(MAIN_STACK - 8)).place, guard(OTHER, true, 8), "a gap below a stack");
    let wild = Process { is_unwound: false, ..push(STACK) }.fault(11, 2, Some(STACK - 8)).place;
    assert_eq!(wild, guard(OTHER, false, 8), "nothing says that the stack was in use up to there");
    let index = push(STACK + 0x800).fault(11, 2, Some(STACK - 0x400)).place;
    assert_eq!(index, guard(OTHER, false, 0x400), "a negative index is no overflow");
    let far = push(MAIN_STACK + 0x1000).fault(11, 1, Some(MAIN_STACK - 0x1000)).place;
    assert!(matches!(far, Some(Place::Unmapped { .. })), "{far:?}");
    let inside = push(STACK + 0x100).fault(11, 1, Some(STACK + 0xf8)).place;
    assert_eq!(inside, guard(OTHER, true, 0), "a guard within the mapping");
}

#[test]
fn a_jump_to_where_no_code_is_is_an_execution() {
    for (pc, code) in [(0, 1), (HEAP + 0x10, 2)] {
        let cause = Cause { signal: 11, code: Some(code), address: Some(pc) };
        let fault = Process::of(STORE).fault_at(pc, cause).unwrap();
        assert_eq!((fault.access, fault.instruction, fault.code.as_str()), (Some(Access::Execute), None, ""));
    }
}

#[test]
fn a_protection_fault_is_explained_by_the_operands() {
    let fault = |code: &[u8], rax| Process { rax, ..Process::of(code) }.fault(11, 128, None);
    let pointer = fault(LOAD, 0x6465_6570_2073_6563);
    assert_eq!((pointer.address, pointer.place), (Some(0x6465_6570_2073_6563), Some(Place::NonCanonical)));
    assert_eq!((pointer.access, pointer.size), (Some(Access::Read), Some(8)));
    // movaps XMMWORD PTR [rax], xmm0; hlt; mov rax, fs:[rax]
    let unaligned = fault(&[0x0f, 0x29, 0x00], HEAP + 1);
    assert_eq!((unaligned.place, unaligned.size), (Some(Place::Misaligned), Some(16)));
    assert_eq!(fault(&[0xf4], 0).place, Some(Place::Privileged));
    let segment = fault(&[0x64, 0x48, 0x8b, 0x00], 0x8000_0000_0000_0000);
    assert_eq!(segment.address, Some(0x8000_0000_0000_1000));
    assert_eq!(fault(LOAD, HEAP).place, None, "nothing is certain");
}

#[test]
fn other_faults_have_an_instruction_and_a_call_that_was_refused_its_number() {
    let divide = Process::of(&[0xf7, 0xf9]).fault(8, 1, Some(CODE));
    assert_eq!((divide.instruction.as_deref(), divide.place), (Some("idiv ecx"), None));
    assert_eq!(divide.registers.get("rcx"), Some(&0));
    assert_eq!(Process::of(&[0x0f, 0x0b]).fault(4, 2, Some(CODE)).instruction.as_deref(), Some("ud2"));
    assert_eq!(Process::of(&[0x0f, 0x05]).fault(31, 1, None).system_call, Some(101));
    let sent = Process::of(LOAD).fault_at(CODE, Cause { signal: 11, code: Some(0), address: None });
    assert_eq!(sent, None, "somebody sent the signal");
    assert_eq!(Process::of(LOAD).fault_at(CODE, Cause { signal: 6, code: Some(1), address: None }), None);
}

#[test]
fn code_that_is_no_instruction_is_left_out() {
    let fault = Process::of(&[0xff, 0xff]).fault(4, 2, Some(CODE));
    assert_eq!((fault.instruction, fault.code.as_str()), (None, ""));
}
