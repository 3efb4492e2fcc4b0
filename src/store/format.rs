//! The format of a core file: a `.zst` that every zstd implementation can decompress, with the crash's record inside.
//!
//! ```text
//! skippable frame 0x184D2A57   "CWRECORD", the record as JSON, padded with spaces
//! zstd frame                   the first 64 bytes of the core: its ELF header
//! skippable frame 0x184D2A58   padding of the frame before to HEADER_ROOM bytes: the header is rewritten in place when the
//!                              core is truncated
//! zstd frame                   the rest of the first FRAME_LEN bytes of the core, with a checksum
//! zstd frame                   the next FRAME_LEN bytes
//! ...
//! skippable frame 0x184D2A59   "CWREPORT", the report that the runtime wrote itself, as a zstd frame; only if there is one
//! skippable frame 0x184D2A5E   seek table
//! ```
//!
//! The frames are those of RFC 8878. The seek table is that of zstd's "seekable format" (contrib/seekable_format in the
//! zstd sources); it lists the record as a frame without content, so that offsets count from the start of the file.

use super::file_range::FileRange;
use crate::crash::{Record, RuntimeReport};
use serde::Deserialize;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use thiserror::Error;

/// Uncompressed length of a data frame in bytes. Longer frames compress only slightly better (4 MiB: 3%), but make seeking
/// slower and need more memory per worker.
pub const FRAME_LEN: usize = 1 << 20;
/// Bytes of the core in the first frame: the ELF header of a 64-bit core.
pub const HEADER_LEN: usize = 64;
/// Bytes in the file of the header's frame together with its padding.
pub const HEADER_ROOM: usize = 128;

const RECORD_FRAME: u32 = 0x184D_2A57;
const PADDING_FRAME: u32 = 0x184D_2A58;
const REPORT_FRAME: u32 = 0x184D_2A59;
const SEEK_FRAME: u32 = 0x184D_2A5E;
const SEEK_FOOTER: u32 = 0x8F92_EAB1;
const RECORD_TAG: &[u8; 8] = b"CWRECORD";
const REPORT_TAG: &[u8; 8] = b"CWREPORT";
/// Upper limit on the bytes of a record; a longer one means that this is not a core file.
const MAX_RECORD: usize = 4 << 20;

/// Why a core file cannot be read or written.
#[derive(Debug, Error)]
pub enum FormatError {
    /// The file cannot be read or written.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not begin with a record frame.
    #[error("it does not begin with a record of Coreward")]
    NoRecord,
    /// The JSON is not a record.
    #[error("its record cannot be parsed: {0}")]
    Json(#[from] serde_json::Error),
    /// The record does not fit into the space reserved for it.
    #[error("the record has {length} bytes, but {room} were reserved for it")]
    TooLong {
        /// Bytes of the record.
        length: usize,
        /// Bytes reserved.
        room: usize,
    },
}

/// Bytes to reserve for `record`, in whole pages: some of its numbers are filled in later, and texts of `growth` bytes.
///
/// # Errors
/// The record cannot be written as JSON.
pub fn record_room(record: &Record, growth: usize) -> Result<usize, FormatError> {
    const NUMBERS: usize = 1024;
    Ok((serde_json::to_vec(record)?.len() + 16 + NUMBERS + growth).next_multiple_of(4096))
}

/// The record as a frame of exactly `room` bytes.
///
/// # Errors
/// The record is longer than the space reserved for it.
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

/// The compressed frame of the ELF header followed by its padding, and the length of the frame alone.
///
/// # Errors
/// `header` is longer than [`HEADER_LEN`].
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

/// The runtime's report as a frame.
///
/// # Errors
/// There is no memory to compress it.
pub fn report_frame(report: &[u8]) -> io::Result<Vec<u8>> {
    let compressed = zstd::bulk::Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL).and_then(|mut compressor| {
        compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
        compressor.compress(report)
    })?;
    let mut frame = skippable(REPORT_FRAME, REPORT_TAG.len() + compressed.len());
    frame.extend_from_slice(REPORT_TAG);
    frame.extend(compressed);
    Ok(frame)
}

