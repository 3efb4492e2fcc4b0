//! Function names of frames, from files whose build-id is that of the module that crashed: the module store, files of this machine, and
//! what debuginfod has. Processes without privileges read the files (`symbol_reader.rs`); what they answer is not trusted either.

use super::debug_files;
use super::debuginfod::Debuginfod;
use super::elf_symbols::{Call, Entry, Exit, Function, MAX_INLINED, MAX_NAME, OuterCalls, Questions, Supplement};
use super::foreign_file::Refusal;
use super::human;
use super::symbol_reader::{ARGUMENT, Answer, Message, ModuleRequest, NotRead, Request};
use crate::crash::text::{cut, printable, to_path};
use crate::crash::{Frame, FrameTrust, Record, Symbol};
use coreward_wire::paths::Root;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Uid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind, Read, Write};
use std::iter;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time that is spent on symbols, without downloads.
const DEADLINE: Duration = Duration::from_secs(8);
/// Longest time that is spent on the files of one module, so that those of the others have their turn.
const MODULE_DEADLINE: Duration = Duration::from_secs(4);
/// How long a killed process may take to end. One that is stuck in the kernel, as on a dead mount, is left behind.
const GRACE: Duration = Duration::from_millis(500);
/// Most bytes that are read of the answers.
const MAX_ANSWERS: usize = 8 << 20;
/// Modules beyond this number have no names.
const MAX_MODULES: usize = 256;
/// Processes that read symbols at the same time.
const MAX_READERS: usize = 2;
/// A process of its own is worth its start for this many modules.
const MODULES_PER_READER: usize = 8;
/// How often the files of a module are read: its own, those that they name, and those that these name.
const MAX_ROUNDS: usize = 3;
/// How often a process that failed is followed by another, which reads the files that the first did not come to.
const MAX_RESTARTS: usize = 8;
/// Files beyond this number are not named in the notes.
const MAX_NOTES: usize = 4;

/// What may be read.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    /// The root of the module store.
    pub(super) root: &'a Root,
    /// The user who called the command.
    pub(super) caller: Uid,
    /// Whether files of all users are read, and not only root's and the caller's.
    pub(super) all_owners: bool,
    /// The cache of a debuginfod client.
    pub(super) cache: Option<PathBuf>,
}

/// The function names of one crash.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// By index of the module, and offset in it.
    functions: HashMap<(u32, u64), Vec<Function>>,
    /// By index of the module, and call.
    tail_calls: HashMap<(u32, Call), Vec<Function>>,
    /// Between frames of two modules.
    outer_calls: HashMap<OuterCall, Vec<Function>>,
    /// Why names are missing.
    pub(super) notes: Vec<String>,
}

/// A call of a function of another module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct OuterCall {
    /// Index of the module and address in the call.
    caller: (u32, u64),
    /// Index of the module and address in the function of the frame before.
    callee: (u32, u64),
}

impl Symbols {
    /// Looks up the frames of all stacks of `record`. With `debuginfod`, debug symbols that this machine lacks are fetched.
    pub(super) fn look_up(record: &Record, sources: &Sources<'_>, mut debuginfod: Option<&mut Debuginfod>) -> Self {
        let Requests { numbers, mut modules, outer_calls } = requests(record);
        let mut answers: HashMap<usize, Answer> = HashMap::new();
        let mut symbols = Self::default();
        let mut pending: Vec<usize> = (0..modules.len()).collect();
        for _ in 0..MAX_ROUNDS {
            let mut again = Vec::new();
            for (index, answer) in read_modules(sources, &modules, &pending) {
                if find_more(&mut modules[index], &answer, debuginfod.as_deref_mut(), &mut symbols.notes) {
                    again.push(index);
                }
                answers.insert(index, answer);
            }
            pending = again;
        }
        symbols.outer_calls = outer_tail_calls(sources, &outer_calls, &numbers, &modules, &answers);
        for (index, (number, module)) in numbers.into_iter().zip(&modules).enumerate() {
            let Some(answer) = answers.remove(&index) else {
                symbols.notes.extend(note(module, None));
                continue;
            };
            match answer.functions {
                Ok(functions) => {
                    let named = module.questions.offsets.iter().zip(functions).map(|(offset, functions)| {
                        ((number, *offset), functions.iter().take(MAX_INLINED).map(shown).collect())
                    });
                    symbols.functions.extend(named);
                    let tail_calls = module.questions.calls.iter().zip(answer.tail_calls).map(|(call, functions)| {
                        ((number, *call), functions.iter().take(MAX_INLINED).map(shown).collect())
                    });
                    symbols.tail_calls.extend(tail_calls);
                    if answer.is_damaged {
                        let path = printable(&module.path);
                        symbols.notes.push(format!("the debug information of {path} is damaged, or too large"));
                    }
                }
                Err(why) => symbols.notes.extend(note(module, Some(why))),
            }
        }
        if symbols.notes.len() > MAX_NOTES {
            let more = symbols.notes.len() - MAX_NOTES;
            symbols.notes.truncate(MAX_NOTES);
            symbols.notes.push(format!("the same applies to {more} more files"));
        }
        symbols
    }

