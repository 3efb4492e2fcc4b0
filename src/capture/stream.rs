//! The stream, frame by frame: read, reserve, compress, append.

use super::progress::Beat;
use super::source::Source;
use crate::crash::Cut;
use crate::elf::{self, ElfError, ProcessNotes};
use crate::store::format::{FRAME_LEN, FormatError};
use crate::store::{CoreFile, Grant, Ledger};
use nix::errno::Errno;
use std::io;
use thiserror::Error;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// Level of zstd: the fastest regular one, since the process is parked while it is compressed.
const LEVEL: i32 = 1;

/// How far a capture may go.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of core, before compression.
    pub process_size_max: u64,
    /// Bytes of file.
    pub external_size_max: u64,
    /// The process' own RLIMIT_CORE where it counts.
    pub core_limit: Option<u64>,
}

/// What to capture, and under what circumstances.
#[derive(Debug)]
pub struct Order<'a> {
    /// Where from.
    pub source: Source,
    /// Where to.
    pub file: CoreFile,
    /// Who grants room.
    pub ledger: &'a Ledger,
    /// How far.
    pub limits: Limits,
    /// Pulse of this worker.
    pub beat: &'a Beat,
    /// Whether the bytes may be looked at.
    pub parse: bool,
    /// Whether an earlier daemon may have taken the beginning.
    pub resumed: bool,
}

/// A core in a file that has no name yet.
#[derive(Debug)]
pub struct Captured {
    /// The file.
    pub file: CoreFile,
    /// Bytes reserved for it, to be settled or given back.
    pub reserved: u64,
    /// Bytes that the core's headers announce, 0 where they could not be read.
    pub expected: u64,
    /// Why it is not whole.
    pub cut: Option<Cut>,
    /// What the notes say of the process.
    pub notes: Option<ProcessNotes>,
}

/// Why there is nothing to keep.
#[derive(Debug, Error)]
pub enum Failure {
    /// The shim has offered the crash to somebody else, or the daemon stops.
    #[error("called off")]
    Cancelled,
    /// Not a byte came.
    #[error("the stream was empty")]
    Empty,
    /// Nothing came for too long.
    #[error("the stream stood still")]
    Stalled,
    /// Something else than a core came.
    #[error("the stream is not a core: {0}")]
    NotACore(ElfError),
    /// No room for the first frame, and nothing to evict.
    #[error("no room within MaxUse= and KeepFree=, and nothing left to evict")]
    Quota,
    /// The disk, or a kernel quota, has no room for the first frame.
    #[error("the disk is full: {0}")]
    DiskFull(io::Error),
    /// The file can't be written.
    #[error("the core can't be written: {0}")]
    Write(io::Error),
    /// The stream can't be read.
    #[error("the core can't be read: {0}")]
    Read(io::Error),
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Io(error) if is_full(&error) => Self::DiskFull(error),
            FormatError::Io(error) => Self::Write(error),
            other => Self::Write(io::Error::other(other)),
        }
    }
}

/// Captures the whole stream, or as much as the limits allow. What is reserved stays reserved in [`Captured`], and is given
/// back on failure.
///
/// # Errors
/// Nothing worth keeping was captured.
pub fn capture(order: Order<'_>) -> Result<Captured, Failure> {
    let Order { source, file, ledger, .. } = order;
    let mut captured = Captured { file, reserved: 0, expected: 0, cut: None, notes: None };
    let terms = Terms { limits: order.limits, beat: order.beat, parse: order.parse, resumed: order.resumed };
    match fill(&mut captured, source, ledger, &terms) {
        Ok(()) => Ok(captured),
        Err(failure) => {
            ledger.cancel(captured.reserved);
            Err(failure)
        }
    }
}

struct Terms<'a> {
    limits: Limits,
    beat: &'a Beat,
    parse: bool,
    resumed: bool,
}

