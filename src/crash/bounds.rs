//! The bound on the size of a record. A crashed process chooses most of what is in it, so the length is bounded here, once, before
//! the record goes anywhere: to the shim, into a core file, the catalog or the journal.

use super::{ArgumentList, Fault, Frame, InterpreterFrame, Module, Record, Symbol, ThreadStacks};
use serde::Serialize;
use std::fmt;
use std::io::{self, Write};

/// The most bytes of a record, as JSON.
pub const MAX_RECORD: usize = 64 << 10;

/// Bytes for the numbers of a core that is not written yet, and for warnings that are still to come.
const ROOM: usize = 4 << 10;
/// The longest build ID, in hexadecimal digits: those of linkers have 16, 32 or 40. A part of one would be a wrong one.
const MAX_BUILD_ID: usize = 128;
/// Bytes of a control character in JSON.
const ESCAPED: usize = 6;
/// The most warnings. The first are the causes of the others.
const MAX_WARNINGS: usize = 32;

/// What was left out of a record that was too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Texts that were cut.
    pub texts: usize,
    /// Stacks of other threads.
    pub threads: usize,
    /// Modules.
    pub modules: usize,
    /// Frames of the crashed thread.
    pub frames: usize,
    /// Names of functions, of frames that are there.
    pub names: usize,
}

impl Cuts {
    /// Whether nothing was left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { texts, threads, modules, frames, names } = self;
        let cut = (*texts > 0).then(|| format!("{texts} texts were cut"));
        let left_out =
            [(threads, "other threads"), (modules, "modules"), (frames, "frames"), (names, "function names")];
        let left_out: Vec<String> =
            left_out.iter().filter(|(count, _)| **count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        let left_out = (!left_out.is_empty()).then(|| format!("left out were {}", left_out.join(", ")));
        let all: Vec<String> = cut.into_iter().chain(left_out).collect();
        write!(f, "the record was too long: {}", all.join("; "))
    }
}

impl Record {
    /// Shortens the record to [`MAX_RECORD`]: the longest texts first, then the names in other threads' stacks, then these
    /// threads, then modules that no frame of the crashed thread is in, and texts, names and frames again if that is not enough.
    pub fn bound(&mut self) -> Cuts {
        let mut cuts = Cuts::default();
        drop_long_build_ids(self);
        self.warnings.truncate(MAX_WARNINGS);
        let limit = MAX_RECORD - ROOM;
        if self.upper_length() <= limit || json_length(self) <= limit {
            return cuts;
        }
        for longest in [16 << 10, 8 << 10, 4 << 10] {
            cuts.texts += self.cut_texts(longest);
            if json_length(self) <= limit {
                return cuts;
            }
        }
        cuts.names += drop_names(self.other_threads.iter_mut().flat_map(|thread| &mut thread.frames));
        if cuts.names > 0 && json_length(self) <= limit {
            return cuts;
        }
        while !self.other_threads.is_empty() {
            let fewer = self.other_threads.len() / 2;
            let dropped = self.other_threads.drain(fewer..).map(|thread| thread.count as usize);
            cuts.threads += dropped.sum::<usize>();
            if json_length(self) <= limit {
                return cuts;
            }
        }
        cuts.modules += self.drop_other_modules();
        for longest in [2 << 10, 1 << 10, 512, 256, 128] {
            if json_length(self) <= limit {
                return cuts;
            }
            cuts.texts += self.cut_texts(longest);
        }
        self.halve_interpreter(limit, &mut cuts);
        let is_too_long = json_length(self) > limit;
        if let Some(failure) = self.failure.as_mut().filter(|failure| is_too_long && !failure.handler.is_empty()) {
            cuts.frames += failure.handler.len();
            failure.handler.clear();
            cuts.modules += self.drop_other_modules();
        }
        // The innermost frames say most.
        let mut named = self.stack.len();
        while named > 0 && json_length(self) > limit {
            named /= 2;
            cuts.names += drop_names(self.stack.iter_mut().skip(named));
        }
        while json_length(self) > limit && !self.stack.is_empty() {
            let fewer = self.stack.len() / 2;
            cuts.frames += self.stack.len() - fewer;
            self.stack.truncate(fewer);
            if let Some(stack) = &mut self.interpreter {
                stack.loops.retain(|number| (*number as usize) < fewer);
            }
            cuts.modules += self.drop_other_modules();
        }
        cuts
    }

