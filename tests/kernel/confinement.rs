//! What daemon and readers can no longer call: the filters that they put in force, in a process that tries.

use crate::testbed::{RunToEnd, TestBed, program};
use coreward::confine::{daemon_filters, reader_filters};
use nix::errno::Errno;
use nix::libc;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Succeeded,
    Failed(Errno),
    /// The process was killed for it.
    Killed,
}

const DENIED: Ended = Ended::Failed(Errno::EPERM);
const ABSENT: Ended = Ended::Failed(Errno::ENOSYS);

/// What becomes of a call under the filters.
fn call(filters: &[u8], number: libc::c_long, arguments: &[i64]) -> Ended {
    let mut caller = Command::new(program("call"));
    caller.arg(number.to_string()).args(arguments.iter().map(i64::to_string));
    let mut child = caller.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(filters).unwrap();
    let status = child.wait().unwrap();
    match (status.code(), status.signal()) {
        (Some(0), None) => Ended::Succeeded,
        (Some(error), None) => Ended::Failed(Errno::from_raw(error)),
        (None, Some(libc::SIGSYS)) => Ended::Killed,
        _ => panic!("call {number}: {status}"),
    }
}

/// Filters in the form that `call.c` reads.
fn encode(filters: &[Vec<seccompiler::sock_filter>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for filter in filters {
        bytes.extend(u32::try_from(filter.len()).unwrap().to_ne_bytes());
        for step in filter {
            bytes.extend(step.code.to_ne_bytes());
            bytes.extend([step.jt, step.jf]);
            bytes.extend(step.k.to_ne_bytes());
        }
    }
    bytes
}

/// Calls that neither daemon nor reader may make.
const FOR_NOBODY: &[(&str, libc::c_long)] = &[
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
    ("add_key", libc::SYS_add_key),
    ("keyctl", libc::SYS_keyctl),
    ("request_key", libc::SYS_request_key),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("move_mount", libc::SYS_move_mount),
    ("fsopen", libc::SYS_fsopen),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("kexec_load", libc::SYS_kexec_load),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("delete_module", libc::SYS_delete_module),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("reboot", libc::SYS_reboot),
    ("setuid", libc::SYS_setuid),
    ("mknodat", libc::SYS_mknodat),
    ("bind", libc::SYS_bind),
    ("syslog", libc::SYS_syslog),
];

/// One of x86_64's second table, for which every number above has a counterpart.
const X32_EXECVE: libc::c_long = 0x4000_0000 | 520;

#[test]
fn the_daemon_can_do_nothing_that_it_has_no_use_for() {
    let filters = encode(&daemon_filters().unwrap());
    for (name, number) in FOR_NOBODY {
        assert_eq!(call(&filters, *number, &[]), DENIED, "{name}");
    }
    let (fork, thread) = (i64::from(libc::SIGCHLD), i64::from(libc::CLONE_THREAD));
    assert_eq!(call(&filters, libc::SYS_clone, &[fork]), DENIED, "a process");
    assert_eq!(call(&filters, libc::SYS_clone, &[thread]), Ended::Failed(Errno::EINVAL), "the kernel itself answers");
    assert_eq!(call(&filters, libc::SYS_clone3, &[]), ABSENT);
    assert_eq!(call(&filters, X32_EXECVE, &[]), ABSENT);
    let stream = libc::SOCK_STREAM.into();
    assert_eq!(call(&filters, libc::SYS_socket, &[libc::AF_UNIX.into(), stream]), Ended::Succeeded);
    for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK] {
        assert_eq!(call(&filters, libc::SYS_socket, &[family.into(), stream]), DENIED, "family {family}");
    }
}

#[test]
fn a_reader_that_calls_anything_else_is_killed() {
    let filters = encode(&reader_filters().unwrap());
    for (name, number) in FOR_NOBODY {
        assert_eq!(call(&filters, *number, &[]), Ended::Killed, "{name}");
    }
    for (name, number) in [
        ("socket", libc::SYS_socket),
        ("connect", libc::SYS_connect),
        ("accept4", libc::SYS_accept4),
        ("kill", libc::SYS_kill),
        ("pidfd_open", libc::SYS_pidfd_open),
        ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
        ("unlinkat", libc::SYS_unlinkat),
        ("renameat2", libc::SYS_renameat2),
        ("linkat", libc::SYS_linkat),
        ("fchmod", libc::SYS_fchmod),
        ("fsetxattr", libc::SYS_fsetxattr),
        ("seccomp", libc::SYS_seccomp),
        ("inotify_init1", libc::SYS_inotify_init1),
        ("tee", libc::SYS_tee),
        ("splice", libc::SYS_splice),
        ("pipe2", libc::SYS_pipe2),
        ("eventfd2", libc::SYS_eventfd2),
        ("memfd_create", libc::SYS_memfd_create),
        ("ftruncate", libc::SYS_ftruncate),
        ("fsync", libc::SYS_fsync),
        ("dup", libc::SYS_dup),
        ("membarrier", libc::SYS_membarrier),
        ("wait4", libc::SYS_wait4),
        ("x32's execve", X32_EXECVE),
    ] {
        assert_eq!(call(&filters, number, &[]), Ended::Killed, "{name}");
    }
    assert_eq!(call(&filters, libc::SYS_tgkill, &[1, 1, 0]), Ended::Killed, "a signal");
    let executable = i64::from(libc::PROT_READ | libc::PROT_EXEC);
    assert_eq!(call(&filters, libc::SYS_mmap, &[0, 4096, executable]), Ended::Killed);
    assert_eq!(call(&filters, libc::SYS_mprotect, &[0, 4096, executable]), Ended::Killed);
}

#[test]
fn what_a_library_may_try_in_a_reader_is_absent() {
    let filters = encode(&reader_filters().unwrap());
    for (name, number, arguments) in [
        ("openat", libc::SYS_openat, [-1, 0, 0, 0]),
        ("statx by path", libc::SYS_statx, [-1, 0, 0, 0]),
        ("newfstatat by path", libc::SYS_newfstatat, [-1, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [0; 4]),
        ("clone of a process", libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0]),
        ("ioctl of a terminal", libc::SYS_ioctl, [0, 0x5401, 0, 0]),
        ("prctl that makes dumpable", libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0]),
    ] {
        assert_eq!(call(&filters, number, &arguments), ABSENT, "{name}");
    }
}

/// The kernel shows for each thread that it is filtered, and that it can gain no privilege.
#[test]
fn all_threads_of_the_running_daemon_are_confined() {
    let bed = TestBed::new();
    let daemon = bed.daemon();
    Command::new(program("segv")).run_to_end();
    bed.wait_for(1);
    let mut threads = 0;
    for thread in std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap() {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        assert_eq!((field("Seccomp:"), field("NoNewPrivs:")), (Some("2"), Some("1")), "{status}");
        threads += 1;
    }
    assert!(threads > 4, "{threads} threads");
    let log = std::fs::read_to_string(bed.path("log")).unwrap();
    assert!(!log.contains("system calls"), "{log}");
}
