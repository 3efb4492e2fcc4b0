//! The core of a living process (`coreward dump`): its threads are stopped, a core is written as the kernel would write it, and offered to the
//! daemon as that of a crash is, with a mark. The process goes on as soon as the daemon has copied what it wants.
//!
//! All of this runs as root and trusts nothing of the process. A thread of its own stops the threads and reads what `/proc` has: whatever
//! blocks it, the process goes on when that thread or the command ends, also if it is killed (ptrace(2)).

mod core_pipe;
mod error;
mod mappings;
mod status;
mod stop;
mod target;

pub use error::DumpError;

use coreward_shim::{Dump, offer_dump};
use coreward_sys::pidfd;
use coreward_wire::Offer;
use coreward_wire::paths::Root;
use nix::unistd::Pid;
use std::cell::Cell;
use std::os::unix::net::UnixStream;

/// Dumps the process. `on_release` is called when it goes on. Returns the offer that the daemon has recorded.
///
/// # Errors
/// [`DumpError`]: nothing was recorded, and the process goes on.
pub fn dump(root: &Root, pid: Pid, reason: Vec<u8>, on_release: impl FnOnce() + 'static) -> Result<Offer, DumpError> {
    let pidfd = pidfd::open(pid.as_raw()).map_err(|error| target::not_opened(pid, &error))?;
    target::check(root, pid)?;
    // Nobody is stopped for a daemon that is not there. Where systemd has the socket, this starts it.
    let socket = root.intake_socket();
    UnixStream::connect(&socket).map_err(|error| DumpError::NoDaemon { socket, error })?;
    let (stopped, hold) = stop::stop(pid, &pidfd)?;
    let core = core_pipe::write(pid, &stopped.image).map_err(DumpError::Pipe)?;
    let hold = Cell::new(Some(hold));
    let offered = Dump {
        pid,
        tid: stopped.tid,
        pidfd,
        core,
        stopped: stopped.since,
        hostname: stopped.hostname,
        reason,
        may_change: stopped.is_partial,
        warnings: stopped.warnings,
        on_release: Box::new(move || {
            drop(hold.take());
            on_release();
        }),
    };
    offer_dump(root, offered).map_err(|error| DumpError::NotRecorded(pid, error))
}
