//! `coreward doctor` and `coreward selftest` on the running kernel.

use crate::testbed::{TestBed, coreward, text};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// What `coreward VERB --json` prints, and its exit status.
fn json(bed: &TestBed, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = coreward(bed, arguments);
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (value, output.status.code())
}

/// The states of all findings of a check.
fn states<'a>(findings: &'a Value, check: &str) -> Vec<&'a str> {
    let found = findings.as_array().unwrap().iter().filter(|finding| finding["check"] == check);
    found.map(|finding| finding["state"].as_str().unwrap()).collect()
}

fn remedy(findings: &Value, check: &str, state: &str) -> String {
    let found = findings.as_array().unwrap().iter().find(|it| it["check"] == check && it["state"] == state);
    found.unwrap_or_else(|| panic!("{check}: {findings}"))["remedy"].as_str().unwrap().to_owned()
}

fn set_dumpable(value: &str) {
    fs::write("/proc/sys/fs/suid_dumpable", value).unwrap();
}

#[test]
fn doctor_names_each_of_the_planted_faults_and_its_remedies_work() {
    let bed = TestBed::new();
    set_dumpable("2");
    let daemon = bed.daemon();
    let (healthy, code) = json(&bed, &["doctor", "--json"]);
    assert_eq!((code, &healthy["healthy"], &healthy["failed"]), (Some(0), &Value::Bool(true), &0.into()), "{healthy}");
    assert_eq!(states(&healthy["checks"], "test crash"), ["ok"]);

    bed.configure("[Coreward]\nNoSuchKey=1\n");
    fs::set_permissions(bed.root.shim_exe(), PermissionsExt::from_mode(0o644)).unwrap();
    fs::write("/proc/sys/kernel/core_pipe_limit", "4").unwrap();
    set_dumpable("0");
    fs::create_dir_all(bed.path("etc/sysctl.d")).unwrap();
    fs::write(bed.path("etc/sysctl.d/99-zzz.conf"), "kernel.core_pattern = |/bin/false\n").unwrap();
    fs::create_dir_all(bed.path("etc/coreward/event.d")).unwrap();
    fs::write(bed.path("etc/coreward/event.d/10-mail"), "#!/bin/sh\n").unwrap();
    fs::write(bed.path("var/lib/coreward/spool/x.bad"), "").unwrap();
    let (ill, code) = json(&bed, &["doctor", "--json"]);
    let checks = &ill["checks"];
    assert_eq!((code, &ill["healthy"]), (Some(1), &Value::Bool(false)), "{ill}");
    for (check, state) in [
        ("shim", "failed"),
        ("core_pipe_limit", "warning"),
        ("suid_dumpable", "warning"),
        ("other handlers", "warning"),
        ("event.d", "warning"),
        ("configuration", "warning"),
        ("spool", "warning"),
    ] {
        assert!(states(checks, check).contains(&state), "{check}: {ill}");
    }
    assert_eq!(states(checks, "core_pattern"), ["ok"]);
    for (check, state) in
        [("shim", "failed"), ("other handlers", "warning"), ("event.d", "warning"), ("spool", "warning")]
    {
        let status = std::process::Command::new("sh").args(["-c", &remedy(checks, check, state)]).status().unwrap();
        assert!(status.success(), "{check}");
    }
    let shown = coreward(&bed, &["doctor"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("[ok]   shim: ") && shown.contains("[warn] core_pipe_limit: 4"), "{shown}");
    assert!(shown.contains("Remedy: coreward register\n"), "{shown}");
    // The command of this tree, and not that of the machine.
    text(&coreward(&bed, &["register", "--shim", bed.path("shim").to_str().unwrap()]));
    let (mended, code) = json(&bed, &["doctor", "--json"]);
    assert_eq!((code, &mended["failed"]), (Some(0), &0.into()), "{mended}");
    let left: Vec<&Value> =
        mended["checks"].as_array().unwrap().iter().filter(|finding| finding["state"] == "warning").collect();
    let machine = ["configuration", "gdb"];
    assert!(left.iter().all(|finding| machine.contains(&finding["check"].as_str().unwrap())), "{left:?}");
    drop(daemon);
    // Nobody listens, and the pattern is another's.
    bed.clear_sockets();
    fs::write("/proc/sys/kernel/core_pattern", "core").unwrap();
    let (ill, code) = json(&bed, &["doctor", "--json"]);
    assert_eq!(code, Some(1));
    for check in ["core_pattern", "socket"] {
        assert_eq!(states(&ill["checks"], check), ["failed"], "{ill}");
    }
}

#[test]
fn selftest_follows_real_crashes_to_every_station_and_deletes_their_cores() {
    let bed = TestBed::new();
    set_dumpable("2");
    let daemon = bed.daemon();
    let metrics = daemon.metrics_address().to_string();
    let arguments = ["selftest", "--json", "--metrics", &metrics];
    let (report, code) = json(&bed, &arguments);
    assert_eq!((code, &report["passed"]), (Some(0), &Value::Bool(true)), "{report}");
    let canaries = report["canaries"].as_array().unwrap();
    let places: Vec<&str> = canaries.iter().map(|canary| canary["place"].as_str().unwrap()).collect();
    assert_eq!(places, ["root", "user", "privileged", "namespaces", "unit"]);
    let tried: Vec<&Value> = canaries.iter().filter(|canary| canary["id"].is_string()).collect();
    let crashes = bed.wait_for(tried.len());
    for (canary, listed) in tried.iter().zip(&crashes) {
        assert_eq!(canary["id"], listed.id().as_str());
        for station in ["shim", "daemon", "store", "catalog", "metric"] {
            assert_eq!(states(&canary["stations"], station), ["ok"], "{canary}");
        }
        assert_eq!((listed.record.comm.as_str(), listed.record.signal_name.as_str()), ("cw-selftest", "QUIT"));
        assert!(!listed.core_state.is_present(), "{:?}", listed.core_state);
    }
    assert!(tried.len() >= 4, "{report}");
    assert_eq!(text(&coreward(&bed, &["list", "cw-selftest", "--no-legend"])).lines().count(), tried.len());
    assert_eq!(daemon.count("coredump_process_count", "signal=\"QUIT\""), tried.len() as u64, "they are counted");

    // A shim that the kernel cannot execute: found at the first canary, with the remedy.
    let shim = bed.root.shim_exe();
    fs::set_permissions(&shim, PermissionsExt::from_mode(0o644)).unwrap();
    let (report, code) = json(&bed, &arguments);
    assert_eq!((code, &report["passed"]), (Some(1), &Value::Bool(false)), "{report}");
    let first = &report["canaries"][0]["stations"];
    assert_eq!(states(first, "shim"), ["failed"]);
    assert!(remedy(first, "shim", "failed").starts_with("chmod 755 "), "{first}");
    assert_eq!(states(&report["canaries"][1]["stations"], "shim"), ["skipped"]);
    bed.wait_for(tried.len());
    fs::set_permissions(&shim, PermissionsExt::from_mode(0o755)).unwrap();

    // What the kernel does not dump is no crash that got lost in the daemon.
    set_dumpable("0");
    let output = coreward(&bed, &["selftest", "--metrics", &metrics]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{shown}");
    assert!(shown.contains("shim: fs.suid_dumpable is 0") && shown.contains("self-test FAILED"), "{shown}");
    assert_eq!(shown.matches("[FAIL]").count(), 1, "{shown}");
}

#[test]
fn selftest_tells_a_spooled_crash_from_a_lost_one_and_says_what_it_will_do() {
    let bed = TestBed::new();
    set_dumpable("2");
    let plan = text(&coreward(&bed, &["selftest", "--dry-run"]));
    assert!(plan.contains("Five processes") && plan.contains("coreward list cw-selftest"), "{plan}");
    assert_eq!(bed.crashes().len(), 0);
    // There is no daemon.
    let (report, code) = json(&bed, &["selftest", "--json"]);
    assert_eq!(code, Some(1), "{report}");
    let first = &report["canaries"][0]["stations"];
    assert_eq!((states(first, "shim"), states(first, "daemon")), (vec!["ok"], vec!["failed"]), "{report}");
    assert!(first[1]["text"].as_str().unwrap().contains("in the spool"), "{first}");
    assert_eq!(bed.names("var/lib/coreward/spool").len(), 1);
}
