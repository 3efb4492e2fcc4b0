//! The frames of a stack as `info` and the page of `report` show them.

use super::elf_symbols::Function;
use super::symbols::{self, Symbols};
use crate::crash::text::printable;
use crate::crash::{Frame, FrameTrust, InterpreterFrame, Record, StackTrace};

/// A frame with all that is known of it, escaped.
pub(super) struct FrameLines<'a> {
    pub(super) number: usize,
    pub(super) frame: &'a Frame,
    /// The functions of the interpreted program that it executes, the innermost first.
    pub(super) interpreted: &'a [InterpreterFrame],
    /// Its functions, the innermost first: those that jumped to the function of the frame before, then those that were inlined into each other.
    pub(super) functions: Vec<Function>,
    /// Module and offset. `None` if it is in no module.
    pub(super) place: Option<String>,
    /// Who compiled its code at run time, if it is in no module.
    pub(super) compiler: Option<String>,
}

/// The frames of a stack of this record, the innermost first.
pub(super) fn frame_lines<'a>(
    record: &'a Record,
    stack: &StackTrace<'a>,
    symbols: &Symbols,
) -> impl Iterator<Item = FrameLines<'a>> {
    let StackTrace { frames, interpreter, .. } = *stack;
    frames.iter().enumerate().map(move |(number, frame)| {
        let module = frame.module.and_then(|number| record.modules.get(number as usize));
        let tail_calls = symbols.tail_calls(number.checked_sub(1).map(|number| &frames[number]), frame);
        FrameLines {
            number,
            frame,
            interpreted: interpreter.map_or(&[], |stack| stack.executed_by(number)),
            functions: [tail_calls, &functions(frame, symbols)].concat(),
            place: module.map(|module| module.place(frame)),
            compiler: match module {
                Some(_) => None,
                // Records of earlier versions do not say it.
                None => frame.compiler.clone().or_else(|| record.compiler_of(frame.address)).as_deref().map(printable),
            },
        }
    })
}

impl FrameLines<'_> {
    /// The functions, each with what it is to the next: a tail call, or inlined into it.
    pub(super) fn marked_functions(&self) -> impl Iterator<Item = (&Function, &'static str)> {
        let last = self.functions.len().saturating_sub(1);
        self.functions.iter().enumerate().map(move |(depth, function)| match function.is_tail {
            true => (function, " tail call"),
            false if depth < last => (function, " inlined"),
            false => (function, ""),
        })
    }

    /// `server+0x2345`, or `?` where there is no module, with who compiled the code there; and whether the frame is a guess.
    pub(super) fn place(&self) -> String {
        let place = self.place.as_deref().unwrap_or("?");
        let compiler =
            self.compiler.as_ref().map(|name| format!(" (compiled at run time: {name})")).unwrap_or_default();
        let trust = if self.frame.trust == FrameTrust::Scan { " (a guess)" } else { "" };
        format!("{place}{compiler}{trust}")
    }
}

/// The functions that a frame is in: as files have them, else as it was known when the process crashed.
fn functions(frame: &Frame, symbols: &Symbols) -> Vec<Function> {
    let found = symbols.functions(frame).to_vec();
    // Where no file names the frame, memory may have done so at the time.
    if found.is_empty() { frame.symbol.iter().map(symbols::of_record).collect() } else { found }
}
