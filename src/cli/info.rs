//! `coreward info`.

use super::crash_context::{self, CrashContext};
use super::crash_selector::CrashSelector;
use super::debuginfod::{self, Debuginfod};
use super::error::CliError;
use super::stack_lines::{FrameLines, frame_lines};
use super::symbols::{Sources, Symbols};
use super::titles::Titles;
use super::{explanations, human, json, lookup, module_packages, time};
use crate::crash::text::printable;
use crate::crash::{
    Audience, CoreOutcome, Dump, Fault, InterpreterStack, Keep, Level, Origin, PidPin, Record, RuntimeReport, SigInfo,
    Signature, Truncation, signal,
};
use crate::store::Listed;
use clap::Args;
use coreward_wire::paths::Root;
use nix::unistd::Uid;
use std::io::{self, Write};
use std::process::ExitCode;

/// Options of `info`.
#[derive(Args, Debug)]
pub(super) struct InfoOptions {
    #[command(flatten)]
    crash: CrashSelector,
    /// Show the whole record as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// Read function names also from files that belong to other users
    ///
    /// By default only files of root and of the caller are read: others could be made to mislead or delay whoever looks at the
    /// crash. A process without privileges reads them in any case.
    #[arg(long)]
    all_symbols: bool,
    /// Fetch missing debug symbols from the debuginfod servers of the environment (DEBUGINFOD_URLS)
    ///
    /// They tell source lines and inlined functions. They are kept in the cache that other debuginfod clients use, and used from there from
    /// then on. The servers learn the build-ids of the programs that crashed.
    #[arg(long, conflicts_with = "json")]
    debuginfod: bool,
}

