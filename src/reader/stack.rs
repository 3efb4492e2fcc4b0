//! Stacks out of a process' memory, before it is copied. All of this blocks where memory does: readers do it, and the daemon only for
//! cores that are files.

use crate::crash::{Failure, Fault, Frame, InterpreterStack, Module, SigInfo, Signature, ThreadStacks, signal};
use crate::elf::{self, CoreLayout, ElfClass, Registers};
use crate::runtime;
use crate::unwind::{self, Cause, CrashedThread, FailedThread, ProcessUnwinder, ReadMemory, SignatureInput};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Frames of a thread that go into the record; more are walked, to recognise recursion.
const MAX_FRAMES: usize = 64;
/// Modules beyond those of the frames that cannot be read in this time are missing from the record.
const MODULES_TIMEOUT: Duration = Duration::from_millis(100);
/// The process waits while its other threads are searched for the one that failed. Only a process that hinders the search, or a machine that
/// has no time at all, takes this long: a thread takes some twenty microseconds, and at most 8,192 are searched.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(1500);
/// The process waits while other threads are unwound; a thread takes some ten microseconds.
const OTHER_THREADS_TIMEOUT: Duration = Duration::from_millis(100);
/// The process waits while an interpreter's stack is read. That takes less than a millisecond of processor time, and no more than 1,024 reads.
const INTERPRETER_TIMEOUT: Duration = Duration::from_millis(50);
/// Frames of all other threads together that go into the record: a frame takes some 70 bytes there, and a shim keeps 128 KiB.
const MAX_OTHER_FRAMES: usize = 512;
/// Thread ids that are listed of threads with the same frames.
const MAX_TIDS: usize = 32;

/// The stack of the crashed thread and what was made of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CrashedStack {
    /// Its innermost frames.
    pub frames: Vec<Frame>,
    /// The mapped ELF files.
    pub modules: Vec<Module>,
    /// Why the thread got its signal.
    pub siginfo: Option<SigInfo>,
    /// The fault in whose handler the thread was.
    pub failure: Option<Failure>,
    /// The instruction that failed, and what its address is.
    pub fault: Option<Fault>,
    /// Threads that were not searched for a failure, for want of time.
    pub unsearched: usize,
    /// The signature.
    pub signature: Signature,
}

impl CrashedStack {
    /// Whether it is within the limits of [`unwind_crashed_thread`]. The record's own bound cuts texts and modules, but no signature.
    pub(super) fn is_well_formed(&self) -> bool {
        self.frames.len() <= MAX_FRAMES
            && self.signature.is_well_formed()
            && self.fault.as_ref().is_none_or(Fault::is_well_formed)
            && self.failure.as_ref().is_none_or(|failure| {
                failure.handler.len() <= Failure::MAX_HANDLER
                    && failure.thread_name.is_empty()
                    && failure.signal_name == signal::name(Some(failure.signal))
            })
    }
}

/// What the signature depends on beside the stack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignatureContext {
    /// The signal.
    pub signal: Option<u32>,
    /// Build-id of the executable.
    pub build_id: Option<String>,
    /// What the crash is counted under.
    pub program: String,
}

impl SignatureContext {
    /// With this build-id, unless it has one.
    pub(super) fn or_build_id(self, build_id: Option<&String>) -> Self {
        Self { build_id: self.build_id.or_else(|| build_id.cloned()), ..self }
    }
}

