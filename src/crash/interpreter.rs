//! The stack of an interpreted program: the functions of the program itself, between which the native stack has only the interpreter's.

use super::text::printable;
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

impl InterpreterFrame {
    /// `function (file:line)`, as far as it is known. Untrusted text.
    fn description(&self) -> String {
        let Self { function, file, line, .. } = self;
        match line {
            _ if file.is_empty() => function.clone(),
            Some(line) => format!("{function} ({file}:{line})"),
            None => format!("{function} ({file})"),
        }
    }

    /// `function (file:line)`, as far as it is known, escaped. Only backslashes are as they are, which separate the parts of PHP's names.
    #[must_use]
    pub fn shown(&self) -> String {
        printable(&self.description()).replace(r"\\", r"\")
    }
}

impl InterpreterStack {
    /// The most frames in a record.
    pub const MAX_FRAMES: usize = 128;
    /// The longest name of a function, and the longest path, in bytes.
    pub const MAX_TEXT: usize = 512;

    /// The interpreter's name as people write it.
    #[must_use]
    pub fn title(&self) -> &str {
        match self.runtime.as_str() {
            "python" => "Python",
            "ruby" => "Ruby",
            "php" => "PHP",
            other => other,
        }
    }

    /// Frames by runs of the interpreter's loop, the innermost first.
    fn runs(&self) -> impl Iterator<Item = &[InterpreterFrame]> {
        self.frames.split_inclusive(|frame| frame.entry)
    }

    /// Lines for operators about the frames that the record's native frame with this number executed, escaped. They have that frame's number, and the
    /// interpreter in the place of an address.
    pub fn lines_at(&self, number: usize) -> impl Iterator<Item = String> {
        let runtime = printable(&self.runtime);
        let line = move |frame| format!("#{number:<2} {runtime:<18} {}", InterpreterFrame::shown(frame));
        self.executed_by(number).iter().map(line)
    }

    /// Lines for operators about the frames that [`Self::lines_at`] has not, escaped, with an empty line and a heading before them. None if
    /// there are no such frames.
    #[must_use]
    pub fn lines_apart(&self) -> Vec<String> {
        let Some((heading, frames)) = self.frames_apart() else { return Vec::new() };
        let mut lines = vec![String::new(), format!("{heading}:")];
        lines.extend(frames.map(|(number, frame)| format!("#{number:<2} {}", frame.shown())));
        lines
    }

    /// The frames that no native frame is known to have executed, with their numbers, and an escaped heading. `None` if there are no such frames.
    #[must_use]
    pub fn frames_apart(&self) -> Option<(String, impl Iterator<Item = (usize, &InterpreterFrame)>)> {
        let apart = self.apart();
        let which = if self.loops.is_empty() { "stack of the same thread" } else { "frames below these" };
        let heading = format!("{} {which}", printable(self.title()));
        (!apart.is_empty()).then(|| (heading, (self.frames.len() - apart.len()..).zip(apart)))
    }

    /// The frames that the record's native frame with this number executed, the innermost first; none if it is not the interpreter's loop.
    #[must_use]
    pub fn executed_by(&self, number: usize) -> &[InterpreterFrame] {
        let run = self.loops.iter().position(|at| usize::try_from(*at) == Ok(number));
        run.and_then(|run| self.runs().nth(run)).unwrap_or_default()
    }

    /// The frames of which no native frame in the record is known that executed them, the innermost first.
    fn apart(&self) -> &[InterpreterFrame] {
        let placed = self.runs().take(self.loops.len()).map(<[InterpreterFrame]>::len).sum();
        self.frames.get(placed..).unwrap_or_default()
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, entry: bool) -> InterpreterFrame {
        InterpreterFrame { function: function.to_owned(), file: "a.rb".to_owned(), line: Some(7), entry }
    }

    #[test]
    fn a_native_frame_has_the_frames_up_to_the_one_that_native_code_called() {
        let frames = [("a", false), ("b", true), ("c", true), ("d", false), ("e", false)];
        let frames = frames.into_iter().map(|(function, entry)| frame(function, entry)).collect();
        let (runtime, version) = ("ruby".to_owned(), "3.1.2".to_owned());
        let mut stack = InterpreterStack { runtime, version, frames, loops: vec![3, 8], incomplete: None };
        let names = |frames: &[InterpreterFrame]| frames.iter().map(|frame| frame.function.clone()).collect::<String>();
        assert_eq!([2, 3, 8, 9].map(|number| names(stack.executed_by(number))), ["", "ab", "c", ""]);
        assert_eq!(names(stack.apart()), "de");
        stack.loops.clear();
        assert_eq!(names(stack.apart()), "abcde");
        stack.loops = vec![1, 2, 3, 4];
        assert_eq!(names(stack.executed_by(3)), "de");
        assert!(stack.executed_by(4).is_empty() && stack.apart().is_empty());
        stack.loops = vec![3];
        let shown = ["#3  ruby               a (a.rb:7)", "#3  ruby               b (a.rb:7)"];
        assert_eq!(stack.lines_at(3).collect::<Vec<_>>(), shown);
        let shown = ["", "Ruby frames below these:", "#2  c (a.rb:7)", "#3  d (a.rb:7)", "#4  e (a.rb:7)"];
        assert_eq!(stack.lines_apart(), shown);
        assert_eq!(frame("Web\\Topic->show\u{1b}[m\\n", true).shown(), r"Web\Topic->show\u{1b}[m\n (a.rb:7)");
    }
}
