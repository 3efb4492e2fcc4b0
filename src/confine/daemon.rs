//! The daemon: it starts no programs and no processes, and needs none of what could make another user of it.

use super::filter::{ABSENT, CallList, DENIED, apply, known_numbers_only};
use nix::libc;
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCmpOp};
use std::io;

/// What the daemon never calls.
const DENIED_CALLS: &[libc::c_long] = &[
    // Programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    // Interfaces that other filters do not see into, or in which the kernel had most of its holes.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_vmsplice,
    libc::SYS_memfd_secret,
    libc::SYS_remap_file_pages,
    libc::SYS_personality,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Files by handle, devices, events of others.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_lookup_dcookie,
    // The kernel and the machine.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    // Identity.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    // Servers, and the IPC of System V and of POSIX.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_semget,
    libc::SYS_msgget,
    libc::SYS_mq_open,
];

/// What only x86_64 has.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_kexec_file_load,
    libc::SYS_mknod,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_sysfs,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// The filters of the daemon.
///
/// # Errors
/// There are none for this architecture.
pub fn daemon_filters() -> Result<Vec<BpfProgram>, BackendError> {
    let thread = libc::CLONE_THREAD.unsigned_abs().into();
    let denied = CallList::new(&[DENIED_CALLS, DENIED_HERE].concat())
        .with(libc::SYS_clone, &[(0, SeccompCmpOp::MaskedEq(thread), 0)])?
        .with(libc::SYS_socket, &[(0, SeccompCmpOp::Ne, libc::AF_UNIX.unsigned_abs().into())])?;
    // Its flags are in memory, where no filter looks. C libraries do without it.
    let absent = CallList::new(&[libc::SYS_clone3]);
    Ok(vec![
        known_numbers_only(),
        absent.into_filter(ABSENT, SeccompAction::Allow)?,
        denied.into_filter(DENIED, SeccompAction::Allow)?,
    ])
}

/// Confines this process, with all its threads, to what the daemon does.
///
/// # Errors
/// The kernel refused the filters; the process works without them.
pub fn confine_daemon() -> io::Result<()> {
    apply(&daemon_filters().map_err(io::Error::other)?)
}
