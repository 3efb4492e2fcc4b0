//! Why bytes are not a message of this protocol.

use super::{Kind, MAX_FDS, MAX_PAYLOAD, VERSION};
use std::fmt;

/// Why bytes are not a message of this protocol.
#[derive(Debug, PartialEq, Eq)]
pub enum WireError {
    /// The first four bytes are not the protocol's magic number.
    Magic([u8; 4]),
    /// A version of the protocol that this program does not speak.
    Version(u16),
    /// A kind of message that this program does not know.
    Kind(u16),
    /// A known kind of message that is not allowed at this point.
    Unexpected(Kind),
    /// The header announces a payload of more than [`MAX_PAYLOAD`] bytes.
    TooLong(u64),
    /// The payload ends inside a field.
    Cut,
    /// A field's bytes are not a valid value for its tag.
    Field {
        /// The field's tag.
        tag: u16,
        /// Length of the field's value in bytes.
        length: usize,
    },
    /// A mandatory field, named by its tag, is missing.
    Missing(u16),
    /// The number of descriptors that arrived differs from the number announced.
    Descriptors {
        /// Number in the header, or in the list in the payload.
        announced: usize,
        /// Number that arrived.
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
            Self::Kind(kind) => write!(f, "unknown message kind {kind}"),
            Self::Unexpected(kind) => write!(f, "unexpected message {kind:?}"),
            Self::TooLong(length) => write!(f, "the payload has {length} bytes, more than the {MAX_PAYLOAD} allowed"),
            Self::Cut => f.write_str("the payload ends in the middle of a field"),
            Self::Field { tag, length } => write!(f, "field {tag}: its {length} bytes are not a valid value"),
            Self::Missing(tag) => write!(f, "field {tag} is missing"),
            Self::Descriptors { announced, arrived } => {
                write!(f, "{arrived} descriptors arrived, but {announced} were announced (at most {MAX_FDS})")
            }
        }
    }
}

impl std::error::Error for WireError {}
