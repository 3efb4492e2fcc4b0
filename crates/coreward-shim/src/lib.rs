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
//! | `stat`, `status`, `cgroup`; links `exe`, `root`, `ns/*` | reads | identify the crash; kernel data, a read cannot block |
//! | `limits`; links `cwd`, `fd/*` | reads on request, and before it saves to the spool | texts of the record |
//! | `mem`, `auxv`, `cmdline` | opens and passes on | reading process memory may block on a dead mount |
//! | `maps`, `pagemap`, `exe` | opens on request and passes on | needed only where a core is stored |
//! | the core pipe | passes on; copies its bytes without parsing them | headers that fit into no pipe, and the spool |
//!
//! The only texts of the process that are parsed are `stat` (two fields) and `status` (six lines). Links are read, never followed, other than `exe`. Of the
//! daemon, which may be compromised, the shim accepts the messages of `coreward-wire` and journal entries about a crash
//! ([`coreward_wire::journal::is_about_a_crash`]). It writes to the spool, the journal's socket and the kernel's log only.
//!
//! It links `coreward-wire`, `coreward-sys`, `nix` and `libc` (through `nix`), and nothing else.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod args;
mod connection;
mod crash;
mod deliver;
mod details;
mod kernel_log;
mod proc_dir;
mod process;
mod requests;
mod spool;
mod status;
mod warning;

use args::Args;
use coreward_sys::{clock, pipe};
use coreward_wire::Offer;
use coreward_wire::paths::Root;
use crash::Crash;
use deliver::SpoolReason;
use kernel_log::KernelLog;
use process::CrashedProcess;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// The whole program. Exit status: 0 if the crash is recorded, 1 if it was saved in the spool, 2 if it could not be saved or the
/// command line was wrong.
pub fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let started = clock::since_boot();
    // A crash of the shim must not start another shim, and no other process may trace it. (The kernel starts core_pattern helpers
    // with RLIMIT_CORE 1, which it takes as the sign of a recursion; see core(5).)
    let _ = nix::sys::prctl::set_dumpable(false);
    let Args { root, mut offer, pidfd, mut warnings } = args::parse(&arguments.collect::<Vec<_>>());
    let log = KernelLog::new(&root);
    for warning in &warnings {
        log.log(warning);
    }
    let Some(core) = pipe::stdin_pipe() else {
        eprintln!("coreward-shim: standard input is not a pipe.\n{}", args::USAGE);
        return 2;
    };
    offer.started = started;
    let process = CrashedProcess::open(&mut offer, pidfd, &mut warnings);
    let mut crash = Crash { offer, warnings, process, core: Some(core) };
    let delivered = if is_daemon_crash(&crash.offer, &root) {
        Err(SpoolReason::DaemonCrashed)
    } else {
        deliver::deliver(&mut crash, &root, &log)
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

/// Whether the daemon itself crashed. Such a crash goes to the spool: the crashing daemon cannot record it, and its successor
/// would start with the crash that may have killed its predecessor.
fn is_daemon_crash(offer: &Offer, root: &Root) -> bool {
    const UNIT: &[u8] = b"/coreward.service";
    // The kernel appends " (deleted)" if the executable was replaced, as an upgrade does (proc_pid_exe(5)).
    let exe = offer.exe.strip_suffix(b" (deleted)").unwrap_or(&offer.exe);
    let is_elsewhere = offer.namespaces.pid || offer.namespaces.user || offer.namespaces.unknown;
    // A process can imitate the path with a mount of its own, but not a place in the system's cgroup tree.
    let is_in_unit = !root.is_system() || offer.cgroup.windows(UNIT.len()).any(|part| part == UNIT);
    !is_elsewhere && is_in_unit && exe == root.daemon_exe().as_os_str().as_bytes()
}
