//! Crashes without a daemon: the shim writes them to the spool, and the next daemon imports them.

use crate::testbed::{RunToEnd, TestBed, eventually, gdb, has_details, program};
use coreward::crash::Origin;
use coreward_sys::xattr;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(10);

#[test]
fn a_crash_without_a_daemon_is_spooled_and_imported_later() {
    let bed = TestBed::new();
    let segv = program("segv");
    assert!(Command::new(&segv).run_to_end().core_dumped());
    // The process ends when its core is drained; the file gets its name, and the log its line, shortly after.
    eventually(WITHIN, || bed.kmsg().contains("saved as"));
    let spooled = bed.names("var/lib/coreward/spool");
    assert_eq!(spooled.len(), 1, "{}", bed.kmsg());
    let file = bed.path("var/lib/coreward/spool").join(&spooled[0]).metadata().unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o640);
    assert!(bed.kmsg().contains("no daemon at") && bed.kmsg().contains("saved as"), "{}", bed.kmsg());

    let daemon = bed.daemon();
    let crashes = bed.wait_for(1);
    let record = &crashes[0].record;
    assert_eq!((record.origin, record.core.truncated, record.signal_name.as_str()), (Origin::Spool, None, "SEGV"));
    assert!(record.stack.len() > 3, "from the core and the files that were mapped: {record:?}");
    assert!(has_details(record), "the shim must save them, nobody can ask it later: {record:?}");
    assert!(gdb(&segv, &bed.core(&crashes[0]), &["bt"]).contains("innermost ("));
    assert_eq!(bed.names("var/lib/coreward/spool"), [] as [String; 0]);
    assert_eq!(daemon.metric("coreward_crashes_total", "origin=\"spool\""), 1.0);
    assert_eq!(bed.journal().len(), 1);
}

#[test]
fn nobody_is_held_for_a_socket_that_systemd_has_not_started_or_has_stopped() {
    let bed = TestBed::new();
    let units = bed.path("run/systemd/units");
    std::fs::create_dir(&units).unwrap();
    let crash = || {
        let begun = std::time::Instant::now();
        Command::new(program("segv")).run_to_end();
        begun.elapsed()
    };
    let took = crash();
    assert!(took < Duration::from_secs(2), "{took:?}");
    // The daemon runs, and its socket is missing only for a moment.
    std::os::unix::fs::symlink("0123", units.join("invocation:coreward.service")).unwrap();
    let took = crash();
    assert!(took > Duration::from_secs(3), "{took:?}");
    let _daemon = bed.daemon();
    assert!(bed.wait_for(2).iter().all(|listed| listed.record.core.is_stored()));
}

#[test]
fn the_daemons_own_crash_is_recorded() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    daemon.signal(nix::sys::signal::Signal::SIGABRT);
    daemon.wait_for_notification("READY=1");
    let crashes = bed.wait_for(1);
    assert_eq!(crashes[0].record.comm, "corewardd");
    assert_eq!(crashes[0].record.origin, Origin::Spool);
    assert!(bed.kmsg().contains("it is the daemon that crashed"), "{}", bed.kmsg());
}

#[test]
fn the_shim_does_not_follow_links_planted_in_place_of_the_spool() {
    let bed = TestBed::new();
    // The daemon's user owns the state directory, so a compromised daemon can replace the spool.
    let spool = bed.path("var/lib/coreward/spool");
    let elsewhere = bed.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::remove_dir(&spool).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &spool).unwrap();
    Command::new(program("segv")).run_to_end();
    // The crash is saved in the other spool.
    eventually(WITHIN, || bed.names("run/coreward/spool").len() == 1);
    assert_eq!(bed.names("elsewhere"), [] as [String; 0], "the shim did not follow the link");

    // A directory that belongs to another user.
    std::fs::remove_file(&spool).unwrap();
    std::fs::create_dir(&spool).unwrap();
    std::os::unix::fs::chown(&spool, Some(65534), Some(65534)).unwrap();
    Command::new(program("segv")).run_to_end();
    eventually(WITHIN, || bed.names("run/coreward/spool").len() == 2);
    assert_eq!(bed.names("var/lib/coreward/spool"), [] as [String; 0]);
}

#[test]
fn a_spool_that_was_created_again_can_be_emptied_by_the_daemons_group() {
    const GROUP: u32 = 4322;
    /// What systemd/tmpfiles.d gives the state directory: user::rwx, group::r-x, group:adm:r-x, mask::r-x, other::---.
    const INHERITED: &[(u16, u16, u32)] =
        &[(1, 7, u32::MAX), (4, 5, u32::MAX), (8, 5, 4), (16, 5, u32::MAX), (32, 0, u32::MAX)];
    let bed = TestBed::new();
    let state = bed.root.state_dir();
    std::os::unix::fs::chown(&state, None, Some(GROUP)).unwrap();
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in INHERITED {
        list.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    let dir = std::fs::File::open(&state).unwrap();
    xattr::set(dir.as_fd(), c"system.posix_acl_default", &list).unwrap();
    let spool = state.join("spool");
    let may_empty = |spool: &Path| {
        let name = std::fs::read_dir(spool).unwrap().next().unwrap().unwrap().file_name();
        let script = format!("cat '{0}' > /dev/null && mv '{0}' moved && rm moved", name.to_str().unwrap());
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=4321", &format!("--regid={GROUP}"), "--clear-groups", "sh", "-c", &script]);
        setpriv.current_dir(spool).run_to_end().success()
    };
    for mode in [None, Some(0o770), Some(0o750)] {
        std::fs::remove_dir(&spool).unwrap();
        if let Some(mode) = mode {
            // systemd-tmpfiles creates it so; a chmod of an earlier shim left it so.
            std::fs::create_dir(&spool).unwrap();
            std::fs::set_permissions(&spool, PermissionsExt::from_mode(mode)).unwrap();
        }
        Command::new(program("segv")).run_to_end();
        eventually(WITHIN, || bed.names("var/lib/coreward/spool").len() == 1);
        let created = std::fs::File::open(&spool).unwrap();
        assert!(!xattr::has(created.as_fd(), c"system.posix_acl_access"));
        assert!(!xattr::has(created.as_fd(), c"system.posix_acl_default"));
        assert_eq!(created.metadata().unwrap().permissions().mode() & 0o7777, 0o770);
        assert!(may_empty(&spool), "{mode:?}");
    }

    // The other spool's parent is root's.
    std::fs::remove_dir(&spool).unwrap();
    std::fs::write(&spool, "").unwrap();
    let other = bed.path("run/coreward/spool");
    std::fs::remove_dir(&other).unwrap();
    Command::new(program("segv")).run_to_end();
    eventually(WITHIN, || other.is_dir() && bed.names("run/coreward/spool").len() == 1);
    assert!(may_empty(&other));
}

#[test]
fn invalid_spool_files_are_quarantined() {
    let bed = TestBed::new();
    let spool = bed.path("var/lib/coreward/spool");
    std::fs::write(spool.join("garbage.spool"), "not a message").unwrap();
    std::fs::write(spool.join("empty.spool"), "").unwrap();
    nix::unistd::mkfifo(&spool.join("fifo.spool"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", spool.join("link.spool")).unwrap();
    let daemon = bed.daemon();
    eventually(WITHIN, || bed.names("var/lib/coreward/spool").iter().all(|name| name.ends_with(".bad")));
    assert_eq!(bed.names("var/lib/coreward/spool").len(), 4);
    assert_eq!(daemon.metric("coreward_errors_total", "kind=\"spool\""), 4.0);
    Command::new(program("segv")).run_to_end();
    bed.wait_for(1);
}
