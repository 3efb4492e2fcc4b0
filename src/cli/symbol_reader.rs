//! The process that reads symbols. Symbol tables and DWARF are large formats, and whoever ran the crashed program may have
//! written them, so a process of its own parses them: it has no privileges, can open nothing, and may be killed.

use super::elf_symbols::{
    Call, ElfBytes, Entry, Found, Function, MAX_INLINED, MAX_NAME, OuterCalls, Questions, Supplement, find_functions,
};
use super::foreign_file::{Owners, Refusal, open_foreign};
use super::privileges::Account;
use super::{debug_files, debuginfod};
use crate::crash::text::to_path;
use crate::elf::{BEGINNING, build_id_of_file, read_build_id};
use crate::store::{StoredModule, open_module};
use coreward_wire::paths::Root;
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The argument that makes the command this process. It is not for users.
pub(super) const ARGUMENT: &str = "--read-symbols";

/// What to look up.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The root of the module store.
    pub(super) root: PathBuf,
    /// The user who called the command.
    pub(super) caller: u32,
    /// Whether files of all users are read, and not only root's and the caller's.
    pub(super) all_owners: bool,
    /// The cache of a debuginfod client.
    pub(super) cache: Option<PathBuf>,
    pub(super) modules: Vec<ModuleRequest>,
}

/// Addresses in one module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ModuleRequest {
    /// As in records ([`crate::crash::text`]).
    pub(super) path: String,
    pub(super) build_id: String,
    pub(super) questions: Questions,
    /// The name of its debug file, as an earlier answer told.
    pub(super) debug_link: Option<String>,
    /// The file that its DWARF refers to, as an earlier answer told.
    pub(super) supplement: Option<Supplement>,
}

/// A line of the process' output.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// This module, by its index in the request, is read now.
    Begun(usize),
    Answer(Answer),
}

/// What was found in one module.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    /// Its index in the request.
    pub(super) module: usize,
    /// The functions of each offset, or why its own file was not read.
    pub(super) functions: Result<Vec<Vec<Function>>, NotRead>,
    /// The rest is that of [`Found`].
    pub(super) tail_calls: Vec<Vec<Function>>,
    pub(super) outer: OuterCalls,
    pub(super) debug_link: Option<String>,
    pub(super) lacks_dwarf: bool,
    pub(super) lacks_supplement: Option<Supplement>,
    pub(super) is_damaged: bool,
}

/// Why there are no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum NotRead {
    Refused(Refusal),
    /// The file is of another build.
    OtherBuild,
}

/// The longest module of the store that is read, in bytes of the ELF file.
const MAX_STORED: u64 = 512 << 20;
/// Most memory of the process, in bytes: the sections with DWARF of two files, and what is made of them.
const MAX_MEMORY: u64 = 3 << 30;
/// Most processor time, in seconds. The command waits no longer either.
const MAX_TIME: u64 = 10;

/// The files that may have the names of a module, open. None was read.
struct Candidates {
    stored: Option<StoredModule>,
    /// The file at the path that the process had.
    own: Result<File, Refusal>,
    /// Debug symbols.
    debug: Vec<File>,
    supplement: Vec<File>,
}

impl Candidates {
    fn open(request: &Request, module: &ModuleRequest, owners: Owners) -> Self {
        let path = to_path(&module.path);
        let own = if path.is_absolute() { open_foreign(&path, owners) } else { Err(Refusal::Missing) };
        let cache = request.cache.as_deref();
        let open = |paths: Vec<PathBuf>| paths.iter().filter_map(|path| open_foreign(path, owners).ok()).collect();
        // What a debuginfod client fetched belongs to whoever ran it, by now perhaps this user.
        let fetched = |build_id: &str| {
            let path = debuginfod::cached(cache?, build_id)?;
            open_foreign(&path, Owners::RootAnd(Uid::effective())).or_else(|_| open_foreign(&path, owners)).ok()
        };
        let mut debug: Vec<File> = open(debug_files::of_build(&module.build_id).into_iter().collect());
        debug.extend(open(module.debug_link.iter().flat_map(|name| debug_files::linked(&path, name)).collect()));
        debug.extend(fetched(&module.build_id));
        let mut supplement = Vec::new();
        if let Some(wanted) = &module.supplement {
            supplement = open(debug_files::supplements(&path, module.debug_link.is_some(), &module.build_id, wanted));
            supplement.extend(fetched(&wanted.build_id));
        }
        Self { stored: open_module(&Root::new(&request.root), &module.build_id), own, debug, supplement }
    }

    /// Whether all files are root's. What the store has was a file of the process.
    fn are_roots(&self) -> bool {
        let files = self.own.iter().chain(&self.debug).chain(&self.supplement);
        self.stored.is_none() && files.into_iter().all(is_roots)
    }
}

