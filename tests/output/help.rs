//! `--help` of the programs and of each verb.

use crate::{assert_output, run, transcript};

const COREWARD: &str = env!("CARGO_BIN_EXE_coreward");
const COREWARDD: &str = env!("CARGO_BIN_EXE_corewardd");
const QUERY: &str = env!("CARGO_BIN_EXE_coreward-query");
/// In the order of `coreward --help`; the help of the last six is for units and packages.
const VERBS: [&str; 25] = [
    "list",
    "watch",
    "info",
    "export",
    "dump",
    "debug",
    "import",
    "groups",
    "top",
    "report",
    "usage",
    "pin",
    "unpin",
    "rm",
    "vacuum",
    "status",
    "doctor",
    "selftest",
    "completions",
    "register",
    "unregister",
    "dispatch-events",
    "run-hooks",
    "complete",
    "generate",
];

/// One snapshot where `-h` and `--help` show the same, else two.
#[track_caller]
fn assert_help(name: &str, program: &str, verb: Option<&str>) {
    let help = |flag: &str| transcript(&run(program, &verb.into_iter().chain([flag]).collect::<Vec<_>>()));
    let (short, long) = (help("-h"), help("--help"));
    if short == long {
        assert_output(&format!("help_{name}"), &long);
    } else {
        assert_output(&format!("help_{name}_short"), &short);
        assert_output(&format!("help_{name}_long"), &long);
    }
}

#[test]
fn programs() {
    assert_help("coreward", COREWARD, None);
    assert_help("corewardd", COREWARDD, None);
    assert_help("coreward-query", QUERY, None);
    for program in [COREWARD, COREWARDD, QUERY] {
        let version = transcript(&run(program, &["--version"]));
        assert!(version.ends_with(&format!(" {}\n", env!("CARGO_PKG_VERSION"))), "{version}");
    }
}

#[test]
fn verbs() {
    for verb in VERBS {
        assert_help(verb, COREWARD, Some(verb));
    }
    let help = transcript(&run(COREWARD, &["-h"]));
    let (_, verbs) = help.split_once("Commands:\n").unwrap();
    let listed: Vec<&str> = verbs.lines().map_while(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert_eq!(listed, VERBS[..listed.len()], "a verb without a snapshot");
    assert_eq!(listed.len(), VERBS.len() - 6, "a verb without a snapshot");
}

#[test]
fn wrong_command_lines() {
    for (name, arguments) in [
        ("no_verb", [].as_slice()),
        ("unknown_verb", &["frobnicate"]),
        ("time", &["list", "--since", "soon"]),
        ("user", &["list", "--user", "no-such-user"]),
        ("signal", &["list", "--signal=foo"]),
        ("executable", &["list", "--executable", "nginx"]),
        ("field", &["list", "COREDUMP_NONE=1"]),
        ("column", &["list", "-o", "id,colour"]),
        ("column_of_groups", &["groups", "-o", "unit"]),
        ("field_to_print", &["list", "-F", "COREDUMP_NONE"]),
        ("similar_verb", &["lst"]),
        ("boot", &["list", "-b"]),
        ("journal_file", &["dump", "--file", "x.journal"]),
        ("image", &["list", "--image=x.raw"]),
        ("time_of_one", &["info", "-S", "-1h"]),
        ("several", &["info", "COREDUMP_PID=1", "COREDUMP_EXE=/x"]),
        ("selftest_signal", &["selftest", "--signal", "TERM"]),
        ("vacuum", &["vacuum"]),
        ("size", &["vacuum", "--max-use", "lots"]),
        ("age", &["vacuum", "--max-age", "old"]),
    ] {
        assert_output(&format!("wrong_{name}"), &transcript(&run(COREWARD, arguments)));
    }
}
