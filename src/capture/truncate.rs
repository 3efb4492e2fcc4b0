//! A core that cannot be stored completely: as much of its beginning as there is room for, then the priority ranges, then the
//! chunks that were spilled, and headers that describe what there is.

use super::CaptureResources;
use super::chunk::{CoreSource, RangeData, buffer_len, frame_content};
use super::core_writer::{CoreWriter, SEEK_ENTRY};
use super::error::{CaptureError, StopReason};
use super::frame_compressor::FrameCompressor;
use super::health::Supervision;
use super::plan::CapturePlan;
use super::sparse::PAGE_LEN;
use super::staging::StagingArea;
use crate::crash::Truncation;
use crate::elf::{self, StoredRange};
use crate::store::format::{self, FRAME_LEN, HEADER_LEN};
use std::io;
use std::ops::Range;

/// How often a smaller core is tried when there is no room.
const MAX_TRIES: u32 = 8;
/// Length of a program header, and of the section header that counts them, in bytes: those of a 64-bit core, which are longer.
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;

/// What a truncated core is made of.
pub(super) struct TruncationInput<'a> {
    /// The plan of the core.
    pub plan: &'a CapturePlan,
    /// Has the priority ranges.
    pub staging: &'a StagingArea,
    /// Ranges of the core that the staging area has as well.
    pub spilled: &'a [Range<u64>],
    /// Why the core is truncated.
    pub truncation: Truncation,
    /// Level of compression.
    pub level: i32,
}

/// A range of the core in frames.
struct CompressedRange {
    original: Range<u64>,
    /// Frames and the lengths of their contents.
    frames: Vec<(Vec<u8>, u32)>,
}

impl CompressedRange {
    /// Bytes that it takes in the file.
    fn file_len(&self) -> u64 {
        self.frames.iter().map(|(frame, _)| frame.len() as u64 + SEEK_ENTRY).sum()
    }

    fn content(&self) -> u64 {
        self.frames.iter().map(|(_, content)| u64::from(*content)).sum()
    }

    fn append(&self, writer: &mut CoreWriter, stored: &mut Vec<StoredRange>) -> Result<(), StopReason> {
        stored.push(StoredRange { original: self.original.clone(), stored_at: writer.file.content() });
        self.frames.iter().try_for_each(|(frame, content)| writer.append(frame, *content))
    }
}

/// Completes the file in `writer`, which has the beginning of the core without a gap.
///
/// # Errors
/// Not even the headers can be stored.
pub(super) fn write_truncated(
    writer: &mut CoreWriter,
    input: &TruncationInput<'_>,
    resources: &CaptureResources,
    supervision: Supervision<'_>,
) -> Result<(), CaptureError> {
    let mut compressor = resources.compressors.acquire();
    let mut priority = Vec::new();
    for range in &input.plan.priority {
        priority.push(compress_range(input, range.clone(), &mut compressor)?);
        supervision.check()?;
    }
    // If the disk is full, the only room is that of frames that are removed again.
    let is_full = matches!(input.truncation, Truncation::Quota | Truncation::DiskFull);
    let mut max_len = if is_full { writer.file_len() } else { u64::MAX };
    let beginning_frames = writer.file.frames();
    for _ in 0..MAX_TRIES {
        // Remove what the previous try appended to the beginning.
        while writer.file.frames() > beginning_frames && writer.file.pop().map_err(CaptureError::from_write)? {}
        writer.file.set_header(input.plan.layout.header.to_vec());
        match compose(writer, input, &priority, max_len, &mut compressor, supervision) {
            Ok(()) => return Ok(()),
            Err(StopReason::Failed(error)) => return Err(error),
            Err(StopReason::Truncated(_)) => max_len = max_len.min(writer.file_len()) / 4 * 3,
        }
    }
    Err(CaptureError::Quota)
}

