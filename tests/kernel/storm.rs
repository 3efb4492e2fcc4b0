//! Storms: every crash is counted, a few are stored, and no process is held.

use crate::testbed::{Cgroup, RunToEnd, TestBed, coreward, eventually, has_details, has_texts, program, text};
use coreward::crash::{CoreOutcome, Decision, Keep, NoCore, Reason, Truncation};
use coreward::store::{Filter, Listed, list};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

#[test]
fn of_200_crashes_all_are_counted_and_ten_stored() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let segv = program("segv");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    Command::new(&segv).run_to_end();
                }
            });
        }
    });
    let crashes = bed.wait_for(200);
    let kept = |keep, reason| {
        let decision = Decision { keep, reason };
        crashes.iter().filter(|listed| listed.record.decision == decision).count()
    };
    assert_eq!(kept(Keep::Full, Reason::First) + kept(Keep::Full, Reason::Burst), 5, "StormBurst= is 5 by default");
    assert_eq!(kept(Keep::Stacks, Reason::StacksBurst), 5, "StormStacks= is 5 by default");
    assert_eq!(kept(Keep::Record, Reason::Storm), 190);
    let cut = |listed: &&Listed| listed.record.core.truncated == Some(Truncation::Stacks);
    assert_eq!(crashes.iter().filter(cut).count(), 5);
    let storm = CoreOutcome::None(NoCore::Storm);
    let duplicates: Vec<&Listed> = crashes.iter().filter(|listed| listed.record.core.outcome == storm).collect();
    assert_eq!(duplicates.len(), 190);
    assert!(duplicates.iter().all(|listed| {
        let record = &listed.record;
        record.exe == segv.to_str().unwrap() && record.cmdline == record.exe && record.status.is_empty()
    }));
    assert_eq!(crashes.iter().filter(|listed| has_details(&listed.record)).count(), 10);
    assert_eq!(daemon.metric("coredump_process_count", "core_exists=\"true\""), 10.0);
    assert_eq!(daemon.metric("coredump_process_count", "core_exists=\"false\""), 190.0);
    assert_eq!(daemon.metric("coreward_storm_suppressed_total", ""), 190.0);

    // Another program's crash is not part of the storm.
    Command::new(program("abrt")).run_to_end();
    assert!(bed.wait_for(201)[200].record.core.is_stored());
    assert_eq!(daemon.stop(), Some(0));

    // A restart does not begin a new window.
    bed.clear_sockets();
    let daemon = bed.daemon();
    Command::new(&segv).run_to_end();
    let crashes = bed.wait_for(202);
    assert_eq!(crashes[201].record.core.outcome, storm);
    drop(daemon);
}

/// The number of crashes in a storm: COREWARD_STORM, by default 2000.
fn storm_size() -> u64 {
    std::env::var("COREWARD_STORM").ok().and_then(|text| text.parse().ok()).unwrap_or(2000)
}

#[test]
fn a_storm_with_two_daemon_kills_is_counted_and_evicts_no_other_core() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    Command::new(program("abrt")).run_to_end();
    assert!(bed.wait_for(1)[0].record.core.is_stored());
    let count = storm_size();
    let mut storm = Command::new(program("storm"));
    storm.arg(count.to_string()).arg("32");
    let mut largest = 0;
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| storm.output().unwrap());
        let counted = || daemon.count("coredump_process_count", "");
        for third in [1, 2] {
            eventually(Duration::from_secs(120), || counted() > count * third / 3);
            largest = largest.max(largest_size(daemon.pid()));
            daemon.signal(nix::sys::signal::Signal::SIGKILL);
            daemon.wait_for_notification("READY=1");
        }
        println!("{count} crashes took {} ms", String::from_utf8_lossy(&storm.join().unwrap().stdout).trim());
    });
    eventually(Duration::from_secs(120), || daemon.count("coredump_process_count", "") == count + 1);
    largest = largest.max(largest_size(daemon.pid()));
    let groups = coreward::store::groups(&bed.root).unwrap();
    let other = |listed: &Listed| {
        let record = &listed.record;
        (record.comm == "storm" && record.signature_key() != groups[0].signature).then(|| {
            let level = record.signature.as_ref().map(|signature| signature.level);
            format!(
                "{level:?} {:?} attempt {} {:?} {:?}",
                record.origin, record.attempt, record.decision, record.warnings
            )
        })
    };
    let others: Vec<String> = list(&bed.root, &Filter::default()).unwrap().iter().filter_map(other).collect();
    assert_eq!(groups[0].count, count, "one signature: {others:?}");
    assert!(groups[0].cores <= 10, "StormBurst= and StormStacks= are 5 by default: {}", groups[0].cores);
    assert_eq!(
        groups.iter().map(|group| group.cores).sum::<u64>(),
        groups[0].cores + 1,
        "the core of the other program is there"
    );
    let listed = list(&bed.root, &Filter::default()).unwrap().len();
    assert!(listed <= 1500, "{listed} rows for {count} crashes");
    println!("largest resident size of the daemon: {largest} KiB; {} cores; {listed} rows", groups[0].cores);
    assert!(largest < 64 << 10, "{largest} KiB");
}

