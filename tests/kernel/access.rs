//! Who can read a stored core: root, members of adm, and the user whose process crashed and who could have looked into it.

use crate::testbed::{RunToEnd, TestBed, eventually, program};
use coreward::store::module_file_name;
use nix::unistd::Uid;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A command that runs as the user and group of this number.
pub(crate) fn as_user(uid: u32, command: &Path) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()]).arg(command);
    setpriv
}

/// A test bed whose machine has these users. `setuid` programs of this file belong to user 1235.
pub(crate) fn bed_with_users() -> TestBed {
    let bed = TestBed::new();
    let passwd = "root:x:0:0::/:/bin/sh\nalice:x:1234:1234::/:/bin/sh\nbob:x:1235:1235::/:/bin/sh\n\
        dynamic:x:61200:61200::/:/bin/sh\nsub:x:100005:100005::/:/bin/sh\ncontainer:x:524289:524289::/:/bin/sh\n";
    std::fs::create_dir_all(bed.path("etc")).unwrap();
    std::fs::write(bed.path("etc/passwd"), passwd).unwrap();
    std::fs::write(bed.path("etc/group"), "adm:x:4:\nalice:x:1234:\nsecrets:x:7777:bob\nshared:x:7778:bob,alice\n")
        .unwrap();
    std::fs::write(bed.path("etc/subuid"), "alice:100000:65536\n").unwrap();
    bed
}

fn can_read(uid: u32, file: &Path) -> bool {
    as_user(uid, Path::new("head")).arg("-c1").arg(file).run_to_end().success()
}

/// A copy of the crashing program that everybody can reach, with this mode and owner.
pub(crate) fn copy(bed: &TestBed, name: &str, mode: u32, owner: u32) -> std::path::PathBuf {
    let to = bed.path(name);
    std::fs::copy(program("segv"), &to).unwrap();
    std::os::unix::fs::chown(&to, Some(owner), Some(owner)).unwrap();
    std::fs::set_permissions(&to, PermissionsExt::from_mode(mode)).unwrap();
    to
}

#[test]
fn only_the_crashing_user_can_read_the_core() {
    let bed = bed_with_users();
    let _daemon = bed.daemon();
    as_user(1234, &copy(&bed, "plain", 0o755, 0)).run_to_end();
    let core = bed.wait_for(1)[0].core_file.clone().unwrap();
    assert!(can_read(1234, &core));
    assert!(!can_read(1235, &core));
    assert!(!bed.crashes()[0].record.privileged);
}

#[test]
fn a_module_is_for_those_whose_own_process_had_the_same_bytes() {
    let bed = bed_with_users();
    let _daemon = bed.daemon();
    let alices = copy(&bed, "alices", 0o700, 1234);
    as_user(1234, &alices).run_to_end();
    let crash = bed.wait_for(1).remove(0);
    let build_id = crash.record.exe_build_id.as_deref().unwrap();
    let module = bed.path("var/lib/coreward/modules").join(module_file_name(build_id).unwrap());
    eventually(Duration::from_secs(20), || can_read(1234, &module));
    assert!(!can_read(1235, &module));
    // Anybody can write this build-id into a file.
    let forged = copy(&bed, "forged", 0o700, 1235);
    let mut bytes = std::fs::read(&forged).unwrap();
    bytes.push(0);
    std::fs::write(&forged, bytes).unwrap();
    as_user(1235, &forged).run_to_end();
    assert_eq!(bed.wait_for(2)[1].record.exe_build_id.as_deref(), Some(build_id));
    std::thread::sleep(Duration::from_secs(1));
    assert!(!can_read(1235, &module));
    as_user(1235, &copy(&bed, "bobs", 0o700, 1235)).run_to_end();
    eventually(Duration::from_secs(20), || can_read(1235, &module));
}

/// A program that may only be executed is mapped all the same.
#[test]
fn a_module_is_not_for_those_who_could_not_read_its_file() {
    let bed = bed_with_users();
    let _daemon = bed.daemon();
    let module_of = |crash: &coreward::store::Listed| {
        let build_id = crash.record.exe_build_id.as_deref().unwrap();
        bed.path("var/lib/coreward/modules").join(module_file_name(build_id).unwrap())
    };
    as_user(1234, &copy(&bed, "closed", 0o711, 0)).run_to_end();
    let module = module_of(&bed.wait_for(1).remove(0));
    eventually(Duration::from_secs(20), || module.exists());
    std::thread::sleep(Duration::from_secs(1));
    assert!(!can_read(1234, &module));
    as_user(1234, &copy(&bed, "open", 0o755, 0)).run_to_end();
    assert_eq!(module_of(&bed.wait_for(2)[1]), module);
    eventually(Duration::from_secs(20), || can_read(1234, &module));
}

/// The journal puts an entry into the journal of the user under whose name it was sent.
#[test]
fn an_entry_is_sent_under_the_name_of_the_user_who_may_read_the_core() {
    let bed = bed_with_users();
    let plain = copy(&bed, "plain", 0o755, 0);
    let _daemon = bed.daemon();
    let sent_as = |command: &mut Command| {
        command.run_to_end();
        bed.journal_entry().1
    };
    assert_eq!(sent_as(&mut as_user(1234, &plain)), 1234);
    assert_eq!(sent_as(&mut Command::new(&plain)), 0, "root's");
    assert_eq!(sent_as(&mut as_user(61200, &plain)), 0, "a uid that is nobody's own");
    assert_eq!(sent_as(&mut as_user(1236, &plain)), 0, "a uid of no user");
}

