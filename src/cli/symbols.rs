//! Function names of frames, from files of this machine whose build-id is that of the module that crashed.

use super::executable::is_build;
use crate::crash::text::{cut, printable};
use crate::crash::{Frame, Module, Record};
use crate::unwind::is_runtime;
use addr2line::Loader;
use std::collections::HashMap;
use std::path::PathBuf;

/// A function that contains a frame. Several functions contain a frame if they are inlined into each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    /// Source file without its directory, and line.
    pub(super) source: Option<String>,
}

/// The symbol tables of the files that were opened, by build-id.
#[derive(Default)]
pub(super) struct Symbols {
    files: HashMap<String, Option<Loader>>,
}

/// The longest name that is shown, in bytes. C++ templates can make a name several KiB long.
const MAX_NAME: usize = 200;
/// The directory in which debug packages install their files (gdb's "build-id" method).
const DEBUG_FILES: &str = "/usr/lib/debug/.build-id";
/// The number of functions in the title of a group.
const TITLE: usize = 2;

impl Symbols {
    /// The functions that contain a frame, the innermost first; none if no file names them.
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
                    name.map(|name| Function {
                        name: printable_name(&name),
                        source: source.map(|text| printable(&text)),
                    }),
                );
            }
        }
        if functions.is_empty()
            && let Some(symbol) = loader.find_symbol(frame.offset)
        {
            let name = addr2line::demangle_auto(symbol.into(), None);
            functions.push(Function { name: printable_name(&name), source: None });
        }
        functions
    }

    /// A title for a crash, such as `SIGSEGV in locking_intern (cache.c:210) <- oj_calc_hash_key`.
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
            named.extend(functions.into_iter().filter(|function| !is_runtime_internal(&function.name)));
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

/// A frame as file name and offset.
pub(super) fn place(module: &Module, frame: &Frame) -> String {
    let name = module.path.rsplit('/').next().unwrap_or_default();
    format!("{}+{:#x}", printable(name), frame.offset)
}

fn printable_name(name: &str) -> String {
    printable(cut(name, MAX_NAME))
}

/// Whether this is a function of a language's runtime between a failed check and the signal.
fn is_runtime_internal(name: &str) -> bool {
    const PREFIXES: [&str; 12] = [
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
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
