//! `coreward dump`: the core of a process that goes on is that which gdb writes, in the same store as crashes, and counted nowhere.

use crate::access::{as_user, bed_with_users};
use crate::testbed::{Container, Daemon, Served, TestBed, coreward, eventually, gdb, program, text};
use coreward::crash::{CoreOutcome, NoCore, Reason};
use coreward::store::Listed;
use coreward_sys::ptrace;
use coreward_wire::journal::{fields, is_about_a_dump};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A process of tests/programs/living.c, which is killed when it is dropped.
struct Living {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pid: Pid,
}

impl Living {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let pid = Pid::from_raw(child.id().cast_signed());
        let mut living = Self { child, input, output, pid };
        assert_eq!(living.line(), "ready");
        living
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn ask(&mut self, what: &str) -> u64 {
        self.tell(what);
        self.line().parse().unwrap()
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.input, "{what}").unwrap();
    }

    /// Its threads run, none of its system calls has failed, and nobody traces it.
    #[track_caller]
    fn assert_unharmed(&mut self) {
        let before = self.ask("count");
        eventually(Duration::from_secs(5), || self.ask("count") > before);
        assert_eq!(self.ask("errors"), 0);
        assert_eq!(status_field(self.pid, "TracerPid"), "0");
    }

    fn state(&self) -> char {
        status_field(self.pid, "State").chars().next().unwrap()
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn status_field(pid: Pid, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().to_owned()
}

fn dump(bed: &TestBed, pid: Pid, arguments: &[&str]) -> Output {
    let pid = pid.to_string();
    coreward(bed, &[&["dump", &pid][..], arguments].concat())
}

/// The dump, which must have been stored whole.
#[track_caller]
fn dumped(bed: &TestBed, pid: Pid) -> Listed {
    text(&dump(bed, pid, &[]));
    let listed = bed.crashes().pop().unwrap();
    let record = &listed.record;
    assert_eq!((&record.core.outcome, record.core.truncated), (&CoreOutcome::Stored, None), "{:?}", record.warnings);
    assert_eq!((record.key.pid, record.core.bytes), (pid, record.core.expected));
    assert_eq!(record.warnings, [] as [String; 0]);
    listed
}

#[track_caller]
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn started() -> (TestBed, Daemon) {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    (bed, daemon)
}

/// What gdb says of a core, by thread where there are several: gdb numbers threads as it finds them. Of vector registers those that gdb finds in
/// the kernel's own cores on every processor: it does not know where some have the others, and says so in warnings.
///
/// Of a 32-bit program gdb then shows none, nor those of the floating point unit.
fn told(exe: &Path, core: &Path, commands: &[&str]) -> Vec<String> {
    let ask = |commands: &[&str]| {
        let said = gdb(exe, core, &[&["echo BEGIN\\n"][..], commands].concat());
        let (_, said) = said.split_once("BEGIN\n").unwrap();
        let is_mask = |line: &str| line.starts_with('k') && line.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        let is_said = |line: &&str| {
            !(line.is_empty() || line.starts_with("warning:") || line.contains("No such file") || is_mask(line))
        };
        said.lines().filter(is_said).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut told = vec![ask(&["info auxv"]).join("\n"), ask(&["info proc mappings"]).join("\n")];
    let commands: Vec<String> = commands.iter().map(|command| format!("thread apply all {command}")).collect();
    let mut threads: Vec<String> = Vec::new();
    for line in ask(&commands.iter().map(String::as_str).collect::<Vec<_>>()) {
        match line.split_once("(LWP ") {
            Some((_, lwp)) if line.starts_with("Thread ") => threads.push(format!("LWP {lwp}\n")),
            // A value has a number, which counts on.
            _ => threads.last_mut().into_iter().for_each(|text| {
                *text += line.split_once(" = ").filter(|_| line.starts_with('$')).map_or(&*line, |(_, value)| value);
                text.push('\n');
            }),
        }
    }
    threads.sort();
    told.extend(threads);
    told
}

/// Writes a core with gdb.
fn gcore(bed: &TestBed, pid: Pid) -> PathBuf {
    let core = bed.path("gcore");
    let write = format!("generate-core-file {}", core.display());
    let output = Command::new("gdb")
        .args(["-nx", "-batch", "-ex", "set debuginfod enabled off", "-p", &pid.to_string(), "-ex", &write])
        .output()
        .unwrap();
    assert!(core.exists(), "{output:?}");
    core
}

#[test]
fn gdb_says_the_same_of_a_dump_as_of_its_own_core_and_a_stopped_process_stays_stopped() {
    let (bed, _daemon) = started();
    const ALL: &[&str] = &["bt", "info registers", "info float", "p $xmm0", "p $xmm7", "p $mxcsr"];
    for (name, commands) in [("living", ALL), ("living-i386", &ALL[..2])] {
        let exe = program(name);
        let mut living = Living::start(Command::new(&exe).args(["5", "2"]));
        // The main thread waits for a line.
        eventually(Duration::from_secs(5), || living.state() == 'S');
        kill(living.pid, Signal::SIGSTOP).unwrap();
        eventually(Duration::from_secs(5), || living.state() == 'T');
        let listed = dumped(&bed, living.pid);
        eventually(Duration::from_secs(5), || living.state() == 'T');
        assert_eq!(status_field(living.pid, "TracerPid"), "0");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(living.state(), 'T');
        let (ours, gdbs) = (bed.core(&listed), gcore(&bed, living.pid));
        let (ours_told, gdbs_told) = (told(&exe, &ours, commands), told(&exe, &gdbs, commands));
        // Two tables, and of the main thread, five others and the one that counts what the commands say.
        let expected = 2 + 7 * commands.len();
        assert_eq!((ours_told.len(), gdbs_told.len()), (expected, expected));
        for (ours, gdbs) in ours_told.iter().zip(&gdbs_told) {
            assert_eq!(ours, gdbs, "{name}");
        }
        let trace = gdb(&exe, &ours, &["thread apply all bt"]);
        for function in ["wait_in_read", "wait_in_sleep", "wait_in_futex", "count", "answer"] {
            assert!(trace.contains(&format!(" {function} (")), "{name}: {function} is missing in\n{trace}");
        }
        assert!(!trace.contains("Program terminated"), "{trace}");
        let bytes = fs::read(&ours).unwrap();
        let has = |first: u8| {
            let pattern: Vec<u8> = (0..32).map(|at| first + at % 7).collect();
            bytes.windows(32).any(|window| window == pattern)
        };
        assert!(has(b'a') && !has(b'H'), "{name}: MADV_DONTDUMP");
        kill(living.pid, Signal::SIGCONT).unwrap();
        living.assert_unharmed();
        fs::remove_file(gdbs).unwrap();
    }
}

#[test]
fn dumps_and_a_later_crash_are_kept_apart_and_only_the_crash_is_counted() {
    let (bed, daemon) = started();
    let exe = program("living");
    let mut living = Living::start(&mut Command::new(&exe));
    let first = text(&dump(&bed, living.pid, &["--reason", "slow\nsince noon"]));
    living.assert_unharmed();
    dumped(&bed, living.pid);
    living.assert_unharmed();
    assert_eq!(daemon.count("coredump_process_count", ""), 0);
    living.tell("crash");
    let crashes = bed.wait_for(3);
    let [one, two, crash] = &crashes[..] else { unreachable!() };
    assert!(first.contains(&format!("Dumped process {} (living), stopped for ", living.pid)), "{first}");
    assert!(first.ends_with(&format!("Open it with: coreward debug {}\n", one.id())), "{first}");

    let record = &one.record;
    assert_eq!(record.dump.as_ref().map(|dump| dump.reason.as_str()), Some("slow\nsince noon"));
    assert_eq!((record.signal, record.signal_name.as_str()), (None, "dump"));
    assert!(record.signature.is_none() && record.siginfo.is_none() && record.fault.is_none());
    assert_eq!(record.decision.reason, Reason::Requested);
    assert_eq!((record.tid, record.uid, record.dumpable), (Some(living.pid), Some(Uid::from_raw(0)), Some(1)));
    assert_eq!(record.hostname, crash.record.hostname);
    assert_eq!(record.exe_build_id, crash.record.exe_build_id);
    assert!(record.stack.len() > 2 && record.other_threads.len() >= 3, "{record:?}");
    assert!(two.record.dump.is_some() && crash.record.dump.is_none());
    assert_eq!([&one.record.key, &two.record.key], [&crash.record.key; 2]);
    assert_eq!(crash.record.id, crash.record.key.id(), "a crash has the id that it would have without the dumps");

    assert_eq!(daemon.count("coredump_process_count", ""), 1);
    assert_eq!(daemon.count("coreward_crashes_total", ""), 1);
    assert_eq!(daemon.count("coreward_decisions_total", ""), 1);
    assert_eq!(daemon.count("coreward_held_seconds_count", ""), 1);
    assert_eq!(daemon.count("coreward_new_signatures_total", ""), 1);
    assert_eq!(daemon.count("coreward_dumps_total", "core=\"stored\""), 2);
    assert_eq!(daemon.count("coreward_stored_cores", ""), 3);

    let list = text(&coreward(&bed, &["list"]));
    let signals: Vec<&str> = list.lines().skip(1).filter_map(|line| line.split_whitespace().nth(4)).collect();
    assert_eq!(signals, ["dump", "dump", "SEGV"], "{list}");
    assert_eq!(text(&coreward(&bed, &["list", "--signal", "dump", "--no-legend"])).lines().count(), 2);
    let groups: Value = serde_json::from_str(&text(&coreward(&bed, &["groups", "--json"]))).unwrap();
    assert_eq!((groups.as_array().unwrap().len(), &groups[0]["count"]), (1, &Value::from(1)));
    let top: Value = serde_json::from_str(&text(&coreward(&bed, &["top", "--json"]))).unwrap();
    assert_eq!(top["crashes"], 1);
    let info = text(&coreward(&bed, &["info", one.id().as_str()]));
    for line in [
        "Dump: by root, of a living process, which went on: slow\\nsince noon",
        "Decision: the whole core: root asked for it",
        "Stack trace of thread ",
    ] {
        assert!(info.contains(line), "{line} in {info}");
    }
    assert!(!info.contains("Signal:") && !info.contains("which crashed"), "{info}");
    let trace =
        text(&coreward(&bed, &["debug", one.id().as_str(), "--", "-nx", "-batch", "-ex", "thread apply all bt"]));
    assert!(trace.contains(" wait_in_sleep ("), "{trace}");
    let core = bed.path("exported");
    text(&coreward(&bed, &["export", one.id().as_str(), "-o", core.to_str().unwrap()]));
    assert_eq!(fs::metadata(&core).unwrap().len(), record.core.bytes);

    let entries = bed.journal();
    assert_eq!(entries.len(), 3);
    assert!(is_about_a_dump(&entries[0]) && is_about_a_dump(&entries[1]) && !is_about_a_dump(&entries[2]));
    let message = fields(&entries[0]).flatten().find(|(name, _)| *name == b"MESSAGE").unwrap().1.to_vec();
    let message = String::from_utf8(message).unwrap();
    let begins = format!("Process {} (living) of user 0 dumped by root: Dump in ", living.pid);
    assert!(message.starts_with(&begins) && message.contains("It goes on. Reason: slow\\nsince noon"), "{message}");
    assert_eq!(bed.kmsg(), "");
}

#[test]
fn coredumpctls_dump_still_writes_the_core_of_a_crash() {
    let (bed, _daemon) = started();
    let mut living = Living::start(&mut Command::new(program("living")));
    living.tell("crash");
    let crashes = bed.wait_for(1);
    living.child.wait().unwrap();
    let (pid, core) = (living.pid.to_string(), bed.path("core"));
    text(&coreward(&bed, &["dump", &pid, "-o", core.to_str().unwrap()]));
    assert_eq!(fs::metadata(&core).unwrap().len(), crashes[0].record.core.bytes);
    let message = refused(&coreward(&bed, &["dump", &pid]));
    assert!(message.contains(&format!("no process {pid}; `coreward export {pid}`")), "{message}");
    let piped = coreward(&bed, &["dump", "living"]);
    assert_eq!(piped.stdout.len() as u64, crashes[0].record.core.bytes);
}

#[test]
fn a_process_goes_on_when_the_command_is_killed_or_the_daemon_hangs() {
    let (bed, daemon) = started();
    let mut living = Living::start(&mut Command::new(program("living")));
    daemon.signal(Signal::SIGSTOP);
    let pid = living.pid.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_coreward"));
    let mut killed = command.arg("--root").arg(bed.root.path()).args(["dump", &pid]).spawn().unwrap();
    eventually(Duration::from_secs(5), || living.state() == 't');
    killed.kill().unwrap();
    killed.wait().unwrap();
    living.assert_unharmed();
    // That one ends by itself.
    let begun = Instant::now();
    let message = refused(&dump(&bed, living.pid, &[]));
    assert!(message.contains("no daemon took it within 5 s"), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    living.assert_unharmed();
    daemon.signal(Signal::SIGCONT);
    std::thread::sleep(Duration::from_millis(500));
    assert!(bed.crashes().is_empty(), "nothing that was not confirmed is recorded");
    dumped(&bed, living.pid);
    living.assert_unharmed();
}

/// A program that maps a page of the file that is its argument below everything else, and waits.
const MAPS_LOW: &str = "
import ctypes, sys, time
mmap = ctypes.CDLL(None, use_errno=True).mmap
mmap.restype, mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
file = open(sys.argv[1])
assert mmap(0x10000, 4096, 1, 0x12, file.fileno(), 0) == 0x10000, ctypes.get_errno()
print('ready', flush=True)
time.sleep(600)";

#[test]
fn memory_that_does_not_answer_does_not_keep_the_command() {
    let (bed, _daemon) = started();
    let files = bed.path("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("page"), [1; 4096]).unwrap();
    let served = Served::new(&files, &bed.path("served"));
    let page = served.path.join("page");
    let mut python = Command::new("/usr/bin/python3");
    let living = Living::start(python.args(["-c", MAPS_LOW]).arg(&page));
    served.stop();
    let begun = Instant::now();
    let output = dump(&bed, living.pid, &[]);
    let took = begun.elapsed();
    assert_eq!(status_field(living.pid, "TracerPid"), "0");
    served.go_on();
    assert!(took < Duration::from_secs(20), "{took:?} {output:?}");
    // The daemon's reader is given up as well.
    let message = refused(&output);
    assert!(message.contains("reading the core blocked") && message.contains("the process goes on"), "{message}");
}

#[test]
fn without_a_daemon_the_dump_is_refused() {
    let bed = TestBed::new();
    let mut living = Living::start(&mut Command::new(program("living")));
    let message = refused(&dump(&bed, living.pid, &[]));
    assert!(message.contains("no daemon at "), "{message}");
    living.assert_unharmed();
    assert!(bed.names("run/coreward/spool").is_empty() && bed.names("var/lib/coreward/spool").is_empty());
}

#[test]
fn what_cannot_be_dumped_is_refused_with_the_reason() {
    let (bed, daemon) = started();
    let mut living = Living::start(&mut Command::new(program("living")));
    // This thread is the tracer.
    ptrace::seize(living.pid).unwrap();
    let message = refused(&dump(&bed, living.pid, &[]));
    let expected = format!("process {} is being traced by process {} (", living.pid, std::process::id());
    assert!(message.contains(&expected), "{message}");
    ptrace::interrupt(living.pid).unwrap();
    eventually(Duration::from_secs(5), || matches!(ptrace::poll(living.pid), ptrace::Stop::Stopped { .. }));
    ptrace::detach(living.pid, 0).unwrap();
    living.assert_unharmed();

    // One thread that is traced is enough; the others go on.
    let threads = fs::read_dir(format!("/proc/{}/task", living.pid)).unwrap();
    let tids = threads.map(|thread| thread.unwrap().file_name().to_str().unwrap().parse::<i32>().unwrap());
    let other = Pid::from_raw(tids.filter(|tid| *tid != living.pid.as_raw()).max().unwrap());
    ptrace::seize(other).unwrap();
    let message = refused(&dump(&bed, living.pid, &[]));
    assert!(message.contains("is being traced by process"), "{message}");
    ptrace::interrupt(other).unwrap();
    eventually(Duration::from_secs(5), || matches!(ptrace::poll(other), ptrace::Stop::Stopped { .. }));
    ptrace::detach(other, 0).unwrap();
    living.assert_unharmed();
    let message = refused(&dump(&bed, other, &[]));
    assert!(message.contains(&format!("coreward dump {}", living.pid)), "{message}");

    let message = refused(&dump(&bed, Pid::from_raw(daemon.pid()), &[]));
    assert!(message.contains("belongs to Coreward's daemon"), "{message}");
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.pid())).unwrap();
    if let Some(reader) = children.split_whitespace().next() {
        let message = refused(&dump(&bed, Pid::from_raw(reader.parse().unwrap()), &[]));
        assert!(message.contains("belongs to Coreward's daemon"), "{message}");
    }
    for (pid, expected) in
        [(1, "process 1 is not dumped"), (2, "a thread of the kernel"), (4_194_305, "no process 4194305")]
    {
        let message = refused(&dump(&bed, Pid::from_raw(pid), &[]));
        assert!(message.contains(expected), "{message}");
    }
    // Root alone, also for a process of one's own.
    let command = bed.path("coreward");
    fs::copy(env!("CARGO_BIN_EXE_coreward"), &command).unwrap();
    let mut own = as_user(1234, Path::new("sleep")).arg("60").spawn().unwrap();
    let output =
        as_user(1234, &command).arg("--root").arg(bed.root.path()).args(["dump", &own.id().to_string()]).output();
    let message = refused(&output.unwrap());
    assert!(message.contains("only root may stop and dump a process"), "{message}");
    own.kill().unwrap();
    own.wait().unwrap();
    assert!(bed.crashes().is_empty() && bed.journal().is_empty());
}

#[test]
fn a_dump_that_may_not_be_stored_says_why() {
    let bed = TestBed::new();
    let mut living = Living::start(Command::new(program("living")).args(["3", "24"]));
    bed.configure("[Coreward]\nStorage=none\n");
    let daemon = bed.daemon();
    let message = refused(&dump(&bed, living.pid, &[]));
    assert!(message.contains("is recorded without a core: ") && message.contains("Storage=none"), "{message}");
    assert_eq!(bed.crashes()[0].record.core.outcome, CoreOutcome::None(NoCore::Configured));
    living.assert_unharmed();
    assert_eq!(daemon.count("coreward_dumps_total", "core=\"none\""), 1);
    assert_eq!(daemon.stop(), Some(0));
    bed.clear_sockets();
    bed.configure("[Coreward]\nMaxUse=4K\nKeepFree=0\n");
    let daemon = bed.daemon();
    let message = refused(&dump(&bed, living.pid, &[]));
    assert!(message.contains("quota"), "{message}");
    living.assert_unharmed();
    assert_eq!(daemon.count("coreward_errors_total", ""), 0, "whoever asked is told, and nobody is alerted");
}

#[test]
fn storms_rates_and_the_limit_on_cores_do_not_stop_a_dump() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=1\nStormStacks=0\nUnitBurst=2\nTotalBurst=2\nEnforceCoreLimit=yes\n");
    let _daemon = bed.daemon();
    let exe = program("living");
    let mut living = Living::start(Command::new("sh").args(["-c", "ulimit -c 0; exec \"$0\""]).arg(&exe));
    for _ in 0..4 {
        dumped(&bed, living.pid);
    }
    living.assert_unharmed();
    drop(living);
    // They took nobody's place.
    let mut crashing = Living::start(Command::new("sh").args(["-c", "ulimit -c unlimited; exec \"$0\""]).arg(&exe));
    crashing.tell("crash");
    let crashes = bed.wait_for(5);
    assert_eq!(crashes[4].record.core.outcome, CoreOutcome::Stored, "{:?}", crashes[4].record.decision);
}

#[test]
fn two_thousand_threads_are_stopped_and_go_on() {
    let (bed, _daemon) = started();
    let exe = program("living");
    let mut living = Living::start(Command::new(&exe).arg("2000"));
    let listed = dumped_of_many(&bed, living.pid);
    living.assert_unharmed();
    let held = Duration::from_micros(listed.record.held_us);
    println!("2,000 threads were stopped for {held:?}");
    assert!(held < Duration::from_secs(10), "{held:?}");
    let threads = gdb(&exe, &bed.core(&listed), &["info threads"]);
    let listed = threads.lines().filter(|line| line.contains("(LWP ") && !line.starts_with('['));
    assert_eq!(listed.count(), 2002, "{threads}");
}

/// As [`dumped`], of a process of whose threads not all stacks are in the record.
fn dumped_of_many(bed: &TestBed, pid: Pid) -> Listed {
    text(&dump(bed, pid, &[]));
    let listed = bed.crashes().pop().unwrap();
    let core = &listed.record.core;
    assert_eq!((&core.outcome, core.truncated, core.bytes), (&CoreOutcome::Stored, None, core.expected));
    listed
}

#[test]
fn a_thread_that_cannot_be_interrupted_is_reported_and_the_others_are_dumped() {
    let (bed, _daemon) = started();
    let mut living = Living::start(&mut Command::new(program("living")));
    living.tell("vfork");
    assert_eq!(living.line(), "forks");
    let output = dump(&bed, living.pid, &[]);
    let shown = text(&output);
    assert!(shown.contains("Dumped process"), "{output:?}");
    let record = bed.crashes().pop().unwrap().record;
    let expected = format!("threads that did not stop within 2 s: {} (", living.pid);
    assert!(record.warnings.iter().any(|warning| warning.starts_with(&expected)), "{:?}", record.warnings);
    assert_ne!(record.tid, Some(living.pid));
    living.assert_unharmed();
}

#[test]
fn the_dump_of_a_user_is_the_users_and_that_of_a_set_uid_program_is_roots() {
    let bed = bed_with_users();
    let _daemon = bed.daemon();
    let plain = bed.path("plain");
    fs::copy(program("living"), &plain).unwrap();
    let mut living = Living::start(&mut as_user(1234, &plain));
    let listed = dumped(&bed, living.pid);
    assert_eq!((listed.record.uid, listed.record.privileged), (Some(Uid::from_raw(1234)), false));
    living.assert_unharmed();
    let setuid = bed.path("setuid");
    fs::copy(program("living"), &setuid).unwrap();
    std::os::unix::fs::chown(&setuid, Some(1235), Some(1235)).unwrap();
    fs::set_permissions(&setuid, PermissionsExt::from_mode(0o4755)).unwrap();
    let mut living = Living::start(&mut as_user(1234, &setuid));
    let listed = dumped(&bed, living.pid);
    assert_eq!((listed.record.uid, listed.record.privileged), (Some(Uid::from_raw(1234)), true));
    living.assert_unharmed();
    let readable = |listed: &Listed, uid| {
        let core = listed.core_file.as_ref().unwrap();
        as_user(uid, Path::new("head")).arg("-c1").arg(core).output().unwrap().status.success()
    };
    let dumps = bed.crashes();
    assert!(readable(&dumps[0], 1234) && !readable(&dumps[0], 1235));
    assert!(!readable(&dumps[1], 1234) && !readable(&dumps[1], 1235));
}

#[test]
fn a_process_in_a_container_is_dumped_by_its_pid_on_the_host_and_found_by_its_machine() {
    let (bed, _daemon) = started();
    let mut container = Container::new(&bed, "box");
    fs::write(container.root().join("living"), "").unwrap();
    container.share(&program("living-static"), "/living");
    let mut living = Living::start(&mut container.command(0, &["/living"]));
    let inside = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        (exe == Path::new("/living")).then_some(pid)
    });
    let listed = dumped(&bed, inside.unwrap());
    let record = &listed.record;
    assert_eq!((record.hostname.as_str(), record.pid_inside()), ("box", Some(Pid::from_raw(1))));
    assert_eq!(record.cgroup.container.as_ref(), Some(&container.id));
    let before = living.ask("count");
    eventually(Duration::from_secs(5), || living.ask("count") > before);
    let trace = gdb(&program("living-static"), &bed.core(&listed), &["thread apply all bt"]);
    assert!(trace.contains(" wait_in_futex ("), "{trace}");
    // The newest of all is another one.
    let mut other = Living::start(&mut Command::new(program("living")));
    dumped(&bed, other.pid);
    other.assert_unharmed();
    let short = &container.id[..12];
    for arguments in [["info", "-M", short], ["info", "--machine", short], ["info", "--container", &container.id]] {
        assert!(text(&coreward(&bed, &arguments)).contains(listed.id().as_str()), "{arguments:?}");
    }
    assert_eq!(text(&coreward(&bed, &["list", "-M", short, "--no-legend"])).lines().count(), 1);
    let none = refused(&coreward(&bed, &["info", "-M", "other", "living"]));
    assert!(none.contains(r#"no crash in container "other" matches "living""#), "{none}");
    drop(living);
    container.delete();
}
