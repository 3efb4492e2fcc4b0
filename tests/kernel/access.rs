//! Who can read a stored core: root, members of adm, and the user whose process crashed.

use crate::testbed::{RunToEnd, TestBed, program};
use nix::unistd::Uid;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A command that runs as the user and group of this number.
fn as_user(uid: u32, command: &Path) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()]).arg(command);
    setpriv
}

fn can_read(uid: u32, file: &Path) -> bool {
    as_user(uid, Path::new("head")).arg("-c1").arg(file).run_to_end().success()
}

/// A copy of the crashing program that everybody can reach, with this mode and owner.
fn copy(bed: &TestBed, name: &str, mode: u32, owner: u32) -> std::path::PathBuf {
    let to = bed.path(name);
    std::fs::copy(program("segv"), &to).unwrap();
    std::os::unix::fs::chown(&to, Some(owner), Some(owner)).unwrap();
    std::fs::set_permissions(&to, PermissionsExt::from_mode(mode)).unwrap();
    to
}

#[test]
fn only_the_crashing_user_can_read_the_core() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    as_user(1234, &copy(&bed, "plain", 0o755, 0)).run_to_end();
    let core = bed.wait_for(1)[0].core_file.clone().unwrap();
    assert!(can_read(1234, &core));
    assert!(!can_read(1235, &core));
    assert!(!bed.crashes()[0].record.privileged);
}

#[test]
fn the_core_of_a_setuid_program_is_readable_by_root_only() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let dumpable = Path::new("/proc/sys/fs/suid_dumpable");
    let before = std::fs::read_to_string(dumpable).unwrap();
    // 2: the kernel dumps programs that changed privilege, for root only (proc_sys_fs(5)).
    std::fs::write(dumpable, "2").unwrap();
    as_user(1234, &copy(&bed, "setuid", 0o4755, 1235)).run_to_end();
    std::fs::write(dumpable, before).unwrap();
    let crashes = bed.wait_for(1);
    assert!(crashes[0].record.privileged);
    let core = crashes[0].core_file.clone().unwrap();
    assert!(!can_read(1234, &core) && !can_read(1235, &core));
}

#[test]
fn a_user_id_in_a_container_grants_no_access_on_the_host() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    let plain = copy(&bed, "plain", 0o755, 0);
    let script = format!("hostname web-1; exec setpriv --reuid=1234 --regid=1234 --clear-groups {}", plain.display());
    Command::new("unshare").args(["--pid", "--mount", "--uts", "--fork", "sh", "-c", &script]).run_to_end();
    // unshare(1) ends by the same signal as its child, which is the second crash.
    let crashes = bed.wait_for(2);
    let listed = crashes.iter().find(|listed| listed.record.comm == "plain").unwrap();
    let record = &listed.record;
    assert_eq!((record.hostname.as_str(), record.uid, record.in_namespace), ("web-1", Some(Uid::from_raw(1234)), true));
    assert!(!can_read(1234, listed.core_file.as_ref().unwrap()));
}

#[test]
fn a_system_account_cannot_read_cores_of_its_own_id() {
    let bed = TestBed::new();
    let _daemon = bed.daemon();
    as_user(33, &copy(&bed, "plain", 0o755, 0)).run_to_end();
    let crashes = bed.wait_for(1);
    assert!(!can_read(33, crashes[0].core_file.as_ref().unwrap()));
}
