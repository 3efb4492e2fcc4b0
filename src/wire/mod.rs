//! The message between shim and daemon: layout, limits, versions. No I/O of its own.
//!
//! A conversation on the intake stream, every message with the 16-byte [`Header`]:
//!
//! ```text
//! shim                                daemon
//!  Offer (+ descriptors)  ------------>          who crashed; attempt N
//!                         <------------ Taken    a daemon is at work: the shim's patience starts anew
//!                         <------------ Busy     still at work, every few seconds
//!                         <------------ Request  open this for me, give me the core pipe (any number)
//!  Reply (+ descriptors)  ------------>
//!                         <------------ Release  close the core pipe: the process may go; keep this (+ descriptors)
//!  Released               ------------>          unless that was quiet
//!                         <------------ Done     the record is durable (+ a journal entry to send as root)
//! ```
//!
//! `Rejected` in place of any answer: the daemon can't read this offer; the shim saves the crash alone.
//! A payload is a sequence of fields, each `tag: u16, length: u32, bytes`. Unknown tags are skipped, so that a shim and
//! a daemon of neighbouring versions understand each other while a package is upgraded. All numbers are little-endian.

mod answer;
mod details;
mod field;
mod header;
pub mod journal;
mod offer;
pub mod paths;
#[cfg(test)]
mod tests;

pub use answer::{Answer, Reply, Wanted, released_message};
pub use details::{Details, MAX_OPEN_FDS};
pub use header::{HEADER_LEN, Header, Kind, take_message};
pub use offer::{FdKind, MAX_TEXT, Namespaces, Offer};

use thiserror::Error;

/// Raised when a field changes its meaning; a new field needs no new version.
pub const VERSION: u16 = 1;
/// No payload is longer. An offer with every field at its own limit has under 80 KiB, and what was kept with it.
pub const MAX_PAYLOAD: usize = MAX_KEPT + 80 * 1024;
/// The most that a shim keeps for a daemon.
pub const MAX_KEPT: usize = 128 * 1024;
/// No message carries more descriptors (far below the kernel's 253).
pub const MAX_FDS: usize = 32;

/// Why a message is not one of ours.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// The first four bytes are something else.
    #[error("wrong magic {0:02x?}: this is not a message of Coreward")]
    Magic([u8; 4]),
    /// Another layout than this program knows.
    #[error("version {0} of the message, this program speaks version {VERSION}")]
    Version(u16),
    /// A kind this program does not know.
    #[error("unknown kind of message {0}")]
    Kind(u16),
    /// A known kind, at the wrong moment.
    #[error("a message {0:?} here makes no sense")]
    Unexpected(Kind),
    /// The header announces more than the limit.
    #[error("a payload of {0} bytes, at most {MAX_PAYLOAD} are allowed")]
    TooLong(u64),
    /// The payload ends inside a field.
    #[error("the payload ends inside of a field")]
    Cut,
    /// A field's bytes are not what its tag says.
    #[error("field {tag}: {length} bytes are not a valid value")]
    Field {
        /// The field's tag.
        tag: u16,
        /// How many bytes it has.
        length: usize,
    },
    /// A field that must be there is not.
    #[error("field {0} is missing")]
    Missing(u16),
    /// The descriptors that arrived are not those that the header announces.
    #[error("{arrived} descriptors arrived, {announced} are announced (at most {MAX_FDS})")]
    Descriptors {
        /// How many the header, or the list in the payload, names.
        announced: usize,
        /// How many came.
        arrived: usize,
    },
}
