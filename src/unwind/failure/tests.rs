#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use super::*;
use crate::elf::{CoreLayout, LoadSegment, SigInfoNote, test_headers};
use crate::unwind::ReadMemory;
use object::elf::{PF_R, PF_W, PF_X};
use std::cell::Cell;

const CODE: u64 = 0x40_0000;
const STACKS: u64 = 0x7f00_0000;
const STACK_LEN: u64 = 0x4000;
/// Where a handler returns to. A call precedes it, so that a frame pointer leads there.
const TRAMPOLINE: u64 = CODE + 0x100;
const HANDLER: u64 = CODE + 0x200;
const BUG: u64 = CODE + 0x300;
const OLD_BUG: u64 = CODE + 0x400;
const PID: u32 = 70;
const SI_USER: i32 = 0;
const SI_TKILL: i32 = -6;

/// A process on x86-64 without unwind tables; each thread has a stack.
struct Process {
    code: Vec<u8>,
    stacks: Vec<u8>,
    notes: CrashNotes,
}

impl ReadMemory for Process {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        for (start, bytes) in [(CODE, &self.code), (STACKS, &self.stacks)] {
            let from = address.checked_sub(start).and_then(|at| usize::try_from(at).ok());
            if let Some(found) = from.and_then(|at| bytes.get(at..at.checked_add(buffer.len())?)) {
                buffer.copy_from_slice(found);
                return true;
            }
        }
        false
    }
}

impl Process {
    /// It died of a signal with this `si_code` and `si_pid`.
    fn new(code: i32, sender: u32) -> Self {
        let siginfo = SigInfoNote { code, address: 0, sender: (sender, 0) };
        let notes = CrashNotes { pid: Some(PID), siginfo: Some(siginfo), ..CrashNotes::default() };
        let mut process = Self { code: vec![0; 4096], stacks: Vec::new(), notes };
        process.code[0xfb] = 0xe8;
        process.code[0x100..0x109].copy_from_slice(&[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05]);
        process
    }