/// Answers the request on standard input, on standard output.
pub(super) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    limit(&[
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_AS, MAX_MEMORY),
        (Resource::RLIMIT_CPU, MAX_TIME),
    ])?;
    set_no_new_privs()?;
    // Each module takes a few descriptors.
    let most = getrlimit(Resource::RLIMIT_NOFILE)?.1;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let request: Request = serde_json::from_reader(io::stdin().lock())?;
    let owners = if request.all_owners { Owners::All } else { Owners::RootAnd(Uid::from_raw(request.caller)) };
    let mut opened: Vec<(usize, Candidates)> =
        request.modules.iter().map(|module| Candidates::open(&request, module, owners)).enumerate().collect();
    // Root's files first: a file that a user made to take long takes only the time that is left.
    opened.sort_by_key(|(_, candidates)| !candidates.are_roots());
    if let Some(nobody) = Account::nobody_for_root() {
        nobody.assume().map_err(io::Error::other)?;
    }
    // The parent may have ended before; changing the user clears this (prctl(2)).
    set_pdeathsig(Signal::SIGKILL)?;
    // From here on nothing can be opened.
    limit(&[(Resource::RLIMIT_NOFILE, 0)])?;
    let mut out = io::stdout().lock();
    for (module, candidates) in opened {
        write_message(&mut out, &Message::Begun(module))?;
        let (functions, found) = match read_module(&request.modules[module], candidates) {
            Ok(mut found) => (Ok(std::mem::take(&mut found.functions)), found),
            Err(why) => (Err(why), Found { lacks_dwarf: true, ..Found::default() }),
        };
        let Found { tail_calls, outer, debug_link, lacks_dwarf, lacks_supplement, is_damaged, .. } = found;
        let answer =
            Answer { module, functions, tail_calls, outer, debug_link, lacks_dwarf, lacks_supplement, is_damaged };
        write_message(&mut out, &Message::Answer(answer))?;
    }
    Ok(())
}

fn write_message(out: &mut impl Write, message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

fn limit(limits: &[(Resource, u64)]) -> io::Result<()> {
    for (resource, most) in limits {
        // A limit that is lower already cannot be raised.
        let most = getrlimit(*resource)?.1.min(*most);
        setrlimit(*resource, most, most)?;
    }
    Ok(())
}

fn is_roots(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.uid() == 0)
}

/// Reads the first of the files that is of this build, and the first debug file. Root's own file goes before the store's, which a user may
/// have supplied, and the store's before that of anybody else.
fn read_module(module: &ModuleRequest, candidates: Candidates) -> Result<Found, NotRead> {
    let Candidates { stored, own, debug, supplement } = candidates;
    let read_own =
        |own: Result<File, Refusal>| own.map_err(NotRead::Refused).and_then(|file| read_build(file, &module.build_id));
    let is_own_first = own.as_ref().is_ok_and(is_roots);
    let (first, last) = if is_own_first { (read_own(own), None) } else { (Err(NotRead::OtherBuild), Some(own)) };
    let own = first.or_else(|why| {
        let stored = stored.and_then(|stored| stored.read(MAX_STORED).ok()).filter(|bytes| {
            let head = &bytes[..bytes.len().min(BEGINNING)];
            build_id_of_file(head).as_deref() == Some(&module.build_id)
        });
        match stored {
            Some(bytes) => Ok(ElfBytes::of_memory(bytes)),
            None => last.map_or(Err(why), read_own),
        }
    });
    let debug = debug.into_iter().find_map(|file| read_build(file, &module.build_id).ok());
    match (own, debug) {
        (Err(why), None) => Err(why),
        (own, debug) => {
            let files: Vec<ElfBytes> = own.ok().into_iter().chain(debug).collect();
            let wanted = module.supplement.as_ref();
            let is_wanted = |file: &ElfBytes| file.build_id().as_ref() == wanted.map(|wanted| &wanted.build_id);
            let supplement = supplement.into_iter().map(ElfBytes::of_file).find(is_wanted);
            Ok(find_functions(&files, supplement.as_ref(), &module.questions))
        }
    }
}

/// The file, if it is this build.
fn read_build(file: File, build_id: &str) -> Result<ElfBytes, NotRead> {
    let by_headers = read_build_id(|buffer, at| file.read_at(buffer, at));
    let by_headers = by_headers.map_err(|_| NotRead::Refused(Refusal::Missing))?;
    let file = ElfBytes::of_file(file);
    let found = by_headers.or_else(|| file.build_id());
    if found.as_deref() == Some(build_id) { Ok(file) } else { Err(NotRead::OtherBuild) }
}

