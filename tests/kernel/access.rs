//! A user sees their own crashes only.

use crate::testbed::{Ended, TestBed, program};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn as_user(uid: u32, command: &Path) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()]).arg(command);
    setpriv
}

fn can_read(uid: u32, file: &Path) -> bool {
    as_user(uid, Path::new("head")).arg("-c1").arg(file).end().success()
}

/// A copy where everybody may run it, with a mode and an owner.
fn copy(bed: &TestBed, name: &str, mode: u32, owner: u32) -> std::path::PathBuf {
    let to = bed.path(name);
    std::fs::copy(program("segv"), &to).unwrap();
    std::os::unix::fs::chown(&to, Some(owner), Some(owner)).unwrap();
    std::fs::set_permissions(&to, PermissionsExt::from_mode(mode)).unwrap();
    to
}

#[test]
fn the_crashing_user_reads_the_core_and_nobody_else() {
    let Some(bed) = TestBed::new() else { return };
    let _daemon = bed.daemon();
    as_user(1234, &copy(&bed, "plain", 0o755, 0)).end();
    let core = bed.wait_for(1)[0].core_file.clone().unwrap();
    assert!(can_read(1234, &core));
    assert!(!can_read(1235, &core));
    assert!(!bed.crashes()[0].record.privileged);
}

#[test]
fn a_program_that_changed_its_privilege_is_roots_alone() {
    let Some(bed) = TestBed::new() else { return };
    let _daemon = bed.daemon();
    let dumpable = Path::new("/proc/sys/fs/suid_dumpable");
    let before = std::fs::read_to_string(dumpable).unwrap();
    // As systems that want such cores at all have it: dumped, for root only.
    std::fs::write(dumpable, "2").unwrap();
    as_user(1234, &copy(&bed, "setuid", 0o4755, 1235)).end();
    std::fs::write(dumpable, before).unwrap();
    let crashes = bed.wait_for(1);
    assert!(crashes[0].record.privileged);
    let core = crashes[0].core_file.clone().unwrap();
    assert!(!can_read(1234, &core) && !can_read(1235, &core));
}

#[test]
fn a_containers_user_is_not_the_hosts() {
    let Some(bed) = TestBed::new() else { return };
    let _daemon = bed.daemon();
    let plain = copy(&bed, "plain", 0o755, 0);
    let script = format!("hostname web-1; exec setpriv --reuid=1234 --regid=1234 --clear-groups {}", plain.display());
    Command::new("unshare").args(["--pid", "--mount", "--uts", "--fork", "sh", "-c", &script]).end();
    // unshare(1) ends as its child did: by the same signal.
    let crashes = bed.wait_for(2);
    let listed = crashes.iter().find(|listed| listed.record.comm == "plain").unwrap();
    let record = &listed.record;
    assert_eq!((record.hostname.as_str(), record.uid, record.in_namespace), ("web-1", Some(1234), true));
    assert!(!can_read(1234, listed.core_file.as_ref().unwrap()));
}

#[test]
fn a_system_account_does_not_read_its_siblings() {
    let Some(bed) = TestBed::new() else { return };
    let _daemon = bed.daemon();
    as_user(33, &copy(&bed, "plain", 0o755, 0)).end();
    let crashes = bed.wait_for(1);
    assert!(!can_read(33, crashes[0].core_file.as_ref().unwrap()));
}
