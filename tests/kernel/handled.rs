//! Programs that handle their own faults: the crash is about the thread that failed, whatever the handler did and whichever thread was
//! dumped for it.

use crate::testbed::{Daemon, RunToEnd, TestBed, coreward, program, text};
use coreward::crash::{Failure, Record};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Command;

/// A test bed whose daemon stores every core.
fn started() -> (TestBed, Daemon) {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nUnitBurst=0\nTotalBurst=0\n");
    let daemon = bed.daemon();
    (bed, daemon)
}

/// Runs the program `handled` with each of these sets of arguments, and returns the records.
fn crash(bed: &TestBed, runs: &[&[&str]]) -> Vec<Record> {
    crash_program(bed, "handled", runs)
}

/// The same with this build of it.
fn crash_program(bed: &TestBed, name: &str, runs: &[&[&str]]) -> Vec<Record> {
    let before = bed.crashes().len();
    for arguments in runs {
        Command::new(program(name)).args(*arguments).run_to_end();
    }
    let crashes = bed.wait_for(before + runs.len());
    crashes.into_iter().skip(before).map(|listed| listed.record).collect()
}

/// The name of the signature. That of version 1, which knew no handlers, may differ.
fn signature(record: &Record) -> &str {
    &record.signature.as_ref().unwrap().id
}

/// The thread that failed, its signal, and whether it was another one than the one that was dumped.
fn failed(record: &Record) -> Option<(&str, &str, bool)> {
    let failure = record.failure.as_ref()?;
    Some((&failure.thread_name, &failure.signal_name, failure.is_of_another_thread()))
}

fn failure(record: &Record) -> &Failure {
    record.failure.as_ref().unwrap_or_else(|| panic!("no failure in {record:?}"))
}

#[test]
fn a_bug_has_one_signature_whatever_the_handler_does() {
    let (bed, _daemon) = started();
    for (bug, signal) in [("null", "SEGV"), ("other", "SEGV"), ("divide", "FPE"), ("abort", "ABRT"), ("deep", "SEGV")] {
        let plain = &crash(&bed, &[&["none", "-", bug]])[0];
        assert_eq!(failed(plain), None, "without a handler nothing is to be said");
        for (how, flags) in [
            ("kill", "-"),
            ("kill", "i"),
            ("kill", "n"),
            ("kill", "in"),
            ("kill", "im"),
            ("kill", "m"),
            ("queue", "-"),
            ("tgkill", "i"),
            ("raise", "-"),
            ("raise", "i"),
            ("abort", "-"),
            ("abort", "i"),
            ("fault", "i"),
            ("return", "i"),
        ] {
            // There is a stack for the handler of an overflow.
            let flags = format!("{flags}s");
            let record = &crash(&bed, &[&[how, &flags, bug]])[0];
            let run = format!("{how} {flags} {bug}");
            assert_eq!(
                signature(record),
                signature(plain),
                "{run}: {:?}\n{:?}\n{:?}",
                record.failure,
                record.stack,
                plain.stack
            );
            assert_eq!(record.stack.len(), plain.stack.len(), "{run}");
            let is_repeated = how == "return" || (how == "abort" && bug == "abort");
            let expected = (!is_repeated).then_some((bug, signal, ["kill", "queue", "tgkill"].contains(&how)));
            assert_eq!(failed(record), expected, "{run}");
            if how == "return" || expected.is_none() {
                continue;
            }
            let failure = failure(record);
            assert_eq!(failure.threads, 1, "{run}");
            assert_eq!(failure.code.is_some(), flags.contains('i'), "{run}");
            if bug == "null" {
                assert_eq!(failure.address, Some(0), "{run}");
            }
            assert!(!failure.handler.is_empty(), "{run}");
        }
    }
}

