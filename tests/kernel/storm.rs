//! Storms: every crash is counted, a few are stored, and no process is held.

use crate::testbed::{Cgroup, RunToEnd, TestBed, eventually, has_details, has_texts, program};
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
fn largest_size(pid: i32) -> u64 {
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
    Command::new(program("segv")).run_to_end();
    assert!(bed.wait_for(13)[12].record.core.is_stored(), "the crash of another user");
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