    fn put(&mut self, address: u64, word: u64) {
        let at = usize::try_from(address - STACKS).unwrap();
        self.stacks[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }

    /// A thread with this id in this system call, which has no frames. Returns where its stack begins.
    fn thread(&mut self, tid: u32, system_call: u64) -> u64 {
        let stack = STACKS + self.notes.threads.len() as u64 * STACK_LEN;
        let length = self.stacks.len() + usize::try_from(STACK_LEN).unwrap();
        self.stacks.resize(length, 0);
        let registers = Registers::X86_64 { ip: HANDLER, sp: stack, bp: 0 };
        self.notes.threads.push(ThreadNote { tid, registers, system_call, thread_pointer: None, blocked: 0 });
        self.notes.thread_count += 1;
        stack
    }

    /// Puts a signal frame for `signal` behind a return address at `at`, which interrupted the code at `ip`. Its frame pointer leads to `next`.
    fn signal_frame(&mut self, at: u64, signal: u32, ip: u64, next: u64) {
        let context = at + 8 + 40;
        self.put(at, TRAMPOLINE);
        for (index, word) in [(10, next), (15, at + 0x800), (16, ip)] {
            self.put(context + index * 8, word);
        }
        self.put(at + 8 + 304, signal.into());
        self.put(at + 8 + 304 + 8, 1);
    }

    /// A thread in a handler of `signal`, to whose signal frame the frame pointer leads.
    fn handling(&mut self, tid: u32, system_call: u64, signal: u32) -> u64 {
        let stack = self.thread(tid, system_call);
        self.signal_frame(stack + 0x28, signal, BUG, 0);
        let registers = Registers::X86_64 { ip: HANDLER, sp: stack, bp: stack + 0x20 };
        self.notes.threads.last_mut().unwrap().registers = registers;
        stack
    }

    fn crashed(&self, died_of: u32, keep_going: &dyn Fn() -> bool) -> CrashedThread {
        let segment = |address, length, flags| LoadSegment { offset: 0..0, address, length, flags };
        let stacks = (0..self.notes.threads.len() as u64).map(|number| STACKS + number * STACK_LEN);
        let mut loads = vec![segment(CODE, 4096, PF_R | PF_X)];
        loads.extend(stacks.map(|stack| segment(stack, STACK_LEN, PF_R | PF_W)));
        let mut layout = CoreLayout::read(&test_headers(&[], &[])).unwrap().with_mappings(loads);
        layout.notes = self.notes.clone();
        ProcessUnwinder::new(&layout, self).crashed_thread(Some(died_of), keep_going)
    }

    /// The thread that failed, and where, in a process that died of SIGABRT.
    fn failed(&self) -> Option<(u32, u64)> {
        let crashed = self.crashed(6, &|| true);
        crashed.failed.map(|failed| (failed.tid, crashed.frames[0].address))
    }
}

/// System calls of x86-64.
const NONE: u64 = u64::MAX;
const PAUSE: u64 = 34;
const KILL: u64 = 62;
const FUTEX: u64 = 202;
const TGKILL: u64 = 234;

#[test]
fn the_outermost_fault_counts_but_not_what_an_earlier_one_left_on_the_stack() {
    let mut nested = Process::new(SI_TKILL, PID);
    let stack = nested.handling(PID, NONE, 6);
    nested.signal_frame(stack + 0x28, 6, BUG, stack + 0xa20);
    nested.signal_frame(stack + 0xa28, 11, OLD_BUG, 0);
    assert_eq!(nested.failed(), Some((PID, OLD_BUG)), "its handler failed in its turn");
    let mut left = Process::new(SI_TKILL, PID);
    let stack = left.handling(PID, NONE, 11);
    left.signal_frame(stack + 0x900, 11, OLD_BUG, 0);
    assert_eq!(left.failed(), Some((PID, BUG)), "the other one is found by scanning only");
    let mut scanned = Process::new(SI_TKILL, PID);
    let stack = scanned.thread(PID, NONE);
    scanned.signal_frame(stack + 0x100, 11, BUG, 0);
    assert_eq!(scanned.failed(), Some((PID, BUG)), "as of a handler without unwind tables");
}

#[test]
fn who_is_killed_from_outside_did_not_fail() {
    for (code, sender, expected) in
        [(SI_USER, PID, Some((PID, BUG))), (SI_USER, 1, None), (SI_TKILL, 1, None), (1, 1, Some((PID, BUG)))]
    {
        let mut process = Process::new(code, sender);
        process.handling(PID, FUTEX, 11);
        assert_eq!(process.failed(), expected, "{code} {sender}");
        assert_eq!(process.crashed(6, &|| true).frames[0].address, expected.map_or(HANDLER, |(_, bug)| bug));
    }
}

#[test]
fn who_waits_in_a_handler_for_others_did_not_fail_when_another_thread_aborts() {
    for (dumped_in, other_in, died_of, expected) in [
        (TGKILL, FUTEX, 6, None),
        (TGKILL, FUTEX, 11, Some(71)),
        (TGKILL, PAUSE, 6, Some(71)),
        (TGKILL, NONE, 6, Some(71)),
        (KILL, FUTEX, 6, Some(71)),
    ] {
        let mut process = Process::new(SI_TKILL, PID);
        process.thread(PID, dumped_in);
        process.handling(71, other_in, 11);
        let failed = process.crashed(died_of, &|| true).failed.map(|failed| failed.tid);
        assert_eq!(failed, expected, "{dumped_in} {other_in} {died_of}");
    }
}

#[test]
fn it_makes_no_difference_in_which_order_threads_came_to_the_dump() {
    for order in [[(72, 11), (73, 11), (71, 8)], [(71, 8), (73, 11), (72, 11)], [(73, 11), (71, 8), (72, 11)]] {
        let mut process = Process::new(SI_USER, PID);
        process.thread(PID, PAUSE);
        for (tid, signal) in order {
            process.handling(tid, KILL, signal);
        }
        for (time_for, expected, threads) in [(3_usize, 72, 3), (2, 72, 2), (1, 71, 1)] {
            let left = Cell::new(time_for);
            let crashed = process.crashed(11, &|| left.replace(left.get().saturating_sub(1)) > 0);
            let failed = crashed.failed.unwrap();
            assert_eq!(
                (failed.tid, failed.candidates, crashed.unsearched),
                (expected, threads, 3 - threads),
                "{order:?}"
            );
        }
    }
}
