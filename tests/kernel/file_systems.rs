//! The state directory on file systems that lack what a disk has.

use crate::testbed::{Daemon, MemoryLimit, RunToEnd, TestBed, Volume, coreward, eventually, gdb, program, text};
use coreward::crash::{CoreOutcome, NoCore, Record, Truncation};
use coreward::store::{CoreState, Listed};
use nix::sys::signal::Signal;
use std::fs;
use std::process::Command;
use std::time::Duration;

const CORES: &str = "var/lib/coreward/cores";

fn log(bed: &TestBed) -> String {
    fs::read_to_string(bed.path("log")).unwrap_or_default()
}

/// Lets a program crash, and returns the record as it is at the end.
fn crash(bed: &TestBed, name: &str, argument: &str) -> Listed {
    let before = bed.crashes().len();
    Command::new(program(name)).arg(argument).run_to_end();
    bed.wait_for(before + 1).pop().unwrap()
}

fn assert_whole(bed: &TestBed, listed: &Listed) {
    let Record { core, warnings, .. } = &listed.record;
    assert_eq!((core.outcome, core.truncated), (CoreOutcome::Stored, None), "{warnings:?}");
    let core = bed.core(listed);
    let exe = listed.record.exe.clone();
    assert!(gdb(exe.as_ref(), &core, &["bt"]).contains("#0"), "{exe}");
    fs::remove_file(core).unwrap();
}

/// A crash without a daemon is imported with its core.
fn assert_spooled(bed: &TestBed, daemon: Daemon) -> Daemon {
    daemon.stop();
    bed.clear_sockets();
    let before = bed.crashes().len();
    Command::new(program("segv")).run_to_end();
    let spooled = || bed.names("var/lib/coreward/spool").iter().any(|name| name.ends_with(".spool"));
    eventually(Duration::from_secs(5), spooled);
    assert!(!bed.kmsg().contains("without its core"), "{}", bed.kmsg());
    let daemon = bed.daemon();
    assert_whole(bed, &bed.wait_for(before + 1)[before]);
    eventually(Duration::from_secs(5), || bed.names("var/lib/coreward/spool").is_empty());
    daemon
}

fn pin_and_unpin(bed: &TestBed, listed: &Listed) {
    let id = listed.id().to_string();
    text(&coreward(bed, &["pin", &id]));
    assert!(!coreward(bed, &["rm", &id]).status.success(), "it is pinned");
    text(&coreward(bed, &["unpin", &id]));
    text(&coreward(bed, &["rm", &id]));
    eventually(Duration::from_secs(5), || bed.crashes()[0].core_state == CoreState::Removed);
}

#[test]
fn without_unnamed_files_cores_and_spooled_crashes_are_whole_and_nothing_unfinished_stays() {
    for options in [[].as_slice(), &["--xattr-none", "-o", "direct_io"]] {
        let bed = TestBed::new();
        bed.configure("[Coreward]\nStormBurst=0\n");
        let _volume = Volume::served(&bed, options);
        let daemon = bed.daemon();
        let first = crash(&bed, "segv", "");
        assert_whole(&bed, &first);
        assert_whole(&bed, &crash(&bed, "memory", "200"));
        // The next daemon finishes a core that this one has begun.
        let _ = Command::new(program("memory")).arg("300").run_to_end();
        daemon.signal(Signal::SIGKILL);
        assert_whole(&bed, &bed.wait_for(3)[2]);
        let daemon = assert_spooled(&bed, daemon);
        pin_and_unpin(&bed, &first);
        eventually(Duration::from_secs(5), || bed.names(CORES).iter().all(|name| name.ends_with(".core.zst")));
        assert_eq!(daemon.metric("coreward_catalog_up", ""), 1.0, "{options:?}");
        assert_eq!(coreward(&bed, &["list"]).status.code(), Some(0));
        daemon.stop();
    }
}

