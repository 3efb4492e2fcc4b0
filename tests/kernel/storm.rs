//! Storms: all counted, a few stored, nobody held.

use crate::stage::{Ended, Stage, program};
use coreward::crash::{CoreOutcome, NoCore};
use std::process::Command;

#[test]
fn of_two_hundred_crashes_all_are_counted_and_five_stored() {
    let Some(stage) = Stage::new() else { return };
    let daemon = stage.daemon();
    let segv = program("segv");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    Command::new(&segv).end();
                }
            });
        }
    });
    let crashes = stage.wait_for(200);
    let stored = crashes.iter().filter(|listed| listed.record.core.is_stored()).count();
    assert_eq!(stored, 5, "StormBurst= is 5 by default");
    let storm = CoreOutcome::None(NoCore::Storm);
    assert_eq!(crashes.iter().filter(|listed| listed.record.core.outcome == storm).count(), 195);
    assert_eq!(daemon.metric("coredump_process_count", "core_exists=\"true\""), 5.0);
    assert_eq!(daemon.metric("coredump_process_count", "core_exists=\"false\""), 195.0);
    assert_eq!(daemon.metric("coreward_storm_suppressed_total", ""), 195.0);

    // Another program, and another signal, are not in the storm.
    Command::new(program("abrt")).end();
    assert!(stage.wait_for(201)[200].record.core.is_stored());
    assert_eq!(daemon.stop(), Some(0));

    // A restart opens no new window.
    stage.clear_sockets();
    let daemon = stage.daemon();
    Command::new(&segv).end();
    let crashes = stage.wait_for(202);
    assert_eq!(crashes[201].record.core.outcome, storm);
    drop(daemon);
}
