//! Whether crashes come here: the test crash, settings that somebody takes away, and a handler that is run by hand.

use crate::testbed::{RunToEnd, TestBed, coreward, eventually, program, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATTERN: &str = "/proc/sys/kernel/core_pattern";
const SECONDS_10: Duration = Duration::from_secs(10);

fn status(bed: &TestBed) -> (Option<i32>, String) {
    let output = coreward(bed, &["status"]);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn status_and_register_let_a_process_crash_that_counts_as_none() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let (code, said) = status(&bed);
    assert!(code == Some(0) && said.contains("Test crash: arrived; it is not recorded"), "{said}");
    let json: serde_json::Value = serde_json::from_str(&text(&coreward(&bed, &["status", "--json"]))).unwrap();
    assert_eq!((json["test_crash"].as_str(), json["collecting"].as_bool()), (Some("passed"), Some(true)));
    let shim = bed.path("shim");
    let said = text(&coreward(&bed, &["register", "--shim", shim.to_str().unwrap()]));
    assert!(said.contains("has arrived: crashes are being collected"), "{said}");
    assert_eq!(daemon.count("coreward_test_crashes_total", ""), 3);
    let said = text(&coreward(&bed, &["status", "--no-test"]));
    assert!(said.contains("Test crash: not tried"), "{said}");
    assert_eq!(daemon.count("coreward_test_crashes_total", ""), 3);
    // The only crash that counts.
    Command::new(program("segv")).run_to_end();
    bed.wait_for(1);
    assert_eq!(daemon.count("coredump_process_count", ""), 1);
    assert_eq!(bed.journal().len(), 1);
    let left: Vec<_> = fs::read_dir(bed.root.run_dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("test-")), "{left:?}");
}

#[test]
fn a_daemon_that_does_not_answer_is_noticed_and_its_test_crash_never_counted() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    daemon.signal(Signal::SIGSTOP);
    let (code, said) = status(&bed);
    assert_eq!(code, Some(3), "{said}");
    assert!(
        said.contains("LOST: the daemon did not answer within 10 s") && said.contains("NOT being collected"),
        "{said}"
    );
    // The shim saves the crash, as any other that no daemon takes.
    let spooled = || fs::read_dir(bed.path("var/lib/coreward/spool")).unwrap().count();
    eventually(Duration::from_secs(20), || spooled() == 1);
    daemon.signal(Signal::SIGCONT);
    eventually(Duration::from_secs(20), || spooled() == 0);
    assert_eq!((bed.crashes().len(), daemon.count("coredump_process_count", "")), (0, 0));
}

#[test]
fn a_shim_that_cannot_be_executed_is_named_with_its_remedy() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let shim = bed.root.shim_exe();
    fs::set_permissions(&shim, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (code, said) = status(&bed);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("is not executable") && said.contains("What to do: chmod 755 "), "{said}");
    let Output { status: registered, stderr, .. } = coreward(&bed, &["register"]);
    assert!(!registered.success() && String::from_utf8_lossy(&stderr).contains("chmod 755 "), "{stderr:?}");
    fs::set_permissions(&shim, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(status(&bed).0, Some(0));
}

#[test]
fn settings_that_somebody_takes_away_are_noticed_and_taken_back_on_request_only() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let ours = fs::read_to_string(PATTERN).unwrap();
    let is_registered = || daemon.samples("coreward_registered", "core_pattern") == ["1"];
    eventually(SECONDS_10, is_registered);
    fs::write(PATTERN, "core").unwrap();
    eventually(SECONDS_10, || daemon.samples("coreward_registered", "core_pattern") == ["0"]);
    std::thread::sleep(Duration::from_secs(5));
    let log = fs::read_to_string(bed.path("log")).unwrap();
    assert_eq!(
        log.matches("kernel.core_pattern is \\\"core\\\"").count()
            + log.matches("kernel.core_pattern is \"core\"").count(),
        1,
        "{log}"
    );
    let request = bed.path("var/lib/coreward/reregister");
    assert!(!request.exists());

    fs::write(PATTERN, &ours).unwrap();
    eventually(SECONDS_10, is_registered);
    bed.configure("[Coreward]\nKeepRegistered=yes\n");
    daemon.signal(Signal::SIGHUP);
    std::thread::sleep(Duration::from_secs(1));
    fs::write(PATTERN, "core.%p").unwrap();
    eventually(SECONDS_10, || request.exists());
}