/// Unwinds the thread that failed.
pub fn unwind_crashed_thread(layout: &CoreLayout, memory: &dyn ReadMemory, context: &SignatureContext) -> CrashedStack {
    let mut unwinder = ProcessUnwinder::new(layout, memory);
    // Bounded by frames and pages: a clock that cut the walk on a loaded machine would give the same bug another signature.
    let crashed = unwinder.crashed_thread(context.signal, &until(SEARCH_TIMEOUT));
    let siginfo = layout.notes.siginfo.map(|info| siginfo(info, context.signal));
    let signal = crashed.failed.as_ref().map(|failed| failed.signal).or(context.signal);
    let fault = cause(&crashed, context.signal, siginfo.as_ref()).and_then(|cause| unwinder.fault(&crashed, cause));
    let CrashedThread { mut frames, registers, failed, dumped, unsearched, trampoline: _ } = crashed;
    let anonymous = unwinder.anonymous(&frames, signal);
    let modules = unwinder.into_modules(&until(MODULES_TIMEOUT));
    let failure = failed.map(|failed| describe(failed, layout));
    let of_dumped = siginfo.as_ref().and_then(|info| info.address);
    let input = SignatureInput {
        signal,
        fault: failure.as_ref().map_or(of_dumped, |failure| failure.address),
        stack_pointer: registers.map(Registers::stack_pointer),
        anonymous: &anonymous,
        frames: &frames,
        module: &|number| modules.get(number as usize),
        is_code: &|address| layout.is_code(address),
        build_id: context.build_id.as_deref(),
        program: &context.program,
    };
    // Version 1 had no stacks of 32-bit processes.
    let before = match &dumped {
        _ if layout.class == ElfClass::Elf32 => {
            Some(SignatureInput { signal: context.signal, fault: None, stack_pointer: None, frames: &[], ..input })
        }
        Some((frames, registers)) => Some(SignatureInput {
            signal: context.signal,
            fault: of_dumped,
            stack_pointer: Some(registers.stack_pointer()),
            frames,
            ..input
        }),
        None => None,
    };
    let signature = unwind::compute_signature(&input, before.as_ref());
    frames.truncate(MAX_FRAMES);
    CrashedStack { frames, modules, siginfo, failure, fault, unsearched, signature }
}

/// Why the thread that failed got its signal; `None` if the signal is not known.
fn cause(crashed: &CrashedThread, signal: Option<u32>, info: Option<&SigInfo>) -> Option<Cause> {
    if let Some(FailedThread { signal, code, address, .. }) = crashed.failed {
        return Some(Cause { signal, code, address });
    }
    // Without a siginfo nobody knows whether it was a fault.
    let (signal, info) = (signal?, info?);
    Some(Cause { signal, code: Some(info.code), address: info.address })
}

fn describe(failed: FailedThread, layout: &CoreLayout) -> Failure {
    let FailedThread { tid, signal, code, address, candidates, handler } = failed;
    Failure {
        tid,
        thread_name: String::new(),
        dumped: layout.notes.threads.first().map_or(tid, |thread| thread.tid),
        signal,
        signal_name: signal::name(Some(signal)),
        code,
        address,
        threads: u32::try_from(candidates).unwrap_or(u32::MAX),
        handler,
    }
}

/// Stacks of the threads that did not crash.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct OtherThreads {
    /// Threads with the same frames together, the largest group first.
    pub stacks: Vec<ThreadStacks>,
    /// How many threads are missing, for want of time or room.
    pub omitted: usize,
    /// How many other threads there were.
    pub total: usize,
}

impl OtherThreads {
    /// Whether it is within the limits of [`unwind_other_threads`].
    pub(super) fn is_well_formed(&self) -> bool {
        let frames: usize = self.stacks.iter().map(|stacks| stacks.frames.len()).sum();
        // One group may have no frames.
        frames <= MAX_OTHER_FRAMES
            && self.stacks.len() <= MAX_OTHER_FRAMES + 1
            && self.stacks.iter().all(|stacks| stacks.tids.len() <= MAX_TIDS)
    }
}

/// Unwinds the threads other than the one with the id `failed`, or, if `None`, than the one that was dumped, as far as time and room
/// allow. `recorded` are the first addresses of the record's modules.
pub fn unwind_other_threads(
    layout: &CoreLayout,
    memory: &dyn ReadMemory,
    failed: Option<u32>,
    recorded: &[u64],
) -> OtherThreads {
    let mut unwinder = ProcessUnwinder::new(layout, memory);
    let walked = unwinder.other_threads(failed, MAX_FRAMES, &until(OTHER_THREADS_TIMEOUT));
    let stacks = group_by_frames(walked, &unwinder.into_modules(&|| false), recorded);
    let total = layout.notes.thread_count.saturating_sub(1);
    let listed: usize = stacks.iter().map(|stacks| stacks.count as usize).sum();
    OtherThreads { stacks, omitted: total.saturating_sub(listed), total }
}

