//! The stack and the signature of a crash, before its memory is copied.

use super::context::Context;
use super::opened::Opened;
use super::probe::probe_within;
use crate::capture::ProcessMemory;
use crate::crash::{Frame, Module, Record, SigInfo, Signature};
use crate::elf::{self, CoreLayout};
use crate::unwind::{self, ProcessUnwinder, SignatureInput};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A stack takes a millisecond or two, and its depth and its pages are bounded. A clock that cut it on a loaded machine would
/// make another signature of the same bug: this one is for memory that does not answer.
pub(super) const LOOK_WITHIN: Duration = Duration::from_secs(3);
/// What is not in time is missing from the record, and from nothing else.
const MODULES_WITHIN: Duration = Duration::from_millis(100);
/// Frames that go into the record; more are looked at, for recursion.
pub(super) const MAX_FRAMES: usize = 64;
/// For the record.
pub(super) const NOT_IN_TIME: &str = "the stack could not be unwound in time";

/// What a look at the memory gave.
pub(super) struct Looked {
    stack: Vec<Frame>,
    modules: Vec<Module>,
    siginfo: Option<SigInfo>,
    signature: Signature,
}

/// Looks at a head that came later than the rest, or out of a file. `None`: there is none, or it was not in time.
pub(super) async fn look(
    context: &Context,
    record: &mut Record,
    opened: &Opened,
    mem: Option<OwnedFd>,
) -> Option<Looked> {
    let head = opened.head.clone()?;
    let source = source(record, opened, mem);
    let (signal, build_id, program) = (record.signal, record.exe_build_id.clone(), record.program());
    let look = move || looked(&head, source, signal, build_id.as_deref(), &program);
    let looked = probe_within(context, LOOK_WITHIN, look).await;
    if looked.is_none() {
        record.warnings.push(NOT_IN_TIME.to_owned());
    }
    looked.flatten()
}

/// What the memory of a crash is read from, once the layout of its core is known.
pub(super) enum MemorySource {
    /// `/proc/PID/mem`.
    Live(File),
    /// A core at this offset of a file; whether its process saw the files of this machine.
    CoreFile(File, u64, bool),
}

impl MemorySource {
    pub(super) fn open(self, layout: &Arc<CoreLayout>) -> ProcessMemory {
        match self {
            Self::Live(mem) => ProcessMemory::live(mem, None),
            Self::CoreFile(core, at, on_host) => ProcessMemory::core_file(core, at, on_host, Arc::clone(layout)),
        }
    }
}

/// Where the memory of a crash is.
pub(super) fn source(record: &Record, opened: &Opened, mem: Option<OwnedFd>) -> Option<MemorySource> {
    match (opened.saved_at, mem) {
        (Some(at), _) => {
            let on_host = !record.in_namespace && record.cgroup.container.is_none() && record.root == "/";
            opened.core.try_clone().ok().map(|core| MemorySource::CoreFile(core.into(), at, on_host))
        }
        (None, Some(mem)) => Some(MemorySource::Live(mem.into())),
        (None, None) => None,
    }
}

/// Completes the record with stack, modules and signature, as far as they are to be had.
pub(super) fn put(record: &mut Record, looked: Option<Looked>) {
    match looked {
        Some(looked) => {
            record.stack = looked.stack;
            record.modules = looked.modules;
            record.siginfo = looked.siginfo;
            record.signature = Some(looked.signature);
        }
        None => {
            let facts = SignatureInput {
                signal: record.signal,
                fault: None,
                stack_pointer: None,
                frames: &[],
                module: &|_| None,
                is_code: &|_| false,
                build_id: record.exe_build_id.as_deref(),
                program: &record.program(),
            };
            record.signature = Some(unwind::compute_signature(&facts));
        }
    }
}

/// Looks, in this thread; it may hang on a dead mount. `None`: the head is not understood.
pub(super) fn looked(
    head: &[u8],
    source: Option<MemorySource>,
    signal: Option<u32>,
    build_id: Option<&str>,
    program: &str,
) -> Option<Looked> {
    let layout = Arc::new(CoreLayout::read(head).ok()?);
    let memory = source.map(|source| source.open(&layout));
    let mut process = ProcessUnwinder::new(&layout, &memory);
    let mut stack = process.crashed_thread(&|| true);
    let modules = process.into_modules(&within(MODULES_WITHIN));
    let siginfo = layout.notes.siginfo.map(|info| siginfo(info, signal));
    let facts = SignatureInput {
        signal,
        fault: siginfo.as_ref().and_then(|info| info.address),
        stack_pointer: layout.notes.threads.first().map(|thread| thread.registers.stack_pointer()),
        frames: &stack,
        module: &|number| modules.get(number as usize),
        is_code: &|address| layout.is_code(address),
        build_id,
        program,
    };
    let signature = unwind::compute_signature(&facts);
    stack.truncate(MAX_FRAMES);
    Some(Looked { stack, modules, siginfo, signature })
}

/// Says no when the time is over.
pub(super) fn within(limit: Duration) -> impl Fn() -> bool {
    let begun = Instant::now();
    move || begun.elapsed() < limit
}

/// sigaction(2): the kernel's own codes of these signals are positive, and go with an address; others name a sender.
fn siginfo(info: elf::SigInfoNote, signal: Option<u32>) -> SigInfo {
    const ILL: u32 = 4;
    const TRAP: u32 = 5;
    const BUS: u32 = 7;
    const FPE: u32 = 8;
    const SEGV: u32 = 11;
    /// A general protection fault has no address (SI_KERNEL).
    const SI_KERNEL: i32 = 0x80;
    let fault = matches!(signal, Some(ILL | TRAP | BUS | FPE | SEGV)) && info.code > 0 && info.code != SI_KERNEL;
    let (pid, uid) = (info.value as u32, (info.value >> 32) as u32);
    SigInfo { code: info.code, address: fault.then_some(info.value), sender: (info.code <= 0).then_some((pid, uid)) }
}