/// Reads the runtime's report, at most [`RuntimeReport::MAX_KEPT`] bytes, from the core file that is this range of `file`. `None`: it has none.
///
/// # Errors
/// The file cannot be read, or its end is damaged.
pub fn read_report(file: &File, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
    /// The number of frames, a descriptor of a byte, and the magic number.
    const FOOTER: usize = 9;
    const ENTRY: usize = 8;
    let damaged = || io::Error::from(ErrorKind::InvalidData);
    let before = |at: u64, length: u64| at.checked_sub(length).filter(|at| *at >= range.start).ok_or_else(damaged);
    let at = before(range.end, FOOTER as u64)?;
    let footer: [u8; FOOTER] = read_array(file, at)?;
    let [n0, n1, n2, n3, _, magic @ ..] = footer;
    if u32::from_le_bytes(magic) != SEEK_FOOTER {
        return Err(damaged());
    }
    let frames = u64::from(u32::from_le_bytes([n0, n1, n2, n3]));
    let table = before(at, (frames + 1) * ENTRY as u64)?;
    let Ok(last) = before(at, ENTRY as u64) else { return Ok(None) };
    let [l0, l1, l2, l3, content @ ..] = read_array::<ENTRY>(file, last)?;
    let length = u64::from(u32::from_le_bytes([l0, l1, l2, l3]));
    if frames == 0 || length < 16 || content != [0; 4] {
        return Ok(None);
    }
    let frame = before(table, length)?;
    let [m0, m1, m2, m3, _, _, _, _, tag @ ..] = read_array::<16>(file, frame)?;
    if u32::from_le_bytes([m0, m1, m2, m3]) != REPORT_FRAME || tag != *REPORT_TAG {
        return Ok(None);
    }
    let mut report = Vec::new();
    let compressed = FileRange::new(file, frame + 16..table);
    zstd::stream::read::Decoder::new(compressed)?.take(RuntimeReport::MAX_KEPT).read_to_end(&mut report)?;
    Ok(Some(report))
}

fn read_array<const LENGTH: usize>(file: &File, at: u64) -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    FileRange::new(file, at..at.saturating_add(LENGTH as u64)).read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A frame without content that ends the frames holding the core's bytes in order. The program headers of a trimmed core say
/// what the frames behind it hold; a resumed capture discards those.
#[must_use]
pub fn trim_mark() -> Vec<u8> {
    skippable(PADDING_FRAME, 0)
}

/// The seek table for frames of (compressed, uncompressed) lengths, beginning with the record's.
#[must_use]
pub fn seek_table(frames: &[(u32, u32)]) -> Vec<u8> {
    let mut table = skippable(SEEK_FRAME, frames.len() * 8 + 9);
    for (compressed, uncompressed) in frames {
        table.extend_from_slice(&compressed.to_le_bytes());
        table.extend_from_slice(&uncompressed.to_le_bytes());
    }
    table.extend_from_slice(&field(frames.len()).to_le_bytes());
    table.push(0);
    table.extend_from_slice(&SEEK_FOOTER.to_le_bytes());
    table
}

/// Length in bytes of the seek table for this many frames.
#[must_use]
pub fn seek_table_length(frames: usize) -> usize {
    frames * 8 + 17
}

/// The first bytes of a skippable frame: its magic number and the length of its content.
fn skippable(magic: u32, length: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(length + 8);
    frame.extend_from_slice(&magic.to_le_bytes());
    frame.extend_from_slice(&field(length).to_le_bytes());
    frame
}