#[test]
fn a_32_bit_program_is_about_the_thread_that_failed() {
    let (bed, _daemon) = started();
    for (bug, signal) in [("null", "SEGV"), ("divide", "FPE"), ("deep", "SEGV")] {
        // There is a stack for the handler of an overflow.
        let runs: &[&[&str]] = &[
            &["none", "-", "wait", bug],
            &["kill", "s", "wait", bug],
            &["tgkill", "is", "wait", bug],
            &["abort", "s", bug],
            &["abort", "is", bug],
        ];
        let [plain, handled @ ..] = &crash_program(&bed, "handled-i386", runs)[..] else { unreachable!() };
        assert_eq!(failed(plain), None);
        for (record, arguments) in handled.iter().zip(&runs[1..]) {
            assert_eq!(signature(record), signature(plain), "{arguments:?}: {:?}\n{:?}", record.failure, record.stack);
            assert_eq!(failed(record), Some((bug, signal, arguments[0] != "abort")), "{arguments:?}");
            let failure = failure(record);
            assert_eq!(failure.code.is_some(), arguments[1].contains('i'), "{arguments:?}");
            assert!(bug != "null" || failure.address == Some(0), "{arguments:?}: {failure:?}");
        }
    }
}

#[test]
fn two_bugs_of_two_workers_have_two_signatures_and_two_cores() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let records = crash(&bed, &[&["kill", "-", "wait", "null", "wait"], &["kill", "-", "wait", "other", "wait"]]);
    assert_ne!(signature(&records[0]), signature(&records[1]));
    assert!(records.iter().all(|record| record.core.is_stored()), "{records:?}");
    let record = &records[1];
    assert_eq!(record.tid, Some(record.key.pid), "the main thread was dumped");
    assert_eq!(failed(record), Some(("other", "SEGV", true)));
    let listed: u32 = record.other_threads.iter().map(|threads| threads.count).sum();
    assert_eq!(listed, 3, "the main thread and those that wait");

    let info = text(&coreward(&bed, &["info", record.id.as_str()]));
    let failure = failure(record);
    let (tid, main) = (failure.tid, record.key.pid);
    for line in [
        format!(
            "Failed: thread {tid} (other) was handling SIGSEGV at address 0x0 when the process ended; the kernel dumped thread {main}\n"
        ),
        format!("\nStack trace of thread {tid}, which failed:\n"),
        "read_other (handled.c:".to_owned(),
        format!("\nThe handler of the signal, in thread {tid}:\n"),
        "crash_report (handled.c:".to_owned(),
        format!("\nStack trace of thread {main}, which was dumped:\n"),
        " main (handled.c:".to_owned(),
    ] {
        assert!(info.contains(&line), "{line:?} in\n{info}");
    }
    let first = info.find("read_other").unwrap();
    assert!(first < info.find("crash_report").unwrap() && first < info.find(" main (").unwrap(), "{info}");
}

#[test]
fn of_several_threads_that_failed_the_one_that_was_started_first_with_the_signal_of_the_process_counts() {
    let (bed, _daemon) = started();
    let alone: Vec<String> = crash(&bed, &[&["none", "-", "null"], &["none", "-", "other"], &["none", "-", "divide"]])
        .iter()
        .map(|record| signature(record).to_owned())
        .collect();
    let [null, other, divide] = &alone[..] else { unreachable!() };
    for (bugs, expected) in [
        (["null", "other"], null),
        (["other", "null"], other),
        (["divide", "null"], null),
        (["null", "divide"], divide),
    ] {
        let record = &crash(&bed, &[&["kill", "i", "wait", bugs[0], bugs[1], "wait"]])[0];
        assert_eq!(signature(record), expected, "{bugs:?}: {:?}", record.failure);
        assert_eq!(failure(record).threads, 2, "{bugs:?}");
    }
}

#[test]
fn where_no_thread_failed_the_crash_is_that_of_the_thread_that_was_dumped() {
    let (bed, _daemon) = started();
    let records = crash(&bed, &[&["outside", "-", "wait"], &["outside", "-", "wait"]]);
    assert_eq!(failed(&records[0]), None);
    assert_eq!(signature(&records[0]), signature(&records[1]));
    assert!(records[0].sent_by_itself() && records[0].stack.len() > 1);
    // Nor does a handler of another signal count, in which there is a bug: it is the handler that failed.
    Command::new(program("bugs")).arg("17").run_to_end();
    assert_eq!(failed(&bed.wait_for(3)[2].record), None);
}