    /// The functions that are not on the stack any more between two frames, the innermost first.
    pub(super) fn tail_calls(&self, callee: Option<&Frame>, caller: &Frame) -> &[Function] {
        let found = callee.and_then(|callee| match (call(callee, caller), outer_call(callee, caller)) {
            (Some(call), _) => self.tail_calls.get(&call),
            (None, outer) => self.outer_calls.get(&outer?),
        });
        found.map_or(&[], Vec::as_slice)
    }

    /// The functions that contain a frame, the innermost first; none if no file names them.
    pub(super) fn functions(&self, frame: &Frame) -> &[Function] {
        let found = frame.module.and_then(|number| self.functions.get(&(number, frame.offset)));
        found.map_or(&[], Vec::as_slice)
    }
}

/// The call that two frames are of, if it is within a module and certain.
fn call(callee: &Frame, caller: &Frame) -> Option<(u32, Call)> {
    let is_certain = caller.trust != FrameTrust::Scan && callee.module == caller.module;
    is_certain.then_some((caller.module?, Call { caller: caller.offset, callee: callee.offset }))
}

/// The call of a function of another module that two frames are of, if it is certain.
fn outer_call(callee: &Frame, caller: &Frame) -> Option<OuterCall> {
    let is_call = matches!(caller.trust, FrameTrust::CallFrameInfo | FrameTrust::FramePointer);
    let (called, calling) = (callee.module?, caller.module?);
    let call = OuterCall { caller: (calling, caller.offset), callee: (called, callee.offset) };
    (is_call && called != calling).then_some(call)
}

/// The function of a frame as its record names it.
pub(super) fn of_record(symbol: &Symbol) -> Function {
    Function { name: symbol.shown(), source: None, is_tail: false }
}

fn shown(function: &Function) -> Function {
    let text = |text: &str| printable(cut(text, MAX_NAME));
    Function { name: text(&function.name), source: function.source.as_deref().map(text), is_tail: function.is_tail }
}

/// Why a module has no names; `None` if a user would not ask, as for a file that was replaced or is gone. Without a reason, the
/// process that reads symbols did not get so far.
fn note(module: &ModuleRequest, why: Option<NotRead>) -> Option<String> {
    let path = printable(&module.path);
    Some(match why {
        Some(NotRead::OtherBuild | NotRead::Refused(Refusal::Missing)) => return None,
        Some(NotRead::Refused(Refusal::Foreign(uid))) => format!(
            "{path} belongs to user {}: no function names are read from it unless --all-symbols is given",
            human::user(Uid::from_raw(uid))
        ),
        Some(NotRead::Refused(Refusal::WritableByAll)) => {
            format!("{path} is writable by everybody: no function names are read from it unless --all-symbols is given")
        }
        Some(NotRead::Refused(Refusal::NotAFile)) => format!("{path} is not a regular file: it was not opened"),
        None => format!("reading function names from {path} failed, or took too long"),
    })
}

/// What is asked about a record.
struct Requests {
    /// The modules of the frames of all stacks, by their number in the record.
    numbers: Vec<u32>,
    modules: Vec<ModuleRequest>,
    outer_calls: BTreeSet<OuterCall>,
}

fn requests(record: &Record) -> Requests {
    #[derive(Default)]
    struct Wanted {
        offsets: BTreeSet<u64>,
        calls: BTreeSet<Call>,
        exits: BTreeSet<u64>,
        callees: BTreeSet<u64>,
    }
    let mut wanted: BTreeMap<u32, Wanted> = BTreeMap::new();
    let mut outer_calls = BTreeSet::new();
    let others = record.other_threads.iter().map(|threads| &threads.frames);
    let handler = record.failure.iter().map(|failure| &failure.handler);
    for stack in iter::once(&record.stack).chain(handler).chain(others) {
        for frame in stack {
            if let Some(number) = frame.module {
                wanted.entry(number).or_default().offsets.insert(frame.offset);
            }
        }
        for (callee, caller) in stack.iter().zip(stack.iter().skip(1)) {
            if let Some((number, call)) = call(callee, caller) {
                wanted.entry(number).or_default().calls.insert(call);
            } else if let Some(call) = outer_call(callee, caller) {
                wanted.entry(call.caller.0).or_default().exits.insert(call.caller.1);
                wanted.entry(call.callee.0).or_default().callees.insert(call.callee.1);
                outer_calls.insert(call);
            }
        }
    }
    let request = |(number, wanted): (u32, Wanted)| {
        let module = record.modules.get(number as usize)?;
        let questions = Questions {
            offsets: wanted.offsets.into_iter().collect(),
            calls: wanted.calls.into_iter().collect(),
            exits: wanted.exits.into_iter().collect(),
            callees: wanted.callees.into_iter().collect(),
            entries: Vec::new(),
        };
        let (path, build_id) = (module.path.clone(), module.build_id.clone()?);
        Some((number, ModuleRequest { path, build_id, questions, debug_link: None, supplement: None }))
    };
    let (numbers, modules) = wanted.into_iter().filter_map(request).take(MAX_MODULES).unzip();
    Requests { numbers, modules, outer_calls }
}

