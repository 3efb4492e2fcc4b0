//! The stack of a Python program, from the memory of CPython 3.9 to 3.14.

use super::memory::{Memory, short};
use super::python_lines::line_at;
use super::python_tables::{CurrentFrame, EntryFrame, LineTable, OWNED_BY_C, Tables, version_text};
use super::{Frames, Interpreter, LoopCode, Process, Step, Walk};
use crate::crash::InterpreterFrame;

/// Interpreters and threads that are looked at. A thread takes a page or less.
const MAX_INTERPRETERS: usize = 64;
const MAX_THREADS: usize = 4096;
/// Instructions of a function at most; it has some hundred. Also bytes of its table of lines, each of which is for one instruction or more.
const MAX_INSTRUCTIONS: u64 = 1 << 20;

/// The stack of the thread; `None` if Python does not know it.
pub(super) fn walk(memory: &mut Memory<'_>, process: &Process<'_>) -> Option<Walk> {
    let runtime = process.symbol(memory, "_PyRuntime")?.0;
    let (tables, version) = match Tables::of_runtime(memory, runtime) {
        Some((tables, version)) => (Some(tables), version_text(version)),
        None => {
            let (major, minor, text) = version(memory, process)?;
            (Tables::of_version(major, minor), text)
        }
    };
    let Some(tables) = tables else {
        return Some(Walk::unsupported(Interpreter::Python, version));
    };
    let mut python = Python { memory, tables, code_type: None };
    let Some(thread) = python.find_thread(runtime, process) else {
        // It may be one of those that could not be looked at.
        return python.memory.exhausted().map(|reason| Walk::failed(Interpreter::Python, version, reason));
    };
    let frames = python.frames(thread);
    let loop_code = process.symbol(memory, "_PyEval_EvalFrameDefault");
    let loop_code = loop_code.map(|(start, size)| LoopCode::Range(start..start.saturating_add(size)));
    Some(Walk { interpreter: Interpreter::Python, version, frames, loop_code })
}

/// The version of an interpreter that does not say its offsets: as numbers and as text.
fn version(memory: &mut Memory<'_>, process: &Process<'_>) -> Option<(u8, u8, String)> {
    if let Some((address, _)) = process.symbol(memory, "Py_Version") {
        let hex = memory.u32(address)?;
        let [_, _, minor, major] = hex.to_le_bytes();
        return Some((major, minor, version_text(hex)));
    }
    // Before 3.11 only the functions tell that there are.
    let minor = match ["PyIter_Send", "PyFrame_GetBack"].map(|name| process.symbol(memory, name).is_some()) {
        [true, _] => 10,
        [false, true] => 9,
        _ => return Some((3, 8, "3.8 or older".to_owned())),
    };
    Some((3, minor, format!("3.{minor}")))
}

struct Python<'m, 'a> {
    memory: &'m mut Memory<'a>,
    tables: Tables,
    /// `PyCode_Type`, once a code object was found.
    code_type: Option<u64>,
}

impl Python<'_, '_> {
    /// The `PyThreadState` of the thread.
    fn find_thread(&mut self, runtime: u64, process: &Process<'_>) -> Option<u64> {
        let tables = self.tables;
        let mut interpreter = self.memory.pointer_at(runtime, tables.interpreters_head);
        let mut threads = 0;
        for _ in 0..MAX_INTERPRETERS {
            let mut thread = self.memory.pointer_at(interpreter?, tables.threads_head);
            while let Some(state) = thread.filter(|_| threads < MAX_THREADS) {
                threads += 1;
                let id = self.memory.u64_at(state, tables.thread_id)?;
                let native = tables.native_thread_id.and_then(|offset| self.memory.u64_at(state, offset));
                if process.is_thread(self.memory, id, native) {
                    return Some(state);
                }
                thread = self.memory.pointer_at(state, tables.thread_next);
            }
            interpreter = self.memory.pointer_at(interpreter?, tables.interpreter_next);
        }
        None
    }

    fn frames(&mut self, thread: u64) -> Frames {
        let mut found = Frames::default();
        let first = match self.tables.current_frame {
            CurrentFrame::Direct(offset) => self.memory.u64_at(thread, offset),
            CurrentFrame::InCFrame(cframe, offset) => {
                let cframe = self.memory.pointer_at(thread, cframe);
                cframe.and_then(|cframe| self.memory.u64_at(cframe, offset))
            }
        };
        let mut next = first;
        while let Some(frame) = next.filter(|frame| *frame != 0) {
            // Frames without a function count too: that bounds the loop.
            if !found.may_grow() {
                return found;
            }
            match self.frame(frame) {
                Some(Step::Function(frame)) => found.push(frame),
                Some(Step::Other) => found.end_run(),
                None => {
                    next = None;
                    break;
                }
            }
            next = self.memory.u64_at(frame, self.tables.previous);
        }
        if next.is_none() {
            found.fail(self.memory);
        }
        found
    }

