//! Names for frames, from the files of this machine that are the very builds which crashed.

use super::executable::is_build;
use crate::crash::text::{cut, printable};
use crate::crash::{Frame, Module, Record};
use crate::unwind::is_runtime;
use addr2line::Loader;
use std::collections::HashMap;
use std::path::PathBuf;

/// A function that a frame is in; an instruction may be in several, inlined into each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// File name without directory, and line.
    pub(super) source: Option<String>,
}

/// Files that were opened, by build-id.
#[derive(Default)]
pub(super) struct Symbols {
    files: HashMap<String, Option<Loader>>,
}

/// A C++ name with its templates can have some KiB.
const MAX_NAME: usize = 200;
/// Where debug packages put their files (gdb's "build-id" directories).
const DEBUG_FILES: &str = "/usr/lib/debug/.build-id";
/// A name that is shown for a group says so many functions.
const TITLE: usize = 2;

impl Symbols {
    /// The functions of a frame, the innermost first; none where no file tells.
    pub(super) fn functions(&mut self, record: &Record, frame: &Frame) -> Vec<Function> {
        let module = frame.module.and_then(|number| record.modules.get(number as usize));
        let Some(loader) = module.and_then(|module| self.file(module)) else { return Vec::new() };
        let mut functions = Vec::new();
        if let Ok(mut frames) = loader.find_frames(frame.offset) {
            while let Ok(Some(found)) = frames.next() {
                let name = found.function.as_ref().and_then(|name| Some(name.demangle().ok()?.into_owned()));
                let source = found.location.and_then(|place| {
                    let file = place.file?.rsplit('/').next()?;
                    Some(place.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}")))
                });
                functions.extend(
                    name.map(|name| Function { name: shown(&name), source: source.map(|text| printable(&text)) }),
                );
            }
        }
        if functions.is_empty()
            && let Some(symbol) = loader.find_symbol(frame.offset)
        {
            let name = addr2line::demangle_auto(symbol.into(), None);
            functions.push(Function { name: shown(&name), source: None });
        }
        functions
    }

    /// One line for people: `SIGSEGV in locking_intern (cache.c:210) <- oj_calc_hash_key`.
    pub(super) fn title(&mut self, record: &Record) -> String {
        let signal = match record.signal {
            Some(_) if record.signal_name.starts_with(|first: char| first.is_ascii_alphabetic()) => {
                format!("SIG{}", printable(&record.signal_name))
            }
            _ => format!("signal {}", printable(&record.signal_name)),
        };
        let mut named = Vec::new();
        for frame in &record.stack {
            let module = frame.module.and_then(|number| record.modules.get(number as usize));
            if module.is_none_or(|module| is_runtime(&module.path)) {
                continue;
            }
            let functions = self.functions(record, frame);
            if functions.is_empty() {
                named.push(Function {
                    name: module.map(|module| place(module, frame)).unwrap_or_default(),
                    source: None,
                });
            }
            named.extend(functions.into_iter().filter(|function| !is_plumbing(&function.name)));
            if named.len() >= TITLE {
                break;
            }
        }
        let mut parts = named.iter().take(TITLE).enumerate().map(|(index, function)| match &function.source {
            Some(source) if index == 0 => format!("{} ({source})", function.name),
            _ => function.name.clone(),
        });
        match parts.next() {
            Some(first) => parts.fold(format!("{signal} in {first}"), |title, caller| format!("{title} <- {caller}")),
            None => format!("{signal} in {}", printable(&record.program())),
        }
    }

    fn file(&mut self, module: &Module) -> Option<&Loader> {
        let id = module.build_id.as_ref()?;
        let file = self.files.entry(id.clone()).or_insert_with(|| {
            let own = PathBuf::from(&module.path);
            let (first, rest) = id.split_at_checked(2)?;
            let debug = PathBuf::from(format!("{DEBUG_FILES}/{first}/{rest}.debug"));
            let path = [own, debug].into_iter().find(|path| path.is_absolute() && is_build(path, id))?;
            Loader::new(path).ok()
        });
        file.as_ref()
    }
}

/// A frame without a name: file name and offset.
pub(super) fn place(module: &Module, frame: &Frame) -> String {
    let name = module.path.rsplit('/').next().unwrap_or_default();
    format!("{}+{:#x}", printable(name), frame.offset)
}

fn shown(name: &str) -> String {
    printable(cut(name, MAX_NAME))
}

/// What a language's runtime does between a failed check and the signal.
fn is_plumbing(name: &str) -> bool {
    const BEGINNINGS: [&str; 12] = [
        "core::panicking::",
        "std::panicking::",
        "std::sys::",
        "std::process::abort",
        "panic_abort::",
        "rust_panic",
        "__rustc::",
        "core::result::unwrap_failed",
        "core::option::",
        "runtime.",
        "__rust_",
        "abort",
    ];
    BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}