/// The functions that are not on the stack any more between frames of two modules, by what is known of each module; the innermost first.
/// A module is read once more if the function that was called is not that of the frame.
fn outer_tail_calls(
    sources: &Sources<'_>,
    outer_calls: &BTreeSet<OuterCall>,
    numbers: &[u32],
    modules: &[ModuleRequest],
    answers: &HashMap<usize, Answer>,
) -> HashMap<OuterCall, Vec<Function>> {
    let known = |number: u32| -> Option<(usize, &Questions, &OuterCalls)> {
        let index = numbers.binary_search(&number).ok()?;
        Some((index, &modules.get(index)?.questions, &answers.get(&index)?.outer))
    };
    let exits = |(number, caller): (u32, u64)| {
        let (_, questions, outer) = known(number)?;
        outer.exits.get(questions.exits.binary_search(&caller).ok()?)
    };
    let names = |(number, callee): (u32, u64)| {
        let (_, questions, outer) = known(number)?;
        outer.callee_names.get(questions.callees.binary_search(&callee).ok()?)
    };
    let mut found = HashMap::new();
    let mut open: Vec<(OuterCall, &[Exit])> = Vec::new();
    let mut entries: BTreeMap<usize, BTreeSet<Entry>> = BTreeMap::new();
    for call in outer_calls {
        let (Some(exits), Some(names)) = (exits(call.caller), names(call.callee)) else { continue };
        let mut direct = exits.iter().filter(|exit| names.contains(&exit.name)).map(|exit| &exit.functions);
        if let Some(functions) = direct.next() {
            if direct.all(|other| other == functions) {
                found.insert(*call, functions.iter().take(MAX_INLINED).map(shown).collect());
            }
        } else if let Some((index, ..)) = known(call.callee.0).filter(|_| !exits.is_empty()) {
            let entry = |exit: &Exit| Entry { name: exit.name.clone(), callee: call.callee.1 };
            entries.entry(index).or_default().extend(exits.iter().map(entry));
            open.push((*call, exits));
        }
    }
    let mut again = modules.to_vec();
    for (index, entries) in &entries {
        again[*index].questions = Questions { entries: entries.iter().cloned().collect(), ..Questions::default() };
    }
    let pending: Vec<usize> = entries.keys().copied().collect();
    let ways: HashMap<usize, Answer> = read_modules(sources, &again, &pending).into_iter().collect();
    for (call, exits) in open {
        let Some((index, ..)) = known(call.callee.0) else { continue };
        let way = |exit: &Exit| {
            let questions = &again.get(index)?.questions;
            let is_it = |entry: &Entry| entry.name == exit.name && entry.callee == call.callee.1;
            let functions = ways.get(&index)?.outer.entries.get(questions.entries.iter().position(is_it)?)?.as_ref()?;
            Some([functions.as_slice(), &exit.functions].concat())
        };
        let mut ways = exits.iter().filter_map(way);
        if let Some(functions) = ways.next()
            && ways.all(|other| other == functions)
        {
            found.insert(call, functions.iter().take(MAX_INLINED).map(shown).collect());
        }
    }
    found
}

