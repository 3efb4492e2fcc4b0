//! Memory for which nobody answers: pages of a file on a file system that a user serves, and stops to serve. Such a crash holds
//! neither its process, nor the daemon, nor the crashes of others.

use crate::testbed::{RunToEnd, TestBed, eventually, program, run_tool};
use coreward::crash::{CoreOutcome, Origin, Record};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MODES: [&str; 5] = ["stack", "large", "cmdline", "rescan", "uffd"];
/// What a crash of 256 MiB with nothing to wait for takes at most.
const AT_ONCE: Duration = Duration::from_secs(8);

/// A process that crashes with such memory, and the servers that do not answer for it.
struct Unanswered {
    process: Child,
    pids: PathBuf,
}

impl Unanswered {
    fn start(bed: &TestBed, mode: &str, number: usize) -> Self {
        let dir = bed.path(&format!("unanswered-{number}"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::create_dir(dir.join("mount")).unwrap();
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let pids = dir.join("pids");
        let mut command = Command::new(program("unanswered"));
        command.arg(mode).arg(dir.join("mount")).arg(&pids).stdin(Stdio::null());
        if mode == "cmdline" {
            command.arg("x".repeat(20 << 10));
        }
        Self { process: command.spawn().unwrap(), pids }
    }

    /// Waits for the end of the process; returns how long it took.
    fn wait(&mut self, limit: Duration) -> Duration {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                use std::os::unix::process::ExitStatusExt;
                assert_eq!(status.signal(), Some(Signal::SIGSEGV as i32), "{status}");
                return begun.elapsed();
            }
            assert!(begun.elapsed() < limit, "process {} is still held after {limit:?}", self.process.id());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        // Only now do the servers end, and with them what waits for an answer.
        let pids = std::fs::read_to_string(&self.pids).unwrap_or_default();
        for pid in pids.lines().filter_map(|line| line.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Of one that everybody sees.
        let _ = Command::new("umount").arg("--lazy").arg(self.pids.with_file_name("mount")).quiet().status();
    }
}

fn record_of(bed: &TestBed, process: &Unanswered) -> Record {
    let pid = i32::try_from(process.process.id()).unwrap();
    let find = || bed.crashes().into_iter().find(|listed| listed.record.key.pid.as_raw() == pid);
    eventually(Duration::from_secs(30), || find().is_some());
    find().unwrap().record
}

#[test]
fn a_page_that_nobody_answers_for_is_a_zero_page_and_everything_else_is_stored() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nMaxHold=60s\n");
    let daemon = bed.daemon();
    for (number, mode) in MODES.into_iter().enumerate() {
        let mut crashing = Unanswered::start(&bed, mode, number);
        crashing.wait(AT_ONCE);
        let record = record_of(&bed, &crashing);
        assert_eq!(record.core.outcome, CoreOutcome::Stored, "{mode}: {record:?}");
        assert_eq!((record.core.truncated, record.core.bytes), (None, record.core.expected), "{mode}");
        assert!(record.siginfo.is_some() && record.exe_build_id.is_some(), "{mode}: {record:?}");
        let says_so = record.warnings.iter().any(|warning| warning.contains("may never answer"));
        assert_eq!(says_so, mode != "uffd", "{mode}: {:?}", record.warnings);
        assert_eq!(record.cmdline.is_empty(), mode == "cmdline", "{mode}: {:?}", record.cmdline);
        // No thread of the daemon waits for the answer: the next one starts at once.
        let begun = Instant::now();
        daemon.signal(Signal::SIGKILL);
        daemon.wait_for_notification("READY=1");
        assert!(begun.elapsed() < Duration::from_secs(2), "{mode}: {:?}", begun.elapsed());
    }
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_notification("READY=1");
}

#[test]
fn one_users_unanswered_crashes_cost_another_user_nothing() {
    /// `MaxHold=`, and how much longer the process may be there.
    const HELD: Duration = Duration::from_secs(20 + 5);
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nMaxHold=20s\n");
    let daemon = bed.daemon();
    let mut hanging: Vec<Unanswered> =
        (0..64).map(|number| Unanswered::start(&bed, MODES[number % 4], number)).collect();
    let crash = || {
        let begun = Instant::now();
        Command::new(program("segv")).run_to_end();
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    };
    crash();
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        daemon.signal(signal);
        let begun = Instant::now();
        daemon.wait_for_notification("READY=1");
        assert!(begun.elapsed() < Duration::from_secs(2), "{signal}: {:?}", begun.elapsed());
        crash();
    }
    let others = || bed.crashes().into_iter().filter(|listed| listed.record.comm == "segv").collect::<Vec<_>>();
    eventually(Duration::from_secs(30), || others().len() == 3);
    for listed in others() {
        let record = listed.record;
        assert!(record.stack.len() > 3 && record.core.is_stored() && record.core.truncated.is_none(), "{record:?}");
    }
    for crashing in &mut hanging {
        crashing.wait(HELD);
    }
    eventually(Duration::from_secs(60), || bed.crashes().len() == 64 + 3);
}

