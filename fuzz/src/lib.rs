//! What the fuzz targets share: a crashed process as one sequence of bytes.
//!
//! Four bytes hold the length of the core's headers (little-endian); the headers follow, and then pages: eight bytes of
//! address and 4096 bytes of memory each.

use coreward::crash::{Frame, InterpreterStack};
use coreward::elf::{CoreLayout, Registers, ThreadNote};
use coreward::runtime::{self, Interpreter, Process, Symbols, Thread};
use coreward::unwind::{Cause, ProcessUnwinder, ReadMemory, SignatureInput, compute_signature};
use std::cell::Cell;
use std::collections::BTreeMap;

const PAGE: usize = 4096;

/// Memory that consists of the pages in the map, by address.
pub struct SparseMemory(pub BTreeMap<u64, Vec<u8>>);

impl ReadMemory for SparseMemory {
    fn read_exact_at(&self, mut address: u64, mut buffer: &mut [u8]) -> bool {
        while !buffer.is_empty() {
            let Some((start, page)) = self.0.range(..=address).next_back() else { return false };
            let from = usize::try_from(address - start).unwrap_or(usize::MAX);
            let Some(bytes) = page.get(from..).filter(|bytes| !bytes.is_empty()) else { return false };
            let (part, rest) = buffer.split_at_mut(buffer.len().min(bytes.len()));
            part.copy_from_slice(&bytes[..part.len()]);
            address = address.wrapping_add(part.len() as u64);
            buffer = rest;
        }
        true
    }
}

/// Splits the input into the headers of a core and memory.
pub fn parse_crash(bytes: &[u8]) -> Option<(&[u8], SparseMemory)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (headers, rest) = rest.split_at_checked(length)?;
    Some((headers, parse_pages(rest)))
}

/// Pages with their addresses as memory.
pub fn parse_pages(bytes: &[u8]) -> SparseMemory {
    let pages = bytes.chunks(8 + PAGE).filter_map(|chunk| {
        let (address, page) = chunk.split_first_chunk::<8>()?;
        let mut page = page.to_vec();
        page.resize(PAGE, 0);
        Some((u64::from_le_bytes(*address), page))
    });
    SparseMemory(pages.collect())
}

/// The symbols that walks of interpreters' stacks look up, in the order in which an input has their addresses.
pub const SYMBOLS: [&str; 11] = [
    "_PyRuntime",
    "Py_Version",
    "PyIter_Send",
    "PyFrame_GetBack",
    "_PyEval_EvalFrameDefault",
    "ruby_version",
    "ruby_current_vm_ptr",
    "executor_globals",
    "executor_globals_offset",
    "execute_ex",
    "executor_globals_id",
];
/// Words before the pages: the addresses of the symbols, 0 for those that there are not, the thread's pointer, and where the variables of the file
/// begin and end.
pub const WORDS: usize = SYMBOLS.len() + 3;

/// The addresses of [`SYMBOLS`].
struct KnownSymbols<'a>(&'a [u64]);

impl Symbols for KnownSymbols<'_> {
    fn find(&self, name: &str, _: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<(u64, u64)> {
        let number = SYMBOLS.iter().position(|known| *known == name)?;
        self.0.get(number).filter(|address| **address != 0).map(|address| (*address, 64))
    }
}

/// Walks an interpreter's stack in a process that is an input: [`WORDS`] words, and then pages, each after its address.
pub fn walk_interpreter(interpreter: Interpreter, bytes: &[u8]) {
    let Some((words, pages)) = bytes.split_at_checked(WORDS * 8) else { return };
    let words: Vec<u64> = words.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    if let Some(stack) = walk_memory(interpreter, &words, &parse_pages(pages)) {
        assert!(stack.is_well_formed() && stack.runtime == interpreter.name());
    }
}

