//! The daemon's messages and the shim's replies: everything but the offer.

use super::field::{FieldReader, PayloadWriter, truncated, truncated_text};
use super::{FdKind, Kind, MAX_CHECKPOINT, MAX_FDS, MAX_TEXT, WireError};
use nix::unistd::Uid;

const WHAT: u16 = 1;
const JOURNAL: u16 = 2;
const REASON: u16 = 3;
const ERRNO: u16 = 4;
const DATA: u16 = 5;
const BYTES: u16 = 6;
const CHECKPOINT: u16 = 7;
const FDS: u16 = 8;
/// 1 if no acknowledgement is needed: the inverse of `needs_ack`.
const QUIET: u16 = 9;
const HOLES: u16 = 10;
const THREAD: u16 = 11;
const ADDRESSES: u16 = 12;
const PATH: u16 = 13;
const USER: u16 = 20;

/// Most modules that are asked for at a time.
pub const MAX_MODULES: usize = MAX_FDS;
/// Most paths in a [`Request::WrittenFile`].
pub const MAX_PATHS: usize = 8;

/// What the daemon may ask the shim to open or look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The read end of the core pipe. A daemon asks for it only when it is about to read it: as long as anybody holds the
    /// pipe, even in an offer that nobody has received, the kernel keeps the crashed process.
    Core,
    /// `/proc/PID/exe`, open for reading.
    Exe,
    /// What is needed only for a crash that is no duplicate: [`super::Details`] as data.
    Details {
        /// With the list of [`FdKind::Holes`]: the core is going to be copied.
        holes: bool,
        /// With the name of the thread that has this id in the PID namespace of the process; 0: of none.
        thread: u32,
    },
    /// The first bytes of the core (this many) in a file, for headers and notes that are longer than a pipe can be made. The
    /// shim keeps the file; the pipe then continues after these bytes.
    Head(u64),
    /// The mapped files in which mappings with these first addresses are, open for reading, if nobody serves them who may not answer. The
    /// reply has descriptors of those that could be opened, and their addresses in the same order ([`Reply::addresses`]). At most
    /// [`MAX_MODULES`].
    Modules(Vec<u64>),
    /// The first of these files that the crashed process may have written itself, open for reading: its user's, changed since it was started, on
    /// a file system of this machine. Paths are relative to the working directory of the process or absolute below its root directory, and no
    /// symbolic link is followed; a `*` between dots of the last component stands for any text without a dot, and the newest of such files is
    /// meant. The data of the reply is the path of the file. At most [`MAX_PATHS`].
    ///
    /// Only for a shim that offers to answer it ([`super::Offer::opens_written_files`]).
    WrittenFile(Vec<Vec<u8>>),
}

impl Request {
    /// The number on the wire. 2 was in use before the first release; do not use it again.
    fn number(&self) -> u64 {
        match self {
            Self::Exe => 1,
            Self::Core => 3,
            Self::Head(_) => 4,
            Self::Details { .. } => 5,
            Self::Modules(_) => 6,
            Self::WrittenFile(_) => 7,
        }
    }

    fn from_number(number: u64, fields: RequestFields) -> Option<Self> {
        let RequestFields { bytes, holes, thread, addresses, paths } = fields;
        let all = [
            Self::Exe,
            Self::Core,
            Self::Head(bytes),
            Self::Details { holes, thread },
            Self::Modules(addresses),
            Self::WrittenFile(paths),
        ];
        all.into_iter().find(|request| request.number() == number)
    }
}

/// The fields of all requests.
#[derive(Default)]
struct RequestFields {
    bytes: u64,
    holes: bool,
    thread: u32,
    addresses: Vec<u64>,
    paths: Vec<Vec<u8>>,
}

