//! Text from a crash is hostile: names with quotes, newlines and escape sequences.

use crate::testbed::{RunToEnd, TestBed, program};
use std::process::Command;

#[test]
fn hostile_names_cannot_break_out_of_labels_journal_fields_and_lines() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let name = "x\"} 9\nevil 1\u{1b}[31m";
    let hostile = bed.path(name);
    std::fs::copy(program("segv"), &hostile).unwrap();
    let script = "hostname \"$(printf 'a\\nb\"')\" || hostname odd_host; exec \"$1\" 'COREDUMP_UID=0\nMESSAGE=forged'";
    Command::new("unshare").args(["--uts", "sh", "-c", script, "sh"]).arg(&hostile).run_to_end();
    let crashes = bed.wait_for(1);
    assert_eq!(crashes[0].record.exe, hostile.to_str().unwrap(), "the record has the name unchanged");

    let text = daemon.scrape();
    assert!(!text.lines().any(|line| line.starts_with("evil")), "{text}");
    assert!(!text.contains('\u{1b}'));
    let lines = text.lines().filter(|line| line.starts_with("coredump_process_count{")).count();
    assert_eq!(lines, 1);

    // In the journal's protocol a value with a newline is preceded by its length, so no part of it becomes a field.
    let entry = bed.journal().remove(0);
    assert!(coreward_wire::journal::is_about_a_crash(&entry), "every field ends where its length says");
    let entry = String::from_utf8_lossy(&entry);
    assert!(entry.contains("\nCOREDUMP_CMDLINE\n") && !entry.contains("COREDUMP_CMDLINE="), "{entry}");

    let file = crashes[0].core_file.as_ref().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    assert!(file.chars().all(|character| character.is_ascii_alphanumeric() || character == '.'), "{file}");
    let log = std::fs::read_to_string(bed.path("log")).unwrap();
    assert!(!log.contains('\u{1b}'), "{log}");
}
