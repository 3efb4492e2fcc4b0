//! `--help` of the programs and of each verb.

use crate::{Machine, assert_output, run, transcript};

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
fn bash_completes_crashes_and_units_but_nothing_that_a_shell_would_expand() {
    let machine = Machine::with_crashes();
    let dir = tempfile::tempdir().unwrap();
    let command = dir.path().join("coreward");
    let text = format!("#!/bin/sh\nexec {COREWARD} --root {} \"$@\"\n", machine.root().path().display());
    std::fs::write(&command, text).unwrap();
    std::fs::set_permissions(&command, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let complete = |words: &str| {
        let script = format!(
            "PATH={}:/usr/bin:/bin; source <(coreward completions bash); COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
             _coreward_with_crashes coreward \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            dir.path().display()
        );
        let output = run("bash", &["-c", &script]);
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("coreward info 1f00c0de00000002"), ["1f00c0de00000002"]);
    let all = complete("coreward info ''");
    assert!(all.contains(&"nginx.service".to_owned()) && all.contains(&"/usr/sbin/nginx".to_owned()), "{all:?}");
    assert!(!all.iter().any(|word| word.contains(['\\', ' ', '('])), "{all:?}");
    assert_eq!(complete("coreward list --unit ngi"), ["nginx.service"]);
    assert_eq!(complete("coreward selft"), ["selftest"]);
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
        ("selftest_signal", &["selftest", "--signal", "TERM"]),
        ("vacuum", &["vacuum"]),
        ("size", &["vacuum", "--max-use", "lots"]),
        ("age", &["vacuum", "--max-age", "old"]),
    ] {
        assert_output(&format!("wrong_{name}"), &transcript(&run(COREWARD, arguments)));
    }
}