#[test]
fn a_main_thread_that_has_ended_changes_nothing_for_the_user() {
    let bed = bed_with_users();
    let _daemon = bed.daemon();
    let exe = bed.path("leader");
    std::fs::copy(program("leader"), &exe).unwrap();
    as_user(1234, &exe).args(["one", "two words"]).current_dir("/usr").run_to_end();
    let listed = bed.wait_for(1).remove(0);
    let record = &listed.record;
    assert!(can_read(1234, listed.core_file.as_ref().unwrap()), "{record:?}");
    assert_eq!((record.exe.as_str(), record.cwd.as_str()), (exe.to_str().unwrap(), "/usr"));
    assert!(record.cmdline.ends_with("one 'two words'") && record.open_fds.contains("/dev/null"), "{record:?}");
    assert!(record.status.contains("VmRSS") && record.limits.contains("Max core file size"), "{record:?}");
    assert!(record.stack.len() >= 2 && record.core.truncated.is_none() && !record.in_namespace, "{record:?}");
    assert_eq!(record.warnings, [] as [String; 0]);
    // The crash is that of the process, not of a thread with a start of its own.
    assert_eq!((record.comm.as_str(), record.uid), ("leader", Some(Uid::from_raw(1234))));
}

#[test]
fn the_core_of_a_setuid_program_is_readable_by_root_only() {
    let bed = bed_with_users();
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
    let bed = bed_with_users();
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

#[test]
fn a_process_with_more_than_its_user_is_not_the_users_to_read() {
    let bed = bed_with_users();
    let _daemon = bed.daemon();
    let plain = copy(&bed, "plain", 0o755, 0);
    let mut count = 0;
    let mut crash = |arguments: &[&str], program: &[&str]| {
        Command::new("setpriv").args(arguments).args(program).run_to_end();
        count += 1;
        // The newest is last.
        bed.wait_for(count).pop().unwrap()
    };
    let plain = [plain.to_str().unwrap()];
    let alice = "--reuid=1234";
    // A group of hers that is not her first.
    let listed = crash(&[alice, "--regid=7778", "--clear-groups"], &plain);
    assert!(can_read(1234, listed.core_file.as_ref().unwrap()), "{:?}", listed.record.warnings);

    // A group that she is not in, as Group= of a unit may be.
    let listed = crash(&[alice, "--regid=7777", "--clear-groups"], &plain);
    assert!(!can_read(1234, listed.core_file.as_ref().unwrap()));
    assert!(listed.record.warnings.iter().any(|warning| warning.contains("gid 7777")), "{:?}", listed.record.warnings);

    // A capability, as AmbientCapabilities= gives it: neither AT_SECURE nor the dump mode shows it.
    let ambient = ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"];
    let listed = crash(&[&[alice, "--regid=1234", "--clear-groups"], ambient.as_slice()].concat(), &plain);
    assert!(!can_read(1234, listed.core_file.as_ref().unwrap()));
    assert!(listed.record.privileged);

    // Uids that are handed out to one after the other, and those of containers.
    for uid in [61_200, 100_005, 524_289] {
        let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
        let listed = crash(&[&ids[0], &ids[1], "--clear-groups"], &plain);
        assert_eq!(listed.record.uid, Some(Uid::from_raw(uid)));
        assert!(!can_read(uid, listed.core_file.as_ref().unwrap()), "{uid}");
    }
    // One that no user has.
    let listed = crash(&["--reuid=1236", "--regid=1236", "--clear-groups"], &plain);
    assert!(!can_read(1236, listed.core_file.as_ref().unwrap()));

    // Programs that root started have had root's memory, whatever they are when they crash.
    let drops = bed.path("drops");
    std::fs::copy(program("drops"), &drops).unwrap();
    for way in ["all", "saved", "thread"] {
        let listed = crash(&[], &[drops.to_str().unwrap(), way]);
        let record = &listed.record;
        assert_eq!((record.uid, record.privileged), (Some(Uid::from_raw(1234)), true), "{way}");
        assert!(!can_read(1234, listed.core_file.as_ref().unwrap()), "{way}");
    }
}

#[test]
fn login_defs_says_whose_uids_are_peoples() {
    let bed = bed_with_users();
    std::fs::write(bed.path("etc/login.defs"), "# Bob alone.\nUID_MIN\t\t 1235\nUID_MAX\t\t02323\n").unwrap();
    let _daemon = bed.daemon();
    let plain = copy(&bed, "plain", 0o755, 0);
    for (count, (uid, is_person)) in [(1234, false), (1235, true)].into_iter().enumerate() {
        as_user(uid, &plain).run_to_end();
        let listed = bed.wait_for(count + 1).pop().unwrap();
        assert_eq!(listed.record.uid, Some(Uid::from_raw(uid)));
        assert_eq!(can_read(uid, listed.core_file.as_ref().unwrap()), is_person, "{uid}");
        assert_eq!(listed.record.warnings, [] as [String; 0]);
    }
}