/// Does with files what is done with those of a module of a crash, and returns the names at each of `offsets`, and those between two of them. For
/// the fuzz target and its seeds.
///
/// # Panics
///
/// If more is returned, or other paths than those of debug symbols.
#[must_use]
pub fn names_in_debug_data(files: Vec<Vec<u8>>, supplement: Option<Vec<u8>>, offsets: [u64; 2]) -> [Vec<String>; 3] {
    let files: Vec<ElfBytes> = files.into_iter().map(ElfBytes::of_memory).collect();
    let build_ids: Vec<Option<String>> = files.iter().map(ElfBytes::build_id).collect();
    let supplement = supplement.map(ElfBytes::of_memory);
    let [callee, caller] = offsets;
    let build_id = build_ids.iter().flatten().next().cloned().unwrap_or_default();
    let mut questions = Questions {
        offsets: offsets.to_vec(),
        calls: vec![Call { caller, callee }],
        exits: vec![caller],
        callees: vec![callee],
        entries: Vec::new(),
    };
    let outer = find_functions(&files, supplement.as_ref(), &questions).outer;
    let names = outer.exits.into_iter().flatten().map(|exit| exit.name).chain(outer.callee_names.into_iter().flatten());
    questions.entries = names.map(|name| Entry { name, callee: caller }).collect();
    let found = find_functions(&files, supplement.as_ref(), &questions);
    assert_eq!(found.outer.entries.len(), questions.entries.len());
    let program = Path::new("/opt/program");
    for path in found.debug_link.iter().flat_map(|name| debug_files::linked(program, name)) {
        let dirs = ["/opt", "/opt/.debug", "/usr/lib/debug/opt"].map(Path::new);
        assert!(dirs.into_iter().any(|dir| path.parent() == Some(dir)), "{}", path.display());
    }
    if let Some(wanted) = &found.lacks_supplement {
        let paths = debug_files::supplements(program, true, &build_id, wanted);
        assert!(paths.len() <= 6 && paths.iter().all(|path| path.is_absolute()), "{paths:?}");
    }
    let [first, second] = <[_; 2]>::try_from(found.functions).expect("as many as there are offsets");
    let [between] = <[_; 1]>::try_from(found.tail_calls).expect("as many as there are calls");
    [first, second, between].map(|functions: Vec<Function>| {
        assert!(functions.len() <= MAX_INLINED * MAX_INLINED, "{}", functions.len());
        let names = functions.into_iter().map(|function| {
            let source = function.source.unwrap_or_default();
            assert!(function.name.len() <= MAX_NAME && source.len() <= MAX_NAME + 11, "{} {source}", function.name);
            function.name
        });
        names.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the files in a seed of the fuzz target give, whose parts are described in `fuzz/src/lib.rs`.
    fn names_in_seed(name: &str) -> [Vec<String>; 3] {
        let seed = std::fs::read(format!("{}/fuzz/corpus/debug_data/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let word = |at: usize| u64::from_le_bytes(seed[at..at + 8].try_into().unwrap());
        let length = |at: usize| u32::from_le_bytes(seed[at..at + 4].try_into().unwrap()) as usize;
        let (module, rest) = seed[24..].split_at(length(16));
        let (debug, supplement) = rest.split_at(length(20));
        let files = [module, debug].into_iter().filter(|file| !file.is_empty()).map(<[u8]>::to_vec).collect();
        let supplement = Some(supplement.to_vec()).filter(|file| !file.is_empty());
        names_in_debug_data(files, supplement, [word(0), word(8)])
    }

    #[test]
    fn names_are_read_from_every_form_of_debug_information() {
        let inlined =
            [vec!["app::counter::inlined", "app::counter::read"], vec!["app::(anonymous namespace)::last"], vec![]];
        for name in ["inlined", "zlib", "lto"] {
            assert_eq!(names_in_seed(name), inlined, "{name}");
        }
        let (last, lambda, apply) = (
            "app::(anonymous namespace)::last",
            "_start::{lambda}::operator()",
            "app::apply<_start()::<lambda(int)> >",
        );
        let tail_call = [vec![last], vec![lambda, apply], vec!["app::second"]];
        for name in ["tail-call", "zstd", "dwarf4", "debug-file", "dwz"] {
            assert_eq!(names_in_seed(name), tail_call, "{name}");
        }
        // Its names are in the file that is missing, so the symbols' are left.
        let [inner, ..] = names_in_seed("lacks-dwz");
        assert!(inner.len() == 1 && inner[0].starts_with(last), "{inner:?}");
        assert_eq!(names_in_seed("debug-link"), [[""; 0]; 3]);
    }
}
