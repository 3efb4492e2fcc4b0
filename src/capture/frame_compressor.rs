//! Compresses one frame at a time (zstd).

use super::aligned_buffer::AlignedBuffer;
use crate::store::format::FRAME_LEN;
use std::io;
use std::ops::Range;
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// A buffer of the length of a frame, and a compressor for it.
pub struct FrameCompressor {
    buffer: AlignedBuffer,
    compressed: Vec<u8>,
    /// The compressor and its level; made when it is first needed.
    compressor: Option<(i32, Compressor<'static>)>,
}

impl FrameCompressor {
    pub(super) fn new() -> Self {
        Self { buffer: AlignedBuffer::new(), compressed: Vec::new(), compressor: None }
    }

    /// The buffer, [`FRAME_LEN`] bytes that are aligned for O_DIRECT.
    pub fn buffer(&mut self) -> &mut [u8] {
        self.buffer.bytes_mut()
    }

    /// Compresses `length` zeros, which replace the beginning of the buffer.
    ///
    /// # Errors
    /// Errors of zstd.
    pub fn compress_zeros(&mut self, length: usize, level: i32) -> io::Result<&[u8]> {
        self.buffer()[..length].fill(0);
        self.compress(0..length, level)
    }

    /// Compresses `range` of the buffer into a frame with a checksum.
    ///
    /// # Errors
    /// Errors of zstd.
    pub fn compress(&mut self, range: Range<usize>, level: i32) -> io::Result<&[u8]> {
        let content = self.buffer.part(range);
        let compressor = match &mut self.compressor {
            Some((current, compressor)) if *current == level => compressor,
            _ => {
                let mut compressor = Compressor::new(level)?;
                compressor.set_parameter(CParameter::ChecksumFlag(true))?;
                &mut self.compressor.insert((level, compressor)).1
            }
        };
        self.compressed.resize(zstd::zstd_safe::compress_bound(FRAME_LEN), 0);
        let length = compressor.compress_to_buffer(content, self.compressed.as_mut_slice())?;
        Ok(&self.compressed[..length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_is_aligned_and_a_frame_restores_it() {
        let mut compressor = FrameCompressor::new();
        assert_eq!(compressor.buffer().as_ptr().align_offset(4096), 0);
        for (byte, value) in compressor.buffer().iter_mut().zip((0..=u8::MAX).cycle().flat_map(|value| [value; 7])) {
            *byte = value;
        }
        let expected = compressor.buffer()[64..9000].to_vec();
        for level in [1, -5, 3] {
            let frame = compressor.compress(64..9000, level).unwrap();
            assert_eq!(zstd::decode_all(frame).unwrap(), expected);
        }
    }
}
