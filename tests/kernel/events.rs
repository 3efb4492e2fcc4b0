//! New signatures: each is announced once, for each party, and by a later daemon if the one that recorded it could not.

use crate::testbed::{RunToEnd, TestBed, eventually, program};
use coreward::crash::Record;
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

const EVENTS: &str = "/var/lib/coreward/events";

/// The records in the directory of events.
fn events(bed: &TestBed) -> Vec<Record> {
    // The daemon creates it when it is first needed.
    let mut names = if bed.path(EVENTS).is_dir() { bed.names(EVENTS) } else { Vec::new() };
    names.retain(|name| !name.starts_with('.'));
    let read = |name: &String| {
        let path = bed.path(EVENTS).join(name);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "the group reads it, and nobody else");
        let record: Record = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(*name, format!("{}.json", record.id));
        record
    };
    names.iter().map(read).collect()
}

fn wait_for_events(bed: &TestBed, count: usize) -> Vec<Record> {
    eventually(Duration::from_secs(10), || events(bed).len() >= count);
    events(bed)
}

#[test]
fn each_new_signature_is_announced_once() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    for _ in 0..3 {
        Command::new(program("segv")).run_to_end();
    }
    bed.wait_for(3);
    let found = wait_for_events(&bed, 1);
    assert_eq!((found.len(), found[0].signal_name.as_str()), (1, "SEGV"));
    assert_eq!(daemon.metric("coreward_new_signatures_total", ""), 1.0);
    // The same bug of somebody else is news to root's operator: it may be an attempt to hide root's.
    Command::new(program("segv")).uid(12_345).gid(12_345).run_to_end();
    Command::new(program("abrt")).run_to_end();
    bed.wait_for(5);
    assert_eq!(wait_for_events(&bed, 3).len(), 3);
    assert_eq!(daemon.metric("coreward_new_signatures_total", ""), 3.0);
    assert_eq!(daemon.metric("coreward_events_dropped_total", ""), 0.0);
}

#[test]
fn what_a_daemon_could_not_announce_the_next_one_does() {
    let bed = TestBed::new();
    // In place of the directory there is a file.
    let path = bed.path(EVENTS);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "").unwrap();
    let daemon = bed.daemon();
    Command::new(program("segv")).run_to_end();
    bed.wait_for(1);
    eventually(Duration::from_secs(10), || daemon.metric("coreward_new_signatures_total", "") > 0.0);
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    std::fs::remove_file(&path).unwrap();
    bed.clear_sockets();
    let _daemon = bed.daemon();
    assert_eq!(wait_for_events(&bed, 1).len(), 1);
}

#[test]
fn a_burst_of_new_signatures_is_bounded_and_what_is_left_out_is_counted() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nEventBurst=2\n");
    let daemon = bed.daemon();
    // One user gets half of it.
    for name in ["segv", "abrt", "threads"] {
        Command::new(program(name)).run_to_end();
    }
    bed.wait_for(3);
    eventually(Duration::from_secs(10), || daemon.metric("coreward_events_dropped_total", "") == 2.0);
    assert_eq!(events(&bed).len(), 1);
}
