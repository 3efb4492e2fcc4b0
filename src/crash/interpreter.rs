//! The stack of an interpreted program: the functions of the program itself, between which the native stack has only the interpreter's.

use serde::{Deserialize, Serialize};

/// Frames of the interpreter's thread that the native stack is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterpreterStack {
    /// The interpreter: `python`, `ruby` or `php`.
    pub runtime: String,
    /// Its version, as it says. Empty if it is not known.
    pub version: String,
    /// The frames, the innermost first.
    pub frames: Vec<InterpreterFrame>,
    /// The numbers of those frames of the record's `stack` that are the interpreter's loop, the innermost first: each executed the frames here up to
    /// the next with `entry`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loops: Vec<u32>,
    /// Why frames are missing; `None` if none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete: Option<String>,
}

/// A function of an interpreted program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterpreterFrame {
    /// Its name, as the interpreter's own traceback has it.
    pub function: String,
    /// The file that it is in, as the interpreter's own traceback has it. Empty if it has none, as a function of the interpreter's own.
    pub file: String,
    /// The line that was being executed.
    pub line: Option<u32>,
    /// Native code called it: it is the outermost of those that one run of the interpreter's loop executed.
    pub entry: bool,
}

impl InterpreterStack {
    /// The most frames in a record.
    pub const MAX_FRAMES: usize = 128;
    /// The longest name of a function, and the longest path, in bytes.
    pub const MAX_TEXT: usize = 512;

    /// Whether it is within these limits. Somebody who read hostile bytes may send anything.
    #[must_use]
    pub fn is_well_formed(&self) -> bool {
        let texts = [&self.runtime, &self.version].into_iter().chain(&self.incomplete);
        self.frames.len() <= Self::MAX_FRAMES
            && self.loops.len() <= Self::MAX_FRAMES
            && texts
                .chain(self.frames.iter().flat_map(|frame| [&frame.function, &frame.file]))
                .all(|text| text.len() <= Self::MAX_TEXT)
    }
}
