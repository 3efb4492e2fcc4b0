//! Which thread failed, and where: a handler of the fault may have ended the process in another way, and from another thread.

use super::signal_frame::{Interruption, interruption, is_fault};
use super::walk::StackWalker;
use super::{MAX_DEPTH, ProcessUnwinder};
use crate::crash::{Failure, Frame};
use crate::elf::{CrashNotes, ElfClass, Registers, ThreadNote};

/// A thread in the handler of a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedThread {
    /// Its id, in the PID namespace of the process.
    pub tid: u32,
    /// The signal of the fault.
    pub signal: u32,
    /// Its `si_code`, if the handler asked for a siginfo.
    pub code: Option<i32>,
    /// The address of the fault.
    pub address: Option<u64>,
    /// How many threads were in a handler of a fault.
    pub candidates: usize,
    /// The frames of the handler, innermost first.
    pub handler: Vec<Frame>,
}

/// The stack that a crash is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrashedThread {
    /// The frames, innermost first. Empty if the notes have no registers of a known architecture.
    pub frames: Vec<Frame>,
    /// The registers of the first frame.
    pub registers: Option<Registers>,
    /// The thread in whose stack they are, if that was in a handler of a fault: then they are what the signal interrupted.
    pub failed: Option<FailedThread>,
    /// The registers to which that handler returns.
    pub trampoline: Option<Registers>,
    /// The frames of the thread that was dumped, and its registers, if the frames above are others.
    pub dumped: Option<(Vec<Frame>, Registers)>,
    /// Threads that were not looked at for want of time.
    pub unsearched: usize,
}

/// Frames between the top of a stack and a signal frame that is searched for in a thread that did not dump: a handler has a few.
const MAX_HANDLER: usize = 64;

/// Threads of a process that are searched also where the thread that was dumped had just sent a signal to a thread, mostly to itself: abort(3) is
/// an ordinary way to crash, which takes no handler.
const MAX_ABORTING: usize = 256;

/// A thread in the handler of a fault, with the registers at the fault.
struct Candidate {
    thread: FailedThread,
    interrupted: Registers,
    trampoline: Registers,
}

impl ProcessUnwinder<'_> {
    /// The stack of the thread that failed, in a process that died of `signal`: at most 256 frames. That is the thread that the kernel
    /// dumped, unless the process sent the signal to itself and another thread is in the handler of a fault. Where the thread is in such a
    /// handler, the stack begins at what the signal interrupted. Nobody failed if another process sent the signal: threads may wait in the
    /// handler of a fault in the course of their work.
    ///
    /// The other threads are looked at until `keep_going` returns false.
    pub fn crashed_thread(&mut self, signal: Option<u32>, keep_going: &dyn Fn() -> bool) -> CrashedThread {
        let layout = self.layout;
        let Some(dumping) = layout.notes.threads.first() else { return CrashedThread::default() };
        let mut walker = StackWalker::new(&mut self.pages, &mut self.modules, dumping.registers);
        let frames = walker.frames(dumping.registers, MAX_DEPTH, &|| true);
        // Signal frames of x32 are not known in detail.
        let is_x32 = layout.class == ElfClass::Elf32 && matches!(dumping.registers, Registers::X86_64 { .. });
        let (mut found, mut unsearched) = (None, 0);
        if !is_x32 && !layout.notes.is_sent_by_another() {
            found = handled_fault(&mut walker, &frames, dumping, &layout.notes, signal);
        }
        // A plain abort does not pay for a search through many threads.
        let may_be_another = !dumping.is_in_tkill() || layout.notes.thread_count <= MAX_ABORTING;
        if found.is_none() && !is_x32 && layout.notes.is_sent_by_itself() && may_be_another {
            (found, unsearched) = other_failed_thread(&mut walker, &layout.notes, signal, keep_going);
        }
        match found {
            None => {
                CrashedThread { frames, registers: Some(dumping.registers), unsearched, ..CrashedThread::default() }
            }
            Some(Candidate { thread, interrupted, trampoline }) => CrashedThread {
                // As if there were no handler.
                frames: walker.frames(interrupted, MAX_DEPTH, &|| true),
                registers: Some(interrupted),
                failed: Some(thread),
                trampoline: Some(trampoline),
                dumped: Some((frames, dumping.registers)),
                unsearched,
            },
        }
    }
}

/// The one of the threads that did not dump that failed, and how many were not looked at.
///
/// If several are in handlers of faults, it is one of those whose fault raised the signal that the process died of, if there are any; of these
/// the one with the lowest id, which was started first. The notes have the threads in the order in which they came to the dump, which is chance: so
/// they are searched by their ids. The first that is found counts if its signal is that one, whatever follows; the others are only counted.
///
/// Where the dumped thread aborts, another one that waits in its handler for others does so in the course of its work, unless the process died of
/// its fault.
fn other_failed_thread(
    walker: &mut StackWalker<'_, '_>,
    notes: &CrashNotes,
    signal: Option<u32>,
    keep_going: &dyn Fn() -> bool,
) -> (Option<Candidate>, usize) {
    let (mut best, mut candidates, mut searched): (Option<Candidate>, usize, usize) = (None, 0, 0);
    let aborts = notes.threads.first().is_some_and(ThreadNote::is_in_tkill);
    let mut others: Vec<&ThreadNote> = notes.threads.iter().skip(1).collect();
    others.sort_by_key(|thread| thread.tid);
    for thread in others.into_iter().take_while(|_| keep_going()) {
        searched += 1;
        let frames = walker.frames(thread.registers, MAX_HANDLER, &|| true);
        let Some(found) = handled_fault(walker, &frames, thread, notes, signal) else { continue };
        if aborts && thread.is_in_futex() && Some(found.thread.signal) != signal {
            continue;
        }
        candidates += 1;
        let rank = |candidate: &Candidate| (Some(candidate.thread.signal) != signal, candidate.thread.tid);
        if best.as_ref().is_none_or(|best| rank(&found) < rank(best)) {
            best = Some(found);
        }
    }
    let best = best.map(|best| Candidate { thread: FailedThread { candidates, ..best.thread }, ..best });
    (best, notes.thread_count.saturating_sub(1 + searched))
}

/// The fault in whose handler the thread is, which has these `frames` and was walked last. If a handler failed in its turn, the fault is the
/// first one, which is the outermost on the stack. A signal frame that was found by scanning counts only as the innermost: further up the stack
/// there may be one of a handler that has long returned, as that of a JVM which handles a null pointer.
fn handled_fault(
    walker: &mut StackWalker<'_, '_>,
    frames: &[Frame],
    thread: &ThreadNote,
    notes: &CrashNotes,
    died_of: Option<u32>,
) -> Option<Candidate> {
    let (signals, pages) = walker.signals();
    let left_over = signals.iter().skip(1).position(|frame| frame.is_scanned);
    let count = left_over.map_or(signals.len(), |index| index + 1);
    let (frame, found) = signals.iter().take(count).rev().find_map(|frame| {
        let found = interruption(frame, thread, notes, pages)?;
        is_fault(found.signal, died_of).then_some((frame, found))
    })?;
    let Interruption { signal, code, address } = found;
    let handler = frames.iter().take(frame.handler_frames.min(Failure::MAX_HANDLER)).cloned().collect();
    let thread = FailedThread { tid: thread.tid, signal, code, address, candidates: 1, handler };
    Some(Candidate { thread, interrupted: frame.interrupted, trampoline: frame.trampoline })
}

#[cfg(test)]
mod tests;