/// The largest resident set size that a process has had, in KiB (VmHWM in proc_pid_status(5)).
pub(crate) fn largest_size(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn one_users_flood_of_new_signatures_leaves_room_for_others() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nUnitBurst=4\nTotalBurst=8\n");
    let _daemon = bed.daemon();
    // Processes outside of any unit are attributed to their user: twelve different bugs of one user.
    for number in 1..=12 {
        let mut bug = Command::new("setpriv");
        bug.args(["--reuid=65001", "--regid=65001", "--clear-groups"]).arg(program("bugs")).arg(number.to_string());
        assert!(bug.run_to_end().core_dumped());
    }
    let crashes = bed.wait_for(12);
    let reasons: Vec<Reason> = crashes.iter().map(|listed| listed.record.decision.reason).collect();
    assert_eq!(
        reasons[..5],
        [Reason::First, Reason::First, Reason::First, Reason::First, Reason::UnitRate],
        "{reasons:?}"
    );
    assert!(reasons[4..].iter().all(|reason| *reason == Reason::UnitRate), "{reasons:?}");
    assert_eq!(crashes[11].record.core.outcome, CoreOutcome::None(NoCore::Rate));
    for listed in &crashes {
        let named = listed.record.stack.iter().filter(|frame| frame.symbol.is_some()).count();
        assert!(named > 0, "the first of its signature has its stack: {:?}", listed.record);
    }
    Command::new("setpriv")
        .args(["--reuid=65001", "--regid=65001", "--clear-groups"])
        .arg(program("bugs"))
        .arg("12")
        .run_to_end();
    let again = bed.wait_for(13).pop().unwrap().record;
    assert!(again.stack.is_empty(), "the second has not");
    let shown = text(&coreward(&bed, &["list", again.id.as_str()]));
    let functions = crashes[11].record.functions();
    assert!(!functions.is_empty() && shown.contains(&functions), "{functions}: {shown}");
    Command::new(program("segv")).run_to_end();
    assert!(bed.wait_for(14)[13].record.core.is_stored(), "the crash of another user");
}

#[test]
fn unit_and_executable_sections_override_the_configuration() {
    let bed = TestBed::new();
    let abrt = program("abrt");
    bed.configure(&format!(
        "[Coreward]\nStormBurst=1\nStormStacks=0\n[Executable {}]\nStorage=stacks\n[Unit coreward-test-*.service]\nStorage=none\n",
        abrt.display()
    ));
    let _daemon = bed.daemon();
    Command::new(&abrt).run_to_end();
    assert_eq!(bed.wait_for(1)[0].record.core.truncated, Some(Truncation::Stacks));
    assert_eq!(bed.crashes()[0].record.decision, Decision { keep: Keep::Stacks, reason: Reason::Configured });
    let unit = Cgroup::new(&bed, "coreward-test-1.service");
    assert!(unit.command(&program("segv")).run_to_end().core_dumped());
    let record = bed.wait_for(2)[1].record.clone();
    assert_eq!(record.cgroup.unit.as_deref(), Some("coreward-test-1.service"));
    assert_eq!(record.decision, Decision { keep: Keep::Record, reason: Reason::Configured });
    assert_eq!(record.core.outcome, CoreOutcome::None(NoCore::Configured));
    assert!(has_texts(&record), "{record:?}");
}