/// The stack of an interpreted program, of the thread with the id `failed` or, if `None`, of the one that was dumped. `code` are addresses in the
/// functions of that thread's native frames.
pub(super) fn interpreter_stack(
    layout: &CoreLayout,
    memory: &dyn ReadMemory,
    failed: Option<u32>,
    code: &[u64],
) -> Option<InterpreterStack> {
    runtime::interpreter_stack(layout, memory, failed, code, &until(INTERPRETER_TIMEOUT))
}

/// Says whether there is still time.
pub(super) fn until(limit: Duration) -> impl Fn() -> bool {
    let begun = Instant::now();
    move || begun.elapsed() < limit
}

/// What a siginfo_t says (sigaction(2)): the kernel's own codes of faults go with an address, those of system calls name a sender.
fn siginfo(info: elf::SigInfoNote, number: Option<u32>) -> SigInfo {
    let has_address = number.is_some_and(|number| signal::has_address(number, info.code));
    SigInfo {
        code: info.code,
        address: has_address.then_some(info.address),
        sender: (info.code <= 0).then_some(info.sender),
    }
}

/// Threads with the same frames together, the largest groups first, as many as there is room for. The frames' module numbers
/// become those that the modules have in the record.
fn group_by_frames(walked: Vec<(u32, Vec<Frame>)>, modules: &[Module], recorded: &[u64]) -> Vec<ThreadStacks> {
    let number_in_record = |module: &Module| {
        let number = recorded.iter().position(|known| *known == module.start)?;
        u32::try_from(number).ok()
    };
    let numbers: Vec<Option<u32>> = modules.iter().map(number_in_record).collect();
    let mut indices: HashMap<Vec<u64>, usize> = HashMap::new();
    let mut groups: Vec<ThreadStacks> = Vec::new();
    for (tid, mut frames) in walked {
        for frame in &mut frames {
            frame.module = frame.module.and_then(|number| *numbers.get(number as usize)?);
        }
        let addresses = frames.iter().map(|frame| frame.address).collect();
        let index = *indices.entry(addresses).or_insert(groups.len());
        if index == groups.len() {
            groups.push(ThreadStacks { count: 0, tids: Vec::new(), frames });
        }
        let group = &mut groups[index];
        group.count += 1;
        if group.tids.len() < MAX_TIDS {
            group.tids.push(tid);
        }
    }
    // A stable sort: among groups of the same size the first thread's comes first.
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    let mut room = MAX_OTHER_FRAMES;
    groups.retain(|group| {
        let fits = group.frames.len() <= room;
        room -= if fits { group.frames.len() } else { 0 };
        fits
    });
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::FrameTrust;
    use crate::unwind::Anonymous;

    fn module(start: u64) -> Module {
        Module {
            path: format!("/{start}"),
            build_id: None,
            package: None,
            owner: None,
            bias: start,
            start,
            end: start + 100,
        }
    }

    fn frames(address: u64, module: Option<u32>, count: usize) -> Vec<Frame> {
        let frame = |number: u64| Frame {
            address: address + number,
            module,
            offset: number,
            trust: FrameTrust::CallFrameInfo,
            symbol: None,
            compiler: None,
        };
        (0..count as u64).map(frame).collect()
    }

    #[test]
    fn threads_with_the_same_frames_are_one_group_and_the_total_is_bounded() {
        let recorded = [1000, 2000];
        let seen = [module(2000), module(3000)];
        let mut walked = vec![(1, frames(2001, Some(0), 3)), (2, frames(3001, Some(1), 2))];
        walked.extend((10..50).map(|tid| (tid, frames(2005, Some(0), 4))));
        let groups = group_by_frames(walked, &seen, &recorded);
        assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [40, 1, 1]);
        assert_eq!(groups[0].tids, (10_u32..).take(MAX_TIDS).collect::<Vec<_>>());
        assert_eq!(groups[0].frames, frames(2005, Some(1), 4), "the number that the record has for the module");
        assert_eq!(groups[2].frames[0].module, None, "a module that the record does not have");
        let apart = (0..1000).map(|tid| (tid, frames(u64::from(tid) * 1000, None, 1 + tid as usize % 60)));
        let groups = group_by_frames(apart.collect(), &[], &[]);
        let total: usize = groups.iter().map(|group| group.frames.len()).sum();
        assert!(total <= MAX_OTHER_FRAMES && total > MAX_OTHER_FRAMES - 60, "{total}");
    }

    #[test]
    fn what_is_unwound_is_well_formed_and_what_somebody_makes_up_is_not() {
        let input = SignatureInput {
            signal: Some(11),
            fault: None,
            stack_pointer: None,
            anonymous: &Anonymous::default(),
            frames: &[],
            module: &|_| None,
            is_code: &|_| false,
            build_id: None,
            program: "test",
        };
        let signature = unwind::compute_signature(&input, None);
        let stack = CrashedStack {
            frames: frames(1, None, MAX_FRAMES),
            modules: Vec::new(),
            siginfo: None,
            failure: None,
            fault: None,
            unsearched: 0,
            signature,
        };
        assert!(stack.is_well_formed());
        let with_id = |id: &str| {
            let signature = Signature { id: id.to_owned(), ..stack.signature.clone() };
            CrashedStack { signature, ..stack.clone() }.is_well_formed()
        };
        assert!(with_id("s2-0123456789abcdef0123"));
        for id in [
            "",
            "s-0123456789abcdef0123",
            "s2-0123456789abcdef012",
            "s2-0123456789ABCDEF0123",
            "x",
            &"s".repeat(1 << 20),
        ] {
            assert!(!with_id(id), "{id:.30}");
        }
        assert!(!CrashedStack { frames: frames(1, None, MAX_FRAMES + 1), ..stack.clone() }.is_well_formed());
        let failed = |handler: usize, thread_name: &str, signal_name: &str| {
            let failure = Failure {
                tid: 1,
                thread_name: thread_name.to_owned(),
                dumped: 2,
                signal: 11,
                signal_name: signal_name.to_owned(),
                code: None,
                address: None,
                threads: 1,
                handler: frames(1, None, handler),
            };
            CrashedStack { failure: Some(failure), ..stack.clone() }.is_well_formed()
        };
        assert!(failed(Failure::MAX_HANDLER, "", "SEGV"));
        assert!(!failed(Failure::MAX_HANDLER + 1, "", "SEGV") && !failed(1, "root", "SEGV") && !failed(1, "", "X"));
        let threads = |frames| OtherThreads {
            stacks: vec![ThreadStacks { count: 1, tids: vec![1], frames }],
            ..OtherThreads::default()
        };
        assert!(threads(frames(1, None, MAX_OTHER_FRAMES)).is_well_formed());
        assert!(!threads(frames(1, None, MAX_OTHER_FRAMES + 1)).is_well_formed());
    }

    #[test]
    fn an_address_goes_with_faults_and_a_sender_with_signals_that_were_sent() {
        let info = |code, address| elf::SigInfoNote { code, address, sender: (77, 1000) };
        let fault = siginfo(info(1, 0x1234), Some(11));
        assert_eq!((fault.address, fault.sender), (Some(0x1234), None));
        let protection = siginfo(info(0x80, 0), Some(11));
        assert_eq!((protection.address, protection.sender), (None, None));
        let sent = siginfo(info(0, 0), Some(11));
        assert_eq!((sent.address, sent.sender), (None, Some((77, 1000))));
    }
}
