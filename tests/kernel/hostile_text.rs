//! Text from a crash is hostile: names with quotes, newlines and escape sequences.

use crate::testbed::{RunToEnd, TestBed, coreward, program, text};
use coreward::crash::text::{from_bytes, to_bytes};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
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
    assert!(entry.contains("\nCOREDUMP_EXE\n") && !entry.contains("COREDUMP_EXE="), "{entry}");
    let line = entry.lines().find(|line| line.starts_with("COREDUMP_CMDLINE=")).unwrap();
    assert!(line.ends_with(r" $'COREDUMP_UID=0\nMESSAGE=forged'"), "{line}");

    let file = crashes[0].core_file.as_ref().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    assert!(file.chars().all(|character| character.is_ascii_alphanumeric() || character == '.'), "{file}");
    let log = std::fs::read_to_string(bed.path("log")).unwrap();
    assert!(!log.contains('\u{1b}'), "{log}");
}

#[test]
fn names_that_are_not_utf_8_stay_two_programs_and_lose_no_byte() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let paths = [0xff, 0xfe].map(|byte| bed.root.path().join(OsString::from_vec(vec![b'p', byte])));
    for path in &paths {
        std::fs::copy(program("segv"), path).unwrap();
        Command::new(path).run_to_end();
    }
    let crashes = bed.wait_for(2);
    let journal = bed.journal();
    for (path, listed) in paths.iter().zip(&crashes) {
        let bytes = path.as_os_str().as_bytes();
        assert_eq!(to_bytes(&listed.record.exe), bytes);
        assert_eq!(to_bytes(&listed.record.arguments.first[0]), bytes);
        let by_argument = Command::new(env!("CARGO_BIN_EXE_coreward"))
            .arg("--root")
            .arg(bed.root.path())
            .args(["list", "--no-legend", "--executable"])
            .arg(path)
            .output()
            .unwrap();
        let shown = text(&by_argument);
        assert!(shown.lines().count() == 1 && shown.contains(listed.id().as_str()), "{shown}");
        assert!(shown.contains(if bytes.ends_with(&[0xff]) { r"p\xff" } else { r"p\xfe" }), "{shown}");
        let json = text(&coreward(&bed, &["info", "--json", listed.id().as_str()]));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["exe"].as_str().unwrap(), from_bytes(bytes));
        let trace = text(&coreward(&bed, &["debug", listed.id().as_str(), "--", "-nx", "-batch", "-ex", "bt"]));
        assert!(trace.contains("innermost (") && trace.contains("main ()"), "debug found it: {trace}");
        let field = [b"\nCOREDUMP_EXE=".as_slice(), bytes, b"\n"].concat();
        assert!(journal.iter().any(|entry| entry.windows(field.len()).any(|window| window == field)));
    }
    let metrics = daemon.scrape();
    let lines: Vec<&str> = metrics.lines().filter(|line| line.starts_with("coredump_process_count{")).collect();
    assert!(lines.len() == 2 && lines.iter().any(|line| line.contains(r"p\\xff")), "{lines:?}");
}

#[test]
fn a_file_may_be_named_as_if_it_were_deleted() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let (named, deleted) = (bed.path("prog (deleted)"), bed.path("prog"));
    std::fs::copy(program("segv"), &named).unwrap();
    Command::new(&named).run_to_end();
    std::fs::copy(program("segv"), &deleted).unwrap();
    let script = "exec 3<\"$1\"; rm \"$1\"; exec /proc/self/fd/3";
    Command::new("sh").args(["-c", script, "sh"]).arg(&deleted).run_to_end();
    let crashes = bed.wait_for(2);
    let of = |number: usize| {
        let record = &crashes[number].record;
        (record.exe.as_str(), record.exe_deleted, record.program())
    };
    let (named, deleted) = (named.to_str().unwrap(), deleted.to_str().unwrap());
    assert_eq!(of(0), (named, Some(false), named.to_owned()));
    assert_eq!(of(1), (named, Some(true), deleted.to_owned()));
    let trace = text(&coreward(&bed, &["debug", crashes[0].id().as_str(), "--", "-nx", "-batch", "-ex", "bt"]));
    assert!(trace.contains("main ()"), "{trace}");
}

#[test]
fn every_command_line_can_be_read_back() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let segv = program("segv");
    let hostile = ["", "two words", "a\nb", "it's", "\x1b[31m", "[...7 bytes omitted...]", "$(id)", "", ""];
    Command::new(&segv).args(hostile).run_to_end();
    let long = "x".repeat(100 << 10);
    Command::new(&segv).args([&long, "--last", "file"]).run_to_end();
    let script = "exec -a '' \"$1\"";
    Command::new("bash").args(["-c", script, "bash"]).arg(&segv).run_to_end();
    let crashes = bed.wait_for(3);
    let record = &crashes[0].record;
    assert_eq!(record.arguments.first[1..], hostile);
    let words = Command::new("bash").arg("-c").arg(format!("printf '%s\\0' {}", record.cmdline)).output().unwrap();
    let words: Vec<String> = text(&words).split_terminator('\0').map(str::to_owned).collect();
    assert_eq!(words, record.arguments.first);
    let info = text(&coreward(&bed, &["info", record.id.as_str()]));
    assert!(info.contains(&format!("Command Line: {}\n", record.cmdline)) && !info.contains('\x1b'), "{info}");

    let record = &crashes[1].record;
    let arguments = &record.arguments;
    let kept = (arguments.first[1].len() + arguments.last[0].len()) as u64;
    assert_eq!((kept + arguments.omitted, &arguments.last[1..]), (100 << 10, &["--last".into(), "file".into()][..]));
    assert!(record.cmdline.ends_with(" --last file") && record.cmdline.contains(" bytes omitted...] x"));
    assert!(record.warnings.iter().any(|warning| warning.contains("command line is long")), "{:?}", record.warnings);

    assert_eq!(
        (crashes[2].record.arguments.first.as_slice(), crashes[2].record.cmdline.as_str()),
        (&[String::new()][..], "''")
    );
}
