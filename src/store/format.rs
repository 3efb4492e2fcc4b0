//! The file of one core: a `.zst` that any zstd reads, carrying its own record.
//!
//! ```text
//! skippable frame 0x184D2A57   "CWRECORD", the record as JSON, padded with spaces
//! zstd frame                   the first 64 bytes of the core: its ELF header
//! skippable frame 0x184D2A58   padding: both together have HEADER_ROOM bytes, so that the header can still be changed when
//!                              the core had to be cut
//! zstd frame                   the core up to its FRAME_LEN-th byte, with a checksum
//! zstd frame                   the next FRAME_LEN bytes
//! ...
//! skippable frame 0x184D2A5E   seek table
//! ```
//!
//! Frames are those of RFC 8878; the seek table is the one of zstd's "seekable format" (contrib/seekable_format in
//! zstd's source), in which the record is a frame of no content, so that offsets add up from the file's first byte.

use crate::crash::Record;
use std::io::{self, Read, Seek, SeekFrom};
use thiserror::Error;

/// Uncompressed length of a data frame: long enough to compress well (4 MiB are 3% better), short enough to seek in, and
/// for many workers to have one each in little memory.
pub const FRAME_LEN: usize = 1 << 20;
/// How much of the core the first frame has: the ELF header of a 64-bit core.
pub const HEADER_LEN: usize = 64;
/// What the frame of the header and its padding take.
pub const HEADER_ROOM: usize = 128;

const RECORD_FRAME: u32 = 0x184D_2A57;
const PADDING_FRAME: u32 = 0x184D_2A58;
const SEEK_FRAME: u32 = 0x184D_2A5E;
const SEEK_FOOTER: u32 = 0x8F92_EAB1;
const RECORD_TAG: &[u8; 8] = b"CWRECORD";
/// No record is longer; a reader that meets more has another kind of file before it.
const MAX_RECORD: usize = 4 << 20;

/// Why there is no record in a file.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The file can't be read.
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
    /// It does not begin with a record frame.
    #[error("it does not begin with a record of Coreward")]
    NoRecord,
    /// The JSON is not a record.
    #[error("its record can't be understood: {0}")]
    Json(#[from] serde_json::Error),
    /// The record does not fit into the room that was kept for it.
    #[error("the record has {length} bytes, {room} were kept for it")]
    TooLong {
        /// Bytes of the record.
        length: usize,
        /// Bytes kept.
        room: usize,
    },
}

/// How many bytes to keep for a record that may still grow by its figures: in whole pages.
pub fn record_room(record: &Record) -> Result<usize, FormatError> {
    const GROWTH: usize = 1024;
    Ok((serde_json::to_vec(record)?.len() + 16 + GROWTH).next_multiple_of(4096))
}

/// The record as a frame of exactly `room` bytes.
///
/// # Errors
/// A record that is longer than the room kept for it.
pub fn record_frame(record: &Record, room: usize) -> Result<Vec<u8>, FormatError> {
    let json = serde_json::to_vec(record)?;
    let mut frame = skippable(RECORD_FRAME, room.saturating_sub(8));
    frame.extend_from_slice(RECORD_TAG);
    frame.extend_from_slice(&json);
    if frame.len() > room {
        return Err(FormatError::TooLong { length: frame.len(), room });
    }
    frame.resize(room, b' ');
    Ok(frame)
}

/// The frame of the ELF header, its own length, and the padding behind it.
///
/// # Errors
/// More than [`HEADER_LEN`] bytes.
pub fn header_frame(header: &[u8]) -> Result<(Vec<u8>, usize), FormatError> {
    let mut frame = zstd::bulk::Compressor::new(1).and_then(|mut compressor| {
        compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
        compressor.compress(header)
    })?;
    let length = frame.len();
    if length + 8 > HEADER_ROOM {
        return Err(FormatError::TooLong { length, room: HEADER_ROOM - 8 });
    }
    frame.extend(skippable(PADDING_FRAME, HEADER_ROOM - length - 8));
    frame.resize(HEADER_ROOM, 0);
    Ok((frame, length))
}

/// Behind this frame of no content there is not the next part of a core but what its headers say.
pub fn trim_mark() -> Vec<u8> {
    skippable(PADDING_FRAME, 0)
}

/// The seek table for frames of (compressed, uncompressed) length, the record's first.
pub fn seek_table(frames: &[(u32, u32)]) -> Vec<u8> {
    let mut table = skippable(SEEK_FRAME, frames.len() * 8 + 9);
    for (compressed, uncompressed) in frames {
        table.extend_from_slice(&compressed.to_le_bytes());
        table.extend_from_slice(&uncompressed.to_le_bytes());
    }
    table.extend_from_slice(&(frames.len() as u32).to_le_bytes());
    table.push(0);
    table.extend_from_slice(&SEEK_FOOTER.to_le_bytes());
    table
}

/// Bytes that the seek table of this many frames takes.
pub fn seek_table_length(frames: usize) -> usize {
    frames * 8 + 17
}

fn skippable(magic: u32, length: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(length + 8);
    frame.extend_from_slice(&magic.to_le_bytes());
    frame.extend_from_slice(&(length as u32).to_le_bytes());
    frame
}

/// Reads the record of a core file, and leaves `file` at the first data frame.
///
/// # Errors
/// A file that can't be read, or has no record in front.
pub fn read_record(file: &mut (impl Read + Seek)) -> Result<Record, FormatError> {
    let mut head = [0; 16];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut head).map_err(|_| FormatError::NoRecord)?;
    let [m0, m1, m2, m3, l0, l1, l2, l3, tag @ ..] = head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if u32::from_le_bytes([m0, m1, m2, m3]) != RECORD_FRAME || tag != *RECORD_TAG || !(8..=MAX_RECORD).contains(&length)
    {
        return Err(FormatError::NoRecord);
    }
    let mut json = vec![0; length - 8];
    file.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn the_seek_table_adds_up_for_every_reader_of_the_seekable_format() {
        let table = seek_table(&[(4096, 0), (100, FRAME_LEN as u32), (50, 7)]);
        assert_eq!(table.len(), 8 + 3 * 8 + 9);
        assert_eq!(table[0..4], SEEK_FRAME.to_le_bytes());
        assert_eq!(u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize, table.len() - 8);
        assert_eq!(table[table.len() - 4..], SEEK_FOOTER.to_le_bytes());
        assert_eq!(table[table.len() - 9..table.len() - 5], 3_u32.to_le_bytes());
    }

    #[test]
    fn what_has_no_record_says_so() {
        for bytes in [&b""[..], b"\x28\xb5\x2f\xfd plain zstd", &[0; 64], &record_head(u32::MAX)] {
            assert!(matches!(read_record(&mut Cursor::new(bytes)), Err(FormatError::NoRecord)), "{bytes:?}");
        }
        assert!(matches!(read_record(&mut Cursor::new(record_head(1000))), Err(FormatError::Io(_))), "cut");
        let mut garbage = record_head(16);
        garbage.extend_from_slice(b"{nonsens");
        assert!(matches!(read_record(&mut Cursor::new(garbage)), Err(FormatError::Json(_))));
    }

    fn record_head(length: u32) -> Vec<u8> {
        [&RECORD_FRAME.to_le_bytes()[..], &length.to_le_bytes(), RECORD_TAG].concat()
    }
}