#[test]
fn a_process_that_is_killed_from_outside_did_not_fail_whatever_its_threads_wait_in() {
    let (bed, _daemon) = started();
    let mut process = Command::new(program("handled")).args(["hang", "i", "wait", "main-null"]).spawn().unwrap();
    let status = format!("/proc/{}/status", process.id());
    // The main thread's handler runs with the signal blocked: SIGSEGV is bit 10.
    crate::testbed::eventually(std::time::Duration::from_secs(10), || {
        std::fs::read_to_string(&status).unwrap().lines().any(|line| line == "SigBlk:\t0000000000000400")
    });
    kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGQUIT).unwrap();
    process.wait().unwrap();
    let record = bed.wait_for(1).remove(0).record;
    assert_eq!(record.siginfo.as_ref().unwrap().sender.map(|(pid, _)| pid), Some(std::process::id()));
    assert_eq!(failed(&record), None);
    let info = text(&coreward(&bed, &["info", record.id.as_str()]));
    let crashed = info.split("\nStack trace of thread ").nth(1).unwrap();
    assert!(crashed.contains("wait_here (handled.c:") && crashed.contains("crash_report (handled.c:"), "{info}");
}

#[test]
fn a_thread_that_aborts_because_another_failed_is_not_the_one() {
    let (bed, _daemon) = started();
    let mut many = vec!["report", "i", "other"];
    many.extend(["wait"; 300]);
    let records = crash(&bed, &[&["none", "-", "other"], &["report", "i", "wait", "other"], &many]);
    assert_eq!(failed(&records[1]), Some(("other", "SEGV", true)));
    assert_eq!(signature(&records[0]), signature(&records[1]));
    assert_eq!(failed(&records[2]), None, "an abort of many threads is an abort");
}

#[test]
fn in_a_pid_namespace_the_thread_that_failed_is_found_and_named() {
    let (bed, _daemon) = started();
    let plain = crash(&bed, &[&["none", "-", "other"]]).remove(0);
    // The shell is the init process of the namespace: the kernel would ignore a signal from itself to it.
    let script = format!("{} kill i wait other; true", program("handled").display());
    Command::new("unshare").args(["--pid", "--fork", "sh", "-c", &script]).run_to_end();
    let inside = &bed.wait_for(2)[1].record;
    let (pid, failure) = (inside.pid_inside().unwrap(), failure(inside));
    assert_eq!((i64::from(failure.dumped), i64::from(failure.tid)), (pid.as_raw().into(), i64::from(pid.as_raw()) + 2));
    assert_eq!(failed(inside), Some(("other", "SEGV", true)));
    assert_eq!(signature(inside), signature(&plain));
    let info = text(&coreward(&bed, &["info", inside.id.as_str()]));
    let line = format!("the kernel dumped thread {pid} (ids of its PID namespace)\n");
    assert!(info.contains(&line), "{line:?} in\n{info}");
}

#[test]
fn a_spooled_crash_tells_the_same_failure() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\n");
    Command::new(program("handled")).args(["kill", "i", "wait", "other"]).run_to_end();
    crate::testbed::eventually(std::time::Duration::from_secs(10), || bed.names("var/lib/coreward/spool").len() == 1);
    let _daemon = bed.daemon();
    let spooled = bed.wait_for(1).remove(0).record;
    let live = crash(&bed, &[&["kill", "i", "wait", "other"]]).remove(0);
    assert_eq!(signature(&spooled), signature(&live), "{:?} {:?}\n{:?}", spooled.warnings, spooled.stack, live.stack);
    assert_eq!(failure(&spooled).code, Some(1));
}

#[test]
fn the_search_through_many_threads_is_short_and_finds_the_one() {
    let (bed, _daemon) = started();
    let mut arguments = vec!["kill", "-"];
    arguments.extend(["wait"; 1000]);
    arguments.extend(["other"]);
    arguments.extend(["wait"; 1000]);
    let records = crash(&bed, &[&["none", "-", "other"], &arguments]);
    assert_eq!(signature(&records[0]), signature(&records[1]), "{:?}", records[1].warnings);
    assert_eq!(failure(&records[1]).threads, 1);
}
