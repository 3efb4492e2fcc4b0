//! What the kernel's signal frame on a stack says: which signal interrupted the thread, and why.
//!
//! The frame is memory of the process, which may have written anything there. It says something about that process only.

use super::page_cache::PageCache;
use crate::crash::signal::has_address;
use crate::elf::{CrashNotes, Registers, ThreadNote};
use nix::sys::signal::Signal::{self, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGTRAP};

/// A signal frame on the stack of a thread, as the walk up the stack meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SignalReturn {
    /// How many frames are above it: those of the handler.
    pub(super) handler_frames: usize,
    /// Whether a scan lies between it and the signal frame before it, or the top of the stack: then it may be what an earlier signal left there.
    pub(super) is_scanned: bool,
    /// The registers in the trampoline, to which the handler returns.
    pub(super) trampoline: Registers,
    /// The registers that the kernel saved.
    pub(super) interrupted: Registers,
}

/// The signal that a frame was made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interruption {
    /// Its number.
    pub(super) signal: u32,
    /// `si_code`, if the frame has a siginfo.
    pub(super) code: Option<i32>,
    /// The address of a fault, by the siginfo or the processor's registers.
    pub(super) address: Option<u64>,
}

/// The signals that say that the thread itself did something wrong.
const FAULTS: [Signal; 7] = [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS];
const SIGINFO_LEN: usize = 128;

/// Whether a handler of `signal` was started because the thread had failed, in a process that died of the signal `died_of`.
///
/// Sandboxes and debuggers handle SIGSYS and SIGTRAP in the course of their work, and may wait in the handler: those count only where the
/// process died of the same.
pub(super) fn is_fault(signal: u32, died_of: Option<u32>) -> bool {
    let is = |known: &Signal| *known as u32 == signal;
    FAULTS.iter().any(is) && (![SIGTRAP, SIGSYS].iter().any(is) || died_of == Some(signal))
}

/// A signal that the thread had just sent by a system call, from which it was returning when it was interrupted.
#[derive(Clone, Copy)]
struct Sent {
    signal: u32,
    /// The arguments name the thread or its process. Otherwise they may be those of another system call, or it may have gone to anybody.
    to_itself: bool,
}