#[test]
fn crashes_of_a_storm_are_listed_and_counted_by_container() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let mut count = 0;
    for (container, times) in [("a".repeat(64), 12), ("b".repeat(64), 7)] {
        let scope = Cgroup::new(&bed, &format!("docker-{container}.scope"));
        for _ in 0..times {
            assert!(scope.command(&program("segv")).run_to_end().core_dumped());
            count += 1;
        }
        bed.wait_for(count);
    }
    let listed = |filter: Filter| list(&bed.root, &filter).unwrap().len();
    let by = |container: &str| listed(Filter { container: Some(container.to_owned()), ..Filter::default() });
    assert_eq!((by("aaaa"), by(&"b".repeat(64)), by("c")), (12, 7, 0));
    let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    assert_eq!(listed(Filter { hostname: Some(host), ..Filter::default() }), 19);
    let groups = coreward::store::groups(&bed.root).unwrap();
    assert_eq!((groups.len(), groups[0].count, groups[0].cores), (1, 19, 10));
    let occurrences = coreward::store::occurrences(&bed.root, &groups[0].signature).unwrap();
    assert_eq!(occurrences.iter().map(|occurrence| occurrence.count).sum::<u64>(), 19);
    let containers: std::collections::HashSet<&str> =
        occurrences.iter().map(|occurrence| occurrence.container.as_str()).collect();
    assert_eq!(containers.len(), 2, "no container is hidden by another");
}

/// A copy of a program that is another build to Coreward: its build ID ends in `number`.
fn another_build(bed: &TestBed, name: &str, number: u32) -> std::path::PathBuf {
    // The header of an NT_GNU_BUILD_ID note of 20 bytes.
    const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let mut bytes = std::fs::read(program(name)).unwrap();
    let note = bytes.windows(NOTE.len()).position(|window| window == NOTE).expect("a build ID");
    let end = note + NOTE.len() + 20;
    bytes[end - 4..end].copy_from_slice(&number.to_be_bytes());
    let path = bed.path(&format!("{name}-{number}"));
    std::fs::write(&path, bytes).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn as_user(uid: u32, program: &std::path::Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()]).arg(program);
    command
}

#[test]
fn three_hundred_subordinate_uids_are_one_user() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nMaxUse=40M\nKeepFree=0\nTotalBurst=60\n");
    std::fs::create_dir_all(bed.path("etc")).unwrap();
    std::fs::write(bed.path("etc/subuid"), "65001:100000:65536\n").unwrap();
    let _daemon = bed.daemon();
    // What others have only once, and the largest of all that there is.
    let unit = Cgroup::new(&bed, "coreward-test-db.service");
    assert!(unit.command(&program("abrt")).run_to_end().core_dumped());
    assert!(as_user(65003, &program("memory")).arg("32").run_to_end().core_dumped());
    let only: Vec<_> = bed.wait_for(2).iter().map(|listed| listed.id().clone()).collect();
    for number in 0..300 {
        let build = another_build(&bed, "memory", number);
        assert!(as_user(100_000 + 200 * number, &build).arg("4").run_to_end().core_dumped());
        std::fs::remove_file(build).unwrap();
    }
    let crashes = bed.wait_for(302);
    let kept = crashes[2..].iter().filter(|listed| listed.record.core.is_stored()).count();
    assert!((20..=40).contains(&kept), "UnitBurst= is 30 by default: {kept}");
    assert!(crashes[2..].iter().any(|listed| listed.core_state == coreward::store::CoreState::Evicted));
    for uid in [65002, 33, 0] {
        let build = another_build(&bed, "abrt", 1000 + uid);
        assert!(as_user(uid, &build).run_to_end().core_dumped());
    }
    // The same bug as the flood's last one, but root's.
    let build = another_build(&bed, "memory", 299);
    assert!(Command::new(build).arg("4").run_to_end().core_dumped());
    let crashes = bed.wait_for(306);
    for listed in &crashes[302..] {
        let record = &listed.record;
        assert_eq!(record.decision, Decision { keep: Keep::Full, reason: Reason::First }, "uid {:?}", record.uid);
        assert!(listed.core_state.is_present(), "uid {:?}: {:?}", record.uid, record.core);
    }
    for id in only {
        let listed = crashes.iter().find(|listed| *listed.id() == id).unwrap();
        assert!(listed.core_state.is_present(), "{}: {:?}", listed.record.exe, listed.core_state);
    }
}

#[test]
fn ten_crashes_of_a_user_do_not_hide_roots() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    for _ in 0..12 {
        assert!(as_user(65001, &program("segv")).run_to_end().core_dumped());
    }
    assert_eq!(bed.wait_for(12)[11].record.core.outcome, CoreOutcome::None(NoCore::Storm));
    assert!(Command::new(program("segv")).run_to_end().core_dumped());
    let crashes = bed.wait_for(13);
    let (users, roots) = (&crashes[11].record, &crashes[12].record);
    assert_eq!(users.signature_key(), roots.signature_key());
    assert_eq!(roots.decision, Decision { keep: Keep::Full, reason: Reason::First });
    assert!(roots.core.is_stored() && has_details(roots), "{roots:?}");
}
