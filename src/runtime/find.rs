//! Finds the interpreter of a process, and its stack.

use super::memory::Memory;
use super::{Interpreter, LoopCode, Process, Symbols, Thread, walk_in};
use crate::crash::InterpreterStack;
use crate::elf::{self, CoreLayout, DynamicSymbols, ElfClass, MappedImage};
use crate::unwind::{ReadMemory, function_at};
use object::elf::PF_W;
use std::ops::Range;

/// How the files are called that interpreters are in: a program or a library, with a version or without.
const FILE_NAMES: [&str; 7] = ["libpython", "python", "libruby", "ruby", "libphp", "php", "mod_php"];
/// Files with such a name that are looked at, beside the executable.
const MAX_FILES: usize = 8;
/// The symbols by which interpreters are recognised.
const ENTRY_SYMBOLS: [(Interpreter, &str); 4] = [
    (Interpreter::Python, "_PyRuntime"),
    (Interpreter::Ruby, "ruby_version"),
    (Interpreter::Php, "executor_globals"),
    // Built for threads. Not a variable: a program that uses a library's variable may have it instead of the library.
    (Interpreter::Php, "tsrm_get_ls_cache"),
];
/// The most of a file's variables that is looked at, in bytes.
const MAX_DATA: u64 = 1 << 20;

/// The symbols of a file, in the order in which the dynamic linker looks for them: the executable has copies of variables that it refers to (copy
/// relocations, System V ABI), which the library then uses as well.
struct Scope {
    executable: Option<DynamicSymbols>,
    file: DynamicSymbols,
}

impl Symbols for Scope {
    fn find(&self, name: &str, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<(u64, u64)> {
        let mut of_executable = || self.executable.as_ref()?.find(name, &mut *read);
        of_executable().or_else(|| self.file.find(name, read))
    }
}

/// A mapped file with an interpreter in it.
struct Found {
    interpreter: Interpreter,
    image: MappedImage,
    symbols: Scope,
    data: Vec<Range<u64>>,
}

/// The interpreter's stack of the thread with the id `thread`, which is the one that was dumped unless it is said; `None` if there is no
/// interpreter, or the thread is none of its. `code` are addresses in the functions of the thread's native frames, the innermost first. Memory is
/// read as far as [`super::MAX_PAGES`], until `keep_going` returns false.
pub fn interpreter_stack(
    layout: &CoreLayout,
    memory: &dyn ReadMemory,
    thread: Option<u32>,
    code: &[u64],
    keep_going: &dyn Fn() -> bool,
) -> Option<InterpreterStack> {
    // No layout of an interpreter for 32-bit machines is known.
    (layout.class == ElfClass::Elf64).then_some(())?;
    let threads = &layout.notes.threads;
    let note = match thread {
        Some(tid) => threads.iter().find(|note| note.tid == tid)?,
        None => threads.first()?,
    };
    let thread = Thread::new(note, layout.notes.pid);
    let mut memory = Memory::new(memory, keep_going);
    let mut empty = None;
    for found in interpreters(layout, &mut memory) {
        let process = Process { symbols: &found.symbols, thread, data: &found.data };
        let Some(mut walk) = walk_in(&mut memory, found.interpreter, &process) else { continue };
        let loops = loop_frames(&mut memory, layout.class, &found.image, walk.loop_code.take(), code);
        let has_frames = !walk.frames.frames.is_empty();
        let stack = InterpreterStack { loops, ..walk.into_stack() };
        if has_frames {
            return Some(stack);
        }
        // Another interpreter may say more.
        empty = empty.or(Some(stack).filter(|stack| stack.incomplete.is_some()));
    }
    empty
}

/// Files with an interpreter, the executable last: a program may be a few lines around a library.
fn interpreters(layout: &CoreLayout, memory: &mut Memory<'_>) -> Vec<Found> {
    let files = &layout.notes.files;
    let has_name = |path: &str| {
        let name = crate::crash::text::file_name(path);
        FILE_NAMES.iter().any(|interpreter| name.starts_with(interpreter))
    };
    // Ruby maps its library a second time, to be read, when it reports a crash.
    let has_code = |number: usize, path: &str| {
        let parts = files.iter().skip(number + 1).take_while(|part| part.path == path && part.offset != 0);
        files.get(number).into_iter().chain(parts).any(|part| layout.is_code(part.start))
    };
    let begins = files.iter().enumerate().filter(|(_, file)| file.offset == 0 && has_name(&file.path));
    let mut starts: Vec<u64> =
        begins.filter(|(number, file)| has_code(*number, &file.path)).map(|(_, file)| file.start).collect();
    starts.truncate(MAX_FILES);
    let headers = layout.notes.program_headers.map(|(address, _)| address);
    let executable = files.iter().find(|file| headers.is_some_and(|at| (file.start..file.end).contains(&at)));
    if let Some(executable) = executable.filter(|file| !starts.contains(&file.start)) {
        starts.push(executable.start);
    }
    let mut found = Vec::new();
    for start in starts {
        let Some(mut interpreter) = interpreter_at(layout, memory, start) else { continue };
        if let Some(executable) = executable.filter(|file| file.start != start) {
            interpreter.symbols.executable = image_at(layout, memory, executable.start).map(|(_, symbols)| symbols);
        }
        found.push(interpreter);
    }
    found
}

/// The file that is mapped at `start`, and its symbols.
fn image_at(layout: &CoreLayout, memory: &mut Memory<'_>, start: u64) -> Option<(MappedImage, DynamicSymbols)> {
    let image = elf::read_image(start, |address, length| memory.bytes(address, length))?;
    let symbols = DynamicSymbols::read(&image, layout.class, |address, length| memory.bytes(address, length))?;
    Some((image, symbols))
}

/// The interpreter in the file that is mapped at `start`.
fn interpreter_at(layout: &CoreLayout, memory: &mut Memory<'_>, start: u64) -> Option<Found> {
    let (image, symbols) = image_at(layout, memory, start)?;
    let mut has = |name: &str| symbols.find(name, |address, length| memory.bytes(address, length)).is_some();
    let interpreter = ENTRY_SYMBOLS.iter().find(|(_, name)| has(name))?.0;
    let mut data = Vec::new();
    let mut at = image.extent.start;
    // The segments within the image, of which there are a few.
    for _ in 0..MAX_FILES * 2 {
        let Some(segment) = layout.segment_at(at).or_else(|| layout.next_segment(at, |_| true)) else { break };
        let end = segment.address.saturating_add(segment.length);
        if segment.address >= image.extent.end {
            break;
        }
        if segment.flags & PF_W != 0 {
            data.push(segment.address..end.min(image.extent.end).min(segment.address.saturating_add(MAX_DATA)));
        }
        at = end;
    }
    Some(Found { interpreter, image, symbols: Scope { executable: None, file: symbols }, data })
}

/// The numbers of those of the native frames that are in the interpreter's loop.
fn loop_frames(
    memory: &mut Memory<'_>,
    class: ElfClass,
    image: &MappedImage,
    loop_code: Option<LoopCode>,
    code: &[u64],
) -> Vec<u32> {
    let range = loop_code.and_then(|code| match code {
        LoopCode::Range(range) => Some(range),
        LoopCode::Around(address) => function_at(memory.pages(), class, image.eh_frame_hdr.clone()?, address),
    });
    let Some(range) = range else { return Vec::new() };
    let numbered = (0..).zip(code).take(InterpreterStack::MAX_FRAMES);
    numbered.filter(|(_, address)| range.contains(address)).map(|(number, _)| number).collect()
}