/// Appends what fits into a file of `max_len` bytes.
fn compose(
    writer: &mut CoreWriter,
    input: &TruncationInput<'_>,
    priority: &[CompressedRange],
    max_len: u64,
    compressor: &mut FrameCompressor,
    supervision: Supervision<'_>,
) -> Result<(), StopReason> {
    let failed = |error: io::Error| StopReason::Failed(CaptureError::from_write(error));
    // Each stored range can split one mapping into two more.
    let segments = input.plan.layout.loads.len() + 2 * (priority.len() + input.spilled.len()) + 4;
    let table_len = (segments * PROGRAM_HEADER + SECTION_HEADER) as u64;
    // Offsets in a 32-bit core have 32 bits.
    let max_content = input.plan.layout.class.max_offset();
    let has_room = |writer: &CoreWriter, bytes: u64, content: u64| {
        writer.has_room(bytes + table_len, content + table_len, max_len)
            && writer.file.content() + content + table_len <= max_content
    };
    let missing = |prefix: u64| priority.iter().filter(move |range| range.original.end > prefix);
    while writer.file.frames() > 0 {
        let prefix = writer.file.content();
        let bytes: u64 = missing(prefix).map(CompressedRange::file_len).sum();
        let content: u64 = missing(prefix).map(CompressedRange::content).sum();
        if has_room(writer, bytes, content) {
            break;
        }
        writer.file.pop().map_err(failed)?;
    }
    // If this daemon is killed now, the mark tells its successor where the beginning of the core ends.
    writer.append(&format::trim_mark(), 0)?;
    let prefix = writer.file.content();
    let mut stored = vec![StoredRange { original: 0..prefix, stored_at: 0 }];
    // What follows begins on a page, as in every core.
    if let Some(gap) =
        usize::try_from(prefix).ok().and_then(|prefix| PAGE_LEN.checked_sub(prefix)).filter(|gap| *gap > 0)
    {
        writer.append(compressor.compress_zeros(gap, input.level).map_err(failed)?, frame_content(gap))?;
    }
    for (index, range) in priority.iter().enumerate().filter(|(_, range)| range.original.end > prefix) {
        if !has_room(writer, range.file_len(), range.content()) {
            // The notes come first, and without them it is not a core.
            if index == 0 {
                return Err(StopReason::Failed(CaptureError::Quota));
            }
            continue;
        }
        range.append(writer, &mut stored)?;
    }
    for range in input.spilled.iter().filter(|range| range.start >= prefix) {
        supervision.check().map_err(StopReason::Failed)?;
        let range = compress_range(input, range.clone(), compressor).map_err(StopReason::Failed)?;
        if !has_room(writer, range.file_len(), range.content()) {
            break;
        }
        range.append(writer, &mut stored)?;
    }
    append_headers(writer, input, &stored, compressor)
}

/// Appends the program headers, and sets the ELF header that points to them.
fn append_headers(
    writer: &mut CoreWriter,
    input: &TruncationInput<'_>,
    stored: &[StoredRange],
    compressor: &mut FrameCompressor,
) -> Result<(), StopReason> {
    let notes = &input.plan.layout.notes_range;
    let has_notes = |range: &&StoredRange| range.original.start <= notes.start && notes.end <= range.original.end;
    let Some(range) = stored.iter().find(has_notes) else { return Err(StopReason::Failed(CaptureError::Quota)) };
    let notes_at = range.stored_at + (notes.start - range.original.start);
    let headers = elf::partial_headers(&input.plan.layout, stored, notes_at, writer.file.content());
    for part in headers.table.chunks(FRAME_LEN) {
        compressor.buffer()[..part.len()].copy_from_slice(part);
        let frame = compressor.compress(0..part.len(), input.level);
        let frame = frame.map_err(|error| StopReason::Failed(CaptureError::from_write(error)))?;
        writer.append(frame, frame_content(part.len()))?;
    }
    writer.file.set_header(headers.header.to_vec());
    Ok(())
}

/// Compresses a staged range. Its last frame is padded with zeros to a whole page, so that what follows begins on one.
fn compress_range(
    input: &TruncationInput<'_>,
    range: Range<u64>,
    compressor: &mut FrameCompressor,
) -> Result<CompressedRange, CaptureError> {
    let mut frames = Vec::new();
    let mut from = range.start;
    while from < range.end {
        let to = range.end.min(from + FRAME_LEN as u64);
        let length = buffer_len(&(from..to));
        let padded = length.next_multiple_of(PAGE_LEN).min(FRAME_LEN);
        let buffer = compressor.buffer();
        if input.staging.read_range(from..to, buffer)? == RangeData::Zeros {
            buffer[..length].fill(0);
        }
        buffer[length..padded].fill(0);
        let frame = compressor.compress(0..padded, input.level).map_err(CaptureError::Write)?;
        frames.push((frame.to_vec(), frame_content(padded)));
        from = to;
    }
    debug_assert!(range.start == HEADER_LEN as u64 || range.start.is_multiple_of(PAGE_LEN as u64), "{range:?}");
    Ok(CompressedRange { original: range, frames })
}