fn fill(captured: &mut Captured, mut source: Source, ledger: &Ledger, terms: &Terms<'_>) -> Result<(), Failure> {
    let Terms { limits, beat, .. } = *terms;
    let mut compressor = compressor().map_err(Failure::Write)?;
    let mut content = vec![0; FRAME_LEN];
    let mut frame = vec![0; zstd::zstd_safe::compress_bound(FRAME_LEN)];
    reserve(captured, ledger, captured.file.length() + captured.file.overhead()).map_err(|()| Failure::Quota)?;
    loop {
        let (allowed, at_limit) = allowance(captured.file.content(), limits);
        if allowed == 0 {
            // A core that is just as long as the limit is whole.
            captured.cut = at_limit.filter(|_| captured.expected == 0 || captured.file.content() < captured.expected);
            return Ok(());
        }
        let filled = match source.fill(&mut content[..allowed], beat) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(Failure::Cancelled),
            filled => filled.map_err(Failure::Read)?,
        };
        let (read, stalled) = (filled.bytes, filled.stalled);
        let first = captured.file.content() == 0;
        if read == 0 {
            return end(captured, first, stalled);
        }
        if first {
            look(captured, &content[..read], terms)?;
        }
        let length = compressor.compress_to_buffer(&content[..read], frame.as_mut_slice()).map_err(Failure::Write)?;
        let after = captured.file.length() + captured.file.overhead() + length as u64;
        if after > limits.external_size_max {
            captured.cut = Some(Cut::ExternalSizeMax);
            return if first { Err(Failure::Quota) } else { Ok(()) };
        }
        if reserve(captured, ledger, length as u64 + 8).is_err() {
            captured.cut = Some(Cut::Quota);
            return if first { Err(Failure::Quota) } else { Ok(()) };
        }
        beat.work();
        match captured.file.append(&frame[..length], read as u32) {
            Ok(()) => {}
            Err(error) if is_full(&error) && first => return Err(Failure::DiskFull(error)),
            Err(error) if is_full(&error) => {
                captured.cut = Some(Cut::DiskFull);
                return Ok(());
            }
            Err(error) => return Err(Failure::Write(error)),
        }
        if read < allowed {
            return end(captured, false, stalled);
        }
    }
}

/// Looks at the first frame: is it a core, how long will it be, whose is it?
fn look(captured: &mut Captured, bytes: &[u8], terms: &Terms<'_>) -> Result<(), Failure> {
    if !terms.parse {
        // Four bytes are no parsing: they tell a beginning from what an earlier daemon left.
        captured.cut = (terms.resumed && !bytes.starts_with(b"\x7fELF")).then_some(Cut::Resumed);
        return Ok(());
    }
    match elf::inspect(bytes) {
        Ok(head) => {
            captured.expected = head.expected.unwrap_or(0);
            captured.notes = Some(elf::process_notes(bytes, &head));
            Ok(())
        }
        // An earlier daemon took the beginning with it. The rest may still tell something to somebody.
        Err(_) if terms.resumed => {
            captured.cut = Some(Cut::Resumed);
            Ok(())
        }
        Err(error) => Err(Failure::NotACore(error)),
    }
}

fn end(captured: &mut Captured, empty: bool, stalled: bool) -> Result<(), Failure> {
    if empty {
        return Err(if stalled { Failure::Stalled } else { Failure::Empty });
    }
    if stalled {
        captured.cut = Some(Cut::Stalled);
    } else if captured.file.content() < captured.expected {
        captured.cut = Some(Cut::EndedEarly);
    }
    Ok(())
}

fn reserve(captured: &mut Captured, ledger: &Ledger, bytes: u64) -> Result<(), ()> {
    match ledger.reserve(bytes) {
        Grant::Granted => {
            captured.reserved += bytes;
            Ok(())
        }
        Grant::Full => Err(()),
    }
}

/// How much of the next frame may be read after `content` bytes, and which limit it is that comes first.
fn allowance(content: u64, limits: Limits) -> (usize, Option<Cut>) {
    let by_size = (limits.process_size_max.saturating_sub(content), Cut::ProcessSizeMax);
    let by_core = (limits.core_limit.unwrap_or(u64::MAX).saturating_sub(content), Cut::CoreLimit);
    let (left, cut) = if by_core.0 < by_size.0 { by_core } else { by_size };
    (usize::try_from(left).unwrap_or(FRAME_LEN).min(FRAME_LEN), Some(cut))
}

fn compressor() -> io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    Ok(compressor)
}

/// ENOSPC and EDQUOT are ordinary outcomes: the disk's own limit, and the kernel's quota for this user or project.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOSPC | Errno::EDQUOT))
}
