//! The stacks of interpreted programs, from the memory of CPython, Ruby and PHP.
//!
//! The interpreters' structures are found through the symbols that even stripped builds have for the dynamic linker. All bytes are hostile: a
//! walk reads a bounded number of pages, every list has a bound, texts are cut. Nothing of the interpreter is called or changed.
#![deny(clippy::indexing_slicing)]

mod find;
mod memory;
mod php;
mod php_threads;
mod python;
mod python_lines;
mod python_tables;
mod ruby;
mod ruby_names;
mod ruby_tables;

pub use find::interpreter_stack;
pub use memory::MAX_PAGES;

use crate::crash::{InterpreterFrame, InterpreterStack};
use crate::elf::{Registers, ThreadNote};
use crate::unwind::ReadMemory;
use memory::Memory;
use std::ops::Range;

/// An interpreter that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpreter {
    /// CPython.
    Python,
    /// CRuby.
    Ruby,
    /// PHP.
    Php,
}

impl Interpreter {
    /// The name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Ruby => "ruby",
            Self::Php => "php",
        }
    }
}

/// The symbols of the file that an interpreter is in.
pub trait Symbols {
    /// Address in the process, and size in bytes, of the function or variable with this name. `read` returns the bytes at an address.
    fn find(&self, name: &str, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<(u64, u64)>;
}

/// The thread whose stack is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// Its id, in the PID namespace of the process.
    pub tid: u32,
    /// Its pthread_self(3), where a register tells.
    pub pointer: Option<u64>,
    /// Whether it is the process' first one.
    pub is_main: bool,
    /// Where C libraries have the thread's id in what pthread_self(3) points to.
    tid_offset: u64,
}

impl Thread {
    /// The thread with this note, in the process with this id.
    #[must_use]
    pub fn new(note: &ThreadNote, pid: Option<u32>) -> Self {
        /// `struct pthread.tid` of glibc (nptl/descr.h): behind a header whose length depends on the machine.
        const TID_X86_64: u64 = 0x2d0;
        const TID_AARCH64: u64 = 0xd0;
        let tid_offset = if matches!(note.registers, Registers::Aarch64 { .. }) { TID_AARCH64 } else { TID_X86_64 };
        Self { tid: note.tid, pointer: note.thread_pointer, is_main: pid == Some(note.tid), tid_offset }
    }
}

/// A process with an interpreter in it, and the thread whose stack is wanted.
#[derive(Clone, Copy)]
pub struct Process<'a> {
    /// The symbols of the file that the interpreter is in.
    pub symbols: &'a dyn Symbols,
    /// The thread.
    pub thread: Thread,
    /// Where that file has its variables in memory.
    pub data: &'a [Range<u64>],
}

impl Process<'_> {
    fn symbol(&self, memory: &mut Memory<'_>, name: &str) -> Option<(u64, u64)> {
        self.symbols.find(name, &mut |address, length| memory.bytes(address, length))
    }

    /// Whether a thread is the wanted one: by its pthread_self(3), else by its gettid(2), which a fork may have left out of date.
    fn is_thread(&self, memory: &mut Memory<'_>, id: u64, native: Option<u64>) -> bool {
        let Thread { tid, pointer, tid_offset, .. } = self.thread;
        match (pointer, native) {
            (Some(pointer), _) => pointer == id,
            (None, Some(native)) => native == u64::from(tid),
            (None, None) => memory.u32_at(id, tid_offset) == Some(tid),
        }
    }
}

/// The code of the loop that executes a program.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LoopCode {
    /// It is here.
    Range(Range<u64>),
    /// It is the function that this address is in.
    Around(u64),
}

/// What a walk found.
#[derive(Debug)]
struct Walk {
    interpreter: Interpreter,
    version: String,
    frames: Frames,
    loop_code: Option<LoopCode>,
}

impl Walk {
    fn failed(interpreter: Interpreter, version: String, reason: impl Into<String>) -> Self {
        let frames = Frames { incomplete: Some(reason.into()), ..Frames::default() };
        Self { interpreter, version, frames, loop_code: None }
    }

    fn unsupported(interpreter: Interpreter, version: String) -> Self {
        Self::failed(interpreter, version, "this version's memory layout is not known")
    }

    fn into_stack(self) -> InterpreterStack {
        let Self { interpreter, version, frames: Frames { frames, incomplete, .. }, .. } = self;
        InterpreterStack { runtime: interpreter.name().to_owned(), version, frames, incomplete, loops: Vec::new() }
    }
}

/// What is in the place of a frame.
#[derive(Debug)]
enum Step<T> {
    /// A function's frame.
    Function(T),
    /// A frame that is no function's, as of the interpreter's own.
    Other,
}

/// Frames as they are found, the innermost first.
#[derive(Debug, Default)]
struct Frames {
    frames: Vec<InterpreterFrame>,
    /// Those that were looked at.
    steps: usize,
    incomplete: Option<String>,
}

impl Frames {
    /// The most frames that are looked at, those without a function included.
    const MAX_STEPS: usize = 4 * InterpreterStack::MAX_FRAMES;

    /// Whether one more may be looked at.
    fn may_grow(&mut self) -> bool {
        self.steps += 1;
        if self.frames.len() < InterpreterStack::MAX_FRAMES && self.steps <= Self::MAX_STEPS {
            return true;
        }
        self.incomplete = Some(format!("these are the innermost {} frames, and there are more", self.frames.len()));
        false
    }

