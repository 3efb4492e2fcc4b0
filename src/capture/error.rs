//! Why a capture ends without a core, or with a part of it.

use super::chunk::SourceError;
use crate::crash::Truncation;
use crate::elf::ElfError;
use crate::store::format::FormatError;
use coreward_sys::no_space;
use nix::errno::Errno;
use std::io;
use thiserror::Error;

/// Why there is no core.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The daemon is stopping, or the shim has offered the crash to another one.
    #[error("the capture was cancelled")]
    Cancelled,
    /// The kernel wrote nothing, or the process was killed before anything was copied.
    #[error("the stream was empty")]
    Empty,
    /// No data arrived for too long, as on a dead mount.
    #[error("the stream stalled: no data arrived in time")]
    Stalled,
    /// The kernel would have to wait for memory that may never answer, and the process with it.
    #[error("the kernel would wait for memory that may never answer: pages of a file that a user serves")]
    MayNotAnswer,
    /// The stream does not begin with the headers of a core.
    #[error("the stream is not a core: {0}")]
    NotACore(ElfError),
    /// The quotas leave no room for the smallest useful part, and nothing can be evicted.
    #[error("no room within MaxUse=, KeepFree= and ExternalSizeMax=, and nothing left to evict")]
    Quota,
    /// The process that copied the memory wrote more than it was told to.
    #[error("what copied the process wrote more than there was to copy")]
    Overfilled,
    /// The volume, or a quota of the kernel, leaves no room for the smallest useful part.
    #[error("the disk is full: {0}")]
    DiskFull(io::Error),
    /// The file cannot be written.
    #[error("the core cannot be written: {0}")]
    Write(io::Error),
    /// The pipe, or the memory of the process, cannot be read.
    #[error("the core cannot be read: {0}")]
    Read(io::Error),
}

impl CaptureError {
    /// The system's error behind it, if there is one.
    #[must_use]
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::DiskFull(error) | Self::Write(error) | Self::Read(error) => Some(error),
            Self::Cancelled
            | Self::Empty
            | Self::Stalled
            | Self::MayNotAnswer
            | Self::NotACore(_)
            | Self::Quota
            | Self::Overfilled => None,
        }
    }

    /// The error for a file that cannot be written or truncated. Copy-on-write file systems need room for both.
    #[must_use]
    pub fn from_write(error: io::Error) -> Self {
        if is_disk_full(&error) { Self::DiskFull(error) } else { Self::Write(error) }
    }
}

impl From<FormatError> for CaptureError {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Io(error) => Self::from_write(error),
            other => Self::Write(io::Error::other(other)),
        }
    }
}

impl From<SourceError> for CaptureError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::ProcessGone => Self::Empty,
            SourceError::Read(error) => Self::Read(error),
            SourceError::Write(error) => Self::from_write(error),
        }
    }
}

/// Why no more of a core is written.
#[derive(Debug)]
pub enum StopReason {
    /// The core is truncated here.
    Truncated(Truncation),
    /// There is no core.
    Failed(CaptureError),
}

/// Whether an error is ENOSPC, from the volume, or EDQUOT, from the kernel's quota of a user or project. Both are ordinary
/// outcomes.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw).is_some_and(no_space::is_out_of_space)
}
