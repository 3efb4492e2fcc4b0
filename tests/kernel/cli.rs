//! What an operator types, on real crashes.

use crate::stage::{Ended, Stage, program};
use std::process::{Command, Output};

pub fn coreward(stage: &Stage, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coreward")).arg("--root").arg(stage.root.path()).args(arguments).output().unwrap()
}

#[track_caller]
pub fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn from_the_list_to_the_stack_trace() {
    let Some(stage) = Stage::new() else { return };
    let daemon = stage.daemon();
    let segv = program("segv");
    Command::new(&segv).arg("an argument").end();
    Command::new(program("abrt")).end();
    let crashes = stage.wait_for(2);
    let id = crashes[0].id().as_str();

    let list = text(&coreward(&stage, &["list"]));
    let line = list.lines().find(|line| line.contains(id)).unwrap();
    for word in ["SEGV", "stored", segv.to_str().unwrap()] {
        assert!(line.contains(word), "{word} is missing in {line}");
    }
    let json: serde_json::Value = serde_json::from_str(&text(&coreward(&stage, &["list", "--json"]))).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!((json[0]["id"].as_str(), json[0]["signal_name"].as_str()), (Some(id), Some("SEGV")));

    // A crash is named by its id, the beginning of it, a PID, an executable, a name.
    let pid = crashes[0].record.key.pid.to_string();
    for name in [id, &id[..9], &pid, segv.to_str().unwrap(), "segv"] {
        let info = text(&coreward(&stage, &["info", name]));
        assert!(info.contains(id) && info.contains("an argument"), "{name}: {info}");
    }
    assert!(text(&coreward(&stage, &["info"])).contains("ABRT"), "without a name: the newest");

    let core = stage.path("core");
    text(&coreward(&stage, &["export", id, "-o", core.to_str().unwrap()]));
    assert_eq!(std::fs::read(&core).unwrap(), std::fs::read(stage.core(&crashes[0])).unwrap(), "as zstd -d has it");
    let again = coreward(&stage, &["export", id, "-o", core.to_str().unwrap()]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("--force"), "{again:?}");

    let trace = text(&coreward(&stage, &["debug", id, "--", "-nx", "-batch", "-ex", "bt"]));
    assert!(trace.contains("innermost (") && trace.contains("main ()"), "{trace}");

    let nobody = coreward(&stage, &["info", "no-such-thing"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no-such-thing"));
    assert_eq!(coreward(&stage, &["no-such-verb"]).status.code(), Some(2));
    drop(daemon);
}

#[test]
fn the_list_is_there_while_the_daemon_is_and_after() {
    let Some(stage) = Stage::new() else { return };
    let before = coreward(&stage, &["list"]);
    assert!(String::from_utf8_lossy(&before.stderr).contains("there is no catalog"), "{before:?}");
    let daemon = stage.daemon();
    Command::new(program("segv")).end();
    stage.wait_for(1);
    assert_eq!(text(&coreward(&stage, &["list", "--no-legend"])).lines().count(), 1);
    assert_eq!(daemon.stop(), Some(0));
    assert_eq!(text(&coreward(&stage, &["list", "--no-legend"])).lines().count(), 1);
    // A core that somebody deleted is said to be missing.
    std::fs::remove_file(stage.crashes()[0].core_file.as_ref().unwrap()).unwrap();
    assert!(text(&coreward(&stage, &["list"])).contains("missing"));
    let export = coreward(&stage, &["export", "-o", stage.path("core").to_str().unwrap()]);
    assert!(!export.status.success() && !stage.path("core").exists(), "{export:?}");
}

#[test]
fn status_says_whether_crashes_are_collected() {
    let Some(stage) = Stage::new() else { return };
    let daemon = stage.daemon();
    assert!(text(&coreward(&stage, &["status"])).contains("Crashes are being collected"));
    let json: serde_json::Value = serde_json::from_str(&text(&coreward(&stage, &["status", "--json"]))).unwrap();
    assert!(json.is_object());
    std::fs::write("/proc/sys/kernel/core_pattern", "core").unwrap();
    let output = coreward(&stage, &["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).contains("coreward register"), "{output:?}");
    drop(daemon);
}

#[test]
fn register_points_the_kernel_here_and_unregister_puts_it_back() {
    let Some(stage) = Stage::new() else { return };
    let sysctl = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap().trim().to_owned();
    std::fs::write("/proc/sys/kernel/core_pattern", "core.%p").unwrap();
    std::fs::write("/proc/sys/kernel/core_pipe_limit", "7").unwrap();
    let shim = stage.path("shim");
    let register = ["register", "--shim", shim.to_str().unwrap()];
    text(&coreward(&stage, &register));
    assert!(sysctl("core_pattern").starts_with(&format!("|{} --root ", shim.display())));
    assert_eq!(sysctl("core_pipe_limit"), i32::MAX.to_string());
    text(&coreward(&stage, &register));
    text(&coreward(&stage, &["unregister"]));
    assert_eq!((sysctl("core_pattern").as_str(), sysctl("core_pipe_limit").as_str()), ("core.%p", "7"));

    // What somebody else has set meanwhile is not ours to change.
    text(&coreward(&stage, &register));
    std::fs::write("/proc/sys/kernel/core_pattern", "theirs").unwrap();
    text(&coreward(&stage, &["unregister"]));
    assert_eq!(sysctl("core_pattern"), "theirs");

    let missing = coreward(&stage, &["register", "--shim", "/no/such/shim"]);
    assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("/no/such/shim"));
    assert_eq!(sysctl("core_pattern"), "theirs");
}
