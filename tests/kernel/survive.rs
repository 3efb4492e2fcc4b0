//! The daemon dies, hangs, or stops amid crashes: each is recorded once.

use crate::stage::{Ended, Stage, program};
use coreward::crash::Cut;
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn crash_all(stage: &Stage, per_process: usize, processes: usize, mut amid: impl FnMut(usize)) {
    let segv = program("segv");
    let ended = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..processes {
            scope.spawn(|| {
                for _ in 0..per_process {
                    Command::new(&segv).end();
                    ended.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let total = per_process * processes;
        while ended.load(Ordering::SeqCst) < total {
            amid(ended.load(Ordering::SeqCst));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let crashes = stage.wait_for(per_process * processes);
    let ids: HashSet<_> = crashes.iter().map(|listed| listed.id().clone()).collect();
    assert_eq!(ids.len(), crashes.len());
}

#[test]
fn sigkill_amid_a_storm_loses_nothing() {
    let Some(stage) = Stage::new() else { return };
    stage.configure("[Coreward]\nStormBurst=100\n");
    let daemon = stage.daemon();
    let mut kills = 0;
    crash_all(&stage, 40, 16, |ended| {
        if ended >= (kills + 1) * 120 && kills < 4 {
            daemon.signal(Signal::SIGKILL);
            kills += 1;
        }
    });
    assert_eq!(kills, 4);
    assert_eq!(daemon.metric("coredump_process_count", ""), 640.0);
    // A core that is called whole is whole.
    for listed in stage.crashes().iter().filter(|listed| listed.record.core.is_stored()) {
        assert_eq!(stage.core(listed).metadata().unwrap().len(), listed.record.core.bytes);
        assert_eq!(listed.record.core.truncated.is_none(), listed.record.core.bytes == listed.record.core.expected);
    }
}

#[test]
fn a_graceful_stop_amid_a_storm_loses_nothing() {
    let Some(stage) = Stage::new() else { return };
    let daemon = stage.daemon();
    let mut stops = 0;
    crash_all(&stage, 20, 8, |ended| {
        if ended >= (stops + 1) * 40 && stops < 3 {
            daemon.signal(Signal::SIGTERM);
            stops += 1;
        }
    });
    assert_eq!(daemon.metric("coredump_process_count", ""), 160.0);
}

#[test]
fn what_a_killed_daemon_had_read_is_missed_and_said() {
    let Some(stage) = Stage::new() else { return };
    let daemon = stage.daemon();
    let memory = program("memory");
    let crashing = std::thread::spawn(move || Command::new(memory).arg("700").end());
    // In the middle of the capture: there is a worker on it, and nothing is stored yet.
    crate::stage::eventually(Duration::from_secs(30), || daemon.metric("coreward_inflight_crashes", "") == 1.0);
    std::thread::sleep(Duration::from_millis(500));
    daemon.signal(Signal::SIGKILL);
    crashing.join().unwrap();
    let crashes = stage.wait_for(1);
    let record = &crashes[0].record;
    assert_eq!(record.attempt, 2);
    assert_eq!(record.core.truncated, Some(Cut::Resumed), "{:?}", record.core);
    assert!(record.core.bytes > 0);
    assert_eq!(stage.names("var/lib/coreward/cores").len(), 1, "the half-written file left no trace");
    assert_eq!(daemon.metric("coreward_repeated_offers_total", ""), 1.0);
}

#[test]
fn a_hung_daemon_holds_nobody_for_ever() {
    let Some(stage) = Stage::new() else { return };
    let daemon = stage.daemon();
    daemon.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    Command::new(program("segv")).end();
    let held = begun.elapsed();
    assert!(held < Duration::from_secs(30), "{held:?}");
    // The process goes when its core is drained; the file has its name a moment later.
    crate::stage::eventually(Duration::from_secs(5), || stage.kmsg().contains("saved as"));
    assert_eq!(stage.names("var/lib/coreward/spool").len(), 1, "{}", stage.kmsg());
    assert!(stage.kmsg().contains("no daemon took the crash within"), "{}", stage.kmsg());
    daemon.signal(Signal::SIGCONT);
    let crashes = stage.wait_for(1);
    assert!(crashes[0].record.core.is_stored());
    assert_eq!(crashes[0].record.core.truncated, None);
}

#[test]
fn a_stuck_worker_stops_the_keepalive() {
    let Some(stage) = Stage::new() else { return };
    // A volume of its own that can be frozen: writes to it then wait until it is thawed.
    let volume = crate::disk::Volume::new(&stage, "64M");
    let daemon = stage.daemon();
    assert!(daemon.words(Duration::from_secs(2)).iter().any(|word| word == "WATCHDOG=1\n"), "keepalives in peace");
    volume.freeze(true);
    let memory = program("memory");
    let crashing = std::thread::spawn(move || Command::new(memory).arg("16").end());
    daemon.words(Duration::from_secs(3));
    let words = daemon.words(Duration::from_secs(3));
    volume.freeze(false);
    crashing.join().unwrap();
    assert!(!words.iter().any(|word| word == "WATCHDOG=1\n"), "{words:?}");
    assert!(daemon.words(Duration::from_secs(3)).iter().any(|word| word == "WATCHDOG=1\n"), "and again after");
    stage.wait_for(1);
}