/// Adds the files to `module` that its files named and that are there by now. Whether any was added.
fn find_more(
    module: &mut ModuleRequest,
    answer: &Answer,
    debuginfod: Option<&mut Debuginfod>,
    notes: &mut Vec<String>,
) -> bool {
    let path = to_path(&module.path);
    let exists = |paths: Vec<PathBuf>| paths.iter().any(|path| path.symlink_metadata().is_ok());
    let mut is_more = false;
    if let Some(name) = answer.debug_link.as_ref().filter(|_| module.debug_link.is_none())
        && exists(debug_files::linked(&path, name))
    {
        module.debug_link = Some(name.clone());
        is_more = true;
    }
    let is_installed = |module: &ModuleRequest, wanted: &Supplement| {
        exists(debug_files::supplements(&path, module.debug_link.is_some(), &module.build_id, wanted))
    };
    let supplement = answer.lacks_supplement.as_ref().filter(|_| module.supplement.is_none());
    if let Some(wanted) = supplement {
        // The cache of an earlier download is looked at as well.
        module.supplement = Some(wanted.clone());
        is_more = true;
    }
    let Some(debuginfod) = debuginfod else { return is_more };
    let missing = match supplement {
        Some(wanted) => Some(&wanted.build_id).filter(|_| !is_installed(module, wanted)),
        None => Some(&module.build_id).filter(|_| answer.lacks_dwarf && !is_more),
    };
    if let Some(build_id) = missing {
        is_more |= debuginfod.fetch(build_id, &module.path, notes);
    }
    is_more
}

/// Reads the files of those `modules` whose indices are `pending`. What is not read in time is missing.
fn read_modules(sources: &Sources<'_>, modules: &[ModuleRequest], pending: &[usize]) -> Vec<(usize, Answer)> {
    let end = Instant::now() + DEADLINE;
    let readers = pending.len().div_ceil(MODULES_PER_READER).min(MAX_READERS);
    let shares: Vec<Vec<usize>> =
        (0..readers).map(|reader| pending.iter().copied().skip(reader).step_by(readers).collect()).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            shares.into_iter().map(|share| scope.spawn(move || read_share(sources, modules, share, end))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

/// Reads the files of the modules in `share`, in processes one after the other: a file that ends a process, or takes it too long, costs
/// the names of its own module only.
fn read_share(
    sources: &Sources<'_>,
    modules: &[ModuleRequest],
    mut share: Vec<usize>,
    end: Instant,
) -> Vec<(usize, Answer)> {
    let mut answers = Vec::new();
    for _ in 0..=MAX_RESTARTS {
        if share.is_empty() || Instant::now() >= end {
            break;
        }
        let request = Request {
            root: sources.root.path().to_owned(),
            caller: sources.caller.as_raw(),
            all_owners: sources.all_owners,
            cache: sources.cache.clone(),
            modules: share.iter().map(|index| modules[*index].clone()).collect(),
        };
        let mut begun = None;
        let mut answered = BTreeSet::new();
        let read = ask(&request, end, |message| match message {
            Message::Begun(module) => begun = Some(module),
            Message::Answer(answer) => {
                begun = None;
                if let Some(index) = share.get(answer.module)
                    && answered.insert(answer.module)
                {
                    answers.push((*index, answer));
                }
            }
        });
        let Some(failed) = begun.filter(|_| read.is_ok()) else { break };
        answered.insert(failed);
        let left = share.iter().enumerate().filter(|(module, _)| !answered.contains(module));
        share = left.map(|(_, index)| *index).collect();
    }
    answers
}

/// Starts the process that reads symbols, and passes its answers to `take` as far as they come in time.
fn ask(request: &Request, end: Instant, take: impl FnMut(Message)) -> io::Result<()> {
    let mut reader = Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let read = exchange(&mut reader, request, end, take);
    let _ = reader.kill();
    let end = Instant::now() + GRACE;
    while matches!(reader.try_wait(), Ok(None)) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    read
}

fn exchange(reader: &mut Child, request: &Request, end: Instant, take: impl FnMut(Message)) -> io::Result<()> {
    // The process reads its whole request before it opens a file, so this does not wait for long. Dropping the pipe ends it.
    if let Some(mut to) = reader.stdin.take() {
        to.write_all(&serde_json::to_vec(request)?)?;
    }
    match reader.stdout.take() {
        Some(mut from) => read_messages(&mut from, end, take),
        None => Ok(()),
    }
}

/// Reads messages up to the end of `from`, or those that arrive in time.
fn read_messages(from: &mut ChildStdout, end: Instant, mut take: impl FnMut(Message)) -> io::Result<()> {
    let mut line = Vec::new();
    let mut total = 0;
    let mut chunk = vec![0; 64 << 10];
    // The time for one module; the first has to wait until all files are open.
    let mut latest = Instant::now() + MODULE_DEADLINE;
    while total < MAX_ANSWERS {
        let left = end.min(latest).saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => break,
            Err(Errno::EINTR) => continue,
            ready => ready?,
        };
        let count = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        total += count;
        latest = Instant::now() + MODULE_DEADLINE;
        for part in chunk[..count].split_inclusive(|byte| *byte == b'\n') {
            line.extend(part);
            if line.ends_with(b"\n") {
                if let Ok(message) = serde_json::from_slice(&line) {
                    take(message);
                }
                line.clear();
            }
        }
    }
    Ok(())
}
