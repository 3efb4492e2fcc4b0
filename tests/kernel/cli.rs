//! The `coreward` command on real crashes.

use crate::testbed::{RunToEnd, TestBed, coreward, program, text};
use std::process::Command;

#[test]
fn list_info_export_and_debug_find_the_same_crash() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let segv = program("segv");
    Command::new(&segv).arg("an argument").run_to_end();
    Command::new(program("abrt")).run_to_end();
    let crashes = bed.wait_for(2);
    let id = crashes[0].id().as_str();

    let list = text(&coreward(&bed, &["list"]));
    let line = list.lines().find(|line| line.contains(id)).unwrap();
    for word in ["SEGV", "stored", segv.to_str().unwrap()] {
        assert!(line.contains(word), "{word} is missing in {line}");
    }
    let json: serde_json::Value = serde_json::from_str(&text(&coreward(&bed, &["list", "--json"]))).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!((json[0]["id"].as_str(), json[0]["signal_name"].as_str()), (Some(id), Some("SEGV")));

    // MATCH may be an id, a prefix of one, a PID, an executable's path, or a command name.
    let pid = crashes[0].record.key.pid.to_string();
    for name in [id, &id[..9], &pid, segv.to_str().unwrap(), "segv"] {
        let info = text(&coreward(&bed, &["info", name]));
        assert!(info.contains(id) && info.contains("an argument"), "{name}: {info}");
    }
    assert!(text(&coreward(&bed, &["info"])).contains("ABRT"), "without MATCH: the newest crash");

    let core = bed.path("core");
    text(&coreward(&bed, &["export", id, "-o", core.to_str().unwrap()]));
    assert_eq!(
        std::fs::read(&core).unwrap(),
        std::fs::read(bed.core(&crashes[0])).unwrap(),
        "the same as zstd -d writes"
    );
    let again = coreward(&bed, &["export", id, "-o", core.to_str().unwrap()]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("--force"), "{again:?}");

    let trace = text(&coreward(&bed, &["debug", id, "--", "-nx", "-batch", "-ex", "bt"]));
    assert!(trace.contains("innermost (") && trace.contains("main ()"), "{trace}");

    let nobody = coreward(&bed, &["info", "no-such-thing"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no-such-thing"));
    assert_eq!(coreward(&bed, &["no-such-verb"]).status.code(), Some(2));
    drop(daemon);
}

#[test]
fn list_works_with_and_without_a_running_daemon() {
    let bed = TestBed::new();
    let before = coreward(&bed, &["list"]);
    assert!(before.status.success() && String::from_utf8_lossy(&before.stderr).contains("No crash"), "{before:?}");
    let daemon = bed.daemon();
    Command::new(program("segv")).run_to_end();
    bed.wait_for(1);
    assert_eq!(text(&coreward(&bed, &["list", "--no-legend"])).lines().count(), 1);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(text(&coreward(&bed, &["list", "--no-legend"])).lines().count(), 1);
    // A core that somebody deleted is reported as missing.
    std::fs::remove_file(bed.crashes()[0].core_file.as_ref().unwrap()).unwrap();
    assert!(text(&coreward(&bed, &["list"])).contains("missing"));
    let export = coreward(&bed, &["export", "-o", bed.path("core").to_str().unwrap()]);
    assert!(!export.status.success() && !bed.path("core").exists(), "{export:?}");
}

#[test]
fn what_rm_deletes_without_a_daemon_is_removed_and_not_missing() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    Command::new(program("segv")).run_to_end();
    Command::new(program("abrt")).run_to_end();
    let crashes = bed.wait_for(2);
    assert_eq!(daemon.stop(), Some(0));
    text(&coreward(&bed, &["rm", crashes[0].id().as_str()]));
    text(&coreward(&bed, &["vacuum", "--max-cores", "0"]));
    let states = || -> Vec<String> {
        let json: serde_json::Value = serde_json::from_str(&text(&coreward(&bed, &["list", "--json"]))).unwrap();
        json.as_array().unwrap().iter().map(|crash| crash["core_state"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(states(), ["removed", "removed"]);
    // The next daemon neither wonders nor forgets, and deletions beside it end in the same state.
    bed.clear_sockets();
    let daemon = bed.daemon();
    Command::new(program("segv")).run_to_end();
    let third = bed.wait_for(3).pop().unwrap();
    text(&coreward(&bed, &["rm", third.id().as_str()]));
    assert_eq!(states(), ["removed"; 3]);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(states(), ["removed"; 3]);
}

#[test]
fn a_wrapper_that_repeats_its_childs_signal_is_marked_and_namespaces_and_parents_are_shown() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let segv = program("segv");
    Command::new("unshare").args(["--pid", "--fork"]).arg(&segv).run_to_end();
    let crashes = bed.wait_for(2);
    let (child, wrapper) = match crashes[0].record.comm.as_str() {
        "segv" => (&crashes[0].record, &crashes[1].record),
        _ => (&crashes[1].record, &crashes[0].record),
    };
    let info = |id: &str| text(&coreward(&bed, &["info", id]));
    let shown = info(child.id.as_str());
    let parent = format!("Parent: {} (unshare --pid --fork {})\n", wrapper.key.pid, segv.display());
    for line in
        [parent.as_str(), "Namespaces: pid of its own\n", "PID Inside: 1, in the PID namespace of the process\n"]
    {
        assert!(shown.contains(line), "{line:?} in {shown}");
    }
    assert!(shown.contains("SEGV_MAPERR: ") && !shown.contains("Repeats: "), "{shown}");
    let shown = info(wrapper.id.as_str());
    let repeats = format!("Repeats: crash {}: its child {} died of this signal", child.id, child.key.pid);
    assert!(shown.contains(&repeats) && shown.contains("SI_USER: "), "{shown}");
    assert!(shown.contains("(code 0), sent by the process itself\n"), "{shown}");
}

#[test]
fn status_reports_whether_crashes_are_collected() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    assert!(text(&coreward(&bed, &["status"])).contains("Crashes are being collected"));
    let json: serde_json::Value = serde_json::from_str(&text(&coreward(&bed, &["status", "--json"]))).unwrap();
    assert!(json.is_object());
    std::fs::write("/proc/sys/kernel/core_pattern", "core").unwrap();
    let output = coreward(&bed, &["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).contains("coreward register"), "{output:?}");
    drop(daemon);
}

#[test]
fn register_sets_core_pattern_and_unregister_restores_it() {
    let bed = TestBed::new();
    let sysctl = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap().trim().to_owned();
    std::fs::write("/proc/sys/kernel/core_pattern", "core.%p").unwrap();
    std::fs::write("/proc/sys/kernel/core_pipe_limit", "7").unwrap();
    let dumpable = || std::fs::read_to_string("/proc/sys/fs/suid_dumpable").unwrap();
    let found = dumpable();
    let shim = bed.path("shim");
    let register = ["register", "--shim", shim.to_str().unwrap()];
    text(&coreward(&bed, &register));
    assert!(sysctl("core_pattern").starts_with(&format!("|{} --root ", shim.display())));
    assert_eq!((sysctl("core_pipe_limit"), dumpable()), (i32::MAX.to_string(), "2\n".to_owned()));
    let applied = std::fs::read_to_string(bed.path("run/sysctl.d/99-zz-coreward.conf")).unwrap();
    assert!(applied.contains(&format!("\nkernel.core_pattern={}\n", sysctl("core_pattern"))), "{applied}");
    text(&coreward(&bed, &register));
    text(&coreward(&bed, &["unregister"]));
    assert_eq!((sysctl("core_pattern").as_str(), sysctl("core_pipe_limit").as_str()), ("core.%p", "7"));
    assert_eq!(dumpable(), found);
    assert!(!bed.path("run/sysctl.d/99-zz-coreward.conf").exists());

    // A value that somebody else has set since is left alone.
    text(&coreward(&bed, &register));
    std::fs::write("/proc/sys/kernel/core_pattern", "theirs").unwrap();
    text(&coreward(&bed, &["unregister"]));
    assert_eq!(sysctl("core_pattern"), "theirs");

    // Nor is a handler that is gone by now put back, which would lose every core.
    let helper = bed.path("helper");
    std::fs::write(&helper, "#!/bin/true\n").unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write("/proc/sys/kernel/core_pattern", format!("|{} %P", helper.display())).unwrap();
    text(&coreward(&bed, &register));
    std::fs::remove_file(&helper).unwrap();
    let unregistered = coreward(&bed, &["unregister"]);
    assert!(String::from_utf8_lossy(&unregistered.stderr).contains(helper.to_str().unwrap()), "{unregistered:?}");
    assert_eq!((sysctl("core_pattern").as_str(), sysctl("core_pipe_limit").as_str()), ("core", "0"));

    // The shim that is installed, set by hand for another tree: the removal of the package takes it away.
    let by_hand = format!("|{} --root /elsewhere", bed.root.shim_exe().display());
    std::fs::write("/proc/sys/kernel/core_pattern", &by_hand).unwrap();
    text(&coreward(&bed, &["unregister"]));
    assert_eq!(sysctl("core_pattern"), by_hand);
    text(&coreward(&bed, &["unregister", "--any-root"]));
    assert_eq!(sysctl("core_pattern"), "core");

    std::fs::write("/proc/sys/kernel/core_pattern", "theirs").unwrap();
    let missing = coreward(&bed, &["register", "--shim", "/no/such/shim"]);
    assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("/no/such/shim"));
    assert_eq!(sysctl("core_pattern"), "theirs");
}
