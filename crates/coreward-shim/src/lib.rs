//! What runs as root, in one place: open, offer, answer requests, spool.
//!
//! The kernel starts one shim a crash, with every capability. So it is short, it never parses what the crashed process
//! wrote (the core, its command line), it never opens a path that the process chose, and it uses two rooms only:
//! `wire` and `sys`.

#![forbid(unsafe_code)]

mod args;
mod connection;
mod deliver;
mod details;
mod kmsg;
mod process;
mod requests;
mod spool;

use args::Args;
use coreward_sys::pipe;
use coreward_wire::Offer;
use coreward_wire::paths::Root;
use deliver::Delivery;
use kmsg::Kmsg;
use process::Process;
use std::ffi::OsString;
use std::os::fd::OwnedFd;

/// One crash, from the kernel's call to the daemon's "done".
struct Crash {
    offer: Offer,
    process: Process,
    /// The read end of the core pipe; gone when the process was released.
    core: Option<OwnedFd>,
}

/// The whole program. Exit status: 0 the crash is recorded, 1 it was saved in the spool, 2 it could not be saved
/// or the call was wrong.
pub fn run(arguments: impl Iterator<Item = OsString>) -> u8 {
    let started = coreward_sys::clock::since_boot();
    // A handler that crashes must not be handed to itself (core_pattern helpers run with RLIMIT_CORE=1; this also
    // keeps others from tracing it).
    let _ = nix::sys::prctl::set_dumpable(false);
    let Args { root, offer, pidfd } = args::parse(arguments.collect());
    let kmsg = Kmsg::new(&root);
    for warnings in &offer.warnings {
        kmsg.say(warnings);
    }
    let Some(core) = pipe::stdin_pipe() else {
        eprintln!("coreward-shim: standard input is not a pipe.\n{}", args::USAGE);
        return 2;
    };
    let mut crash = Crash { offer, process: Process::default(), core: Some(core) };
    crash.offer.started = started;
    crash.process = process::open(&mut crash.offer, pidfd);
    let outcome = if is_the_daemon(&crash.offer, &root) {
        Delivery::NotTaken("it is the daemon that crashed".to_owned())
    } else {
        deliver::deliver(&mut crash, &root, &kmsg)
    };
    let Delivery::NotTaken(reason) = outcome else { return 0 };
    spool_it(crash, &root, &kmsg, &reason)
}

fn spool_it(mut crash: Crash, root: &Root, kmsg: &Kmsg, reason: &str) -> u8 {
    let who = format!("process {} (signal {})", or_unknown(crash.offer.pid), or_unknown(crash.offer.signal));
    match spool::save(&mut crash, root) {
        Ok(saved) => {
            kmsg.say(&format!("{who}: {reason}; {saved}"));
            1
        }
        Err(error) => {
            kmsg.say(&format!("{who}: {reason}; the crash is lost: {error}"));
            2
        }
    }
}

fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

/// The daemon's own crash goes to the spool: offering it to the daemon that is crashing would wait for nobody, and the
/// next one would meet the crash that killed its predecessor on its first breath.
fn is_the_daemon(offer: &Offer, root: &Root) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let exe = offer.exe.strip_suffix(b" (deleted)").unwrap_or(&offer.exe);
    let elsewhere = offer.namespaces.pid || offer.namespaces.user || offer.namespaces.unknown;
    // A path can be imitated with a mount of one's own; a place in the cgroup tree of the system can't.
    let in_its_unit = !root.is_system() || offer.cgroup.windows(17).any(|part| part == b"/coreward.service");
    !elsewhere && in_its_unit && exe == root.daemon_exe().as_os_str().as_bytes()
}
