//! A core in chunks: what one frame holds, and where its bytes can come from.

use crate::store::format::{FRAME_LEN, HEADER_LEN};
use std::io;
use std::ops::Range;
use thiserror::Error;

/// Length of a chunk.
pub const CHUNK: u64 = FRAME_LEN as u64;

/// Somewhere to read the bytes of a core from, by their place in the core.
pub trait Fill: Send + Sync {
    /// Fills `buffer` with `range` of the core.
    ///
    /// # Errors
    /// The bytes can't be had any more.
    fn fill(&self, range: Range<u64>, buffer: &mut [u8]) -> Result<Filled, SourceError>;
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Nothing but zeros; the buffer was not written.
    Zeros,
    /// The buffer is full.
    Data,
}

/// Why bytes of a core can't be had.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The process was killed while it was dumped: its memory is gone.
    #[error("the process was killed")]
    Gone,
    /// Its memory, or what was kept of it, can't be read.
    #[error("it can't be read: {0}")]
    Io(io::Error),
    /// What was read can't be put aside.
    #[error("it can't be put aside: {0}")]
    Write(io::Error),
}

/// How many chunks a core of `total` bytes has.
pub fn count(total: u64) -> u64 {
    total.div_ceil(CHUNK)
}

/// The bytes of chunk `number` in a core of `total` bytes.
pub fn range(number: u64, total: u64) -> Range<u64> {
    number * CHUNK..((number + 1) * CHUNK).min(total)
}

/// The part of a chunk's bytes that its frame has: the first one leaves the ELF header to the frame in front of it.
pub fn framed(range: &Range<u64>) -> Range<usize> {
    let skip = if range.start == 0 { HEADER_LEN } else { 0 };
    skip..(range.end - range.start) as usize
}
