//! The 16-byte header of every message.

use super::{MAX_FDS, MAX_PAYLOAD, VERSION, WireError};

/// Length of a header in bytes.
pub const HEADER_LEN: usize = 16;
const MAGIC: [u8; 4] = *b"CWRD";

/// The kind of a message. The numbers are part of the protocol: the shim's start at 1, the daemon's at 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Shim: a process crashed.
    Offer = 1,
    /// Shim: the answer to a request.
    Reply = 2,
    /// Shim: the core pipe is closed.
    Released = 3,
    /// Daemon: the offer was read.
    Taken = 16,
    /// Daemon: still at work.
    Busy = 17,
    /// Daemon: open or look up something.
    Request = 18,
    /// Daemon: close the core pipe.
    Release = 19,
    /// Daemon: the crash is recorded durably.
    Done = 20,
    /// Daemon: the offer cannot be read.
    Rejected = 21,
    /// Daemon: the offer was understood, but the crash cannot be recorded now.
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

/// The header of a message. On the wire: four bytes of magic, version (`u16`), kind (`u16`), length of the payload (`u32`),
/// number of descriptors (`u16`), two reserved bytes of zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The kind of the message.
    pub kind: Kind,
    /// Length of the payload in bytes.
    pub payload_len: usize,
    /// Number of descriptors that are sent with the first byte of the message.
    pub fds: usize,
}

impl Header {
    /// Encodes the header. A length or number that does not fit becomes the largest one, which [`Self::decode`] refuses.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let [m0, m1, m2, m3] = MAGIC;
        let [v0, v1] = VERSION.to_le_bytes();
        let [k0, k1] = (self.kind as u16).to_le_bytes();
        let [l0, l1, l2, l3] = u32::try_from(self.payload_len).unwrap_or(u32::MAX).to_le_bytes();
        let [f0, f1] = u16::try_from(self.fds).unwrap_or(u16::MAX).to_le_bytes();
        [m0, m1, m2, m3, v0, v1, k0, k1, l0, l1, l2, l3, f0, f1, 0, 0]
    }

    /// Decodes a header and checks it against the limits.
    ///
    /// # Errors
    /// Another magic number or version, an unknown kind, a payload over [`MAX_PAYLOAD`], more than [`MAX_FDS`] descriptors.
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
        let announced = u32::from_le_bytes([l0, l1, l2, l3]);
        let payload_len = usize::try_from(announced).ok().filter(|length| *length <= MAX_PAYLOAD);
        let payload_len = payload_len.ok_or(WireError::TooLong(u64::from(announced)))?;
        let fds = usize::from(u16::from_le_bytes([f0, f1]));
        if fds > MAX_FDS {
            return Err(WireError::Descriptors { announced: fds, arrived: 0 });
        }
        Ok(Self { kind, payload_len, fds })
    }
}

/// Removes the first message from the bytes received so far, and returns its header and payload. `None` if it has not
/// arrived completely.
///
/// # Errors
/// As [`Header::decode`].
pub fn take_message(received: &mut Vec<u8>) -> Result<Option<(Header, Vec<u8>)>, WireError> {
    let Some(header) = received.first_chunk() else { return Ok(None) };
    let header = Header::decode(header)?;
    let end = HEADER_LEN + header.payload_len;
    let Some(payload) = received.get(HEADER_LEN..end).map(<[u8]>::to_vec) else { return Ok(None) };
    received.drain(..end);
    Ok(Some((header, payload)))
}