/// What a signal frame consists of, for one architecture.
struct SavedContext {
    /// The signal that the thread had sent, probably to itself.
    sent: Option<Sent>,
    /// What the processor reported last, as the signals that the kernel sends for it, and the address.
    trap: Option<(&'static [Signal], Option<u64>)>,
    /// The signals that were blocked before.
    blocked: u64,
    /// Where the siginfo is, which is there only if the handler asked for it (SA_SIGINFO).
    siginfo: u64,
}

/// The signal for which the kernel made a frame on the stack of `thread`. `None` if that cannot be told.
///
/// Without SA_SIGINFO the frame has no number. Then it is that of the system call by which the thread sent the signal to itself, as abort(3)
/// does; or the one that the processor's report leads to; or the only one of the faults that the handler blocks.
pub(super) fn interruption(
    frame: &SignalReturn,
    thread: &ThreadNote,
    notes: &CrashNotes,
    pages: &mut PageCache<'_>,
) -> Option<Interruption> {
    if let Registers::I386(registers) = frame.trampoline {
        return i386_interruption(registers.esp.into(), pages);
    }
    let saved = saved_context(frame, thread, notes, pages)?;
    // The handler runs with the signal blocked, unless it unblocked it or asked for SA_NODEFER.
    let newly_blocked = blocked_before_the_end(thread.blocked) & !saved.blocked;
    let may_be = |signal: u32| newly_blocked == 0 || newly_blocked & mask(signal) != 0;
    let unblocked = |info: &Interruption| {
        let is_reported = |(signals, _): (&[Signal], _)| signals.iter().any(|signal| *signal as u32 == info.signal);
        unblocks_faults(newly_blocked) && info.code.is_some_and(|code| code > 0) && saved.trap.is_some_and(is_reported)
    };
    let info = siginfo(pages, saved.siginfo).filter(|info| may_be(info.signal) || unblocked(info));
    if let Some(Sent { signal, to_itself }) = saved.sent {
        let is_blocked = |signal: u32| newly_blocked & mask(signal) != 0;
        let is_certain = to_itself && (newly_blocked == 0 || is_blocked(signal));
        let info = info.filter(|info| info.signal == signal || (is_blocked(info.signal) && !is_certain));
        return Some(info.unwrap_or(Interruption { signal, ..Interruption::default() }));
    }
    if let Some(info) = info.filter(|info| is_consistent(info, saved.trap)) {
        return Some(info);
    }
    let by_trap = saved.trap.and_then(|(signals, address)| {
        let blocked = signals.iter().find(|signal| newly_blocked & mask(**signal as u32) != 0);
        let signal = blocked.or(signals.first().filter(|_| newly_blocked == 0))?;
        Some(Interruption { signal: *signal as u32, code: None, address })
    });
    by_trap.or_else(|| {
        let mut blocked =
            FAULTS.iter().map(|signal| *signal as u32).filter(|signal| newly_blocked & mask(*signal) != 0);
        let signal = blocked.next()?;
        blocked.next().is_none().then_some(Interruption { signal, ..Interruption::default() })
    })
}

/// The signals that a thread blocked until the one came that ended the process. The kernel unblocks a signal that it forces upon a thread
/// (`force_sig_info_to_task`, kernel/signal.c), and abort(3) of glibc 2.41 and later blocks all signals, and unblocks SIGABRT. So where one fault is
/// not blocked of all, it was; where one is not beside SIGABRT, as where abort(3) itself faulted, that one was.
fn blocked_before_the_end(blocked: u64) -> u64 {
    let unblocked = FAULTS.iter().fold(0, |all, signal| all | mask(*signal as u32)) & !blocked;
    let beside_abort = unblocked & !mask(SIGABRT as u32);
    if unblocked.is_power_of_two() {
        blocked | unblocked
    } else if beside_abort.is_power_of_two() {
        blocked | beside_abort
    } else {
        blocked
    }
}

/// Whether a handler that runs with these signals blocked has unblocked those that the processor raises, as HotSpot's does
/// (`PosixSignals::unblock_program_error_signals`): a fault in the handler would not reach it otherwise.
fn unblocks_faults(blocked: u64) -> bool {
    /// It blocks all others.
    const MOST: u32 = 48;
    let raised =
        [SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP].into_iter().fold(0, |all, signal| all | mask(signal as u32));
    blocked.count_ones() >= MOST && blocked & raised == 0
}

/// The bit of a signal in a mask.
fn mask(signal: u32) -> u64 {
    signal.checked_sub(1).and_then(|bit| 1_u64.checked_shl(bit)).unwrap_or(0)
}

/// The siginfo at `address`, if there is one. Otherwise the stack has there what was on it before.
fn siginfo(pages: &mut PageCache<'_>, address: u64) -> Option<Interruption> {
    // si_signo, si_errno, si_code, padding, the union. The kernel's part has 48 bytes, and it writes zeros after them (copy_siginfo_to_user,
    // kernel/signal.c).
    let bytes = pages.read(address, SIGINFO_LEN)?;
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let (signal, code) = (word(0)?, word(8)?.cast_signed());
    let is_kernels = word(12)? == 0 && bytes.get(48..)?.iter().all(|byte| *byte == 0);
    if !is_kernels || !(1..=64).contains(&signal) {
        return None;
    }
    let address = has_address(signal, code).then(|| Some(u64::from(word(16)?) | u64::from(word(20)?) << 32)).flatten();
    Some(Interruption { signal, code: Some(code), address })
}

/// The signal for which the kernel made a frame of i386 on the stack, at the stack pointer behind its return address (struct sigframe_ia32,
/// struct rt_sigframe_ia32, arch/x86/include/asm/sigframe.h): the number; then with SA_SIGINFO pointers to a siginfo and a ucontext, and these,
/// else the registers, with what the processor reported last.
fn i386_interruption(sp: u64, pages: &mut PageCache<'_>) -> Option<Interruption> {
    const SIGINFO: u64 = 12;
    const SIGCONTEXT: u64 = 4;
    let mut word = |offset: u64| pages.read_u32(sp.checked_add(offset)?);
    let signal = word(0).filter(|number| is_signal((*number).into()))?;
    if word(4).map(u64::from) == sp.checked_add(SIGINFO) && word(SIGINFO) == Some(signal) {
        let code = word(SIGINFO + 8).map(u32::cast_signed);
        let address = word(SIGINFO + 12).filter(|_| code.is_some_and(|code| has_address(signal, code)));
        return Some(Interruption { signal, code, address: address.map(u64::from) });
    }
    // struct sigcontext_32 (arch/x86/include/uapi/asm/sigcontext.h).
    let mut context = |index: u64| word(SIGCONTEXT + index * 4).map(u64::from);
    let (trap, error, cr2) = (context(12), context(13), context(21));
    let is_page_fault = trap == Some(PAGE_FAULT) && error.is_some_and(|error| error & USER_FAULT != 0);
    let address = cr2.filter(|_| is_page_fault && [SIGSEGV, SIGBUS].iter().any(|known| *known as u32 == signal));
    Some(Interruption { signal, code: None, address })
}

/// Whether a siginfo is of the fault that the processor reported: an older one may lie in the same place.
fn is_consistent(info: &Interruption, trap: Option<(&'static [Signal], Option<u64>)>) -> bool {
    let Some((signals, Some(reported))) = trap.filter(|_| info.code.is_some_and(|code| code > 0)) else { return true };
    let is_reported = signals.iter().any(|signal| *signal as u32 == info.signal);
    // Of damaged memory (BUS_MCEERR_AR) the siginfo has the page.
    !is_reported || info.address.is_none_or(|address| address == reported || info.signal == SIGBUS as u32)
}

/// The general registers that the kernel saved in the frame of a signal, by name, on x86-64; empty on other machines.
///
/// `trampoline` are the registers to which the handler returns.
pub(super) fn saved_registers(trampoline: Registers, pages: &mut PageCache<'_>) -> Vec<(&'static str, u64)> {
    // struct sigcontext at 40 of struct ucontext (arch/x86/include/uapi/asm/sigcontext.h).
    const NAMES: [&str; 18] = [
        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp",
        "rip", "eflags",
    ];
    let Registers::X86_64 { sp, .. } = trampoline else { return Vec::new() };
    let values = (40_u64..).step_by(8).map_while(|offset| pages.read_u64(sp.checked_add(offset)?));
    NAMES.into_iter().zip(values).collect()
}

fn saved_context(
    frame: &SignalReturn,
    thread: &ThreadNote,
    notes: &CrashNotes,
    pages: &mut PageCache<'_>,
) -> Option<SavedContext> {
    match frame.trampoline {
        Registers::I386(_) => None,
        Registers::X86_64 { sp, .. } => {
            // struct ucontext at the stack pointer; its struct sigcontext at 40 has 32 words (arch/x86/include/uapi/asm/sigcontext.h);
            // then the signal mask, and struct siginfo after the ucontext (struct rt_sigframe, arch/x86/include/asm/sigframe.h).
            let mut word = |index: u64| pages.read_u64(sp.checked_add(40 + index * 8)?);
            let [di, si, dx, ax, ip] = [word(8)?, word(9)?, word(12)?, word(13)?, word(16)?];
            let (error, number, address) = (word(19)?, word(20)?, word(22)?);
            let blocked = word(32)?;
            // The number of the system call is lost, but not where it returned to.
            let has_returned = ax == 0 && code_before(pages, ip) == Some([0x0f, 0x05]);
            let [own, process] = [thread.tid, notes.pid.unwrap_or(thread.tid)].map(u64::from);
            let sent = match (di, si) {
                _ if !has_returned => None,
                // tgkill(process, thread, signal), kill(process, signal), tkill(thread, signal). 1 may as well be a descriptor.
                (id, to) if id == process && to == own && is_signal(dx) => sent(dx, true),
                (id, signal) if id == process || id == own => sent(signal, id != 1),
                _ => None,
            };
            let trap = x86_trap(number, error, address, ip, pages);
            Some(SavedContext { sent, trap, blocked, siginfo: sp.checked_add(304)? })
        }
        Registers::Aarch64 { sp, .. } => {
            // struct siginfo at the stack pointer; struct ucontext at 128 has the signal mask at 40 and its struct sigcontext at 176:
            // the address of the last fault, x0 to x30, sp, pc, pstate, and from 288 on records (arch/arm64/include/uapi/asm/).
            const UCONTEXT: u64 = 128;
            const SIGCONTEXT: u64 = UCONTEXT + 176;
            let mut word = |offset: u64| pages.read_u64(sp.checked_add(offset)?);
            let mut x = |number: u64| word(SIGCONTEXT + 8 + number * 8);
            let (result, first, second, call, pc) = (x(0)?, x(1)?, x(2)?, x(8)?, x(32)?);
            let address = word(SIGCONTEXT)?;
            let blocked = word(UCONTEXT + 40)?;
            // svc #0. The first argument is lost: the thread may have sent the signal to anybody.
            let has_returned = result == 0 && pc.checked_sub(4).and_then(|at| pages.read_u32(at)) == Some(0xd400_0001);
            // kill, tkill and tgkill (include/uapi/asm-generic/unistd.h).
            let sent = match call {
                _ if !has_returned => None,
                129 | 130 => sent(first, false),
                131 if first == u64::from(thread.tid) => sent(second, true),
                _ => None,
            };
            let syndrome = sp.checked_add(SIGCONTEXT + 288).and_then(|records| aarch64_syndrome(pages, records));
            let trap = syndrome.and_then(|syndrome| aarch64_trap(syndrome, address));
            Some(SavedContext { sent, trap, blocked, siginfo: sp })
        }
    }
}

fn is_signal(number: u64) -> bool {
    (1..=64).contains(&number)
}

fn sent(number: u64, to_itself: bool) -> Option<Sent> {
    let signal = u32::try_from(number).ok().filter(|_| is_signal(number))?;
    Some(Sent { signal, to_itself })
}

/// The two bytes of code before `address`.
fn code_before(pages: &mut PageCache<'_>, address: u64) -> Option<[u8; 2]> {
    pages.read(address.checked_sub(2)?, 2)?.first_chunk().copied()
}

/// The number of a page fault.
const PAGE_FAULT: u64 = 14;
/// A bit of its error code: it was in user mode.
const USER_FAULT: u64 = 4;

/// The signals that the kernel sends for an exception of the processor (Intel SDM, volume 3, chapter 6; arch/x86/kernel/traps.c). The
/// kernel saves the number and error code of the thread's last one, also where another signal interrupted it.
fn x86_trap(
    number: u64,
    error: u64,
    address: u64,
    ip: u64,
    pages: &mut PageCache<'_>,
) -> Option<(&'static [Signal], Option<u64>)> {
    Some(match number {
        // 0 is also the value of a thread that had no exception.
        0 if is_division(&pages.read(ip, 3)?) => (&[SIGFPE], Some(ip)),
        1 | 3 => (&[SIGTRAP], None),
        4 | 5 | 13 | 21 => (&[SIGSEGV], None),
        6 => (&[SIGILL], Some(ip)),
        11 | 12 | 17 => (&[SIGBUS], None),
        PAGE_FAULT if error & USER_FAULT != 0 => (&[SIGSEGV, SIGBUS], Some(address)),
        16 | 19 => (&[SIGFPE], Some(ip)),
        _ => return None,
    })
}

/// Whether x86-64 code begins with div or idiv (opcodes 0xf6 and 0xf7, /6 and /7), perhaps after one prefix (operand size, REX).
fn is_division(code: &[u8]) -> bool {
    let opcode = match code {
        [0x66 | 0x40..=0x4f, rest @ ..] => rest,
        all => all,
    };
    matches!(opcode, [0xf6 | 0xf7, modrm, ..] if modrm & 0x30 == 0x30)
}

/// The exception syndrome among the records of a signal frame of aarch64 (struct esr_context).
fn aarch64_syndrome(pages: &mut PageCache<'_>, records: u64) -> Option<u64> {
    const ESR_MAGIC: u32 = 0x4553_5201;
    const SPACE: u32 = 4096;
    const MAX_RECORDS: usize = 16;
    let mut offset = 0_u32;
    for _ in 0..MAX_RECORDS {
        let at = records.checked_add(u64::from(offset))?;
        let (magic, size) = (pages.read_u32(at)?, pages.read_u32(at.checked_add(4)?)?);
        if magic == ESR_MAGIC {
            return pages.read_u64(at.checked_add(8)?);
        }
        offset = offset.checked_add(size).filter(|next| size >= 8 && *next < SPACE)?;
    }
    None
}

/// The signals that the kernel sends for an exception class (Arm ARM, ESR_EL1; arch/arm64/include/asm/esr.h).
fn aarch64_trap(syndrome: u64, address: u64) -> Option<(&'static [Signal], Option<u64>)> {
    Some(match (syndrome >> 26) & 0x3f {
        0x00 | 0x0e => (&[SIGILL], None),
        0x20 | 0x24 => (&[SIGSEGV, SIGBUS], Some(address)),
        0x22 | 0x26 => (&[SIGBUS], Some(address)),
        0x28 | 0x2c => (&[SIGFPE], None),
        0x30 | 0x32 | 0x34 | 0x3c => (&[SIGTRAP], None),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
