//! Writes a core file within its limits, on disk space that is reserved first.

use super::chunk::{self, CHUNK_LEN};
use super::error::{CaptureError, StopReason, is_disk_full};
use crate::crash::{CrashId, Truncation};
use crate::store::{CoreFile, Grant, QuotaHandle, format};
use std::sync::Arc;

/// The limits of one core, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct CoreLimits {
    /// Uncompressed (`ProcessSizeMax=`).
    pub process_size_max: u64,
    /// Compressed (`ExternalSizeMax=`).
    pub external_size_max: u64,
    /// Uncompressed: RLIMIT_CORE of the process, if it is enforced.
    pub core_limit: Option<u64>,
}

impl CoreLimits {
    /// The largest length of a core before compression, and how a core that exceeds it is truncated.
    #[must_use]
    pub fn content_max(&self) -> (u64, Truncation) {
        match self.core_limit {
            Some(limit) if limit < self.process_size_max => (limit, Truncation::CoreLimit),
            _ => (self.process_size_max, Truncation::ProcessSizeMax),
        }
    }
}

/// Disk space that is reserved for a core file. What is not committed is returned when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    bytes: u64,
    quota: Arc<QuotaHandle>,
}

impl Reservation {
    fn grow(&mut self, bytes: u64) -> bool {
        let granted = self.quota.reserve(bytes) == Grant::Granted;
        if granted {
            self.bytes += bytes;
        }
        granted
    }

    /// Replaces the reservation with a stored core of `stored` bytes; `time_us` is when the crash happened.
    pub fn commit(mut self, id: CrashId, time_us: u64, stored: u64) {
        self.quota.commit(std::mem::take(&mut self.bytes), id, time_us, stored);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.quota.cancel(self.bytes);
    }
}

/// A core file with its reservation and its limits.
#[derive(Debug)]
pub struct CoreWriter {
    /// The file.
    pub file: CoreFile,
    /// The disk space that is reserved for it.
    pub reservation: Reservation,
    limits: CoreLimits,
}

/// What a frame adds to the seek table, in bytes.
pub(super) const SEEK_ENTRY: u64 = 8;

impl CoreWriter {
    /// Reserves what `file` takes so far.
    ///
    /// # Errors
    /// There is no room even for the record.
    pub fn new(file: CoreFile, quota: Arc<QuotaHandle>, limits: CoreLimits) -> Result<Self, CaptureError> {
        let mut writer = Self { file, reservation: Reservation { bytes: 0, quota }, limits };
        let length = writer.file_len();
        if writer.reservation.grow(length) { Ok(writer) } else { Err(CaptureError::Quota) }
    }

    /// The limits of this core.
    #[must_use]
    pub fn limits(&self) -> CoreLimits {
        self.limits
    }

    /// Length of the file if it were finished now, in bytes.
    #[must_use]
    pub fn file_len(&self) -> u64 {
        self.file.length() + self.file.overhead()
    }

    /// Whether `bytes` more in the file, with `content` bytes of core, stay within the limits, and the file within `max_len`.
    #[must_use]
    pub fn has_room(&self, bytes: u64, content: u64, max_len: u64) -> bool {
        self.file_len() + bytes <= self.limits.external_size_max.min(max_len)
            && self.file.content() + content <= self.limits.content_max().0
    }

    /// Reserves room for a frame that holds `content` bytes of core, and appends it.
    ///
    /// # Errors
    /// A limit is reached, or the file cannot be written. The file is unchanged then.
    pub fn append(&mut self, frame: &[u8], content: u32) -> Result<(), StopReason> {
        let length = self.file_len() + frame.len() as u64 + SEEK_ENTRY;
        if length > self.limits.external_size_max {
            return Err(StopReason::Truncated(Truncation::ExternalSizeMax));
        }
        let missing = length.saturating_sub(self.reservation.bytes);
        if missing > 0 && !self.reservation.grow(missing) {
            return Err(StopReason::Truncated(Truncation::Quota));
        }
        match self.file.append(frame, content) {
            Ok(()) => Ok(()),
            Err(error) if is_disk_full(&error) => Err(StopReason::Truncated(Truncation::DiskFull)),
            Err(error) => Err(StopReason::Failed(CaptureError::Write(error))),
        }
    }

    /// Reserves room for the runtime's report, and adds it, as the last thing. `false`: there is no room for it, and the file is unchanged.
    pub fn add_report(&mut self, report: &[u8]) -> bool {
        let Ok(frame) = format::report_frame(report) else { return false };
        let length = self.file_len() + frame.len() as u64;
        let missing = length.saturating_sub(self.reservation.bytes);
        let has_room = length <= self.limits.external_size_max && (missing == 0 || self.reservation.grow(missing));
        has_room && self.file.add_report(&frame).is_ok()
    }
}

/// How many chunks of a core of `total_len` bytes are within its limits, and how that truncates it.
pub(super) fn chunks_within(total_len: u64, limits: &CoreLimits) -> (u64, Option<Truncation>) {
    let (max, truncation) = limits.content_max();
    if total_len <= max { (chunk::count(total_len), None) } else { (max / CHUNK_LEN, Some(truncation)) }
}
