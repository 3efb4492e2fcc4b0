//! The journal entry for a crash, with the fields that coredumpctl(1), journalctl(1) and systemctl(1) evaluate.
//!
//! `SYSLOG_IDENTIFIER=coreward` names the sender. The MESSAGE_ID is the well-known one for "a process dumped core", by which
//! coredumpctl finds entries of any sender.

use crate::crash::text::{cut, from_hexadecimal, printable, to_bytes};
use crate::crash::{
    Audience, CoreOutcome, InterpreterStack, Module, PidPin, Record, StackOwner, StackTrace, Symbol, ThreadStacks,
    Truncation, signal,
};
use coreward_wire::journal::{DUMP_MESSAGE_ID, DUMP_PRIORITY, IDENTIFIER, MAX_ENTRY, MESSAGE_ID, PRIORITY, push_field};
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

/// Bytes for which an entry has room at once.
const USUAL_ENTRY: usize = 4096;
/// The longest value of a field, in bytes. Longer values are cut.
const MAX_VALUE: usize = 8192;
/// The longest message with its stacks, in bytes.
const MAX_MESSAGE: usize = 12 << 10;
/// The most frames of a stack in the message, as systemd-coredump has.
const MAX_FRAMES: usize = 64;
/// Less of a value than this says nothing.
const LEAST_CUT: usize = 256;
/// What coredumpctl(1) takes for "unknown" in a field that it insists on: no uid (`UID_INVALID`), and no signal.
const NO_ID: u32 = u32::MAX;
const NO_SIGNAL: u32 = 0;

/// The entry as a datagram of the journal's native protocol. `core` is the core file, if one was stored.
#[must_use]
pub fn entry(record: &Record, core: Option<&Path>) -> Vec<u8> {
    let mut entry = Entry { bytes: Vec::with_capacity(USUAL_ENTRY) };
    let (message_id, priority) =
        if record.dump.is_some() { (DUMP_MESSAGE_ID, DUMP_PRIORITY) } else { (MESSAGE_ID, PRIORITY) };
    entry.add("MESSAGE_ID", message_id);
    entry.add("PRIORITY", priority);
    entry.add("SYSLOG_IDENTIFIER", IDENTIFIER);
    add_mandatory(&mut entry, record);
    entry.add("MESSAGE", &message(record));
    add_process(&mut entry, record);
    entry.add("COREDUMP_FILENAME", &core.map(|path| path.display().to_string()).unwrap_or_default());
    entry.add("COREDUMP_TRUNCATED", if record.core.truncated.is_some() { "1" } else { "" });
    add_own(&mut entry, record);
    add_packages(&mut entry, record);
    // The longest ones last: where the entry has no room, their ends are missing.
    entry.add("COREDUMP_PROC_STATUS", &record.status);
    entry.add("COREDUMP_PROC_LIMITS", &record.limits);
    entry.add_bytes("COREDUMP_PROC_AUXV", &from_hexadecimal(&record.auxv));
    entry.add("COREDUMP_ENVIRON", &record.environ);
    entry.add("COREDUMP_OPEN_FDS", &record.open_fds);
    entry.add("COREDUMP_PROC_MAPS", &record.maps);
    entry.add("COREDUMP_PROC_MOUNTINFO", &record.mountinfo);
    entry.bytes
}

/// An entry that is never longer than the shim accepts.
struct Entry {
    bytes: Vec<u8>,
}

impl Entry {
    /// Adds a field with as much of its value as there is room for. An empty value is left out.
    fn add(&mut self, name: &str, value: &str) {
        let longest = if name == "MESSAGE" { MAX_MESSAGE } else { MAX_VALUE };
        let value = cut(value, longest.min(self.room(name)));
        if !value.is_empty() {
            self.push(name, &to_bytes(value));
        }
    }

    fn add_number(&mut self, name: &str, value: Option<impl ToString>) {
        self.add(name, &value.map(|value| value.to_string()).unwrap_or_default());
    }

    /// Adds a field of which a part would be wrong.
    fn add_bytes(&mut self, name: &str, value: &[u8]) {
        if !value.is_empty() && value.len() <= MAX_VALUE.min(self.room(name)) {
            self.push(name, value);
        }
    }

    /// Bytes that a value of this field may have.
    fn room(&self, name: &str) -> usize {
        /// What the protocol adds.
        const AROUND: usize = 16;
        let room = MAX_ENTRY.saturating_sub(self.bytes.len() + name.len() + AROUND);
        if room < LEAST_CUT { 0 } else { room }
    }

    fn push(&mut self, name: &str, value: &[u8]) {
        push_field(&mut self.bytes, name, value);
    }
}

