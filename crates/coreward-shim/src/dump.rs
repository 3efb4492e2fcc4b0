//! The core of a living process, offered to the daemon as that of a crash is: the command that stopped the process has the shim's part, and
//! writes into the pipe what the kernel would.

use super::crash::Crash;
use super::deliver::{self, Patience};
use super::kernel_log::KernelLog;
use super::process::CrashedProcess;
use super::warning::ShimWarning;
use coreward_wire::Offer;
use coreward_wire::paths::Root;
use nix::unistd::Pid;
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

/// A living process whose threads are stopped.
pub struct Dump {
    /// Its PID.
    pub pid: Pid,
    /// Its main thread, or another one where that has ended.
    pub tid: Pid,
    /// A pidfd that was opened before the threads were stopped.
    pub pidfd: OwnedFd,
    /// The read end of the pipe into which somebody writes the core.
    pub core: OwnedFd,
    /// When the threads were stopped, in time since boot.
    pub stopped: Duration,
    /// The host name that the process sees.
    pub hostname: Vec<u8>,
    /// Why it is dumped; may be empty.
    pub reason: Vec<u8>,
    /// A thread goes on, and may execute another program: root alone may read what is stored.
    pub may_change: bool,
    /// What is to be added to the record's warnings.
    pub warnings: Vec<String>,
    /// Lets the process go on. Called once, whatever happens.
    pub on_release: Box<dyn FnOnce()>,
}

/// Why a dump was not recorded.
#[derive(Debug)]
pub struct DumpNotRecorded(String);

impl fmt::Display for DumpNotRecorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DumpNotRecorded {}

/// Offers the core, and serves the daemon until it has recorded the dump. Returns the offer that it recorded.
///
/// # Errors
/// The process has ended, or no daemon records the dump. It is not spooled: whoever asked can ask again.
pub fn offer_dump(root: &Root, dump: Dump) -> Result<Offer, DumpNotRecorded> {
    let Dump { pid, tid, pidfd, core, stopped, hostname, reason, may_change, warnings, on_release } = dump;
    let mut offer = Offer {
        attempt: 1,
        started: stopped,
        pid: Some(pid),
        tid: Some(tid),
        time: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs()),
        // The limit is on what the kernel writes for a crash.
        core_limit: u64::MAX,
        hostname,
        dump: Some(reason),
        ..Offer::default()
    };
    let mut warnings = warnings.into_iter().map(ShimWarning::Dumped).collect();
    let opened = CrashedProcess::open_stopped(pid, pidfd, &mut offer, &mut warnings);
    let (process, error) = match opened {
        Ok(process) => (process, None),
        Err(error) => (CrashedProcess::default(), Some(error)),
    };
    if may_change {
        offer.dumpable = None;
    }
    let mut crash =
        Crash { offer, warnings, process, core: Some(core), exit_trace: None, on_release: Some(on_release) };
    let delivered = match error {
        Some(error) => Err(DumpNotRecorded(format!("it has ended, or cannot be opened: {error}"))),
        None => deliver::deliver(&mut crash, root, &KernelLog::new(root), &Patience::OF_DUMP)
            .map_err(|reason| DumpNotRecorded(reason.to_string())),
    };
    crash.release();
    delivered.map(|()| crash.offer)
}