    fn push(&mut self, frame: InterpreterFrame) {
        self.frames.push(frame);
    }

    /// Native code called the function of the last frame.
    fn end_run(&mut self) {
        if let Some(last) = self.frames.last_mut() {
            last.entry = true;
        }
    }

    /// The next frame cannot be read.
    fn fail(&mut self, memory: &Memory<'_>) {
        let reason =
            memory.exhausted().unwrap_or("memory that a frame should be in could not be read, or holds something else");
        self.incomplete = Some(reason.to_owned());
    }
}

/// The stack of one interpreter's thread; `None` if the thread is none of its. Nothing more is read when `keep_going` returns false.
pub fn walk(
    interpreter: Interpreter,
    process: &Process<'_>,
    memory: &dyn ReadMemory,
    keep_going: &dyn Fn() -> bool,
) -> Option<InterpreterStack> {
    let mut memory = Memory::new(memory, keep_going);
    walk_in(&mut memory, interpreter, process).map(Walk::into_stack)
}

fn walk_in(memory: &mut Memory<'_>, interpreter: Interpreter, process: &Process<'_>) -> Option<Walk> {
    match interpreter {
        Interpreter::Python => python::walk(memory, process),
        Interpreter::Ruby => ruby::walk(memory, process),
        Interpreter::Php => php::walk(memory, process),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    const ALL: [Interpreter; 3] = [Interpreter::Python, Interpreter::Ruby, Interpreter::Php];

    /// Memory that repeats these words, wherever it is read.
    struct Repeated<'a> {
        words: &'a [u64],
        reads: Cell<usize>,
    }

    impl ReadMemory for Repeated<'_> {
        fn read_exact_at(&self, address: u64, buffer: &mut [u8]) -> bool {
            self.reads.set(self.reads.get() + 1);
            let first = usize::try_from(address / 8 % self.words.len() as u64).unwrap();
            let words = self.words.iter().cycle().skip(first);
            for (place, word) in buffer.chunks_mut(8).zip(words) {
                place.copy_from_slice(word.to_le_bytes().get(..place.len()).unwrap());
            }
            true
        }
    }

    /// Every symbol is somewhere, but the one with this name.
    struct AllSymbolsBut(&'static str);

    impl Symbols for AllSymbolsBut {
        fn find(&self, name: &str, _: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<(u64, u64)> {
            (name != self.0).then_some((name.len() as u64 * 4096, 64))
        }
    }

    fn thread(pointer: u64) -> Thread {
        Thread { tid: 1, pointer: Some(pointer), is_main: true, tid_offset: 0 }
    }

    fn walk_repeated(words: &[u64], pointer: u64, data: &Range<u64>) -> Vec<Option<InterpreterStack>> {
        let walk = |(interpreter, missing)| {
            let memory = Repeated { words, reads: Cell::new(0) };
            let data = std::slice::from_ref(data);
            let process = Process { symbols: &AllSymbolsBut(missing), thread: thread(pointer), data };
            let stack = walk(interpreter, &process, &memory, &|| true);
            assert!(memory.reads.get() <= MAX_PAGES && stack.as_ref().is_none_or(InterpreterStack::is_well_formed));
            stack
        };
        let for_threads = (Interpreter::Php, "executor_globals");
        ALL.into_iter().map(|interpreter| (interpreter, "")).chain([for_threads]).map(walk).collect()
    }

    #[test]
    fn lists_that_never_end_are_left() {
        for word in [0, 0x4000, 0x4008, u64::MAX, u64::from_le_bytes(*b"xdebugpy"), u64::from_le_bytes(*b"3.3.1\0\0\0")]
        {
            walk_repeated(&[word], word, &(0x1000..0x20_0000));
        }
    }

    #[test]
    fn a_walk_ends_when_there_is_no_time_and_says_so() {
        let memory = Repeated { words: &[u64::from_le_bytes(*b"3.1.2\0\0\0")], reads: Cell::new(0) };
        let process = Process { symbols: &AllSymbolsBut(""), thread: thread(1), data: &[] };
        let left = Cell::new(4_u32);
        let keep_going = || left.replace(left.get().saturating_sub(1)) > 0;
        let stack = walk(Interpreter::Ruby, &process, &memory, &keep_going).unwrap();
        assert_eq!((stack.incomplete.as_deref(), stack.frames.len()), (Some("it took too long"), 0));
        assert_eq!(stack.version, "3.1.2");
    }

    #[test]
    fn versions_without_tables_are_named() {
        let memory = Repeated { words: &[u64::from_le_bytes(*b"3.9.9\0\0\0")], reads: Cell::new(0) };
        let process = Process { symbols: &AllSymbolsBut(""), thread: thread(1), data: &[] };
        let stack = walk(Interpreter::Ruby, &process, &memory, &|| true).unwrap();
        let reason = Some("this version's memory layout is not known");
        assert_eq!((stack.version.as_str(), stack.incomplete.as_deref()), ("3.9.9", reason));
    }

    proptest! {
        #[test]
        fn any_memory_is_walked_to_an_end(words in prop::collection::vec(prop_oneof![any::<u64>(), 0..0x40_0000_u64], 1..64), pointer: u64) {
            walk_repeated(&words, pointer, &(0x1000..0x10_0000));
        }
    }
}
