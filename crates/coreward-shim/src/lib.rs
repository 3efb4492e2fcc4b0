//! The program that the kernel starts as root, with all capabilities, for each crash (`core_pattern`, core(5)). It opens what
//! only root may open, offers the crash to the daemon, answers the daemon's requests, and saves the crash in the spool if no
//! daemon records it.
//!
//! # What it does as root, and why
//!
//! Reading `/proc/PID` of another user's process needs ptrace access (PTRACE_MODE_READ, ptrace(2)), which the unprivileged
//! daemon does not have. The kernel checks it when a file is opened and not when it is read, so the shim opens the files and
//! passes the descriptors on. The daemon gets access to the crashed process and to no other.
//!
//! | of the crashed process | the shim | why |
//! |---|---|---|
//! | `stat`, `status`, `cgroup`, `task/TID/comm`; links `exe`, `root`, `ns/*` | reads | identify the crash; kernel data, a read cannot block |
//! | `limits`, `maps`, `mountinfo` (the beginnings); links `cwd`, `fd/*`; the parent's `cmdline` | reads on request, and before it saves to the spool | texts of the record |
//! | `mem`, `auxv`, `cmdline`, `maps`, `pagemap`, `mountinfo` | opens and passes on with every offer | reading process memory may block on a dead mount |
//! | `exe` | opens on request and passes on, unless a user or another machine serves it | its build ID, where memory has none |
//! | `map_files/*` | asks files of `/dev/zero` and in memory for their holes, on request | to read a hole would allocate it |
//! | the core pipe | passes on; copies its bytes without parsing them | headers that fit into no pipe, and the spool |
//!
//! The only texts of the process that are parsed are `stat` (two fields) and `status` (seven lines), and of `cgroup` the names of the
//! hierarchies. Links are read, never followed, other than `exe` and `map_files/*`. What may block, these, `maps` and the parent's command
//! line, is accessed in a thread that can be abandoned. Of the daemon, which may be compromised, the shim accepts the messages of
//! `coreward-wire` and journal entries about a crash ([`coreward_wire::journal::is_about_a_crash`]), which it sends as root or as the user
//! of the crashed process. It writes to the spool, the journal's socket and the kernel's
//! log only.
//!
//! The command `coreward dump` offers the core of a living process in the same way ([`offer_dump`]): that is no part of the program.
//!
//! It links `coreward-wire`, `coreward-sys`, `nix` and `libc` (through `nix`), and nothing else.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod args;
mod connection;
mod crash;
mod deliver;
mod details;
mod dump;
mod executable;
mod holes;
mod kernel_log;
mod mappings;
mod modules;
mod mounts;
mod proc_dir;
mod process;
mod requests;
mod spool;
mod status;
mod warning;
mod written_file;

pub use dump::{Dump, DumpNotRecorded, offer_dump};

use args::Args;
use coreward_sys::exit_trace::ExitTrace;
use coreward_sys::{clock, pipe};
use coreward_wire::Offer;
use coreward_wire::paths::Root;
use crash::Crash;
use deliver::{Patience, SpoolReason};
use kernel_log::KernelLog;
use nix::sys::stat::stat;
use nix::unistd::Uid;
use process::{CrashedProcess, is_started_by_kernel};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use warning::ShimWarning;

/// The whole program. Exit status: 0 if the crash is recorded, 1 if it was saved in the spool, 2 if it could not be saved or the
/// command line was wrong.
pub fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let Args { root, mut offer, pidfd, mut warnings } = args::parse(&arguments.collect::<Vec<_>>());
    // First of all: what interrupts the kernel's write of the core may be on its way.
    let is_kernels = is_started_by_kernel();
    let exit_trace = offer.tid.filter(|_| is_kernels).and_then(ExitTrace::start);
    offer.started = clock::since_boot();
    // A crash of the shim must not start another shim, and no other process may trace it. (The kernel starts core_pattern helpers
    // with RLIMIT_CORE 1, which it takes as the sign of a recursion; see core(5).)
    let _ = nix::sys::prctl::set_dumpable(false);
    if !Uid::effective().is_root() {
        eprintln!("coreward-shim: only the kernel starts this program, as root.\n{}", args::USAGE);
        return 2;
    }
    // `coreward status` executes the shim without a core to see whether it can be, so this is not worth a line in the log.
    let Some(core) = pipe::stdin_pipe() else {
        eprintln!("coreward-shim: standard input is not a pipe.\n{}", args::USAGE);
        return 2;
    };
    let log = KernelLog::new(&root);
    for warning in &warnings {
        log.log(warning);
    }
    let process = CrashedProcess::open(&mut offer, pidfd, exit_trace.as_ref(), &mut warnings);
    if let Some(trace) = exit_trace.as_ref().filter(|_| process.dir.is_none()) {
        // Perhaps another thread has the number by now. To stop it would interrupt its own dump, if it is being dumped.
        trace.release();
    }
    let is_proven = process.dir.is_some() || warnings.contains(&ShimWarning::ProcessEnded);
    if !is_proven && !is_kernels {
        // Some runtimes of GPUs read core_pattern and start the handler for a process that lives. It is not crashing, what they
        // write is not its memory, and the record of it must not be in the way when it does crash.
        log.log(format_args!(
            "process {}: somebody other than the kernel says that it crashed: ignored",
            or_unknown(offer.pid)
        ));
        eprintln!("coreward-shim: this process is not being dumped; only the kernel starts this program.");
        return 2;
    }
    let mut crash = Crash { offer, warnings, process, core: Some(core), exit_trace, on_release: None };
    let delivered = if is_daemon_crash(&crash.offer, &root, daemon_uid(&root)) {
        Err(SpoolReason::DaemonCrashed)
    } else {
        deliver::deliver(&mut crash, &root, &log, &Patience::OF_CRASH)
    };
    match delivered {
        Ok(()) => 0,
        Err(reason) => save_in_spool(crash, &root, &log, &reason),
    }
}

