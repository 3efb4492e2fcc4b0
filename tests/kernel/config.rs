//! Errors in the configuration are reported, and the daemon works on with the rest of it.

use crate::testbed::{RunToEnd, TestBed, program};
use coreward::store::CoreState;
use nix::sys::signal::Signal;
use std::process::Command;

#[test]
fn a_bad_key_is_reported_with_file_and_line_and_the_default_applies() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nMaxUse=plenty\nStormBurst=2\nMaxUze=1G\n");
    let daemon = bed.daemon();
    assert_eq!(daemon.metric("coreward_config_problems", ""), 2.0);
    let file = bed.path("etc/coreward/coreward.conf");
    bed.log_with(&format!("{}:2: MaxUse=plenty is not a size", file.display()));
    bed.log_with(&format!("{}:4: unknown key MaxUze=", file.display()));
    let status = daemon.wait_for_notification("STATUS=");
    assert!(status.contains("2 lines of the configuration are not in force"), "{status}");
    for _ in 0..3 {
        Command::new(program("segv")).run_to_end();
    }
    let whole = bed.wait_for(3).iter().filter(|listed| listed.core_state == CoreState::Stored).count();
    assert_eq!(whole, 2, "the valid line is in force");

    bed.configure("[Coreward]\nStormBurst=0\n");
    daemon.signal(Signal::SIGHUP);
    let reloading = daemon.wait_for_notification("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "systemd 253 and newer require it: {reloading}");
    daemon.wait_for_notification("READY=1");
    assert_eq!(daemon.metric("coreward_config_problems", ""), 0.0);
    Command::new(program("segv")).run_to_end();
    assert!(bed.wait_for(4)[3].record.core.is_stored());
}