pub(super) fn run(root: &Root, caller: Uid, options: &InfoOptions, out: &mut dyn Write) -> Result<ExitCode, CliError> {
    let listed = lookup::find_crash(root, &options.crash)?;
    if options.json {
        json::write(out, &Titles::new(root).with_packages(&listed))?;
    } else {
        // The symbols last: reading them may need a process of its own.
        let context = CrashContext::look_up(root, &listed);
        let cache = debuginfod::cache_dir(root, caller);
        let mut debuginfod = if options.debuginfod { Some(Debuginfod::from_environment(cache.clone())?) } else { None };
        let sources = Sources { root, caller, all_owners: options.all_symbols, cache };
        let symbols = Symbols::look_up(&listed.record, &sources, debuginfod.as_mut());
        show(&listed, &context, &symbols, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What `info` shows of a crash, for a bundle of it.
pub(super) fn report(root: &Root, caller: Uid, listed: &Listed) -> io::Result<Vec<u8>> {
    let mut report = Vec::new();
    let context = CrashContext::look_up(root, listed);
    let sources = Sources { root, caller, all_owners: false, cache: debuginfod::cache_dir(root, caller) };
    show(listed, &context, &Symbols::look_up(&listed.record, &sources, None), &mut report)?;
    Ok(report)
}

fn show(listed: &Listed, context: &CrashContext, symbols: &Symbols, out: &mut dyn Write) -> io::Result<()> {
    if !context.title.is_empty() {
        writeln!(out, "{}\n", context.title)?;
    }
    let lines = lines(listed, context);
    let width = lines.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    for (label, text) in &lines {
        writeln!(out, "{label:>width$}: {text}")?;
    }
    write_stacks(&listed.record, symbols, out)?;
    for (index, note) in symbols.notes.iter().enumerate() {
        writeln!(out, "{}Note: {note}.", if index == 0 { "\n" } else { "" })?;
    }
    if explanations::why_no_core(listed).is_none() {
        writeln!(out, "\nOpen it with: coreward debug {}", listed.id())?;
    } else if let Some(id) = &context.with_core {
        writeln!(out, "\nThe newest core of this signature: coreward debug {}", printable(id))?;
    }
    Ok(())
}

/// All stacks. Threads with the same stack are shown together.
fn write_stacks(record: &Record, symbols: &Symbols, out: &mut dyn Write) -> io::Result<()> {
    for stack in record.stack_traces() {
        if !stack.frames.is_empty() {
            writeln!(out, "\n{}:", stack.owner)?;
        }
        for frame in frame_lines(record, &stack, symbols) {
            for line in stack.interpreter.into_iter().flat_map(|interpreter| interpreter.lines_at(frame.number)) {
                writeln!(out, "{line}")?;
            }
            write_frame(&frame, out)?;
        }
        for line in stack.interpreter.into_iter().flat_map(InterpreterStack::lines_apart) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// One line per function.
fn write_frame(lines: &FrameLines<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (number, address, place) = (lines.number, lines.frame.address, lines.place());
    if lines.functions.is_empty() {
        writeln!(out, "#{number:<2} {address:#018x} {place}")?;
    }
    for (function, mark) in lines.marked_functions() {
        let source = function.source.as_ref().map(|source| format!(" ({source})")).unwrap_or_default();
        writeln!(out, "#{number:<2} {address:#018x} {}{source}{mark} in {place}", function.name)?;
    }
    Ok(())
}

/// Labels and texts. What is unknown has no line.
pub(super) fn lines(listed: &Listed, context: &CrashContext) -> Vec<(&'static str, String)> {
    let Listed { record, .. } = listed;
    let cgroup = &record.cgroup;
    let text = |text: &str| (!text.is_empty()).then(|| printable(text));
    let maybe = |text: &Option<String>| text.as_deref().map(printable);
    let lines = [
        ("ID", Some(record.id.to_string())),
        ("PID", Some(format!("{} ({})", record.key.pid, printable(&record.comm)))),
        ("PID Inside", record.pid_inside().map(|pid| format!("{pid}, in the PID namespace of the process"))),
        ("TID", thread(record)),
        ("UID", record.uid.map(human::user)),
        ("GID", record.gid.map(human::group)),
        ("Dump", record.dump.as_ref().map(dump)),
        ("Signal", record.dump.is_none().then(|| signal_line(record))),
        ("Signal Info", record.siginfo.as_ref().map(|info| signal_info(record, info))),
        ("Fault", record.fault_sentence(Audience::Record)),
        ("Instruction", record.fault.as_ref().and_then(instruction)),
        ("Failed", record.failure.as_ref().map(|failure| failure.sentence(record.tid))),
        (
            "Repeats",
            context.child.as_ref().map(|(pid, id)| {
                format!("crash {id}: its child {pid} died of this signal, and the process sent it to itself")
            }),
        ),
        ("Pinned", pinned(record)),
        ("Timestamp", Some(time::long(record.time_us))),
        ("Signature", record.signature.as_ref().map(signature)),
        ("Command Line", command_line(record)),
        ("Executable", executable(record)),
        ("Package", module_packages::line(record, &context.packages)),
        ("Interpreter", record.interpreter.as_ref().map(interpreter)),
        ("Runtime Report", record.runtime_report.as_ref().map(|report| runtime_report(record, report))),
        ("Parent", parent(record)),
        ("Namespaces", namespaces(record)),
        ("Control Group", text(&cgroup.path)),
        ("Unit", maybe(&cgroup.unit)),
        ("User Unit", maybe(&cgroup.user_unit)),
        ("Slice", maybe(&cgroup.slice)),
        ("Container", maybe(&cgroup.container)),
        ("Container Unit", maybe(&cgroup.container_unit)),
        ("Pod", maybe(&cgroup.pod)),
        ("Root", text(&record.root).filter(|root| root != "/")),
        ("Directory", text(&record.cwd)),
        ("Hostname", text(&record.hostname)),
        ("Boot ID", text(&record.key.boot_id)),
        ("Kernel", text(&record.kernel).map(|kernel| format!("{kernel} ({})", printable(&record.machine)))),
        ("Held", Some(held(record))),
        ("Origin", Some(origin(record).to_owned())),
        (
            "Attempt",
            (record.attempt > 1)
                .then(|| format!("{} (earlier offers of this crash were not answered)", record.attempt)),
        ),
        (
            "Privileged",
            record.privileged.then(|| {
                "it had, or may have had, more privileges than its user: only root and adm may read the core".to_owned()
            }),
        ),
        ("Dumpable", dumpable(record)),
        ("Environment", text(&record.environ.trim_end().replace('\n', " "))),
        ("Decision", Some(crash_context::decision(record, context.settings.as_deref()))),
        ("Storage", Some(storage(listed))),
        ("Size", record.core.is_stored().then(|| sizes(record))),
        ("Truncated", truncated(listed)),
    ];
    let known = lines.into_iter().filter_map(|(label, text)| Some((label, text?)));
    let warnings = record.warnings.iter().map(|warnings| ("Warning", printable(warnings)));
    known.chain(warnings).collect()
}

/// That nothing crashed, and why it is here.
fn dump(dump: &Dump) -> String {
    let why = if dump.reason.is_empty() { String::new() } else { format!(": {}", printable(&dump.reason)) };
    format!("by root, of a living process, which went on{why}")
}

fn held(record: &Record) -> String {
    let from = if record.dump.is_some() {
        "while it was copied; then it went on"
    } else {
        "from the crash to the release of the process"
    };
    format!("{} {from}", human::duration(record.held_us))
}

/// The thread that crashed, unless it is the main thread under the name of the process.
fn thread(record: &Record) -> Option<String> {
    let name = printable(&record.thread_name);
    let tid =
        record.tid.filter(|tid| *tid != record.key.pid || !(name.is_empty() || record.thread_name == record.comm))?;
    Some(if name.is_empty() { tid.to_string() } else { format!("{tid} ({name})") })
}

/// How it is known that what is said here is said of the process that crashed.
fn pinned(record: &Record) -> Option<String> {
    let how = match record.pidfd? {
        PidPin::Kernel => "by a pidfd of the kernel's: the PID cannot have been another process'",
        PidPin::Shim if record.dump.is_some() => "by a pidfd that was opened before it was stopped",
        PidPin::Shim => "by a pidfd that was opened during the dump, and found to be of the process that is dumped",
    };
    Some(how.to_owned())
}

/// The kernel's dump mode, where it is not the usual one.
fn dumpable(record: &Record) -> Option<String> {
    match record.dumpable.filter(|mode| *mode != 1)? {
        2 => Some("2: it changed its privileges or may not be read, and fs.suid_dumpable=2 has it dumped".to_owned()),
        mode => Some(mode.to_string()),
    }
}

/// The arguments as a shell reads them back. Nothing in there moves a cursor, so nothing is escaped a second time.
fn command_line(record: &Record) -> Option<String> {
    let line = if record.arguments.is_empty() { printable(&record.cmdline) } else { record.arguments.quoted() };
    (!line.is_empty()).then_some(line)
}

fn signal_line(record: &Record) -> String {
    let name = printable(&record.signal_name);
    let Some(number) = record.signal else { return name };
    match signal::meaning(record.signal) {
        "" => format!("{number} ({name})"),
        meaning => format!("{number} ({name}: {meaning})"),
    }
}

/// `SEGV_MAPERR: nothing is mapped there (code 1), address 0x10`.
fn signal_info(record: &Record, info: &SigInfo) -> String {
    let code = match signal::code(record.signal, info.code) {
        Some((name, meaning)) => format!("{name}: {meaning} (code {})", info.code),
        None => format!("code {}", info.code),
    };
    match (info.address, info.sender) {
        (Some(address), _) => format!("{code}, address {address:#x}"),
        (None, Some(_)) if record.sent_by_itself() => format!("{code}, sent by the process itself"),
        (None, Some((pid, uid))) => format!("{code}, sent by process {pid} of user {uid}"),
        (None, None) => code,
    }
}

/// `mov dword ptr [rax+0x11], 1 (c7401101000000), with rax=0x0`.
fn instruction(fault: &Fault) -> Option<String> {
    let text = fault.instruction.as_deref().map(printable);
    let shown = match (text, fault.code.as_str()) {
        (None, "") => return None,
        (None, code) => printable(code),
        (Some(text), code) => format!("{text} ({})", printable(code)),
    };
    let registers: Vec<String> =
        fault.registers.iter().map(|(name, value)| format!("{}={value:#x}", printable(name))).collect();
    Some(if registers.is_empty() { shown } else { format!("{shown}, with {}", registers.join(" ")) })
}

/// The interpreter, and why frames of its program are missing.
fn interpreter(stack: &InterpreterStack) -> String {
    let name = printable(format!("{} {}", stack.title(), stack.version).trim_end());
    let missing = |reason: &String| format!("{name}; frames of the program are missing: {}", printable(reason));
    stack.incomplete.as_ref().map(missing).unwrap_or(name)
}

/// Where the runtime's own report was, and how it is read now.
fn runtime_report(record: &Record, report: &RuntimeReport) -> String {
    let (runtime, path, size) = (report.title(), printable(&report.path), human::size(report.bytes));
    let how = match report.kept {
        0 => "not kept".to_owned(),
        kept => {
            let part =
                if kept < report.bytes { format!("the first {} are kept; ", human::size(kept)) } else { String::new() };
            format!("{part}show it with: coreward export --runtime-report {}", record.id)
        }
    };
    format!("{path}, written by {runtime} ({size}; {how})")
}

/// The process that started it.
fn parent(record: &Record) -> Option<String> {
    let pid = record.parent_pid()?;
    let line = printable(&record.parent_cmdline);
    let command = if line.is_empty() { line } else { format!(" ({line})") };
    Some(format!("{pid}{command}"))
}

/// Namespaces that are not the host's.
fn namespaces(record: &Record) -> Option<String> {
    let names: Vec<String> = record.namespaces.iter().map(|name| printable(name)).collect();
    (!names.is_empty()).then(|| format!("{} of its own", names.join(", ")))
}

/// Why there is less than the whole core, unless that was decided.
fn truncated(listed: &Listed) -> Option<String> {
    let cut = listed
        .record
        .core
        .truncated
        .filter(|cut| *cut != Truncation::Stacks || listed.record.decision.keep != Keep::Stacks)?;
    Some(format!("{} ({})", explanations::why_truncated(cut), cut.name()))
}

fn signature(signature: &Signature) -> String {
    let source = match signature.level {
        Level::Stack => "from the first significant frames",
        Level::ProgramCounter => "from the program counter",
        Level::Executable if signature.variant.is_some() => {
            "from the executable and the code that it runs: its own frames tell nothing"
        }
        Level::Program if signature.variant.is_some() => {
            "from the program name and the code that it runs: its own frames tell nothing"
        }
        Level::Executable => "from the build-id of the executable: no frame could be found",
        Level::Program => "from the program name: no frame could be found",
    };
    format!("{} ({source})", printable(&signature.id))
}

fn executable(record: &Record) -> Option<String> {
    let build_id = record.exe_build_id.as_ref().map(|id| format!(" (build-id {})", printable(id)));
    (!record.exe.is_empty()).then(|| printable(&record.exe) + build_id.as_deref().unwrap_or_default())
}

fn origin(record: &Record) -> &'static str {
    match record.origin {
        Origin::Live => "live, while the process was held",
        Origin::Spool => "spool: no daemon accepted it at the time",
        Origin::Import => "import: it was recorded on another machine, or at another time",
    }
}

fn storage(listed: &Listed) -> String {
    let state = explanations::core_state(listed);
    match (&listed.core_file, explanations::why_no_core(listed)) {
        (Some(file), None) => format!("{} ({state})", printable(&file.display().to_string())),
        // What the decision says already is not said again.
        (_, Some(_)) if explanations::is_decided(listed) => format!("{state} (see Decision)"),
        (_, Some(why)) => format!("{state}: {why}"),
        (None, None) => state,
    }
}

fn sizes(record: &Record) -> String {
    let core = &record.core;
    let expected = match core.outcome {
        CoreOutcome::Stored if core.truncated.is_some() && core.expected > core.bytes => {
            format!(" of {}", human::size(core.expected))
        }
        _ => String::new(),
    };
    let tenths = if core.stored == 0 { 10 } else { u128::from(core.bytes) * 10 / u128::from(core.stored) };
    let (bytes, stored) = (human::size(core.bytes), human::size(core.stored));
    format!("{bytes}{expected} of core, {stored} on disk ({}.{}:1)", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::elf_symbols::Function;
    use crate::crash::{CoreReport, Frame, FrameTrust, NoCore, ThreadStacks};
    use crate::store::CoreState;
    use crate::store::fixtures::listed;

    fn shown(listed: &Listed) -> String {
        let mut out = Vec::new();
        show(listed, &CrashContext::default(), &Symbols::default(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_stored_crash() {
        let text = shown(&listed(7));
        for line in [
            "         PID: 7 (segv)\n",
            "         UID: 0 (root)\n",
            "      Signal: 11 (SEGV: invalid memory reference)\n",
            "Command Line: segv -x\n",
            "     Storage: /cores/x (stored)\n",
            "        Size: 8.0K of core, 2.0K on disk (4.0:1)\n",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
        assert!(
            !text.contains("Control Group") && !text.contains("Container"),
            "what is not known has no line: {text}"
        );
        assert!(text.ends_with(&format!("\n\nOpen it with: coreward debug {}\n", listed(7).id())));
    }

    #[test]
    fn a_crash_without_core_says_why_and_a_truncated_one_how_much_there_is() {
        let mut listed = listed(7);
        listed.record.core.truncated = Some(Truncation::Quota);
        listed.record.core.expected = 1 << 20;
        assert!(shown(&listed).contains("8.0K of 1.0M of core"));
        assert!(shown(&listed).contains("Truncated: the quota was reached"));
        (listed.core_state, listed.core_file) = (CoreState::None, None);
        listed.record.core = CoreReport::none(NoCore::Configured);
        let text = shown(&listed);
        assert!(
            text.contains("Storage: none:configured: Storage=none is configured\n") && !text.contains("Open it"),
            "{text}"
        );
    }

    #[test]
    fn the_other_threads_stand_behind_the_crashed_one() {
        let mut listed = listed(7);
        let frame = |address| Frame {
            address,
            module: None,
            offset: 0,
            trust: FrameTrust::CallFrameInfo,
            symbol: None,
            compiler: None,
        };
        listed.record.stack = vec![frame(0x1000)];
        let threads = |tids: Vec<u32>, count| ThreadStacks { count, tids, frames: vec![frame(0x2000), frame(0x3000)] };
        listed.record.other_threads =
            vec![threads((100..132).collect(), 40), threads(vec![8, 9], 2), threads(vec![7], 1)];
        let text = shown(&listed);
        let from = text.find("\nStack trace of thread 7, which crashed:\n#0  0x0000000000001000 ?\n").unwrap();
        for line in [
            "\n\nStack trace of 40 threads (100, 101, 102, 103, 104, 105, 106, 107, ...):\n#0  0x0000000000002000 ?\n#1  0x",
            "\n\nStack trace of 2 threads (8, 9):\n#0 ",
            "\n\nStack trace of thread 7:\n#0 ",
        ] {
            assert!(text[from..].contains(line), "{line:?} in {text}");
        }
    }

    #[test]
    fn functions_of_a_frame_have_a_line_each() {
        let function = |name: &str, source: Option<&str>| Function {
            name: name.to_owned(),
            source: source.map(str::to_owned),
            is_tail: false,
        };
        let mut out = Vec::new();
        for (number, trust, functions) in [
            (0, FrameTrust::Context, vec![function("cache_get", Some("cache.c:210"))]),
            (
                1,
                FrameTrust::CallFrameInfo,
                vec![function("lock", Some("lock.h:7")), function("lookup", None), function("main", Some("main.c:3"))],
            ),
            (12, FrameTrust::Scan, vec![function("app::run", None)]),
        ] {
            let frame =
                Frame { address: 0x55d0_0001_2345, module: None, offset: 0x2345, trust, symbol: None, compiler: None };
            let (interpreted, place) = (&[] as &[_], Some("server+0x2345".to_owned()));
            let lines = FrameLines { number, frame: &frame, interpreted, functions, place, compiler: None };
            write_frame(&lines, &mut out).unwrap();
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "#0  0x000055d000012345 cache_get (cache.c:210) in server+0x2345\n\
             #1  0x000055d000012345 lock (lock.h:7) inlined in server+0x2345\n\
             #1  0x000055d000012345 lookup inlined in server+0x2345\n\
             #1  0x000055d000012345 main (main.c:3) in server+0x2345\n\
             #12 0x000055d000012345 app::run in server+0x2345 (a guess)\n"
        );
    }

    #[test]
    fn hostile_text_adds_no_line() {
        let mut listed = listed(7);
        let lines = shown(&listed).lines().count();
        listed.record.cmdline = "a\n     Storage: /etc/passwd".to_owned();
        listed.record.comm = "\x1b[1A".to_owned();
        listed.record.exe = "/a\u{202e}".to_owned();
        let text = shown(&listed);
        assert_eq!(text.lines().count(), lines);
        assert!(!text.contains(['\x1b', '\u{202e}']));
    }
}