/// The fields without which coredumpctl(1) ignores an entry. What is unknown is there all the same.
fn add_mandatory(entry: &mut Entry, record: &Record) {
    entry.add_number("COREDUMP_PID", Some(record.key.pid));
    entry.add_number("COREDUMP_UID", Some(record.uid.map_or(NO_ID, nix::unistd::Uid::as_raw)));
    entry.add_number("COREDUMP_GID", Some(record.gid.map_or(NO_ID, nix::unistd::Gid::as_raw)));
    entry.add_number("COREDUMP_SIGNAL", Some(record.signal.unwrap_or(NO_SIGNAL)));
    // A process may have an empty name.
    entry.push("COREDUMP_COMM", &to_bytes(cut(&record.comm, MAX_VALUE)));
}

fn add_process(entry: &mut Entry, record: &Record) {
    let cgroup = &record.cgroup;
    entry.add_number("COREDUMP_TID", record.tid);
    entry.add("COREDUMP_THREAD_NAME", &record.thread_name);
    entry.add("COREDUMP_SIGNAL_NAME", &signal_name(record));
    entry.add_number("COREDUMP_CODE", record.siginfo.as_ref().map(|info| info.code));
    entry.add_number("COREDUMP_TIMESTAMP", Some(record.time_us));
    entry.add("COREDUMP_EXE", record.exe_path());
    entry.add("COREDUMP_HOSTNAME", &record.hostname);
    entry.add("COREDUMP_BOOT_ID", &record.key.boot_id);
    entry.add_number("COREDUMP_RLIMIT", Some(record.core_limit));
    entry.add_number("COREDUMP_DUMPABLE", record.dumpable);
    entry.add("COREDUMP_BY_PIDFD", if record.pidfd == Some(PidPin::Kernel) { "1" } else { "" });
    entry.add("COREDUMP_CMDLINE", &record.cmdline);
    entry.add("COREDUMP_CGROUP", &cgroup.path);
    entry.add("COREDUMP_UNIT", cgroup.unit.as_deref().unwrap_or_default());
    entry.add("COREDUMP_USER_UNIT", cgroup.user_unit.as_deref().unwrap_or_default());
    entry.add("COREDUMP_SLICE", cgroup.slice.as_deref().unwrap_or_default());
    entry.add_number("COREDUMP_SESSION", cgroup.session());
    entry.add_number("COREDUMP_OWNER_UID", cgroup.owner_uid());
    entry.add("COREDUMP_CWD", &record.cwd);
    entry.add("COREDUMP_ROOT", &record.root);
}

/// What no other handler says.
fn add_own(entry: &mut Entry, record: &Record) {
    let cgroup = &record.cgroup;
    entry.add("COREWARD_ID", record.id.as_str());
    entry.add("COREWARD_TITLE", &record.title());
    entry.add("COREWARD_FAULT", &record.fault_sentence(Audience::Journal).unwrap_or_default());
    entry.add("COREWARD_CORE", outcome(record));
    entry.add("COREWARD_CONTAINER", cgroup.container.as_deref().unwrap_or_default());
    entry.add("COREWARD_CONTAINER_UNIT", cgroup.container_unit.as_deref().unwrap_or_default());
    entry.add("COREWARD_POD", cgroup.pod.as_deref().unwrap_or_default());
    entry.add("COREWARD_SIGNATURE", record.signature.as_ref().map_or("", |signature| &signature.id));
    entry.add("COREWARD_DUMP", if record.dump.is_some() { "1" } else { "" });
    entry.add("COREWARD_DUMP_REASON", record.dump.as_ref().map_or("", |dump| &dump.reason));
    entry.add("COREWARD_DECISION", record.decision.keep.name());
    entry.add("COREWARD_REASON", record.decision.reason.name());
    entry.add("COREWARD_EXE_BUILD_ID", record.exe_build_id.as_deref().unwrap_or_default());
}

/// What the modules of the process say of their packages (`.note.package`), in the form of systemd-coredump: an object with one for
/// each module. The executable comes first, and modules that there is no room for are left out.
fn add_packages(entry: &mut Entry, record: &Record) {
    let is_exe = |module: &&Module| module.path == record.exe_path();
    let (exe, others): (Vec<&Module>, Vec<&Module>) = record.modules.iter().partition(is_exe);
    if let Some(package) = exe.first().and_then(|module| module.package_at_crash()) {
        entry.add("COREDUMP_PACKAGE_NAME", &package.name);
        entry.add("COREDUMP_PACKAGE_VERSION", &package.version);
    }
    let mut all = Map::from_iter([("elfType".to_owned(), Value::from("coredump"))]);
    let mut length = 64;
    for module in exe.into_iter().chain(others) {
        let mut described = module.package_metadata().unwrap_or_default();
        described.extend(module.build_id.as_deref().map(|id| ("buildId".to_owned(), Value::from(id))));
        if described.is_empty() {
            continue;
        }
        let described = Value::from(described);
        let name = printable(&module.path);
        length += described.to_string().len() + name.len() + 16;
        if length > MAX_VALUE {
            break;
        }
        all.insert(name, described);
    }
    if all.len() > 1 {
        entry.add_bytes("COREDUMP_PACKAGE_JSON", Value::from(all).to_string().as_bytes());
    }
}