/// A message from the daemon to the shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonMessage {
    /// The offer was read.
    Taken,
    /// The daemon is still at work.
    Busy,
    /// Open or look up something.
    Request(Request),
    /// Close the core pipe and save the checkpoint. The shim sends the checkpoint with its next offer if this daemon ends
    /// before `Done`.
    Release {
        /// What the daemon knows of the crash, in the daemon's own format; opaque to the shim. At most [`MAX_CHECKPOINT`]
        /// bytes.
        checkpoint: Vec<u8>,
        /// The kinds of the message's descriptors, in their order.
        fds: Vec<FdKind>,
        /// Whether the daemon waits for `Released` before it publishes a core.
        needs_ack: bool,
    },
    /// The crash is recorded durably.
    Done {
        /// An entry in the journal's native protocol that the shim sends. Empty if there is none.
        journal: Vec<u8>,
        /// The user of the crashed process, if the entry is for that user's journal; `None`: for root's alone.
        user: Option<Uid>,
    },
    /// The offer cannot be read: it is not a message of this protocol, or of a version that the daemon does not speak.
    Rejected {
        /// Why, for the kernel's log. At most [`MAX_TEXT`] bytes.
        reason: String,
    },
    /// The offer was understood, but the crash cannot be recorded now, for example because the catalog is down.
    Unavailable {
        /// Why, for the kernel's log. At most [`MAX_TEXT`] bytes.
        reason: String,
    },
}

impl DaemonMessage {
    /// Encodes the message with its header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let writer = PayloadWriter::new();
        let write_reason =
            |writer: PayloadWriter, reason: &str| writer.bytes(REASON, truncated_text(reason, MAX_TEXT).as_bytes());
        match self {
            Self::Taken => writer.into_message(Kind::Taken, 0),
            Self::Busy => writer.into_message(Kind::Busy, 0),
            Self::Request(request) => {
                let writer = writer.number(WHAT, request.number());
                let writer = match request {
                    Request::Head(bytes) => writer.number(BYTES, *bytes),
                    Request::Details { holes, thread } => {
                        writer.number(HOLES, u64::from(*holes)).number(THREAD, u64::from(*thread))
                    }
                    Request::Modules(addresses) => writer.bytes(ADDRESSES, &encode_addresses(addresses)),
                    Request::WrittenFile(paths) => paths
                        .iter()
                        .filter(|path| path.len() <= MAX_TEXT)
                        .take(MAX_PATHS)
                        .fold(writer, |writer, path| writer.bytes(PATH, path)),
                    Request::Core | Request::Exe => writer,
                };
                writer.into_message(Kind::Request, 0)
            }
            Self::Release { checkpoint, fds, needs_ack } => writer
                .bytes(CHECKPOINT, truncated(checkpoint, MAX_CHECKPOINT))
                .bytes(FDS, &FdKind::to_bytes(fds))
                .number(QUIET, u64::from(!*needs_ack))
                .into_message(Kind::Release, fds.len()),
            Self::Done { journal, user } => {
                writer.bytes(JOURNAL, journal).optional_number(USER, user.map(Uid::as_raw)).into_message(Kind::Done, 0)
            }
            Self::Rejected { reason } => write_reason(writer, reason).into_message(Kind::Rejected, 0),
            Self::Unavailable { reason } => write_reason(writer, reason).into_message(Kind::Unavailable, 0),
        }
    }

    /// Decodes the payload of a message of this kind.
    ///
    /// # Errors
    /// A kind that only the shim sends; a field that is cut off, invalid or missing.
    pub fn decode(kind: Kind, payload: &[u8]) -> Result<Self, WireError> {
        let (mut what, mut request, mut journal, mut reason) =
            (None, RequestFields::default(), Vec::new(), String::new());
        let (mut checkpoint, mut fds, mut needs_ack, mut user) = (Vec::new(), Vec::new(), true, None);
        for field in FieldReader::new(payload) {
            let field = field?;
            match field.tag {
                WHAT => what = Some((field.number()?, field.invalid())),
                JOURNAL => journal = field.value.to_vec(),
                USER => user = Some(Uid::from_raw(field.number32()?)),
                REASON => reason = field.text(MAX_TEXT)?,
                BYTES => request.bytes = field.number()?,
                CHECKPOINT => checkpoint = field.bytes(MAX_CHECKPOINT),
                FDS => fds = FdKind::from_field(&field)?,
                QUIET => needs_ack = !field.flag()?,
                HOLES => request.holes = field.flag()?,
                THREAD => request.thread = field.number32()?,
                ADDRESSES => request.addresses = decode_addresses(field.value),
                PATH if request.paths.len() < MAX_PATHS => request.paths.push(field.bytes(MAX_TEXT)),
                _ => {}
            }
        }
        match kind {
            Kind::Taken => Ok(Self::Taken),
            Kind::Busy => Ok(Self::Busy),
            Kind::Request => {
                let (number, invalid) = what.ok_or(WireError::Missing(WHAT))?;
                Request::from_number(number, request).map(Self::Request).ok_or(invalid)
            }
            Kind::Release => Ok(Self::Release { checkpoint, fds, needs_ack }),
            Kind::Done => Ok(Self::Done { journal, user }),
            Kind::Rejected => Ok(Self::Rejected { reason }),
            Kind::Unavailable => Ok(Self::Unavailable { reason }),
            Kind::Offer | Kind::Reply | Kind::Released => Err(WireError::Unexpected(kind)),
        }
    }
}

