//! The title of a crash: what an operator reads first. It names the functions that the bug is in, not those by which the program ended.

use super::demangle::demangle;
use super::plumbing::is_plumbing;
use super::text::{file_name, printable};
use super::{Dump, Frame, InterpreterFrame, Module, Record, Symbol};
use std::fmt;

/// Frames that a title names, beside that of an interpreted program.
const FRAMES: usize = 2;
/// The longest name of a function, in characters. The end of a longer one says more than its beginning.
const MAX_NAME: usize = 80;
/// The most bytes of a demangled name. A name of some bytes may stand for a gigabyte.
const MAX_DEMANGLED: usize = 4096;

impl Record {
    /// A title for the crash, such as `SIGSEGV in hash_key <- oj.so+0x4f1c`: the signal and [`Self::functions`], or the program where there are none.
    /// The signal is that of the failure, as the stack is; a dump has none. Escaped for a terminal.
    #[must_use]
    pub fn title(&self) -> String {
        let name = self.failure.as_ref().map_or(&self.signal_name, |failure| &failure.signal_name);
        let functions = self.functions();
        let place = if functions.is_empty() { printable(&self.program()) } else { functions };
        title_of(name, self.signal.is_some(), &place)
    }

    /// The functions that a title names, such as `hash_key <- oj.so+0x4f1c`: the first frames of the thread that failed that are neither in a C or
    /// C++ runtime library nor plumbing by name, by their functions or else by file and offset. Where all are, it is the first frame;
    /// empty without a stack. Where an interpreter runs, its own frames are plumbing as well, and the function that it executes comes last:
    /// `hash_key <- Cache#fetch (cache.rb:210)`. Escaped for a terminal.
    #[must_use]
    pub fn functions(&self) -> String {
        let (mut first, mut of_interpreter) = (None, None);
        let mut places: Vec<String> = Vec::new();
        let interpreted = self.interpreter.as_ref().and_then(|stack| stack.frames.first()).map(InterpreterFrame::place);
        let loops = self.interpreter.as_ref().and_then(|stack| stack.loops.first()).copied();
        let loop_at = loops.map_or(usize::MAX, |number| number as usize);
        let interpreter = self.stack.get(loop_at).and_then(|frame| frame.module);
        // Names are read one by one: mostly the first few frames are enough.
        for frame in self.stack.iter().take(loop_at).filter_map(|frame| self.named(frame)) {
            if frame.is_plumbing() {
                first = first.or_else(|| Some(frame.to_string()));
                continue;
            }
            if interpreter.is_some() && frame.frame.module == interpreter {
                of_interpreter = of_interpreter.or_else(|| Some(frame.to_string()));
                continue;
            }
            let place = frame.to_string();
            // A recursion is named once.
            if places.last() != Some(&place) {
                places.push(place);
            }
            if places.len() == FRAMES {
                break;
            }
        }
        if places.is_empty() {
            // A bug of the interpreter's own.
            let in_loop = || self.named(self.stack.get(loop_at)?).filter(|frame| !frame.is_plumbing());
            let in_loop = || in_loop().map(|frame| frame.to_string());
            places.extend(of_interpreter.or_else(in_loop).or(first));
        }
        places.extend(interpreted);
        places.join(" <- ")
    }

    /// A frame with its module and function, or in code of a known compiler; `None` if nothing of that is known.
    fn named<'a>(&'a self, frame: &'a Frame) -> Option<NamedFrame<'a>> {
        let module = frame.module.and_then(|number| self.modules.get(number as usize));
        let function = frame.symbol.as_ref().map(Symbol::short_name);
        (module.is_some() || function.is_some() || frame.compiler.is_some()).then_some(NamedFrame {
            frame,
            module,
            function,
        })
    }
}

/// A title with the name of a signal, and whether its number is known. `place` is escaped.
#[must_use]
pub fn title_of(signal_name: &str, is_known: bool, place: &str) -> String {
    let is_named = is_known && signal_name.starts_with(|first: char| first.is_ascii_alphabetic());
    let signal = printable(signal_name);
    if signal_name == Dump::SIGNAL_NAME {
        format!("Dump in {place}")
    } else if is_named {
        format!("SIG{signal} in {place}")
    } else {
        format!("signal {signal} in {place}")
    }
}

/// A frame as a title shows it.
struct NamedFrame<'a> {
    frame: &'a Frame,
    module: Option<&'a Module>,
    function: Option<String>,
}

impl NamedFrame<'_> {
    fn is_plumbing(&self) -> bool {
        let file = self.module.map_or("", Module::file_name);
        // libffi calls a function for somebody, as ctypes and Fiddle want it.
        self.module.is_some_and(|module| module.is_runtime() || module.is_vdso() || file.starts_with("libffi.so"))
            || self.function.as_deref().is_some_and(|name| is_plumbing(name, file))
    }
}