    /// No record has a longer JSON than this. Most are far shorter than the limit, which this tells without formatting them.
    fn upper_length(&self) -> usize {
        const FIELDS: usize = 4096 + 256;
        const FRAME: usize = 128;
        let ArgumentList { first, last, .. } = &self.arguments;
        let arguments: usize = first.iter().chain(last).map(|argument| upper_text(argument) + 4).sum();
        let names = self.failure.iter().flat_map(|failure| [&failure.thread_name, &failure.signal_name]);
        let texts = names.chain(self.dump.iter().map(|dump| &dump.reason)).chain(self.texts());
        let texts: usize = arguments + texts.map(|text| upper_text(text)).sum::<usize>();
        let warnings: usize = self.warnings.iter().map(|text| upper_text(text) + 4).sum();
        let modules: usize = self.modules.iter().map(|module| 256 + upper_texts_of(module)).sum();
        let threads: usize = self.other_threads.iter().map(|thread| thread.frames.len() + thread.tids.len() + 1).sum();
        let failure = self.failure.as_ref().map_or(0, |failure| 2 + failure.handler.len());
        let interpreter = self.interpreter.iter().map(|stack| {
            let frame = |frame: &InterpreterFrame| FRAME + upper_text(&frame.function) + upper_text(&frame.file);
            let reason = stack.incomplete.as_deref().map_or(0, upper_text);
            FRAME
                + upper_text(&stack.runtime)
                + upper_text(&stack.version)
                + reason
                + stack.loops.len() * 12
                + stack.frames.iter().map(frame).sum::<usize>()
        });
        let report =
            self.runtime_report.iter().map(|report| FRAME + upper_text(&report.runtime) + upper_text(&report.path));
        let symbols: usize = self.frames().filter_map(|frame| frame.symbol.as_ref()).map(Symbol::json_length).sum();
        let compilers = self.frames().filter_map(|frame| frame.compiler.as_ref());
        let compilers: usize = compilers.map(|name| 32 + upper_text(name)).sum();
        /// Two names of mappings, every byte of which may be escaped, the instruction and its registers.
        const FAULT: usize = 2 * Fault::MAX_NAME * ESCAPED + Fault::MAX_INSTRUCTION * ESCAPED + 2048;
        let fault = if self.fault.is_some() { FAULT } else { 0 };
        FIELDS
            + interpreter.sum::<usize>()
            + report.sum::<usize>()
            + fault
            + texts
            + warnings
            + modules
            + (self.stack.len() + threads + failure) * FRAME
            + symbols
            + compilers
    }

    /// Leaves out outer frames of the interpreted program, as many as it takes.
    fn halve_interpreter(&mut self, limit: usize, cuts: &mut Cuts) {
        while json_length(self) > limit {
            let Some(stack) = self.interpreter.as_mut().filter(|stack| !stack.frames.is_empty()) else { return };
            let fewer = stack.frames.len() / 2;
            cuts.frames += stack.frames.len() - fewer;
            stack.frames.truncate(fewer);
            stack.incomplete.get_or_insert_with(|| "the record was too long".to_owned());
        }
    }

    fn texts(&self) -> [&String; 20] {
        [
            &self.comm,
            &self.exe,
            &self.cmdline,
            &self.parent_cmdline,
            &self.cwd,
            &self.root,
            &self.hostname,
            &self.cgroup.path,
            &self.status,
            &self.limits,
            &self.open_fds,
            &self.thread_name,
            &self.auxv,
            &self.maps,
            &self.mountinfo,
            &self.environ,
            &self.kernel,
            &self.machine,
            &self.signal_name,
            &self.key.boot_id,
        ]
    }

