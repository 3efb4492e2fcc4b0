//! The protocol that the shim and the daemon speak on the intake socket: messages, their layout, limits and version.
//! This crate does no I/O.
//!
//! The shim opens a connection for each crash. Every message starts with the 16-byte [`Header`]:
//!
//! ```text
//! shim                                daemon
//!  Offer (+ descriptors)  ------------>          a process crashed; this is attempt N
//!                         <------------ Taken    a daemon is at work: the shim restarts its timeout
//!                         <------------ Busy     still at work, sent every few seconds
//!                         <------------ Request  open a file or hand over the core pipe (any number of times)
//!  Reply (+ descriptors)  ------------>
//!                         <------------ Release  close the core pipe, so that the process can exit, and save this
//!                                                checkpoint (+ descriptors)
//!  Released               ------------>          only if Release asks for an acknowledgement
//!                         <------------ Done     the crash is recorded (+ a journal entry to send as root)
//! ```
//!
//! Two messages end the conversation early. `Rejected`: the daemon cannot read the offer. `Unavailable`: it understood the
//! offer but cannot record the crash now. In both cases the shim saves the crash in the spool.
//!
//! A payload is a sequence of fields: `tag: u16`, `length: u32`, then `length` bytes. All numbers are little-endian. Readers
//! skip unknown tags, so a shim and a daemon of neighbouring versions understand each other during an upgrade.

#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod credentials;
mod daemon_message;
mod details;
mod field;
mod header;
pub mod journal;
mod offer;
pub mod paths;
#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test that indexes out of bounds fails, as it should")]
mod tests;
mod wire_error;

pub use credentials::Credentials;
pub use daemon_message::{DaemonMessage, MAX_MODULES, MAX_PATHS, Reply, Request, released_message};
pub use details::{Details, MAX_OPEN_FDS, MAX_TABLE};
pub use header::{HEADER_LEN, Header, Kind, take_message};
pub use offer::{FdKind, MAX_TEXT, Namespaces, Offer, PidPin};
pub use wire_error::WireError;

/// Version of the protocol. It is raised when a field changes its meaning; a new field needs no new version.
pub const VERSION: u16 = 1;
/// Longest payload, in bytes. An offer whose fields are all as long as allowed takes less than 112 KiB, plus its checkpoint.
pub const MAX_PAYLOAD: usize = MAX_CHECKPOINT + 112 * 1024;
/// Longest checkpoint that the shim saves for the daemon, in bytes.
pub const MAX_CHECKPOINT: usize = 128 * 1024;
/// Most descriptors in one message: those of modules. The kernel's limit is 253 (`SCM_MAX_FD`, include/net/scm.h).
pub const MAX_FDS: usize = 200;
