//! The daemon is killed, stopped or hangs during crashes: each crash is recorded exactly once.

use crate::testbed::{RunToEnd, TestBed, Volume, assert_same_core, eventually, has_details, program};
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Starts `processes` threads that each run a crashing program `per_process` times, and calls `disturb` with the number of
/// crashes so far until all are over. Then each must be recorded once.
fn crash_all(bed: &TestBed, per_process: usize, processes: usize, mut disturb: impl FnMut(usize)) {
    let segv = program("segv");
    let ended = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..processes {
            scope.spawn(|| {
                for _ in 0..per_process {
                    Command::new(&segv).run_to_end();
                    ended.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let total = per_process * processes;
        while ended.load(Ordering::SeqCst) < total {
            disturb(ended.load(Ordering::SeqCst));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let crashes = bed.wait_for(per_process * processes);
    let ids: HashSet<_> = crashes.iter().map(|listed| listed.id().clone()).collect();
    assert_eq!(ids.len(), crashes.len());
}

#[test]
fn sigkill_during_a_storm_loses_no_crash() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=100\n");
    let daemon = bed.daemon();
    let mut kills = 0;
    crash_all(&bed, 40, 16, |ended| {
        if ended >= (kills + 1) * 120 && kills < 4 {
            daemon.signal(Signal::SIGKILL);
            kills += 1;
        }
    });
    assert_eq!(kills, 4);
    assert_eq!(daemon.metric("coredump_process_count", ""), 640.0);
    // A core that is not marked truncated is complete.
    for listed in bed.crashes().iter().filter(|listed| listed.record.core.is_stored()) {
        assert_eq!(bed.core(listed).metadata().unwrap().len(), listed.record.core.bytes);
        assert_eq!(listed.record.core.truncated.is_none(), listed.record.core.bytes == listed.record.core.expected);
        assert!(has_details(&listed.record), "{:?}", listed.record);
    }
}

#[test]
fn a_graceful_stop_during_a_storm_loses_no_crash() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    let mut stops = 0;
    crash_all(&bed, 20, 8, |ended| {
        if ended >= (stops + 1) * 40 && stops < 3 {
            daemon.signal(Signal::SIGTERM);
            stops += 1;
        }
    });
    assert_eq!(daemon.metric("coredump_process_count", ""), 160.0);
}

/// How often the daemon is killed: COREWARD_KILLS, by default 8.
fn kills() -> u64 {
    std::env::var("COREWARD_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(8)
}

#[test]
fn a_daemon_killed_at_any_point_loses_no_byte_of_the_core() {
    let bed = TestBed::with_kernel_cores();
    bed.configure("[Coreward]\nStormBurst=0\nMaxUse=4G\nKeepFree=0\n");
    let daemon = bed.daemon();
    let memory = program("memory");
    let crash = || {
        std::thread::spawn({
            let memory = memory.clone();
            move || Command::new(memory).arg("512").run_to_end()
        })
    };
    // Measures how long an undisturbed crash takes from the offer to the record; the first one also waits for cold caches.
    let undisturbed = |number: usize| {
        let begun = Instant::now();
        let crashing = crash();
        eventually(Duration::from_secs(30), || daemon.metric("coreward_inflight_crashes", "") == 1.0);
        let offered = begun.elapsed();
        eventually(Duration::from_secs(60), || bed.crashes().len() == number);
        let span = begun.elapsed() - offered;
        crashing.join().unwrap();
        span
    };
    let span = undisturbed(1).min(undisturbed(2));
    let mut interrupted = 0;
    for kill in 0..kills() {
        let crashing = crash();
        let begun = Instant::now();
        while daemon.metric("coreward_inflight_crashes", "") != 1.0 {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "kill {kill}: {} in flight, {} recorded; kernel log: {}; log: {}",
                daemon.metric("coreward_inflight_crashes", ""),
                bed.crashes().len(),
                bed.kmsg(),
                std::fs::read_to_string(bed.path("log")).unwrap_or_default(),
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        // The kills are spread evenly over that time: before, during and after the copying, and while the file is completed.
        std::thread::sleep(span * u32::try_from(kill).unwrap() / u32::try_from(kills()).unwrap());
        daemon.signal(Signal::SIGKILL);
        daemon.wait_for_notification("READY=1");
        let crashes = bed.wait_for(usize::try_from(kill).unwrap() + 3);
        crashing.join().unwrap();
        let record = &crashes.last().unwrap().record;
        interrupted += u64::from(record.attempt > 1);
        assert_eq!((record.core.truncated, record.core.bytes), (None, record.core.expected), "kill {kill}: {record:?}");
        let kernels = bed.kernel_core(crashes.last().unwrap());
        assert_same_core(&bed.core(crashes.last().unwrap()), &kernels);
        std::fs::remove_file(kernels).unwrap();
        std::fs::remove_file(crashes.last().unwrap().core_file.as_ref().unwrap()).unwrap();
    }
    assert!(interrupted * 2 > kills(), "only {interrupted} of {} kills interrupted a capture", kills());
    assert_eq!(daemon.count("coredump_process_count", ""), kills() + 2);
    assert_eq!(bed.names("var/lib/coreward/cores").len(), 2, "unfinished files are gone");
}

#[test]
fn a_hung_daemon_does_not_hold_crashes_forever() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    daemon.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    Command::new(program("segv")).run_to_end();
    let held = begun.elapsed();
    assert!(held < Duration::from_secs(30), "{held:?}");
    // The process ends when its core is drained; the file gets its name shortly after.
    eventually(Duration::from_secs(5), || bed.kmsg().contains("saved as"));
    assert_eq!(bed.names("var/lib/coreward/spool").len(), 1, "{}", bed.kmsg());
    assert!(bed.kmsg().contains("no daemon took it within"), "{}", bed.kmsg());
    daemon.signal(Signal::SIGCONT);
    let crashes = bed.wait_for(1);
    assert!(crashes[0].record.core.is_stored());
    assert_eq!(crashes[0].record.core.truncated, None);
}

#[test]
fn a_blocked_worker_stops_the_watchdog_keepalive() {
    let bed = TestBed::new();
    // A file system that can be frozen: writes to it then block until it is thawed.
    let volume = Volume::new(&bed, "64M");
    let daemon = bed.daemon();
    assert!(
        daemon.notifications_within(Duration::from_secs(2)).iter().any(|word| word == "WATCHDOG=1\n"),
        "keepalives while nothing is blocked"
    );
    volume.freeze(true);
    let memory = program("memory");
    let crashing = std::thread::spawn(move || Command::new(memory).arg("16").run_to_end());
    daemon.notifications_within(Duration::from_secs(3));
    let words = daemon.notifications_within(Duration::from_secs(3));
    volume.freeze(false);
    crashing.join().unwrap();
    assert!(!words.iter().any(|word| word == "WATCHDOG=1\n"), "{words:?}");
    assert!(
        daemon.notifications_within(Duration::from_secs(3)).iter().any(|word| word == "WATCHDOG=1\n"),
        "and again afterwards"
    );
    bed.wait_for(1);
}