    /// Cuts all texts whose JSON is longer than `longest` bytes; returns how many.
    fn cut_texts(&mut self, longest: usize) -> usize {
        let cgroup = &mut self.cgroup;
        let names =
            [&mut cgroup.unit, &mut cgroup.user_unit, &mut cgroup.slice, &mut cgroup.container, &mut cgroup.pod];
        let texts = [
            &mut self.comm,
            &mut self.exe,
            &mut self.cmdline,
            &mut self.parent_cmdline,
            &mut self.cwd,
            &mut self.root,
            &mut self.hostname,
            &mut cgroup.path,
            &mut self.status,
            &mut self.limits,
            &mut self.open_fds,
            &mut self.thread_name,
            &mut self.auxv,
            &mut self.maps,
            &mut self.mountinfo,
            &mut self.environ,
        ];
        let modules = self.modules.iter_mut().flat_map(|module| {
            let owner = module.owner.iter_mut().flat_map(|package| [&mut package.name, &mut package.version]);
            std::iter::once(&mut module.path).chain(&mut module.package).chain(owner)
        });
        let arguments_cut = usize::from(json_length(&self.arguments) > longest);
        if arguments_cut > 0 {
            self.arguments = ArgumentList::default();
        }
        let failure = self.failure.iter_mut().map(|failure| &mut failure.thread_name);
        let reason = self.dump.iter_mut().map(|dump| &mut dump.reason);
        let interpreter = self.interpreter.iter_mut().flat_map(|stack| {
            let own = [&mut stack.runtime, &mut stack.version].into_iter().chain(&mut stack.incomplete);
            own.chain(stack.frames.iter_mut().flat_map(|frame| [&mut frame.function, &mut frame.file]))
        });
        let report = self.runtime_report.iter_mut().flat_map(|report| [&mut report.runtime, &mut report.path]);
        let all = texts
            .into_iter()
            .chain(report)
            .chain(failure)
            .chain(reason)
            .chain(interpreter)
            .chain(names.into_iter().flatten())
            .chain(modules)
            .chain(&mut self.warnings);
        all.map(|text| cut_text(text, longest)).filter(|was_cut| *was_cut).count() + arguments_cut
    }

    /// Drops the modules that no frame of the crashed thread is in, and renumbers the others; returns how many.
    fn drop_other_modules(&mut self) -> usize {
        let mut numbers: Vec<Option<u32>> = vec![None; self.modules.len()];
        let handler = self.failure.iter().flat_map(|failure| &failure.handler);
        for frame in self.stack.iter().chain(handler) {
            if let Some(number) = frame.module.and_then(|number| numbers.get_mut(number as usize)) {
                *number = Some(0);
            }
        }
        for (next, number) in (0..).zip(numbers.iter_mut().flatten()) {
            *number = next;
        }
        let before = self.modules.len();
        let mut index = 0;
        self.modules.retain(|_| {
            index += 1;
            numbers.get(index - 1).is_some_and(Option::is_some)
        });
        let threads = self.other_threads.iter_mut().flat_map(|ThreadStacks { frames, .. }| frames);
        let handler = self.failure.iter_mut().flat_map(|failure| &mut failure.handler);
        for frame in self.stack.iter_mut().chain(handler).chain(threads) {
            frame.module = frame.module.and_then(|number| *numbers.get(number as usize)?);
        }
        before - self.modules.len()
    }
}

fn upper_texts_of(module: &Module) -> usize {
    let owner = module.owner.iter().flat_map(|package| [&package.name, &package.version]);
    let texts = [Some(&module.path), module.package.as_ref(), module.build_id.as_ref()].into_iter().flatten();
    texts.chain(owner).map(|text| upper_text(text)).sum()
}

/// No JSON of the text is longer, without its quotes.
fn upper_text(text: &str) -> usize {
    let escaped = text.bytes().filter(|byte| *byte < b' ' || matches!(byte, b'"' | b'\\')).count();
    text.len() + escaped * (ESCAPED - 1)
}

impl Symbol {
    /// The most bytes that it adds to a record. Names are many, and few of their characters need an escape.
    #[must_use]
    pub fn json_length(&self) -> usize {
        const FIELDS: usize = 64;
        FIELDS + self.name.chars().map(escaped_length).sum::<usize>()
    }
}

/// Drops the names of the functions that these frames are in; returns how many.
fn drop_names<'a>(frames: impl Iterator<Item = &'a mut Frame>) -> usize {
    frames.filter_map(|frame| frame.symbol.take()).count()
}