#[test]
fn a_saved_core_is_unwound_without_files_for_which_nobody_answers() {
    let bed = TestBed::new();
    let mut crashing = Unanswered::start(&bed, "served", 0);
    crashing.wait(AT_ONCE);
    eventually(Duration::from_secs(10), || !bed.names("var/lib/coreward/spool").is_empty());
    let daemon = bed.daemon();
    let record = record_of(&bed, &crashing);
    assert_eq!((record.origin, &record.core.outcome), (Origin::Spool, &CoreOutcome::Stored), "{record:?}");
    assert_eq!(record.warnings, [] as [String; 0]);
    assert!(!record.stack.is_empty() && record.modules.iter().any(|it| it.path.ends_with("/unanswered")), "{record:?}");
    assert!(record.modules.iter().all(|it| !it.path.ends_with("mount/f")), "{record:?}");
    // Nothing waits for the answer.
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let begun = Instant::now();
        daemon.signal(signal);
        daemon.wait_for_notification("READY=1");
        assert!(begun.elapsed() < Duration::from_secs(2), "{signal}: {:?}", begun.elapsed());
    }
    Command::new(program("segv")).run_to_end();
    bed.wait_for(2);
}

/// The processes that this one started, and those that they started.
fn descendants(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<i32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    children.iter().copied().chain(children.iter().flat_map(|child| descendants(*child))).collect()
}

fn descriptors(pid: i32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|number| number.parse::<u32>().unwrap() > 2));
    targets.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned())).collect()
}

#[test]
fn a_reader_that_does_not_answer_costs_its_crash_the_stack_and_nothing_else() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nModules=none\n");
    let daemon = bed.daemon();
    Command::new(program("segv")).run_to_end();
    bed.wait_for(1);
    let readers = descendants(daemon.pid());
    assert!(readers.len() >= 2, "the process that makes readers, and one: {readers:?}");
    for reader in &readers {
        let open = descriptors(*reader);
        assert!(open.len() == 1 && open[0].starts_with("socket:"), "{open:?}");
        for number in 0..=2 {
            let standard = std::fs::read_link(format!("/proc/{reader}/fd/{number}")).unwrap();
            assert_eq!(standard, PathBuf::from("/dev/null"), "what it writes is in no log");
        }
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", readers[1])).unwrap();
    assert!(limits.lines().any(|line| line.starts_with("Max cpu time") && line.contains("900")), "{limits}");
    for reader in &readers[1..] {
        kill(Pid::from_raw(*reader), Signal::SIGSTOP).unwrap();
    }
    let begun = Instant::now();
    Command::new(program("segv")).run_to_end();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let crashes = bed.wait_for(2);
    let record = &crashes.iter().max_by_key(|listed| listed.record.time_us).unwrap().record;
    assert!(record.core.is_stored() && record.core.truncated.is_none(), "{record:?}");
    assert!(record.warnings.iter().any(|warning| warning.contains("stack")), "{record:?}");
    assert!(descendants(daemon.pid()).iter().all(|pid| !readers[1..].contains(pid)), "they were killed");
    Command::new(program("segv")).run_to_end();
    let crashes = bed.wait_for(3);
    let record = &crashes.iter().max_by_key(|listed| listed.record.time_us).unwrap().record;
    assert!(record.stack.len() > 3 && record.core.is_stored(), "{record:?}");
    assert_eq!(record.warnings, [] as [String; 0]);
    // Nothing of it stays when it is killed.
    let all = descendants(daemon.pid());
    daemon.signal(Signal::SIGKILL);
    daemon.wait_for_notification("READY=1");
    eventually(Duration::from_secs(2), || all.iter().all(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()));
}

#[test]
fn a_daemon_without_the_process_that_makes_readers_ends_and_the_next_has_one() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let maker = descendants(daemon.pid())[0];
    kill(Pid::from_raw(maker), Signal::SIGKILL).unwrap();
    daemon.wait_for_notification("READY=1");
    assert!(descriptors(descendants(daemon.pid())[0]).len() == 1);
    Command::new(program("segv")).run_to_end();
    let record = bed.wait_for(1)[0].record.clone();
    assert!(record.stack.len() > 3 && record.core.is_stored(), "{record:?}");
}

/// A tmpfs, unmounted when this is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(dir: PathBuf) -> Self {
        std::fs::create_dir(&dir).unwrap();
        run_tool("mount", &["-t", "tmpfs", "coreward-test", dir.to_str().unwrap()]);
        Self(dir)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_root_directory_on_a_file_system_without_a_device_is_this_machines_own() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let tmpfs = Tmpfs::mount(bed.path("tmpfs"));
    // The kernel does not list a file system that is mounted outside of the process' root directory.
    let root = tmpfs.0.join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::copy(program("bugs-static"), root.join("bugs")).unwrap();
    Command::new("chroot").arg(&root).args(["/bugs", "1"]).run_to_end();
    let record = bed.wait_for(1)[0].record.clone();
    assert_eq!(record.warnings, [] as [String; 0]);
    assert!(record.stack.len() > 2 && record.exe_build_id.is_some(), "{record:?}");
}