impl fmt::Display for NamedFrame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.function, self.module) {
            (Some(name), _) => f.write_str(&printable(&shortened(name))),
            (None, Some(module)) => f.write_str(&module.place(self.frame)),
            (None, None) => match &self.frame.compiler {
                Some(compiler) => write!(f, "code compiled by {}", printable(compiler)),
                None => write!(f, "{:#x}", self.frame.address),
            },
        }
    }
}

impl InterpreterFrame {
    /// `function (file:line)`, the file without its directory. Escaped for a terminal.
    fn place(&self) -> String {
        // What was evaluated is called `(eval at FILE:LINE)` or `<string>`.
        let file = if self.file.starts_with(['(', '<']) { &self.file } else { file_name(&self.file) };
        Self { function: shortened(&self.function), file: shortened(file), ..self.clone() }.shown()
    }
}

impl Module {
    /// A frame in it, as file name and offset. Escaped for a terminal.
    #[must_use]
    pub fn place(&self, frame: &Frame) -> String {
        format!("{}+{:#x}", printable(self.file_name()), frame.offset)
    }
}

impl Symbol {
    /// The name of the function as its author wrote it, without parameters, generic arguments, and what compilers and linkers append.
    fn short_name(&self) -> String {
        let raw = without_suffix(&self.name);
        let name = demangle(raw, MAX_DEMANGLED);
        if name == raw { name } else { without_generics(&name) }
    }
}

/// The end of a long name.
fn shortened(name: &str) -> String {
    match name.char_indices().nth_back(MAX_NAME - 1) {
        Some((begin, _)) if begin > 0 => format!("…{}", &name[begin..]),
        _ => name.to_owned(),
    }
}

/// A symbol without its version and without what compilers append to the names of parts, copies and calling conventions.
fn without_suffix(name: &str) -> &str {
    // Go has dots in names as well.
    let is_end = |rest: &str| rest.is_empty() || rest.starts_with('.');
    let is_number = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    let is_suffix = |text: &str| {
        let after = |suffix: &str| text.strip_prefix(suffix);
        let ends = [".cold", ".abi0", ".abiinternal"].iter().any(|suffix| after(suffix).is_some_and(is_end));
        let numbered = [".isra.", ".part.", ".constprop.", ".lto_priv.", ".llvm."];
        ends || text.starts_with('@') || numbered.iter().any(|suffix| after(suffix).is_some_and(is_number))
    };
    let marks = name.match_indices(['.', '@']).map(|(at, _)| at).filter(|at| *at > 0);
    let end = marks.into_iter().find(|at| is_suffix(&name[*at..]));
    &name[..end.unwrap_or(name.len())]
}

/// A demangled name without generic arguments. Those of Rust that begin a path stay, `<T as Trait>` and `<impl Trait for T>`, and so do operators.
fn without_generics(name: &str) -> String {
    let mut short = String::with_capacity(name.len());
    // Of each bracket that is open, whether it is shown.
    let mut open: Vec<bool> = Vec::new();
    let mut rest = name;
    while let Some(next) = rest.chars().next() {
        let is_shown = open.iter().all(|shown| *shown);
        if is_shown
            && short.ends_with("operator")
            && let Some(operator) = operator(rest)
        {
            short.push_str(operator);
            rest = &rest[operator.len()..];
            continue;
        }
        let after = &rest[next.len_utf8()..];
        match next {
            '<' => {
                let begins_path =
                    short.is_empty() || short.ends_with(['<', ' ', '&', '[', '(']) || after.starts_with("impl ");
                open.push(is_shown && begins_path);
                if is_shown && begins_path {
                    short.push('<');
                } else if is_shown {
                    let before = short.strip_suffix("::").map_or(short.len(), str::len);
                    short.truncate(before);
                }
            }
            '>' if !open.is_empty() => {
                let was_shown = open.pop() == Some(true);
                if was_shown && open.iter().all(|shown| *shown) {
                    short.push('>');
                }
            }
            // The arrow of a function's type.
            '-' if after.starts_with('>') => {
                if is_shown {
                    short.push_str("->");
                }
                rest = &after[1..];
                continue;
            }
            other if is_shown => short.push(other),
            _ => {}
        }
        rest = after;
    }
    short
}

/// The operator with angle brackets that a text begins with.
fn operator(text: &str) -> Option<&str> {
    const OPERATORS: [&str; 10] = ["<<=", ">>=", "<=>", "->*", "<<", ">>", "<=", ">=", "->", "<"];
    // `operator<` may be followed by generic arguments, and is itself no bracket.
    let known = OPERATORS.iter().find(|known| text.starts_with(**known));
    known.map(|known| &text[..known.len()]).or_else(|| text.starts_with('>').then(|| &text[..1]))
}

#[cfg(test)]
mod tests;
