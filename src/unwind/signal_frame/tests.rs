#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use super::*;
use crate::elf::I386Registers;
use crate::unwind::ReadMemory;
use proptest::prelude::*;

const STACK: u64 = 0x7fff_0000;
const CODE: u64 = 0x40_0000;
const PID: u32 = 70;
const TID: u32 = 77;

/// A stack with a signal frame at its beginning, and code.
struct FrameMemory {
    stack: Vec<u8>,
    code: Vec<u8>,
}

impl FrameMemory {
    fn new() -> Self {
        Self { stack: vec![0; 4096], code: vec![0; 4096] }
    }

    fn put(&mut self, offset: usize, word: u64) -> &mut Self {
        self.stack[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
        self
    }

    /// A word of x86-64's struct sigcontext.
    fn context(&mut self, index: usize, word: u64) -> &mut Self {
        self.put(40 + index * 8, word)
    }

    fn siginfo(&mut self, offset: usize, signal: u32, code: i32, address: u64) -> &mut Self {
        self.put(offset, signal.into()).put(offset + 8, code.cast_unsigned().into()).put(offset + 16, address)
    }

    fn interruption(&self, trampoline: Registers, blocked: u64) -> Option<Interruption> {
        self.interruption_of(&CrashNotes { pid: Some(PID), ..CrashNotes::default() }, trampoline, blocked)
    }

    fn interruption_of(&self, notes: &CrashNotes, trampoline: Registers, blocked: u64) -> Option<Interruption> {
        let frame = SignalReturn { handler_frames: 0, is_scanned: false, trampoline, interrupted: trampoline };
        let thread = ThreadNote { tid: TID, registers: trampoline, system_call: 0, thread_pointer: None, blocked };
        interruption(&frame, &thread, notes, &mut PageCache::new(self))
    }

    fn x86(&self, blocked: u64) -> Option<Interruption> {
        self.interruption(Registers::X86_64 { ip: CODE, sp: STACK, bp: 0 }, blocked)
    }

    fn aarch64(&self, blocked: u64) -> Option<Interruption> {
        self.interruption(Registers::Aarch64 { pc: CODE, sp: STACK, fp: 0, lr: 0 }, blocked)
    }
}

impl ReadMemory for FrameMemory {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        for (start, bytes) in [(STACK, &self.stack), (CODE, &self.code)] {
            let from = address.checked_sub(start).and_then(|at| usize::try_from(at).ok());
            if let Some(found) = from.and_then(|at| bytes.get(at..at.checked_add(buffer.len())?)) {
                buffer.copy_from_slice(found);
                return true;
            }
        }
        false
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with an option")]
fn found(signal: Signal, code: Option<i32>, address: Option<u64>) -> Option<Interruption> {
    Some(Interruption { signal: signal as u32, code, address })
}

fn bit(signal: Signal) -> u64 {
    mask(signal as u32)
}

/// What the kernel saves of a page fault in user mode.
fn page_fault(address: u64) -> FrameMemory {
    let mut memory = FrameMemory::new();
    memory.context(16, CODE + 64).context(19, 6).context(20, 14).context(22, address);
    memory
}

#[test]
fn a_siginfo_says_what_interrupted_the_thread() {
    let mut memory = page_fault(0x1234);
    memory.siginfo(304, 11, 1, 0x1234);
    assert_eq!(memory.x86(bit(SIGSEGV)), found(SIGSEGV, Some(1), Some(0x1234)));
    assert_eq!(memory.x86(0), found(SIGSEGV, Some(1), Some(0x1234)), "SA_NODEFER");
    assert_eq!(memory.x86(u64::MAX), found(SIGSEGV, Some(1), Some(0x1234)), "sigfillset(3)");
    assert_eq!(
        memory.x86(!bit(SIGSEGV)),
        found(SIGSEGV, Some(1), Some(0x1234)),
        "and then a fault of the handler, which unblocks it"
    );
    let raised = [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP].into_iter().fold(0, |all, signal| all | bit(signal));
    let hotspots = !raised & !bit(SIGABRT);
    assert_eq!(
        memory.x86(hotspots),
        found(SIGSEGV, Some(1), Some(0x1234)),
        "faults are unblocked for the handler itself"
    );
    assert_eq!(memory.x86(bit(SIGSYS) | bit(SIGABRT)), None, "two other signals are blocked");
    memory.siginfo(304, 8, 1, 0x1234);
    assert_eq!(memory.x86(hotspots), found(SIGSYS, None, None), "not what the processor reported");
    memory.siginfo(304, 10, 0, 77);
    let interruption = memory.x86(bit(Signal::SIGUSR1)).unwrap();
    assert!(interruption.signal == 10 && !is_fault(10, Some(11)), "{interruption:?}");
    let mut arm = FrameMemory::new();
    arm.siginfo(0, 7, 2, 0x88);
    assert_eq!(arm.aarch64(bit(SIGBUS)), found(SIGBUS, Some(2), Some(0x88)));
}

#[test]
fn without_a_siginfo_the_processors_report_says_it() {
    assert_eq!(page_fault(0x1234).x86(bit(SIGSEGV)), found(SIGSEGV, None, Some(0x1234)));
    assert_eq!(page_fault(0x1234).x86(bit(SIGBUS)), found(SIGBUS, None, Some(0x1234)));
    assert_eq!(page_fault(0x1234).x86(0), found(SIGSEGV, None, Some(0x1234)));
    // What is on the stack where the siginfo would be: that of an earlier fault, of an earlier signal, and no siginfo.
    for (signal, code, address) in [(11, 1, 0x99), (10, 0, 5), (11, 1, 1 << 60)] {
        let mut memory = page_fault(0x1234);
        memory.siginfo(304, signal, code, address);
        assert_eq!(memory.x86(bit(SIGSEGV)), found(SIGSEGV, None, Some(0x1234)), "{signal} {address}");
    }
    let mut memory = page_fault(0x1234);
    memory.siginfo(304, 11, 1, 0x1234).put(304 + 100, 1);
    assert_eq!(memory.x86(bit(SIGSEGV)), found(SIGSEGV, None, Some(0x1234)));
    // A thread without any exception has number 0, which is also that of a division by zero.
    let mut memory = FrameMemory::new();
    memory.context(16, CODE + 64);
    assert_eq!(memory.x86(0), None);
    memory.code[64..67].copy_from_slice(&[0x48, 0xf7, 0xf9]);
    assert_eq!(memory.x86(0), found(SIGFPE, None, Some(CODE + 64)));
    // An earlier page fault, and now a signal that is none.
    assert_eq!(page_fault(1).x86(bit(Signal::SIGALRM)), None);
    let mut arm = FrameMemory::new();
    // Two records: floating-point registers, and the exception syndrome of a data abort.
    arm.put(128 + 176, 0x77).put(128 + 176 + 288, 0x210 << 32 | 0x4650_8001);
    arm.put(128 + 176 + 288 + 0x210, 16 << 32 | 0x4553_5201).put(128 + 176 + 288 + 0x218, 0x9200_0007);
    assert_eq!(arm.aarch64(bit(SIGSEGV)), found(SIGSEGV, None, Some(0x77)));
}

#[test]
fn a_signal_that_the_thread_sent_to_itself_is_known_by_the_system_call() {
    for (arguments, expected) in [
        ((PID, TID, 6_u32), found(SIGABRT, None, None)),
        ((PID, 8, 0), found(SIGFPE, None, None)),
        ((TID, 6, 0), found(SIGABRT, None, None)),
        ((99, TID, 6), None),
    ] {
        let mut memory = FrameMemory::new();
        memory.code[62..64].copy_from_slice(&[0x0f, 0x05]);
        // The processor leaves the address in rcx, too, unless it has FRED.
        memory.context(16, CODE + 64);
        memory.context(8, arguments.0.into()).context(9, arguments.1.into()).context(12, arguments.2.into());
        assert_eq!(memory.x86(u64::MAX), expected, "{arguments:?}");
        memory.code[63] = 0;
        assert_eq!(memory.x86(u64::MAX), None);
    }
    let mut arm = FrameMemory::new();
    let x = |number: usize| 128 + 176 + 8 + number * 8;
    arm.code[60..64].copy_from_slice(&[1, 0, 0, 0xd4]);
    arm.put(x(32), CODE + 64).put(x(1), TID.into()).put(x(2), 6).put(x(8), 131);
    assert_eq!(arm.aarch64(u64::MAX), found(SIGABRT, None, None));
}

#[test]
fn a_siginfo_of_a_signal_that_the_handler_blocks_counts_before_arguments_that_look_like_a_system_call() {
    // fcntl(1, F_SETFL) in the first process of a PID namespace, and SIGSEGV from another thread.
    let mut memory = FrameMemory::new();
    memory.code[62..64].copy_from_slice(&[0x0f, 0x05]);
    memory.context(16, CODE + 64).context(8, 1).context(9, 4).siginfo(304, 11, -6, 0);
    let first = |memory: &FrameMemory, blocked| {
        let trampoline = Registers::X86_64 { ip: CODE, sp: STACK, bp: 0 };
        memory.interruption_of(&CrashNotes { pid: Some(1), ..CrashNotes::default() }, trampoline, blocked)
    };
    for blocked in [bit(SIGSEGV), u64::MAX] {
        assert_eq!(first(&memory, blocked), found(SIGSEGV, Some(-6), None));
    }
    memory.put(304, 0);
    assert_eq!(first(&memory, u64::MAX), found(SIGILL, None, None), "there is no siginfo");
    // kill(another process, SIGABRT), and the SIGCHLD that follows from it.
    let mut arm = FrameMemory::new();
    let x = |number: usize| 128 + 176 + 8 + number * 8;
    arm.code[60..64].copy_from_slice(&[1, 0, 0, 0xd4]);
    arm.put(x(32), CODE + 64).put(x(1), 6).put(x(8), 129).siginfo(0, 17, 2, 99);
    for blocked in [bit(Signal::SIGCHLD), u64::MAX] {
        assert_eq!(arm.aarch64(blocked).map(|found| found.signal), Some(17));
    }
    // The arguments name the thread, and the siginfo is what an earlier signal left on an alternate stack.
    memory.context(8, PID.into()).context(9, TID.into()).context(12, 6).siginfo(304, 10, 0, 5);
    assert_eq!(memory.x86(u64::MAX), found(SIGABRT, None, None));
}

#[test]
fn a_frame_of_i386_has_the_address_with_a_siginfo_and_without() {
    const WORDS: usize = 22;
    let interruption = |signal: u32, trap: u32, error: u32| {
        // The number of the signal, then struct sigcontext_32, whose words 12, 13 and 21 are trapno, err and cr2.
        let mut words = [0x63_u32; 1 + WORDS];
        (words[0], words[13], words[14], words[22]) = (signal, trap, error, 0xffff_0010);
        let mut memory = FrameMemory::new();
        for (index, word) in words.iter().enumerate() {
            memory.stack[index * 4..index * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        let esp = u32::try_from(STACK).unwrap();
        memory.interruption(Registers::I386(I386Registers { esp, ..I386Registers::default() }), 0)
    };
    let address = Some(0xffff_0010);
    assert_eq!(interruption(11, 14, 6), found(SIGSEGV, None, address));
    assert_eq!(interruption(7, 14, 4), found(SIGBUS, None, address));
    assert_eq!(interruption(8, 14, 6), found(SIGFPE, None, None));
    assert_eq!(interruption(11, 13, 0), found(SIGSEGV, None, None), "no page fault");
    assert_eq!(interruption(0, 14, 6), None);
}

#[test]
fn else_it_is_the_only_fault_that_the_handler_blocks() {
    let mut memory = FrameMemory::new();
    assert_eq!(memory.x86(bit(SIGABRT) | bit(Signal::SIGUSR1)), found(SIGABRT, None, None));
    assert_eq!(memory.x86(bit(SIGABRT) | bit(SIGSEGV)), None);
    memory.context(32, bit(SIGABRT));
    assert_eq!(memory.x86(bit(SIGABRT) | bit(SIGSEGV)), found(SIGSEGV, None, None), "the other was blocked before");
}

#[test]
fn signals_of_sandboxes_and_debuggers_count_where_the_process_died_of_them() {
    for signal in [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT] {
        assert!(is_fault(signal as u32, Some(6)) && is_fault(signal as u32, None));
    }
    for signal in [SIGSYS, SIGTRAP] {
        assert!(is_fault(signal as u32, Some(signal as u32)) && !is_fault(signal as u32, Some(6)));
    }
    assert!(!is_fault(15, Some(15)) && !is_fault(0, Some(0)));
}

proptest! {
    #[test]
    fn arbitrary_frames_do_not_panic(
        words in prop::collection::vec(prop_oneof![any::<u64>(), 0..80_u64, Just(CODE + 64)], 512), blocked: u64, sp in prop_oneof![Just(STACK), any::<u64>()],
    ) {
        let mut memory = FrameMemory::new();
        for (index, word) in words.into_iter().enumerate() {
            memory.put(index * 8, word);
        }
        let _ = memory.interruption(Registers::X86_64 { ip: CODE, sp, bp: 0 }, blocked);
        let _ = memory.interruption(Registers::Aarch64 { pc: CODE, sp, fp: 0, lr: 0 }, blocked);
    }
}
