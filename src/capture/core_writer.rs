//! The file being written, and what holds it to its limits.

use super::chunk::{CHUNK, SourceError};
use crate::crash::{CrashId, Truncation};
use crate::store::format::FormatError;
use crate::store::{CoreFile, Grant, QuotaHandle};
use coreward_sys::no_space;
use nix::errno::Errno;
use std::io;
use std::sync::Arc;
use thiserror::Error;

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

impl Limits {
    /// The most bytes of core that may be stored, and which limit says so.
    pub fn content(&self) -> (u64, Truncation) {
        match self.core_limit {
            Some(limit) if limit < self.process_size_max => (limit, Truncation::CoreLimit),
            _ => (self.process_size_max, Truncation::ProcessSizeMax),
        }
    }
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
    NotACore(crate::elf::ElfError),
    /// No room for the smallest part of it, and nothing to evict.
    #[error("no room within MaxUse=, KeepFree= and ExternalSizeMax=, and nothing left to evict")]
    Quota,
    /// The disk, or a kernel quota, has no room for the smallest part of it.
    #[error("the disk is full: {0}")]
    DiskFull(io::Error),
    /// The file can't be written.
    #[error("the core can't be written: {0}")]
    Write(io::Error),
    /// The stream, or the memory, can't be read.
    #[error("the core can't be read: {0}")]
    Read(io::Error),
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Io(error) => Self::write(error),
            other => Self::Write(io::Error::other(other)),
        }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Gone => Self::Empty,
            SourceError::Io(error) => Self::Read(error),
            SourceError::Write(error) => Self::write(error),
        }
    }
}

impl Failure {
    /// The system's error behind it, if there is one.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::DiskFull(error) | Self::Write(error) | Self::Read(error) => Some(error),
            Self::Cancelled | Self::Empty | Self::Stalled | Self::NotACore(_) | Self::Quota => None,
        }
    }

    /// What it means that a file can't be written, or made shorter: file systems that copy what is written need room for that
    /// too.
    pub fn write(error: io::Error) -> Self {
        if is_full(&error) { Self::DiskFull(error) } else { Self::Write(error) }
    }
}

/// Why no more is written.
#[derive(Debug)]
pub enum Stop {
    /// The core is cut here.
    Truncation(Truncation),
    /// Nothing can be kept.
    Failed(Failure),
}

/// Disk that is reserved; what is not settled is given back.
#[derive(Debug)]
pub struct Reservation {
    bytes: u64,
    account: Arc<QuotaHandle>,
}

impl Reservation {
    fn reserve(&mut self, bytes: u64) -> bool {
        let granted = self.account.reserve(bytes) == Grant::Granted;
        if granted {
            self.bytes += bytes;
        }
        granted
    }

    /// Turns the reservation into a stored core of `stored` bytes.
    pub fn settle(mut self, id: CrashId, time_us: u64, stored: u64) {
        self.account.settle(std::mem::take(&mut self.bytes), id, time_us, stored);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.cancel(self.bytes);
    }
}

/// A core file with its reservation and its limits.
#[derive(Debug)]
pub struct CoreWriter {
    /// The file.
    pub file: CoreFile,
    /// What is reserved for it.
    pub reservation: Reservation,
    limits: Limits,
}

impl CoreWriter {
    /// A writer into `file`.
    ///
    /// # Errors
    /// No room even for the record.
    pub fn new(file: CoreFile, account: Arc<QuotaHandle>, limits: Limits) -> Result<Self, Failure> {
        let mut writer = Self { file, reservation: Reservation { bytes: 0, account }, limits };
        let begun = writer.file.length() + writer.file.overhead();
        if writer.reservation.reserve(begun) { Ok(writer) } else { Err(Failure::Quota) }
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether `bytes` more of file and `content` more of core are within `most` and the limits.
    pub fn fits(&self, bytes: u64, content: u64, most: u64) -> bool {
        self.file.length() + self.file.overhead() + bytes <= self.limits.external_size_max.min(most)
            && self.file.content() + content <= self.limits.content().0
    }

    /// Appends a frame, with room reserved for it.
    ///
    /// # Errors
    /// A limit was reached, or the file can't be written; it is what it was before then.
    pub fn append(&mut self, frame: &[u8], content: u32) -> Result<(), Stop> {
        // Of every frame the seek table has an entry.
        let bytes = frame.len() as u64 + 8;
        if self.file.length() + self.file.overhead() + bytes > self.limits.external_size_max {
            return Err(Stop::Truncation(Truncation::ExternalSizeMax));
        }
        let held = self.file.length() + self.file.overhead();
        let missing = (held + bytes).saturating_sub(self.reservation.bytes);
        if missing > 0 && !self.reservation.reserve(missing) {
            return Err(Stop::Truncation(Truncation::Quota));
        }
        match self.file.append(frame, content) {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => Err(Stop::Truncation(Truncation::DiskFull)),
            Err(error) => Err(Stop::Failed(Failure::Write(error))),
        }
    }
}

/// Chunks of a core of `total` bytes that a limit leaves whole.
pub fn whole_chunks(total: u64, limits: &Limits) -> (u64, Option<Truncation>) {
    let (most, cut) = limits.content();
    if total <= most { (super::chunk::count(total), None) } else { (most / CHUNK, Some(cut)) }
}

/// ENOSPC and EDQUOT are ordinary outcomes: the disk's own limit, and the kernel's quota for this user or project.
pub fn is_full(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw).is_some_and(no_space::is_full)
}
