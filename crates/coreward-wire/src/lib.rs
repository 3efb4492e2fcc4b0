//! The messages between shim and daemon: layout, limits, versions. No I/O of its own, and no dependencies.
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

#![forbid(unsafe_code)]

mod daemon_message;
mod details;
mod field;
mod header;
pub mod journal;
mod offer;
pub mod paths;
#[cfg(test)]
mod tests;

pub use daemon_message::{DaemonMessage, Reply, Request, released_message};
pub use details::{Details, MAX_OPEN_FDS};
pub use header::{HEADER_LEN, Header, Kind, take_message};
pub use offer::{FdKind, MAX_TEXT, Namespaces, Offer};

use std::fmt;

/// Raised when a field changes its meaning; a new field needs no new version.
pub const VERSION: u16 = 1;
/// No payload is longer. An offer with every field at its own limit has under 80 KiB, and what was checkpoint with it.
pub const MAX_PAYLOAD: usize = MAX_CHECKPOINT + 80 * 1024;
/// The most that a shim keeps for a daemon.
pub const MAX_CHECKPOINT: usize = 128 * 1024;
/// No message carries more descriptors (far below the kernel's 253).
pub const MAX_FDS: usize = 32;

/// Why bytes are not a message of this protocol.
#[derive(Debug, PartialEq, Eq)]
pub enum WireError {
    /// The first four bytes are not the protocol's magic number.
    Magic([u8; 4]),
    /// A version of the protocol that this program does not speak.
    Version(u16),
    /// A kind of message that this program does not know.
    Kind(u16),
    /// A known kind, but not one that may come now.
    Unexpected(Kind),
    /// The header announces a payload above [`MAX_PAYLOAD`] bytes.
    TooLong(u64),
    /// The payload ends inside a field.
    Cut,
    /// A field's bytes are not a valid value for its tag.
    Field {
        /// The field's tag.
        tag: u16,
        /// How many bytes the field has.
        length: usize,
    },
    /// A mandatory field is missing.
    Missing(u16),
    /// The number of descriptors that arrived differs from the number announced.
    Descriptors {
        /// How many the header, or the list in the payload, announces.
        announced: usize,
        /// How many arrived.
        arrived: usize,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(magic) => write!(f, "wrong magic {magic:02x?}: this is not a message of Coreward"),
            Self::Version(version) => {
                write!(f, "the message has protocol version {version}, this program speaks version {VERSION}")
            }
            Self::Kind(kind) => write!(f, "unknown kind of message {kind}"),
            Self::Unexpected(kind) => write!(f, "a message {kind:?} here makes no sense"),
            Self::TooLong(length) => write!(f, "a payload of {length} bytes, at most {MAX_PAYLOAD} are allowed"),
            Self::Cut => f.write_str("the payload ends inside of a field"),
            Self::Field { tag, length } => write!(f, "field {tag}: its {length} bytes are not a valid value"),
            Self::Missing(tag) => write!(f, "field {tag} is missing"),
            Self::Descriptors { announced, arrived } => {
                write!(f, "{arrived} descriptors arrived, {announced} are announced (at most {MAX_FDS})")
            }
        }
    }
}

impl std::error::Error for WireError {}
