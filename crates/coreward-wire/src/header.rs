//! The 16 bytes in front of every message.

use super::{MAX_FDS, MAX_PAYLOAD, VERSION, WireError};

/// Length of a header.
pub const HEADER_LEN: usize = 16;
const MAGIC: [u8; 4] = *b"CWRD";

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Shim: this process crashed.
    Offer = 1,
    /// Shim: what you asked for.
    Reply = 2,
    /// Shim: the core pipe is closed.
    Released = 3,
    /// Daemon: I have read the offer.
    Taken = 16,
    /// Daemon: still at work.
    Busy = 17,
    /// Daemon: open this for me.
    Request = 18,
    /// Daemon: close the core pipe.
    Release = 19,
    /// Daemon: the record is durable.
    Done = 20,
    /// Daemon: the offer cannot be read.
    Rejected = 21,
    /// Daemon: the offer was understood but cannot be recorded now.
    Unavailable = 22,
}

impl Kind {
    fn from_number(number: u16) -> Result<Self, WireError> {
        use Kind::{Busy, Done, Offer, Rejected, Release, Released, Reply, Request, Taken, Unavailable};
        [Offer, Reply, Released, Taken, Busy, Request, Release, Done, Rejected, Unavailable]
            .into_iter()
            .find(|kind| *kind as u16 == number)
            .ok_or(WireError::Kind(number))
    }
}

/// What stands in front of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub kind: Kind,
    /// How many bytes follow.
    pub payload_len: usize,
    /// How many descriptors came with the first byte.
    pub fds: usize,
}

impl Header {
    /// Lays the header out: magic, version, kind, payload length, descriptor count, two bytes of zero.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[8..12].copy_from_slice(&(self.payload_len as u32).to_le_bytes());
        bytes[12..14].copy_from_slice(&(self.fds as u16).to_le_bytes());
        bytes
    }

    /// Reads a header and holds it to the limits.
    ///
    /// # Errors
    /// Another magic, version or kind; a payload or a number of descriptors over the limit.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, WireError> {
        let [m0, m1, m2, m3, v0, v1, k0, k1, l0, l1, l2, l3, f0, f1, _, _] = *bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(WireError::Magic([m0, m1, m2, m3]));
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let kind = Kind::from_number(u16::from_le_bytes([k0, k1]))?;
        let payload_len = u32::from_le_bytes([l0, l1, l2, l3]);
        if payload_len as usize > MAX_PAYLOAD {
            return Err(WireError::TooLong(u64::from(payload_len)));
        }
        let fds = usize::from(u16::from_le_bytes([f0, f1]));
        if fds > MAX_FDS {
            return Err(WireError::Descriptors { announced: fds, arrived: 0 });
        }
        Ok(Self { kind, payload_len: payload_len as usize, fds })
    }
}

/// Takes the first message out of the bytes that have arrived: its header and its payload. `None`: it is not all here yet.
///
/// # Errors
/// What [`Header::decode`] says.
pub fn take_message(arrived: &mut Vec<u8>) -> Result<Option<(Header, Vec<u8>)>, WireError> {
    let Some(header) = arrived.first_chunk() else { return Ok(None) };
    let header = Header::decode(header)?;
    let end = HEADER_LEN + header.payload_len;
    let Some(payload) = arrived.get(HEADER_LEN..end).map(<[u8]>::to_vec) else { return Ok(None) };
    arrived.drain(..end);
    Ok(Some((header, payload)))
}