/// The arguments of a program that knows all specifiers, that passes a descriptor of its own as the kernel's pidfd, that leaves out
/// those it does not know, and that knows no PID.
const BY_HAND: [&[&str]; 4] = [
    &["PID", "PID", "0", "0", "6", "1700000000", "0", "1", "host", ""],
    &["PID", "PID", "0", "0", "6", "1700000000", "0", "1", "host", "2"],
    &["PID", "0", "0", "6", "1700000000", "host"],
    &["%P", "%I", "0", "0", "6", "1700000000", "0", "1", "host", "%F"],
];

/// Runs the shim as a program that read core_pattern does, for a process that lives.
fn run_by_hand(bed: &TestBed, pid: u32, uid: Option<&str>, arguments: &[&str]) -> (Option<i32>, Duration) {
    let begun = Instant::now();
    let mut command = match uid {
        Some(uid) => {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--reuid", uid, "--regid", uid, "--clear-groups"]).arg(bed.root.shim_exe());
            setpriv
        }
        None => Command::new(bed.root.shim_exe()),
    };
    command.arg("--root").arg(bed.root.path());
    command.args(arguments.iter().map(|argument| argument.replace("PID", &pid.to_string())));
    let mut shim = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let core = fs::read(program("segv")).unwrap();
    // It may be gone before it has read anything.
    let _ = shim.stdin.take().unwrap().write_all(&core);
    (shim.wait().unwrap().code(), begun.elapsed())
}

#[test]
fn a_handler_run_by_hand_for_a_living_process_does_not_hide_its_crash() {
    let bed = TestBed::new();
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    for with_daemon in [false, true] {
        let _daemon = with_daemon.then(|| bed.daemon());
        for (arguments, uid) in BY_HAND.iter().flat_map(|arguments| [(arguments, None), (arguments, Some("65534"))]) {
            let (code, took) = run_by_hand(&bed, child.id(), uid, arguments);
            assert_eq!(code, Some(2), "{uid:?} {arguments:?}");
            assert!(took < Duration::from_secs(1), "{uid:?} {arguments:?}: {took:?}");
        }
        assert_eq!(bed.names("var/lib/coreward/spool"), [] as [String; 0]);
        assert_eq!(bed.names("run/coreward/spool"), [] as [String; 0]);
    }
    bed.clear_sockets();
    let _daemon = bed.daemon();
    assert!(bed.kmsg().contains("somebody other than the kernel says that it crashed"), "{}", bed.kmsg());
    assert!(bed.crashes().is_empty());
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGSEGV).unwrap();
    child.wait().unwrap();
    let crash = &bed.wait_for(1)[0];
    assert_eq!((crash.record.signal, crash.record.core.truncated), (Some(11), None));
    assert!(Path::new(&crash.record.exe).ends_with("sleep"), "{}", crash.record.exe);
}

#[test]
fn before_the_first_crash_there_is_none() {
    let bed = TestBed::new();
    for started in [false, true] {
        let _daemon = started.then(|| bed.daemon());
        for arguments in
            [["list"].as_slice(), &["info"], &["groups"], &["info", "nginx"], &["usage"], &["list", "--json"]]
        {
            let output = coreward(&bed, arguments);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{arguments:?}: {said}");
            assert!(said.starts_with("No c") || arguments.len() > 1, "{arguments:?}: {said}");
        }
    }
}
