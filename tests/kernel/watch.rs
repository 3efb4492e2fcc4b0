//! `coreward watch` and `coreward top` while programs crash.

use crate::testbed::{RunToEnd, TestBed, coreward, program, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running `coreward watch`.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(bed: &TestBed, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_coreward"))
            .arg("--root")
            .arg(bed.root.path())
            .arg("watch")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("another line").unwrap()
    }

    fn end_by(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        self.child.wait().unwrap()
    }
}

#[test]
fn watch_shows_crashes_as_they_are_recorded() {
    let bed = TestBed::new();
    // It may be started before there is a catalog.
    let mut first = Watch::start(&bed, &["--no-legend"]);
    std::thread::sleep(Duration::from_millis(500));
    let daemon = bed.daemon();
    let (segv, abrt) = (program("segv"), program("abrt"));
    Command::new(&segv).run_to_end();
    let line = first.line();
    assert!(line.contains(segv.to_str().unwrap()) && line.contains(" SEGV "), "{line}");

    let mut all = Watch::start(&bed, &["--json", "-n", "5"]);
    let mut filtered = Watch::start(&bed, &["--signal", "ABRT", "COREDUMP_COMM=abrt", "COREDUMP_COMM=other"]);
    let earlier: serde_json::Value = serde_json::from_str(&all.line()).unwrap();
    assert_eq!(earlier["exe"], segv.to_str().unwrap());
    assert!(filtered.line().starts_with("TIME "));
    let begun = Instant::now();
    Command::new(&segv).run_to_end();
    Command::new(&abrt).run_to_end();
    for signal in ["SEGV", "ABRT"] {
        let crash: serde_json::Value = serde_json::from_str(&all.line()).unwrap();
        assert_eq!(crash["signal_name"], signal);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let line = filtered.line();
    assert!(line.contains(abrt.to_str().unwrap()), "{line}");
    assert_eq!(filtered.end_by(Signal::SIGINT).signal(), Some(2), "by the signal, so that a loop of a shell ends");

    // Nobody reads it any more: it ends although no crash comes.
    let Watch { mut child, lines } = all;
    drop(lines);
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(begun.elapsed() < Duration::from_secs(10), "it goes on without a reader"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{status:?}");
    bed.wait_for(3);
    first.end_by(Signal::SIGTERM);

    let top = text(&coreward(&bed, &["top", "--by", "executable", "--no-legend"]));
    let counted: Vec<(&str, &str)> = top
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| (line.split_whitespace().next().unwrap(), line.rsplit("  ").next().unwrap()))
        .collect();
    assert_eq!(counted, [("2", segv.to_str().unwrap()), ("1", abrt.to_str().unwrap())]);
    let matched = text(&coreward(&bed, &["list", "--no-legend", "COREDUMP_SIGNAL=6", "COREDUMP_SIGNAL=4"]));
    assert_eq!(matched.lines().count(), 1, "{matched}");
    let pid = bed.crashes()[2].record.key.pid.to_string();
    assert!(text(&coreward(&bed, &["info", &format!("COREDUMP_PID={pid}")])).contains(abrt.to_str().unwrap()));
    assert_eq!(text(&coreward(&bed, &["list", "-1", "-F", "COREDUMP_PID"])), format!("{pid}\n"));
    drop(daemon);
}