/// The shim's reply to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// 0, or the errno of what failed (errno(3)).
    pub errno: u32,
    /// The text of requests that are answered in text, see [`super::Details`].
    pub data: Vec<u8>,
    /// The kinds of the message's descriptors, in their order. Empty if the requested descriptor is the only one.
    pub fds: Vec<FdKind>,
}

/// Addresses as eight bytes each.
fn encode_addresses(addresses: &[u64]) -> Vec<u8> {
    addresses.iter().take(MAX_MODULES).flat_map(|address| address.to_le_bytes()).collect()
}

fn decode_addresses(bytes: &[u8]) -> Vec<u64> {
    let addresses = bytes.chunks_exact(8).filter_map(|bytes| bytes.first_chunk()).copied().map(u64::from_le_bytes);
    addresses.take(MAX_MODULES).collect()
}

impl Reply {
    /// The reply to [`Request::Modules`]: the files of these are opened.
    #[must_use]
    pub fn of_modules(addresses: &[u64]) -> Self {
        Self { data: encode_addresses(addresses), ..Self::default() }
    }

    /// The addresses in a reply to [`Request::Modules`].
    #[must_use]
    pub fn addresses(&self) -> Vec<u64> {
        decode_addresses(&self.data)
    }

    /// The reply to [`Request::WrittenFile`]: the file with this path is opened.
    #[must_use]
    pub fn of_written_file(path: &[u8]) -> Self {
        Self { data: truncated(path, 2 * MAX_TEXT).to_vec(), ..Self::default() }
    }

    /// Encodes the message with its header, for a message that carries `fds` descriptors.
    #[must_use]
    pub fn encode(&self, fds: usize) -> Vec<u8> {
        let mut writer = PayloadWriter::new().number(ERRNO, u64::from(self.errno)).bytes(DATA, &self.data);
        if !self.fds.is_empty() {
            writer = writer.bytes(FDS, &FdKind::to_bytes(&self.fds));
        }
        writer.into_message(Kind::Reply, fds)
    }

    /// Decodes the payload of a reply.
    ///
    /// # Errors
    /// A field that is cut off or invalid.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let mut reply = Self::default();
        for field in FieldReader::new(payload) {
            let field = field?;
            match field.tag {
                ERRNO => reply.errno = field.number32()?,
                DATA => reply.data = field.value.to_vec(),
                FDS => reply.fds = FdKind::from_field(&field)?,
                _ => {}
            }
        }
        Ok(reply)
    }
}

/// The shim's `Released`: the core pipe is closed.
#[must_use]
pub fn released_message() -> Vec<u8> {
    PayloadWriter::new().into_message(Kind::Released, 0)
}
