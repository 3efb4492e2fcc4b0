//! A buffer for whole frames.

use crate::store::format::FRAME_LEN;
use std::ops::Range;

/// Alignment of buffers for O_DIRECT, in bytes.
const ALIGNMENT: usize = 4096;

/// A buffer of the length of a frame that is aligned for O_DIRECT.
#[derive(Debug)]
pub struct AlignedBuffer {
    /// Longer than a frame, so that it has an aligned part of that length.
    bytes: Vec<u8>,
    aligned_at: usize,
}

impl AlignedBuffer {
    /// A buffer of zeros.
    #[must_use]
    pub fn new() -> Self {
        let bytes = vec![0; FRAME_LEN + ALIGNMENT];
        let aligned_at = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, aligned_at }
    }

    /// All [`FRAME_LEN`] bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.aligned_at..self.aligned_at + FRAME_LEN]
    }

    /// Some of them.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[self.aligned_at + range.start..self.aligned_at + range.end]
    }
}

impl Default for AlignedBuffer {
    fn default() -> Self {
        Self::new()
    }
}