/// A length or a count for one of the format's 32-bit fields. Larger ones than those cannot occur: records are at most 4 MiB
/// long, frames 1 MiB, and 2^32 frames would be a core of 4 PiB.
pub(super) fn field(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Reads the record of a core file and leaves `file` positioned behind it.
///
/// # Errors
/// The file cannot be read, or does not begin with a record.
pub fn read_record(file: &mut (impl Read + Seek)) -> Result<Record, FormatError> {
    Ok(serde_json::from_slice(&read_json(file)?)?)
}

/// The build-ids of the modules in the record of a core file.
///
/// # Errors
/// As [`read_record`].
pub(super) fn read_build_ids(file: &mut (impl Read + Seek)) -> Result<HashSet<String>, FormatError> {
    /// All that is read of a record.
    #[derive(Deserialize)]
    struct Modules {
        #[serde(default)]
        modules: Vec<BuildId>,
    }
    #[derive(Deserialize)]
    struct BuildId {
        build_id: Option<String>,
    }
    let Modules { modules } = serde_json::from_slice(&read_json(file)?)?;
    Ok(modules.into_iter().filter_map(|module| module.build_id).collect())
}

fn read_json(file: &mut (impl Read + Seek)) -> Result<Vec<u8>, FormatError> {
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
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn the_seek_table_adds_up_for_every_reader_of_the_seekable_format() {
        let table = seek_table(&[(4096, 0), (100, field(FRAME_LEN)), (50, 7)]);
        assert_eq!(table.len(), 8 + 3 * 8 + 9);
        assert_eq!(table[0..4], SEEK_FRAME.to_le_bytes());
        assert_eq!(u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize, table.len() - 8);
        assert_eq!(table[table.len() - 4..], SEEK_FOOTER.to_le_bytes());
        assert_eq!(table[table.len() - 9..table.len() - 5], 3_u32.to_le_bytes());
    }

    #[test]
    fn a_file_without_a_record_is_refused() {
        for bytes in [&b""[..], b"\x28\xb5\x2f\xfd plain zstd", &[0; 64], &record_head(u32::MAX)] {
            assert!(matches!(read_record(&mut Cursor::new(bytes)), Err(FormatError::NoRecord)), "{bytes:?}");
        }
        assert!(matches!(read_record(&mut Cursor::new(record_head(1000))), Err(FormatError::Io(_))), "cut");
        let mut garbage = record_head(16);
        garbage.extend_from_slice(b"{nonsens");
        assert!(matches!(read_record(&mut Cursor::new(garbage)), Err(FormatError::Json(_))));
    }

    /// A file with these frames, and its length.
    fn file_of(frames: &[(&[u8], u32)]) -> (File, u64) {
        let lengths: Vec<(u32, u32)> = frames.iter().map(|(frame, content)| (field(frame.len()), *content)).collect();
        let mut bytes: Vec<u8> = frames.iter().flat_map(|(frame, _)| frame.iter().copied()).collect();
        bytes.extend(seek_table(&lengths));
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &bytes).unwrap();
        (file, bytes.len() as u64)
    }

    #[test]
    fn the_report_of_a_runtime_is_the_last_frame() {
        let (data, report) = (zstd::bulk::compress(b"core", 1).unwrap(), report_frame(b"# SIGSEGV").unwrap());
        let (file, length) = file_of(&[(&data, 4), (&report, 0)]);
        assert_eq!(read_report(&file, 0..length).unwrap().unwrap(), b"# SIGSEGV");
        let mut core = Vec::new();
        zstd::stream::read::Decoder::new(FileRange::new(&file, 0..length)).unwrap().read_to_end(&mut core).unwrap();
        assert_eq!(core, b"core", "whoever does not know it reads the core");
        for frames in [&[(&data[..], 4)][..], &[(&trim_mark(), 0)], &[(&skippable(PADDING_FRAME, 8), 0)], &[]] {
            let (file, length) = file_of(frames);
            assert_eq!(read_report(&file, 0..length).ok().flatten(), None, "{frames:?}");
        }
    }

    #[test]
    fn a_damaged_end_has_no_report_and_a_bomb_is_cut() {
        let report = report_frame(&vec![0; 64 << 20]).unwrap();
        let (file, length) = file_of(&[(&report, 0)]);
        assert_eq!(read_report(&file, 0..length).unwrap().unwrap().len() as u64, RuntimeReport::MAX_KEPT);
        let mut bytes = Vec::new();
        FileRange::new(&file, 0..length).read_to_end(&mut bytes).unwrap();
        for at in report.len()..bytes.len() {
            for value in [0, 0x7f, 0xff] {
                let mut damaged = tempfile::tempfile().unwrap();
                let mut changed = bytes.clone();
                changed[at] = value;
                io::Write::write_all(&mut damaged, &changed).unwrap();
                let _ = read_report(&damaged, 0..length);
            }
        }
        for range in [0..0, 0..8, 0..length - 1, 0..length + 1, length - 20..length, u64::MAX - 4..u64::MAX] {
            assert!(read_report(&file, range.clone()).is_err(), "{range:?}");
        }
    }

    fn record_head(length: u32) -> Vec<u8> {
        [&RECORD_FRAME.to_le_bytes()[..], &length.to_le_bytes(), RECORD_TAG].concat()
    }
}
