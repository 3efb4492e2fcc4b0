//! How the query service has the daemon delete a core, which only the daemon's user can do.
//!
//! The service passes on the connection of whoever asks. The daemon makes sure that it was accepted on the service's socket, asks the kernel
//! who connected (SO_PEERCRED), and decides by itself: a service that was taken over can delete nothing but what those who are connected to
//! it may delete.

use super::connect::connect_within;
use crate::crash::CrashId;
use coreward_sys::fdpass;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// The daemon looks one crash up and removes one file.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of an answer.
const MAX_ANSWER: u64 = 4096;
/// The last byte of a request.
const PLAIN: u8 = b'-';
const FORCE: u8 = b'!';

/// A request to the daemon. The connection of whoever wants it comes with the first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletionRequest {
    /// The crash.
    pub id: CrashId,
    /// Also if the core is pinned.
    pub force: bool,
}

/// A core was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// The bytes that its file took.
    pub bytes: u64,
}

/// Why no core was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeletionError {
    /// There is no such crash, or not for this user.
    NoSuchCrash(CrashId),
    /// It has no core.
    NoCore(CrashId),
    /// An administrator has pinned it.
    Pinned(CrashId),
    /// The user may see it, but not delete it.
    NotAllowed,
    /// Something else.
    Failed(String),
}

impl DeletionRequest {
    /// The bytes of every request.
    pub const LENGTH: usize = 17;

    /// The bytes to send.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.as_str().as_bytes().to_vec();
        bytes.push(if self.force { FORCE } else { PLAIN });
        bytes
    }

    /// The request in these bytes; `None` if it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (last, id) = bytes.split_last()?;
        let force = match *last {
            FORCE => true,
            PLAIN => false,
            _ => return None,
        };
        let id = CrashId::parse(std::str::from_utf8(id).ok()?)?;
        (bytes.len() == Self::LENGTH).then_some(Self { id, force })
    }

    /// Sends the request to the daemon's socket with the connection `client`, and waits for the answer. Blocks.
    pub(super) fn send(&self, socket: &Path, client: BorrowedFd<'_>) -> Result<Deletion, DeletionError> {
        let exchange = || -> io::Result<String> {
            let daemon = connect_within(socket, TIMEOUT)?;
            // So few bytes are sent at once.
            fdpass::send_with_fds(daemon.as_fd(), &self.encode(), &[client.as_raw_fd()])?;
            let mut answer = String::new();
            daemon.take(MAX_ANSWER).read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer =
            exchange().map_err(|error| DeletionError::Failed(format!("the daemon does not answer: {error}")))?;
        Deletion::decode(&answer, &self.id)
    }
}

impl Deletion {
    /// The daemon's answer.
    #[must_use]
    pub fn encode(ended: &Result<Self, DeletionError>) -> String {
        match ended {
            Ok(Self { bytes }) => format!("deleted {bytes}"),
            Err(error) => error.to_string(),
        }
    }

    fn decode(answer: &str, id: &CrashId) -> Result<Self, DeletionError> {
        let (word, rest) = answer.split_once(' ').unwrap_or((answer, ""));
        Err(match (word, rest.parse()) {
            ("deleted", Ok(bytes)) => return Ok(Self { bytes }),
            ("no-such-crash", _) => DeletionError::NoSuchCrash(id.clone()),
            ("no-core", _) => DeletionError::NoCore(id.clone()),
            ("pinned", _) => DeletionError::Pinned(id.clone()),
            ("not-allowed", _) => DeletionError::NotAllowed,
            ("failed", _) => DeletionError::Failed(rest.to_owned()),
            _ => DeletionError::Failed("the daemon's answer is not understood".to_owned()),
        })
    }
}

impl fmt::Display for DeletionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchCrash(_) => f.write_str("no-such-crash"),
            Self::NoCore(_) => f.write_str("no-core"),
            Self::Pinned(_) => f.write_str("pinned"),
            Self::NotAllowed => f.write_str("not-allowed"),
            Self::Failed(reason) => write!(f, "failed {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_read_as_they_were_written() {
        let id = CrashId::parse("0123456789abcdef").unwrap();
        for force in [false, true] {
            let request = DeletionRequest { id: id.clone(), force };
            assert_eq!(request.encode().len(), DeletionRequest::LENGTH);
            assert_eq!(DeletionRequest::decode(&request.encode()), Some(request));
        }
        for bytes in
            [&b""[..], b"0123456789abcdef", b"0123456789abcdef?", b"0123456789abcde-", b"../../../../etc/-", b"\xff-"]
        {
            assert_eq!(DeletionRequest::decode(bytes), None);
        }
        for ended in [
            Ok(Deletion { bytes: 7 }),
            Err(DeletionError::NoSuchCrash(id.clone())),
            Err(DeletionError::NoCore(id.clone())),
            Err(DeletionError::Pinned(id.clone())),
            Err(DeletionError::NotAllowed),
            Err(DeletionError::Failed("a reason".to_owned())),
        ] {
            assert_eq!(Deletion::decode(&Deletion::encode(&ended), &id), ended);
        }
        for answer in ["", "deleted", "deleted x", "?"] {
            assert!(matches!(Deletion::decode(answer, &id), Err(DeletionError::Failed(_))), "{answer}");
        }
    }
}
