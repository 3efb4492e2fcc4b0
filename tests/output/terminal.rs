//! Output on a terminal, which script(1) provides: colours, width and pager.

use crate::Machine;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

/// What a terminal of 100 columns shows of `coreward ARGUMENTS`, with these variables in addition.
fn shown(machine: &Machine, arguments: &str, variables: &[(&str, &str)]) -> String {
    shown_in(100, machine, arguments, variables)
}

fn shown_in(columns: usize, machine: &Machine, arguments: &str, variables: &[(&str, &str)]) -> String {
    let line = format!(
        "stty cols {columns} rows 40; exec {} --root {} {arguments}",
        env!("CARGO_BIN_EXE_coreward"),
        machine.root().path().display()
    );
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env_clear()
        .envs([("TZ", "UTC"), ("TERM", "xterm"), ("PATH", "/usr/bin:/bin"), ("SHELL", "/bin/sh")])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.trim_end().chars().count()).max().unwrap_or(0)
}

#[test]
fn tables_have_colours_and_fit_the_width() {
    let machine = Machine::with_crashes();
    let plain = [("SYSTEMD_PAGER", ""), ("NO_COLOR", "1")];
    let cut = shown(&machine, "list worker", &plain);
    assert!(!cut.contains('\x1b') && cut.starts_with("TIME "), "{cut:?}");
    let all = shown(&machine, "list", &plain);
    let full = shown(&machine, "list --full", &plain);
    assert!(all.contains('…') && !full.contains('…') && widest(&all) < widest(&full), "{all}\n{full}");
    let coloured = shown(&machine, "list", &[("SYSTEMD_PAGER", "cat")]);
    assert!(coloured.starts_with("\x1b[4mTIME") && coloured.contains("\x1b[32mstored\x1b[0m"), "{coloured:?}");
    for variables in [[("SYSTEMD_PAGER", ""), ("SYSTEMD_COLORS", "0")], [("SYSTEMD_PAGER", ""), ("TERM", "dumb")]] {
        assert!(!shown(&machine, "list", &variables).contains('\x1b'));
    }
    let overridden = [("SYSTEMD_PAGER", ""), ("SYSTEMD_COLORS", "1"), ("NO_COLOR", "1")];
    assert!(shown(&machine, "list", &overridden).contains('\x1b'));
}

#[test]
fn functions_are_listed_where_there_is_room() {
    let machine = Machine::with_crashes();
    let plain = [("SYSTEMD_PAGER", ""), ("NO_COLOR", "1")];
    let narrow = shown(&machine, "list nginx", &plain);
    assert!(!narrow.contains("FUNCTION") && !narrow.contains("cache::get"), "{narrow}");
    let wide = shown_in(180, &machine, "list nginx", &plain);
    assert!(wide.contains("FUNCTION") && wide.contains("ngx_http_handler <- cache::get"), "{wide}");
    let cut = shown_in(140, &machine, "list nginx", &plain);
    assert!(cut.contains("FUNCTION") && cut.contains('…') && widest(&cut) <= 140, "{cut}");
    for arguments in ["list nginx --full", "list nginx -o id,function"] {
        let asked = shown(&machine, arguments, &plain);
        assert!(asked.contains("ngx_http_handler <- cache::get"), "{asked}");
    }
}

#[test]
fn long_output_goes_into_a_pager_which_is_secure_for_root() {
    let machine = Machine::with_crashes();
    let tools = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("less", "#!/bin/sh\necho \"less secure=$LESSSECURE options=$LESS\"\nexec cat\n"),
        ("mine", "#!/bin/sh\necho \"mine secure=$LESSSECURE\"\nexec cat\n"),
        ("impatient", "#!/bin/sh\nexit 0\n"),
    ] {
        let path = tools.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(tools.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", tools.path().display());
    let shown = |arguments: &str, variables: &[(&str, &str)]| {
        shown(&machine, arguments, &[&[("PATH", path.as_str()), ("NO_COLOR", "1")], variables].concat())
    };
    let secured = shown("list", &[("SYSTEMD_PAGERSECURE", "1")]);
    assert!(secured.starts_with("less secure=1 options=FRSXMK") && secured.contains("SIG"), "{secured}");
    if nix::unistd::geteuid().is_root() {
        let ours = shown("list", &[("PAGER", "mine")]);
        assert!(ours.starts_with("less secure=1"), "no other pager for root: {ours}");
    }
    let mine = shown("list", &[("PAGER", "mine"), ("SYSTEMD_PAGERSECURE", "0")]);
    assert!(mine.starts_with("mine secure=\r\n") && mine.contains("nginx"), "{mine}");
    let options = shown("list", &[("SYSTEMD_LESS", "FR"), ("SYSTEMD_PAGERSECURE", "0")]);
    assert!(options.starts_with("less secure= options=FR"), "{options}");
    for (arguments, variables) in [
        ("--no-pager list", ("PAGER", "mine")),
        ("status --no-test --json | cat", ("PAGER", "mine")),
        ("list | cat", ("PAGER", "mine")),
    ] {
        let output = shown(arguments, &[variables, ("SYSTEMD_PAGERSECURE", "0")]);
        assert!(!output.contains("mine secure"), "{output}");
    }
    // Whoever has seen enough ends the pager.
    assert_eq!(shown("list --json", &[("PAGER", "impatient"), ("SYSTEMD_PAGERSECURE", "0")]), "");
}