/// Walks an interpreter's stack in this memory; `words` are those before an input's pages.
pub fn walk_memory(interpreter: Interpreter, words: &[u64], memory: &dyn ReadMemory) -> Option<InterpreterStack> {
    let (symbols, rest) = words.split_at_checked(SYMBOLS.len())?;
    let [pointer, begin, end] = *rest else { return None };
    let registers = Registers::X86_64 { ip: 0, sp: 0, bp: 0 };
    let note = ThreadNote { tid: 1, registers, system_call: 0, thread_pointer: Some(pointer), blocked: 0 };
    // As much as the finder of interpreters gives.
    let data = begin..end.min(begin.saturating_add(1 << 20));
    let process = Process { symbols: &KnownSymbols(symbols), thread: Thread::new(&note, Some(1)), data: &[data] };
    let reads = Cell::new(0);
    let counted = CountingMemory { memory, reads: &reads };
    let stack = runtime::walk(interpreter, &process, &counted, &|| true);
    assert!(reads.get() <= runtime::MAX_PAGES);
    stack
}

/// Counts the reads.
struct CountingMemory<'a> {
    memory: &'a dyn ReadMemory,
    reads: &'a Cell<usize>,
}

impl ReadMemory for CountingMemory<'_> {
    fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        self.memory.read_exact_at(address, buffer)
    }
}

/// Does what the daemon does with a crash before it decides what to keep. Returns the signature and the crashed thread's frames.
pub fn analyze(headers: &[u8], memory: &dyn ReadMemory) -> Option<(String, Vec<Frame>)> {
    let layout = CoreLayout::read(headers).ok()?;
    let mut process = ProcessUnwinder::new(&layout, memory);
    // The daemon stops after some milliseconds. Counting steps instead keeps runs reproducible.
    let steps = Cell::new(0_u32);
    let keep_going = || {
        steps.set(steps.get() + 1);
        steps.get() < 4096
    };
    let crashed = process.crashed_thread(Some(11), &keep_going);
    let failed = crashed.failed.as_ref();
    assert!(crashed.frames.len() <= 256 && failed.is_none_or(|failed| failed.handler.len() <= 16));
    let others = process.other_threads(failed.map(|failed| failed.tid), 64, &keep_going);
    assert!(others.iter().all(|(_, frames)| frames.len() <= 64));
    let signal = failed.map(|failed| failed.signal).or(Some(11));
    let cause = match failed {
        Some(failed) => Cause { signal: failed.signal, code: failed.code, address: failed.address },
        None => {
            let info = layout.notes.siginfo;
            Cause { signal: 11, code: info.map(|info| info.code), address: info.map(|info| info.address) }
        }
    };
    if let Some(fault) = process.fault(&crashed, cause) {
        assert!(fault.is_well_formed(), "{fault:?}");
    }
    let anonymous = process.anonymous(&crashed.frames, signal);
    let modules = process.into_modules(&keep_going);
    let input = SignatureInput {
        signal,
        fault: failed.map_or(layout.notes.siginfo.map(|info| info.address), |failed| failed.address),
        stack_pointer: crashed.registers.map(Registers::stack_pointer),
        anonymous: &anonymous,
        frames: &crashed.frames,
        module: &|number| modules.get(number as usize),
        is_code: &|address| layout.is_code(address),
        build_id: None,
        program: "program",
    };
    let signature = compute_signature(&input, None);
    Some((signature.id, crashed.frames))
}

/// The files of a module, and what is asked about them.
pub struct DebugData {
    /// The addresses of a frame and of its caller.
    pub offsets: [u64; 2],
    /// The module and its debug file, as far as they are there.
    pub files: Vec<Vec<u8>>,
    /// The file that these refer to.
    pub supplement: Option<Vec<u8>>,
}

/// Splits an input. First come the addresses, eight bytes each; then the lengths of the module and of its debug file, four bytes each, all
/// little-endian; then the files.
pub fn parse_debug_data(bytes: &[u8]) -> Option<DebugData> {
    let (callee, rest) = bytes.split_first_chunk()?;
    let (caller, rest) = rest.split_first_chunk()?;
    let (module, rest) = rest.split_first_chunk()?;
    let (debug, rest) = rest.split_first_chunk()?;
    let length = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).ok();
    let (module, rest) = rest.split_at_checked(length(module)?)?;
    let (debug, supplement) = rest.split_at_checked(length(debug)?)?;
    Some(DebugData {
        offsets: [callee, caller].map(|word| u64::from_le_bytes(*word)),
        files: [module, debug].into_iter().filter(|file| !file.is_empty()).map(<[u8]>::to_vec).collect(),
        supplement: Some(supplement.to_vec()).filter(|file| !file.is_empty()),
    })
}