/// `SIGSEGV`; empty where the signal is unknown or has no name.
fn signal_name(record: &Record) -> String {
    let has_name = record.signal.is_some() && record.signal_name.starts_with(|first: char| first.is_ascii_alphabetic());
    if has_name { format!("SIG{}", record.signal_name) } else { String::new() }
}

/// A sentence about the crash, and the stacks in the form of systemd-coredump(8): `coredumpctl info` shows no others.
fn message(record: &Record) -> String {
    let comm = printable(&record.comm);
    let uid = record.uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
    let what = match record.core.outcome {
        CoreOutcome::Stored if record.dump.is_some() => "dumped by root".to_owned(),
        CoreOutcome::None(reason) if record.dump.is_some() => {
            format!("dumped by root, no core was kept ({})", reason.name())
        }
        CoreOutcome::Stored => "dumped core".to_owned(),
        CoreOutcome::None(reason) => format!("crashed, no core was kept ({})", reason.name()),
    };
    let truncated = match record.core.truncated {
        None => String::new(),
        Some(Truncation::Stacks) => ", only the stacks, as decided".to_owned(),
        Some(cut) => format!(", truncated ({})", cut.name()),
    };
    let title = record.title();
    let meaning = match signal::meaning(record.signal) {
        "" => String::new(),
        meaning => format!(": {meaning}"),
    };
    let failed = record
        .failure
        .as_ref()
        .map(|failure| format!("\nFailed: {}", failure.sentence(record.tid)))
        .unwrap_or_default();
    let fault = record.fault_sentence(Audience::Journal).map(|fault| format!("\nFault: {fault}")).unwrap_or_default();
    let why = match &record.dump {
        None => format!("Signal {}{meaning}{fault}{failed}", record.signal_name),
        Some(dump) if dump.reason.is_empty() => "It goes on".to_owned(),
        Some(dump) => format!("It goes on. Reason: {}", printable(&dump.reason)),
    };
    let mut text = format!(
        "Process {} ({comm}) of user {uid} {what}{truncated}: {title}\n{why}\nExecutable: {}\nDetails: coreward info {}",
        record.key.pid,
        printable(&record.program()),
        record.id,
    );
    for stack in record.stack_traces() {
        if matches!(stack.owner, StackOwner::Others(..)) && text.len() > MAX_MESSAGE / 2 {
            text.push_str("\n\nThere are more threads: coreward info shows them.");
            break;
        }
        push_stack(&mut text, &stack, &record.modules);
        for line in stack.interpreter.into_iter().flat_map(InterpreterStack::lines_apart) {
            if text.len() > MAX_MESSAGE - LEAST_CUT {
                break;
            }
            let _ = write!(text, "\n{line}");
        }
    }
    text
}

fn push_stack(text: &mut String, stack: &StackTrace<'_>, modules: &[Module]) {
    if stack.frames.is_empty() {
        return;
    }
    let which = match &stack.owner {
        StackOwner::Crashed(tid) | StackOwner::Dumped(tid) => format!("thread {tid}"),
        StackOwner::Failed(tid) => format!("thread {tid}, which failed"),
        StackOwner::Handler(tid) => format!("the handler of the signal, in thread {tid}"),
        StackOwner::Others(ThreadStacks { count, tids, .. }, dumped) => match tids.first() {
            Some(tid) if *count == 1 => format!("thread {tid}{dumped}"),
            Some(tid) => format!("{count} threads, {tid} for one{dumped}"),
            None => format!("{count} threads"),
        },
    };
    let _ = write!(text, "\n\nStack trace of {which}:");
    for (number, frame) in stack.frames.iter().take(MAX_FRAMES).enumerate() {
        for line in stack.interpreter.into_iter().flat_map(|interpreter| interpreter.lines_at(number)) {
            let _ = write!(text, "\n{line}");
        }
        let module = frame.module.and_then(|number| modules.get(number as usize));
        let name = frame.symbol.as_ref().map_or_else(|| "n/a".to_owned(), Symbol::shown);
        let place = match (module, &frame.compiler) {
            (Some(module), _) => format!("{} + {:#x}", printable(&module.path), frame.offset),
            (None, Some(compiler)) => format!("compiled at run time: {}", printable(compiler)),
            (None, None) => format!("n/a + {:#x}", frame.offset),
        };
        let _ = write!(text, "\n#{number:<2} {:#018x} {name} ({place})", frame.address);
        if text.len() > MAX_MESSAGE - LEAST_CUT {
            text.push_str("\n...");
            return;
        }
    }
}

fn outcome(record: &Record) -> &'static str {
    match (record.core.outcome, record.core.truncated) {
        (CoreOutcome::Stored, None) => "stored",
        (CoreOutcome::Stored, Some(_)) => "truncated",
        (CoreOutcome::None(_), _) => "none",
    }
}
