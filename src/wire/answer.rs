//! Everything but the offer: what the daemon says, and what the shim says back.

use super::field::{Fields, Writer};
use super::{Kind, WireError};

const WHAT: u16 = 1;
const JOURNAL: u16 = 2;
const REASON: u16 = 3;
const ERRNO: u16 = 4;
const DATA: u16 = 5;

/// What the daemon may ask the shim to open or look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Wanted {
    /// The read end of the core pipe. Asked for only by a daemon that will read it: while anybody else holds it, be it in
    /// an offer that nobody has received yet, the kernel does not let the process go.
    Core = 3,
    /// `/proc/PID/exe`, open for reading.
    Exe = 1,
    /// The targets of `/proc/PID/fd/*` as text, a line each.
    OpenFds = 2,
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// I have read the offer.
    Taken,
    /// Still at work.
    Busy,
    /// Open this for me.
    Request(Wanted),
    /// Close the core pipe.
    Release,
    /// The record is durable; send this entry to the journal (empty: there is none).
    Done {
        /// A datagram of the journal's native protocol.
        journal: Vec<u8>,
    },
    /// I can't read this offer.
    Rejected {
        /// Why, for kmsg.
        reason: String,
    },
}

impl Answer {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let writer = Writer::new();
        match self {
            Self::Taken => writer.message(Kind::Taken, 0),
            Self::Busy => writer.message(Kind::Busy, 0),
            Self::Request(wanted) => writer.number(WHAT, u64::from(*wanted as u8)).message(Kind::Request, 0),
            Self::Release => writer.message(Kind::Release, 0),
            Self::Done { journal } => writer.bytes(JOURNAL, journal).message(Kind::Done, 0),
            Self::Rejected { reason } => writer.bytes(REASON, reason.as_bytes()).message(Kind::Rejected, 0),
        }
    }

    /// The answer in a payload.
    ///
    /// # Errors
    /// A kind that only the shim sends, or a field that is cut or invalid.
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Self, WireError> {
        let (mut wanted, mut journal, mut reason) = (Err(WireError::Missing(WHAT)), Vec::new(), String::new());
        for field in Fields::of(payload) {
            let field = field?;
            match field.tag {
                WHAT => {
                    let number = field.number()?;
                    wanted = [Wanted::Core, Wanted::Exe, Wanted::OpenFds]
                        .into_iter()
                        .find(|wanted| u64::from(*wanted as u8) == number)
                        .ok_or_else(|| field.invalid());
                }
                JOURNAL => journal = field.value.to_vec(),
                REASON => reason = field.text()?,
                _ => {}
            }
        }
        match kind {
            Kind::Taken => Ok(Self::Taken),
            Kind::Busy => Ok(Self::Busy),
            Kind::Request => wanted.map(Self::Request),
            Kind::Release => Ok(Self::Release),
            Kind::Done => Ok(Self::Done { journal }),
            Kind::Rejected => Ok(Self::Rejected { reason }),
            Kind::Offer | Kind::Reply | Kind::Released => Err(WireError::Unexpected(kind)),
        }
    }
}

/// The shim's reply to a request; an open file comes along as the only descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// 0, or why not (errno).
    pub errno: u32,
    /// What was looked up, for requests that are answered in text.
    pub data: Vec<u8>,
}

impl Reply {
    /// The message, for `fds` descriptors.
    pub fn encode(&self, fds: usize) -> Vec<u8> {
        Writer::new().number(ERRNO, u64::from(self.errno)).bytes(DATA, &self.data).message(Kind::Reply, fds)
    }

    /// The reply in a payload.
    ///
    /// # Errors
    /// A field that is cut or invalid.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut reply = Self::default();
        for field in Fields::of(payload) {
            let field = field?;
            match field.tag {
                ERRNO => reply.errno = field.number32()?,
                DATA => reply.data = field.value.to_vec(),
                _ => {}
            }
        }
        Ok(reply)
    }
}

/// The shim's "the core pipe is closed".
pub fn released_message() -> Vec<u8> {
    Writer::new().message(Kind::Released, 0)
}
