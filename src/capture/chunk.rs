//! The chunks of a core, each of which becomes one frame of the file, and where their bytes are read from.

use crate::store::format::{FRAME_LEN, HEADER_LEN};
use std::io;
use std::ops::Range;
use thiserror::Error;

/// Length of a chunk, in bytes.
pub const CHUNK_LEN: u64 = FRAME_LEN as u64;

/// A source of the bytes of a core.
pub trait CoreSource: Send + Sync {
    /// Reads `range` of the core into the beginning of `buffer`, which must have room for it.
    ///
    /// # Errors
    /// The bytes are not available any more.
    fn read_range(&self, range: Range<u64>, buffer: &mut [u8]) -> Result<RangeData, SourceError>;
}

/// The outcome of [`CoreSource::read_range`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeData {
    /// The range has nothing but zeros, and the buffer was not written.
    Zeros,
    /// The buffer holds the range.
    Bytes,
}

/// Why bytes of a core could not be copied.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The process was killed while it was dumped: its memory is gone.
    #[error("the process was killed")]
    ProcessGone,
    /// The memory of the process, or the staged copy of it, cannot be read.
    #[error("the memory cannot be read: {0}")]
    Read(io::Error),
    /// The copy cannot be written to the staging area.
    #[error("the memory cannot be staged: {0}")]
    Write(io::Error),
}

/// Number of chunks in a core of `total_len` bytes.
pub(super) fn count(total_len: u64) -> u64 {
    total_len.div_ceil(CHUNK_LEN)
}

/// The range of chunk `number` in a core of `total_len` bytes.
pub(super) fn range(number: u64, total_len: u64) -> Range<u64> {
    number * CHUNK_LEN..((number + 1) * CHUNK_LEN).min(total_len)
}

/// The part of a chunk that its frame holds, relative to the chunk: the ELF header, at the beginning of the first chunk, has a
/// frame of its own.
pub(super) fn framed_part(range: &Range<u64>) -> Range<usize> {
    let skip = if range.start == 0 { HEADER_LEN } else { 0 };
    skip..buffer_len(range)
}

/// Length of a range that fits into memory, in bytes.
pub(super) fn buffer_len(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}

/// Length of a frame's content as the file format has it. A frame holds at most [`FRAME_LEN`] bytes.
pub(super) fn frame_content(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