    /// A frame. `None`: it cannot be read.
    fn frame(&mut self, frame: u64) -> Option<Step<InterpreterFrame>> {
        let tables = self.tables;
        let entry = match tables.entry {
            EntryFrame::Each => true,
            EntryFrame::Flag(offset) => self.memory.u8(frame.checked_add(offset)?)? != 0,
            EntryFrame::Shim(offset) if self.memory.u8(frame.checked_add(offset)?)? >= OWNED_BY_C => {
                return Some(Step::Other);
            }
            EntryFrame::Shim(_) => false,
        };
        /// The lowest bits of a `_PyStackRef` are a tag.
        const TAG: u64 = 7;
        let code = self.memory.u64_at(frame, tables.code)? & !TAG;
        self.is_code(code).then_some(())?;
        let file = self.memory.pointer_at(code, tables.filename)?;
        let name = self.memory.pointer_at(code, tables.name)?;
        let (function, file) = (self.text(name)?, self.text(file)?);
        Some(Step::Function(InterpreterFrame { function, file, line: self.line(frame, code), entry }))
    }

    /// Whether there is a code object at `code`.
    fn is_code(&mut self, code: u64) -> bool {
        let Some(kind) = self.memory.pointer_at(code, self.tables.object_type) else { return false };
        if self.code_type.is_none() {
            let name = self.memory.pointer_at(kind, self.tables.type_name);
            let name = name.and_then(|name| self.memory.c_text(name));
            self.code_type = name.filter(|name| name == "code").map(|_| kind);
        }
        self.code_type == Some(kind)
    }

    fn line(&mut self, frame: u64, code: u64) -> Option<u32> {
        let tables = self.tables;
        let position = match tables.instructions {
            // `f_lasti`: -1 before the first instruction. From 3.10 on it counts instructions, of two bytes each.
            None => {
                let last = i64::from(self.memory.u32_at(frame, tables.instruction)?.cast_signed());
                if tables.line_table == LineTable::Ranges { last * 2 } else { last }
            }
            Some(instructions) => {
                let at = self.memory.u64_at(frame, tables.instruction)?;
                let position = at.wrapping_sub(code.checked_add(instructions)?).cast_signed();
                let count = self.memory.u64_at(code, tables.object_size)?.min(MAX_INSTRUCTIONS);
                // Without the global lock each thread may have a copy of the instructions.
                (-2..=count.cast_signed() * 2).contains(&position).then_some(position)?
            }
        };
        let first_line = self.memory.u32_at(code, tables.first_line)?;
        let table = self.memory.pointer_at(code, tables.lines)?;
        let length = self.memory.u64_at(table, tables.object_size)?;
        let table = self.memory.table(table.checked_add(tables.bytes_value)?, length)?;
        line_at(tables.line_table, &table, first_line, position)
    }

    /// The text of a `str` object.
    fn text(&mut self, object: u64) -> Option<String> {
        /// Bits after `kind`, which has three: the characters follow the header, and all are ASCII.
        const COMPACT: u32 = 1 << 3;
        const ASCII: u32 = 1 << 4;
        let tables = self.tables;
        let state = self.memory.u32_at(object, tables.text_state)? >> tables.kind_shift;
        let length = self.memory.u64_at(object, tables.text_length)?;
        if state & COMPACT == 0 {
            return None;
        }
        if state & ASCII != 0 {
            return self.memory.text(object.checked_add(tables.ascii_size)?, length);
        }
        let width = u64::from(state & 7);
        let at = object.checked_add(tables.compact_size)?;
        let length = length.min(crate::crash::InterpreterStack::MAX_TEXT as u64);
        let bytes = self.memory.table(at, length.checked_mul(width)?)?;
        let character = |unit: &[u8]| {
            let code = unit.iter().rev().fold(0, |code, byte| code << 8 | u32::from(*byte));
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
        };
        match width {
            1 | 2 | 4 => Some(short(bytes.chunks_exact(usize::try_from(width).ok()?).map(character).collect())),
            _ => None,
        }
    }
}