fn save_in_spool(mut crash: Crash, root: &Root, log: &KernelLog, reason: &SpoolReason) -> u8 {
    let who = format!("process {} (signal {})", or_unknown(crash.offer.pid), or_unknown(crash.offer.signal));
    match spool::save(&mut crash, root) {
        Ok(saved) => {
            log.log(format_args!("{who}: {reason}; {saved}"));
            1
        }
        Err(error) => {
            log.log(format_args!("{who}: {reason}; the crash is lost: {error}"));
            2
        }
    }
}

fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

/// The user of the daemon, who owns the state directory.
fn daemon_uid(root: &Root) -> Option<Uid> {
    stat(&root.state_dir()).ok().map(|stat| Uid::from_raw(stat.st_uid))
}

/// Whether the daemon itself crashed. Such a crash goes to the spool: the crashing daemon cannot record it, and its successor
/// would start with the crash that may have killed its predecessor.
fn is_daemon_crash(offer: &Offer, root: &Root, daemon: Option<Uid>) -> bool {
    /// A process can imitate the executable with a mount of its own, and a user can have a unit of any name, but not one in the
    /// system's slice.
    const CGROUP: &[u8] = b"/system.slice/coreward.service";
    // The kernel appends " (deleted)" if the executable was replaced, as an upgrade does (proc_pid_exe(5)).
    let exe = offer.exe.strip_suffix(b" (deleted)").unwrap_or(&offer.exe);
    let is_elsewhere = offer.namespaces.pid || offer.namespaces.user || offer.namespaces.unknown;
    let is_in_unit = !root.is_system() || systemd_cgroup(&offer.cgroup) == Some(CGROUP);
    let is_daemons = daemon.is_some() && offer.uid == daemon;
    !is_elsewhere && is_in_unit && is_daemons && exe == root.daemon_exe().as_os_str().as_bytes()
}

/// The path in the hierarchy that systemd manages: the unified one, or its own of version 1 (cgroups(7)).
fn systemd_cgroup(cgroup: &[u8]) -> Option<&[u8]> {
    let lines = || cgroup.split(|byte| *byte == b'\n');
    let unified = lines().find_map(|line| line.strip_prefix(b"0::")).filter(|path| *path != b"/");
    unified.or_else(|| {
        lines().find_map(|line| {
            let name = line.iter().position(|byte| *byte == b':')?;
            line.get(name..)?.strip_prefix(b":name=systemd:")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_systems_own_unit_and_user_are_the_daemon() {
        const DAEMON: Uid = Uid::from_raw(997);
        let crash = |cgroup: &str, uid: u32, exe: &str| {
            let offer = Offer {
                cgroup: cgroup.as_bytes().to_vec(),
                uid: Some(Uid::from_raw(uid)),
                exe: exe.as_bytes().to_vec(),
                ..Offer::default()
            };
            is_daemon_crash(&offer, &Root::default(), Some(DAEMON))
        };
        let exe = "/usr/libexec/coreward/corewardd";
        let unit = "0::/system.slice/coreward.service\n";
        assert!(crash(unit, 997, exe));
        assert!(crash(unit, 997, &format!("{exe} (deleted)")));
        assert!(crash("1:name=systemd:/system.slice/coreward.service\n0::/\n", 997, exe));
        assert!(!crash(unit, 1000, exe));
        assert!(!crash(unit, 997, "/usr/bin/corewardd"));
        for cgroup in [
            "",
            "0::/",
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/coreward.service",
            "0::/system.slice/coreward.service/child",
            "0::/lxc.payload.web/system.slice/coreward.service",
            "0::/x\n1:cpu:/system.slice/coreward.service",
        ] {
            assert!(!crash(cgroup, 997, exe), "{cgroup}");
        }
        let offer = Offer { cgroup: unit.into(), exe: exe.into(), ..Offer::default() };
        assert!(!is_daemon_crash(&offer, &Root::default(), None), "nobody knows the daemon's user");
    }
}
