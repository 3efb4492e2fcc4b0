//! Everything but the offer: what the daemon says, and what the shim says back.

use super::field::{Fields, Writer};
use super::{FdKind, Kind, MAX_CHECKPOINT, WireError};

const WHAT: u16 = 1;
const JOURNAL: u16 = 2;
const REASON: u16 = 3;
const ERRNO: u16 = 4;
const DATA: u16 = 5;
const BYTES: u16 = 6;
const CHECKPOINT: u16 = 7;
const FDS: u16 = 8;
/// 1 where no acknowledgement is needed: the inverse of `needs_ack`.
const QUIET: u16 = 9;

/// What the daemon may ask the shim to open or look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The read end of the core pipe. Asked for only by a daemon that will read it: while anybody else holds it, be it in
    /// an offer that nobody has received yet, the kernel does not let the process go.
    Core,
    /// `/proc/PID/exe`, open for reading.
    Exe,
    /// What only a crash is asked for that is no duplicate: [`super::Details`] as data, `maps` and `pagemap` as descriptors.
    Details,
    /// The first bytes of the core, so many of them, in a file that the shim keeps as well: for headers and notes that are
    /// longer than the pipe can be made. The pipe goes on behind them.
    Head(u64),
}

impl Request {
    fn number(self) -> u64 {
        match self {
            Self::Exe => 1,
            // 2 was a request for the open descriptors alone.
            Self::Details => 5,
            Self::Core => 3,
            Self::Head(_) => 4,
        }
    }
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonMessage {
    /// I have read the offer.
    Taken,
    /// Still at work.
    Busy,
    /// Open this for me.
    Request(Request),
    /// Close the core pipe, and keep what comes along: it is given back with the next offer, should this daemon end before
    /// it says "done".
    Release {
        /// What the daemon knows of the crash, in its own form; the shim does not look into it.
        checkpoint: Vec<u8>,
        /// What the descriptors of the message are, in their order.
        fds: Vec<FdKind>,
        /// Whether the daemon waits for `Released` before it publishes a core.
        needs_ack: bool,
    },
    /// The record is durable; send this entry to the journal (empty: there is none).
    Done {
        /// A datagram of the journal's native protocol.
        journal: Vec<u8>,
    },
    /// The offer cannot be read: it is not a message of this protocol, or of another version of it.
    Rejected {
        /// Why, for the kernel's log.
        reason: String,
    },
    /// The offer was understood, but the crash cannot be recorded now, for example because the catalog is down.
    Unavailable {
        /// Why, for the kernel's log.
        reason: String,
    },
}

impl DaemonMessage {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let writer = Writer::new();
        match self {
            Self::Taken => writer.message(Kind::Taken, 0),
            Self::Busy => writer.message(Kind::Busy, 0),
            Self::Request(Request::Head(bytes)) => {
                writer.number(WHAT, Request::Head(0).number()).number(BYTES, *bytes).message(Kind::Request, 0)
            }
            Self::Request(wanted) => writer.number(WHAT, wanted.number()).message(Kind::Request, 0),
            Self::Release { checkpoint, fds, needs_ack } => writer
                .bytes(CHECKPOINT, &checkpoint[..checkpoint.len().min(MAX_CHECKPOINT)])
                .bytes(FDS, &FdKind::numbers(fds))
                .number(QUIET, u64::from(!*needs_ack))
                .message(Kind::Release, fds.len()),
            Self::Done { journal } => writer.bytes(JOURNAL, journal).message(Kind::Done, 0),
            Self::Rejected { reason } => writer.bytes(REASON, reason.as_bytes()).message(Kind::Rejected, 0),
            Self::Unavailable { reason } => writer.bytes(REASON, reason.as_bytes()).message(Kind::Unavailable, 0),
        }
    }

    /// The answer in a payload.
    ///
    /// # Errors
    /// A kind that only the shim sends, or a field that is cut or invalid.
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Self, WireError> {
        let (mut wanted, mut journal, mut reason) = (Err(WireError::Missing(WHAT)), Vec::new(), String::new());
        let (mut bytes, mut checkpoint, mut fds, mut needs_ack) = (0, Vec::new(), Vec::new(), true);
        for field in Fields::of(payload) {
            let field = field?;
            match field.tag {
                WHAT => {
                    let number = field.number()?;
                    wanted = [Request::Core, Request::Exe, Request::Details, Request::Head(0)]
                        .into_iter()
                        .find(|wanted| wanted.number() == number)
                        .ok_or_else(|| field.invalid());
                }
                JOURNAL => journal = field.value.to_vec(),
                REASON => reason = field.text()?,
                BYTES => bytes = field.number()?,
                CHECKPOINT => checkpoint = field.value.to_vec(),
                FDS => fds = FdKind::list(&field)?,
                QUIET => needs_ack = field.number()? == 0,
                _ => {}
            }
        }
        match kind {
            Kind::Taken => Ok(Self::Taken),
            Kind::Busy => Ok(Self::Busy),
            Kind::Request => wanted.map(|wanted| match wanted {
                Request::Head(_) => Self::Request(Request::Head(bytes)),
                other => Self::Request(other),
            }),
            Kind::Release => Ok(Self::Release { checkpoint, fds, needs_ack }),
            Kind::Done => Ok(Self::Done { journal }),
            Kind::Rejected => Ok(Self::Rejected { reason }),
            Kind::Unavailable => Ok(Self::Unavailable { reason }),
            Kind::Offer | Kind::Reply | Kind::Released => Err(WireError::Unexpected(kind)),
        }
    }
}

/// The shim's reply to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// 0, or why not (errno).
    pub errno: u32,
    /// What was looked up, for requests that are answered in text.
    pub data: Vec<u8>,
    /// What the descriptors of the message are, in their order; none where the one that was asked for is the only one.
    pub fds: Vec<FdKind>,
}

impl Reply {
    /// The message, for `fds` descriptors.
    pub fn encode(&self, fds: usize) -> Vec<u8> {
        let mut writer = Writer::new().number(ERRNO, u64::from(self.errno)).bytes(DATA, &self.data);
        if !self.fds.is_empty() {
            writer = writer.bytes(FDS, &FdKind::numbers(&self.fds));
        }
        writer.message(Kind::Reply, fds)
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
                FDS => reply.fds = FdKind::list(&field)?,
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
