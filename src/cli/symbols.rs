//! Function names of frames, from files of this machine whose build-id is that of the module that crashed. A process without
//! privileges reads the files (`symbol_reader.rs`); what it answers is not trusted either.

use super::elf_symbols::{Function, MAX_INLINED, MAX_NAME};
use super::foreign_file::Refusal;
use super::human;
use super::symbol_reader::{ARGUMENT, Answer, ModuleRequest, NotRead, Request};
use crate::crash::text::{cut, printable};
use crate::crash::{Frame, Record};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Uid;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time that is spent on symbols.
const DEADLINE: Duration = Duration::from_secs(8);
/// How long a killed process may take to end. One that is stuck in the kernel, as on a dead mount, is left behind.
const GRACE: Duration = Duration::from_millis(500);
/// Most bytes that are read of the answers.
const MAX_ANSWERS: usize = 8 << 20;
/// Modules beyond this number have no names.
const MAX_MODULES: usize = 256;
/// Files beyond this number are not named in the notes.
const MAX_NOTES: usize = 4;

/// The function names of one crash.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// By index of the module, and offset in it.
    functions: HashMap<(u32, u64), Vec<Function>>,
    /// Why names are missing.
    pub(super) notes: Vec<String>,
}

impl Symbols {
    /// Looks up the frames of all stacks of `record`. Files that belong neither to root nor to `caller` are read only with
    /// `all_owners`.
    pub(super) fn look_up(record: &Record, caller: Uid, all_owners: bool) -> Self {
        let mut wanted: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        let others = record.other_threads.iter().flat_map(|threads| &threads.frames);
        let handler = record.failure.iter().flat_map(|failure| &failure.handler);
        for frame in record.stack.iter().chain(handler).chain(others) {
            if let Some(number) = frame.module {
                wanted.entry(number).or_default().insert(frame.offset);
            }
        }
        let mut numbers = Vec::new();
        let mut modules = Vec::new();
        for (number, offsets) in wanted.into_iter().take(MAX_MODULES) {
            let module = record.modules.get(number as usize);
            if let Some((module, build_id)) = module.and_then(|module| Some((module, module.build_id.clone()?))) {
                numbers.push(number);
                modules.push(ModuleRequest {
                    path: module.path.clone(),
                    build_id,
                    offsets: offsets.into_iter().collect(),
                });
            }
        }
        let request = Request { caller: caller.as_raw(), all_owners, modules };
        if request.modules.is_empty() {
            return Self::default();
        }
        let mut answers: HashMap<usize, Result<Vec<Vec<Function>>, NotRead>> =
            ask(&request).unwrap_or_default().into_iter().map(|answer| (answer.module, answer.functions)).collect();
        let mut symbols = Self::default();
        for (index, (number, module)) in numbers.into_iter().zip(&request.modules).enumerate() {
            match answers.remove(&index) {
                Some(Ok(functions)) => {
                    let named = module.offsets.iter().zip(functions).map(|(offset, functions)| {
                        ((number, *offset), functions.iter().take(MAX_INLINED).map(shown).collect())
                    });
                    symbols.functions.extend(named);
                }
                Some(Err(why)) => symbols.notes.extend(note(module, Some(why))),
                None => symbols.notes.extend(note(module, None)),
            }
        }
        if symbols.notes.len() > MAX_NOTES {
            let more = symbols.notes.len() - MAX_NOTES;
            symbols.notes.truncate(MAX_NOTES);
            symbols.notes.push(format!("the same applies to {more} more files"));
        }
        symbols
    }

    /// The functions that contain a frame, the innermost first; none if no file names them.
    pub(super) fn functions(&self, frame: &Frame) -> &[Function] {
        let found = frame.module.and_then(|number| self.functions.get(&(number, frame.offset)));
        found.map_or(&[], Vec::as_slice)
    }
}

fn shown(function: &Function) -> Function {
    let text = |text: &str| printable(cut(text, MAX_NAME));
    Function { name: text(&function.name), source: function.source.as_deref().map(text) }
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
        Some(NotRead::TooLarge) => format!("{path} is too large to read function names from it"),
        None => format!("reading function names from {path} failed, or took too long"),
    })
}

/// Starts the process that reads symbols, and returns its answers as far as they come in time.
fn ask(request: &Request) -> io::Result<Vec<Answer>> {
    let end = Instant::now() + DEADLINE;
    let mut reader = Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let answers = exchange(&mut reader, request, end);
    let _ = reader.kill();
    let end = Instant::now() + GRACE;
    while matches!(reader.try_wait(), Ok(None)) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = answers?;
    // An incomplete last line is dropped.
    Ok(text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

fn exchange(reader: &mut Child, request: &Request, end: Instant) -> io::Result<Vec<u8>> {
    // The process reads its whole request before it opens a file, so this does not wait for long. Dropping the pipe ends it.
    if let Some(mut to) = reader.stdin.take() {
        to.write_all(&serde_json::to_vec(request)?)?;
    }
    match reader.stdout.take() {
        Some(mut from) => read_until(&mut from, end),
        None => Ok(Vec::new()),
    }
}

/// Reads up to the end of `from`, or as much as arrives before `end`.
fn read_until(from: &mut ChildStdout, end: Instant) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    while read.len() < MAX_ANSWERS {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => break,
            Err(Errno::EINTR) => continue,
            ready => ready?,
        };
        match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => read.extend(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