fn drop_long_build_ids(record: &mut Record) {
    let modules = record.modules.iter_mut().map(|module| &mut module.build_id);
    for build_id in modules.chain([&mut record.exe_build_id]) {
        build_id.take_if(|text| text.len() > MAX_BUILD_ID);
    }
}

/// Cuts a text so that its JSON has at most `longest` bytes, with an ellipsis at its end; `false` if it is not longer.
fn cut_text(text: &mut String, longest: usize) -> bool {
    const ELLIPSIS: char = '…';
    if text.len() * 6 + 2 <= longest || json_length(text) <= longest {
        return false;
    }
    let mut length = 2 + ELLIPSIS.len_utf8();
    let mut end = 0;
    for character in text.chars() {
        length += escaped_length(character);
        if length > longest {
            break;
        }
        end += character.len_utf8();
    }
    text.truncate(end);
    text.push(ELLIPSIS);
    true
}

/// Bytes of a character in JSON (RFC 8259, section 7), as serde_json writes it.
fn escaped_length(character: char) -> usize {
    match character {
        '"' | '\\' | '\u{8}' | '\u{c}' | '\n' | '\r' | '\t' => 2,
        control if control < ' ' => 6,
        other => other.len_utf8(),
    }
}

/// Bytes of a value as JSON.
fn json_length(value: &impl Serialize) -> usize {
    struct Counter(usize);
    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    match serde_json::to_writer(&mut counter, value) {
        Ok(()) => counter.0,
        Err(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::fixtures::record;
    use crate::crash::{Access, Failure, FrameTrust, InterpreterStack, Mapping, Neighbour, Place};
    use proptest::prelude::*;

    fn frame(module: u32) -> Frame {
        Frame {
            address: u64::MAX,
            module: Some(module),
            offset: u64::MAX,
            trust: FrameTrust::CallFrameInfo,
            symbol: None,
            compiler: None,
        }
    }

    fn module(path: &str) -> Module {
        Module {
            path: path.to_owned(),
            build_id: Some("a".repeat(40)),
            package: None,
            owner: None,
            bias: u64::MAX,
            start: u64::MAX,
            end: u64::MAX,
        }
    }

    fn threads(count: u32, frames: usize) -> Vec<ThreadStacks> {
        (0..count).map(|tid| ThreadStacks { count: 1, tids: vec![tid], frames: vec![frame(1); frames] }).collect()
    }

    fn longest_fault() -> Fault {
        let neighbour = || {
            let name = Some("\u{1}".repeat(Fault::MAX_NAME));
            Some(Neighbour {
                mapping: Mapping { start: u64::MAX, permissions: "rwx".to_owned(), name },
                distance: u64::MAX,
            })
        };
        let fault = Fault {
            instruction: Some("\"".repeat(Fault::MAX_INSTRUCTION)),
            code: "0".repeat(2 * Fault::MAX_CODE),
            registers: (0..Fault::MAX_REGISTERS)
                .map(|number| (format!("register{number}").split_off(4), u64::MAX))
                .collect(),
            address: Some(u64::MAX),
            access: Some(Access::ReadWrite),
            size: Some(u32::MAX),
            place: Some(Place::Unmapped { below: neighbour(), above: neighbour() }),
            system_call: Some(u64::MAX),
        };
        assert!(fault.is_well_formed());
        fault
    }

    fn failure(name: String, handler: Vec<Frame>) -> Failure {
        Failure {
            tid: u32::MAX,
            thread_name: name,
            dumped: u32::MAX,
            signal: u32::MAX,
            signal_name: u32::MAX.to_string(),
            code: Some(i32::MIN),
            address: Some(u64::MAX),
            threads: u32::MAX,
            handler,
        }
    }

    #[test]
    fn an_ordinary_record_stays_as_it_is() {
        let mut bounded = record(1);
        bounded.stack = vec![frame(0); 64];
        bounded.modules = (0..64).map(|number| module(&format!("/usr/lib/lib{number}.so"))).collect();
        bounded.open_fds = "0 /dev/null\n".repeat(100);
        let before = bounded.clone();
        assert!(bounded.bound().is_empty());
        assert_eq!(bounded, before);
    }

    #[test]
    fn long_texts_are_cut_before_anything_else() {
        let mut bounded = record(1);
        bounded.open_fds = "\u{1}".repeat(32 << 10);
        bounded.other_threads = threads(3, 3);
        bounded.modules = vec![module("/a"), module("/b")];
        assert_eq!(bounded.bound(), Cuts { texts: 1, ..Cuts::default() });
        assert!(bounded.open_fds.ends_with("\u{1}…") && bounded.cmdline == "segv -x");
        assert_eq!((bounded.other_threads.len(), bounded.modules.len()), (3, 2));
    }

    #[test]
    fn other_threads_go_before_modules_and_modules_of_the_stack_stay() {
        let mut bounded = record(1);
        bounded.stack = vec![frame(200), frame(7)];
        bounded.other_threads = threads(400, 64);
        bounded.modules = (0..256).map(|number| module(&format!("/lib/{number}"))).collect();
        let mut without_threads = bounded.clone();
        let cuts = bounded.bound();
        assert!(cuts.threads > 0 && cuts.texts == 0 && cuts.modules == 0, "{cuts:?}");
        assert!(!bounded.other_threads.is_empty() && bounded.modules.len() == 256);
        without_threads.other_threads = Vec::new();
        without_threads.modules = (0..256).map(|number| module(&format!("/{number}/{}", "x".repeat(500)))).collect();
        without_threads.failure = Some(failure(String::new(), vec![frame(9)]));
        let cuts = without_threads.bound();
        assert_eq!((cuts.modules, without_threads.modules.len()), (253, 3));
        assert_eq!(without_threads.failure.as_ref().unwrap().handler[0].module, Some(1), "the second that is left");
        let of_frame = |index: usize| &without_threads.modules[without_threads.stack[index].module.unwrap() as usize];
        assert!(of_frame(0).path.starts_with("/200/") && of_frame(1).path.starts_with("/7/"));
    }

    #[test]
    fn names_of_other_threads_go_before_their_stacks_and_those_of_the_innermost_frames_stay() {
        let named = |number: u32, length: usize| Frame {
            symbol: Some(Symbol::new("f".repeat(length).as_bytes(), u64::from(number))),
            ..frame(0)
        };
        let mut bounded = record(1);
        bounded.modules = vec![module("/a")];
        bounded.stack = (0..64).map(|number| named(number, 40)).collect();
        bounded.other_threads = threads(40, 0);
        for thread in &mut bounded.other_threads {
            thread.frames = (0..8).map(|number| named(number, 200)).collect();
        }
        let cuts = bounded.bound();
        assert_eq!((cuts, bounded.other_threads.len()), (Cuts { names: 320, ..Cuts::default() }, 40));
        assert!(bounded.stack.iter().all(|frame| frame.symbol.is_some()));
        bounded.stack = (0..128).map(|number| named(number, Symbol::MAX_NAME)).collect();
        let cuts = bounded.bound();
        let named = bounded.stack.iter().take_while(|frame| frame.symbol.is_some()).count();
        assert_eq!((bounded.stack.len(), cuts.names, cuts.frames), (128, 128 - named, 0), "{cuts}");
        assert!(named >= 16, "{named}");
    }

    #[test]
    fn the_record_that_ended_every_start_is_bounded() {
        let mut bounded = record(1);
        let hostile = "\u{1}".repeat(4096);
        bounded.modules = (0..256).map(|_| module(&hostile)).collect();
        bounded.stack = (0..256).map(frame).collect();
        for text in
            [&mut bounded.exe, &mut bounded.cmdline, &mut bounded.cwd, &mut bounded.root, &mut bounded.cgroup.path]
        {
            text.clone_from(&hostile);
        }
        assert!(json_length(&bounded) > 6 << 20);
        let cuts = bounded.bound();
        assert!(json_length(&bounded) <= MAX_RECORD - ROOM && cuts.texts > 0, "{cuts}");
        assert_eq!(Cuts { texts: 2, ..Cuts::default() }.to_string(), "the record was too long: 2 texts were cut");
        let cuts = Cuts { threads: 3, names: 5, ..Cuts::default() };
        assert_eq!(cuts.to_string(), "the record was too long: left out were 3 other threads, 5 function names");
        assert!(!bounded.stack.is_empty());
        assert_eq!(bounded.clone().bound(), Cuts::default(), "once is enough");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_record_is_longer_and_no_frame_points_nowhere(
            names in prop::collection::vec((0..5_usize, 0..2000_usize), 0..64),
            texts in prop::collection::vec((0..5_usize, 0..40_000_usize), 10),
            modules in prop::collection::vec(0..5000_usize, 0..256),
            stack in prop::collection::vec(0..256_u32, 0..256),
            (others, frames, warnings) in (0..300_u32, 0..64_usize, 0..60_usize),
            handler in prop::option::of(prop::collection::vec(0..256_u32, 0..16)),
            interpreted in prop::option::of(prop::collection::vec(0..3000_usize, 0..200)),
        ) {
            const CHARACTERS: [&str; 5] = ["a", "\u{1}", "\"", "\u{202e}", "é"];
            let mut bounded = record(1);
            let fields = [
                &mut bounded.comm, &mut bounded.exe, &mut bounded.cmdline, &mut bounded.cwd, &mut bounded.root,
                &mut bounded.hostname, &mut bounded.cgroup.path, &mut bounded.status, &mut bounded.limits, &mut bounded.open_fds,
            ];
            for (field, (character, length)) in fields.into_iter().zip(texts) {
                *field = CHARACTERS[character].repeat(length);
            }
            bounded.exe_build_id = Some("a".repeat(modules.len() * 10));
            bounded.modules = modules.iter().map(|length| module(&"\u{1}".repeat(*length))).collect();
            bounded.stack = stack.into_iter().map(frame).collect();
            bounded.other_threads = threads(others, frames);
            let all = bounded.other_threads.iter_mut().flat_map(|thread| &mut thread.frames).chain(&mut bounded.stack);
            for (frame, (character, length)) in all.zip(names) {
                frame.symbol = Some(Symbol::new(CHARACTERS[character].repeat(length).as_bytes(), u64::MAX));
            }
            let name = "\u{1}".repeat(modules.len());
            bounded.failure = handler.map(|handler| failure(name, handler.into_iter().map(frame).collect()));
            bounded.warnings = vec!["\u{1}".repeat(256); warnings];
            bounded.fault = (warnings % 2 == 0).then(longest_fault);
            let of_length = |length: usize| {
                let (function, file) = ("\u{1}".repeat(length), "é".repeat(length));
                InterpreterFrame { function, file, line: Some(u32::MAX), entry: false }
            };
            bounded.interpreter = interpreted.map(|lengths| InterpreterStack {
                runtime: "python".to_owned(),
                version: "\u{1}".repeat(lengths.len()),
                frames: lengths.into_iter().map(of_length).collect(),
                loops: (0..64).collect(),
                incomplete: None,
            });
            prop_assert!(json_length(&bounded) <= bounded.upper_length());
            let (number_of_modules, frames_of_stack) = (bounded.modules.len(), bounded.stack.len());
            bounded.bound();
            prop_assert!(json_length(&bounded) <= MAX_RECORD - ROOM);
            let is_there = |frame: &Frame| {
                frame.module.is_none_or(|number| (number as usize) < bounded.modules.len() || number as usize >= number_of_modules)
            };
            let handler = bounded.failure.iter().flat_map(|failure| &failure.handler);
            prop_assert!(bounded.stack.iter().chain(handler).all(is_there));
            let loops = bounded.interpreter.iter().flat_map(|stack| &stack.loops);
            let is_whole = bounded.stack.len() == frames_of_stack;
            prop_assert!(is_whole || loops.copied().all(|number| (number as usize) < bounded.stack.len()));
            prop_assert!(bounded.clone().bound().is_empty());
        }

        #[test]
        fn a_text_is_cut_to_its_length_in_json(text in any::<String>(), longest in 8..200_usize) {
            let mut short = text.clone();
            let was_cut = cut_text(&mut short, longest);
            prop_assert!(json_length(&short) <= longest);
            prop_assert_eq!(was_cut, short != text);
        }
    }
}