#[test]
fn an_overlay_is_as_good_as_a_disk() {
    let bed = TestBed::new();
    let _volume = Volume::overlay(&bed);
    let daemon = bed.daemon();
    assert_whole(&bed, &crash(&bed, "memory", "100"));
    let daemon = assert_spooled(&bed, daemon);
    assert!(!log(&bed).contains("its file system"), "{}", log(&bed));
    daemon.stop();
}

#[test]
fn a_file_system_without_owners_permissions_and_holes_is_named_and_leaks_nothing() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nKeepFree=0\nMaxUse=infinity\n");
    let volume = Volume::exfat(&bed, "256M", "umask=077");
    let daemon = bed.daemon();
    let first = crash(&bed, "segv", "");
    assert_whole(&bed, &first);
    // Its core has a hole of gigabytes, for which the volume has no room.
    assert_whole(&bed, &crash(&bed, "memory", "200"));
    for lack in ["no sparse files", "no access lists", "no extended attributes: a pin is a file"] {
        bed.log_with(lack);
        assert!(text(&coreward(&bed, &["status", "--no-test"])).contains(lack), "{lack}");
    }
    let daemon = assert_spooled(&bed, daemon);
    pin_and_unpin(&bed, &first);
    daemon.stop();
    bed.clear_sockets();
    drop(volume);
    for dir in ["cores", "spool"] {
        fs::create_dir_all(bed.root.state_dir().join(dir)).unwrap();
    }

    // Everybody could read the cores.
    let _volume = Volume::exfat(&bed, "64M", "umask=022");
    let daemon = bed.daemon();
    let open = crash(&bed, "abrt", "");
    assert_eq!(open.record.core.outcome, CoreOutcome::None(NoCore::WriteError));
    assert!(open.record.warnings.iter().any(|warning| warning.contains("keeps no permissions")), "{open:?}");
    bed.log_with("no core is stored, since everybody could read it");
    daemon.stop();
}

#[test]
fn a_user_whose_core_cannot_be_given_to_them_is_named_in_its_record() {
    let bed = TestBed::new();
    let _volume = Volume::served(&bed, &["--xattr-none"]);
    let daemon = bed.daemon();
    bed.log_with("no access lists");
    fs::create_dir_all(bed.path("etc")).unwrap();
    fs::write(bed.path("etc/passwd"), "somebody:x:1000:1000::/:/bin/sh\n").unwrap();
    let mut as_user = Command::new("setpriv");
    as_user.args(["--reuid", "1000", "--regid", "1000", "--clear-groups"]).arg(program("segv"));
    as_user.run_to_end();
    let record = bed.wait_for(1)[0].record.clone();
    assert_eq!(record.core.outcome, CoreOutcome::Stored);
    assert!(record.warnings.iter().any(|warning| warning.contains("uid 1000 was not given access")), "{record:?}");
    daemon.stop();
}

#[test]
fn in_memory_cores_take_a_part_of_what_the_daemon_may_use_and_never_end_it() {
    let bed = TestBed::new();
    bed.configure("[Coreward]\nStormBurst=0\nKeepFree=0\nMaxUse=infinity\n");
    let _volume = Volume::in_memory(&bed, "4G");
    let limit = MemoryLimit::on_daemons(&bed, 256 << 20);
    let daemon = bed.daemon();
    let pid = daemon.pid();
    bed.log_with("stored cores take at most 64 MiB");
    for _ in 0..2 {
        let record = crash(&bed, "random", "600").record;
        assert_eq!(record.core.truncated, Some(Truncation::Quota), "{record:?}");
        assert!(!record.stack.is_empty());
    }
    // It goes on with those that have room.
    assert_whole(&bed, &crash(&bed, "segv", ""));
    assert!(daemon.count("coreward_stored_bytes", "") <= 64 << 20);
    assert_eq!((limit.kills(), daemon.pid()), (0, pid));
    daemon.stop();
    drop(limit);
}
