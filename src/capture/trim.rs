//! A core that could not be kept whole: as much of its beginning as there is room for, behind that what comes first in the plan,
//! what had been put aside, and headers that say so.

use super::CaptureResources;
use super::chunk::Fill;
use super::compressor_pool::FrameCompressor;
use super::core_writer::{CoreWriter, Failure, Stop};
use super::health::Heartbeat;
use super::plan::Plan;
use super::staging::StagingArea;
use crate::crash::Truncation;
use crate::elf::{self, Part};
use crate::store::format::{self, FRAME_LEN, HEADER_LEN};
use coreward_sys::pagemap::PAGE;
use std::ops::Range;
use tokio_util::sync::CancellationToken;

/// How often less room is tried.
const TRIES: u32 = 8;

/// Who looks on.
pub struct Watch<'a> {
    /// Pulse of this worker.
    pub heartbeat: &'a Heartbeat,
    /// Whether it was called off.
    pub cancelled: &'a CancellationToken,
}

impl Watch<'_> {
    fn look(&self) -> Result<(), Failure> {
        self.heartbeat.tick();
        if self.cancelled.is_cancelled() { Err(Failure::Cancelled) } else { Ok(()) }
    }
}

/// Ranges of the core as frames.
struct Packed {
    whole: Range<u64>,
    frames: Vec<(Vec<u8>, u32)>,
}

impl Packed {
    fn bytes(&self) -> u64 {
        self.frames.iter().map(|(frame, _)| frame.len() as u64 + 8).sum()
    }

    fn content(&self) -> u64 {
        self.frames.iter().map(|(_, content)| u64::from(*content)).sum()
    }

    fn append(&self, writer: &mut CoreWriter, parts: &mut Vec<Part>) -> Result<(), Stop> {
        parts.push(Part { whole: self.whole.clone(), at: writer.file.content() });
        self.frames.iter().try_for_each(|(frame, content)| writer.append(frame, *content))
    }
}

/// Makes a core of what `writer` has, its beginning without a gap, and of what is in `stage`. `aside`: the chunks that are whole there.
///
/// # Errors
/// Not even headers and notes can be stored.
#[expect(clippy::too_many_arguments, reason = "everything that a core is made of")]
pub fn trim(
    writer: &mut CoreWriter,
    plan: &Plan,
    stage: &StagingArea,
    aside: &[Range<u64>],
    why: Truncation,
    resources: &CaptureResources,
    level: i32,
    watch: &Watch<'_>,
) -> Result<(), Failure> {
    let mut bench = resources.compressors.take();
    let mut first = Vec::new();
    for range in &plan.first {
        first.push(pack(stage, range.clone(), &mut bench, level)?);
        watch.look()?;
    }
    // Where there was no more room for a frame, there is room for what is taken away again.
    let full = matches!(why, Truncation::Quota | Truncation::DiskFull);
    let mut most = if full { writer.file.length() + writer.file.overhead() } else { u64::MAX };
    let own = writer.file.frames();
    for _ in 0..TRIES {
        // What the try before appended is not the core's beginning.
        while writer.file.frames() > own && writer.file.pop().map_err(Failure::write)? {}
        writer.file.set_header(plan.layout.header.to_vec());
        match compose(writer, plan, stage, &first, aside, most, &mut bench, level, watch) {
            Ok(()) => return Ok(()),
            Err(Stop::Failed(failure)) => return Err(failure),
            Err(Stop::Truncation(_)) => {
                most = most.min(writer.file.length() + writer.file.overhead()) / 4 * 3;
            }
        }
    }
    Err(Failure::Quota)
}

#[expect(clippy::too_many_arguments, reason = "one step of trim, which has them all at hand")]
fn compose(
    writer: &mut CoreWriter,
    plan: &Plan,
    stage: &StagingArea,
    first: &[Packed],
    aside: &[Range<u64>],
    most: u64,
    bench: &mut FrameCompressor,
    level: i32,
    watch: &Watch<'_>,
) -> Result<(), Stop> {
    let failed = |error: std::io::Error| Stop::Failed(Failure::write(error));
    let table = (plan.layout.loads.len() + 2 * (first.len() + aside.len()) + 4) as u64 * 56 + 64;
    let missing = |prefix: u64| first.iter().filter(move |packed| packed.whole.end > prefix);
    while writer.file.frames() > 0 {
        let prefix = writer.file.content();
        let bytes: u64 = missing(prefix).map(Packed::bytes).sum();
        let content: u64 = missing(prefix).map(Packed::content).sum();
        if writer.fits(bytes + table, content + table, most) {
            break;
        }
        writer.file.pop().map_err(failed)?;
    }
    // Should this daemon be killed now, its successor sees where the core's own frames end.
    writer.append(&format::trim_mark(), 0)?;
    let prefix = writer.file.content();
    let mut parts = vec![Part { whole: 0..prefix, at: 0 }];
    if prefix < PAGE {
        // ProcessMemory begins on a page in every core.
        let length = (PAGE - prefix) as usize;
        writer.append(bench.zeros(length, level).map_err(failed)?, length as u32)?;
    }
    for (index, packed) in first.iter().enumerate().filter(|(_, packed)| packed.whole.end > prefix) {
        if !writer.fits(packed.bytes() + table, packed.content() + table, most) {
            // Without its notes it is not a core.
            if index == 0 {
                return Err(Stop::Failed(Failure::Quota));
            }
            continue;
        }
        packed.append(writer, &mut parts)?;
    }
    for range in aside.iter().filter(|range| range.start >= prefix) {
        watch.look().map_err(Stop::Failed)?;
        let packed = pack(stage, range.clone(), bench, level).map_err(Stop::Failed)?;
        if !writer.fits(packed.bytes() + table, packed.content() + table, most) {
            break;
        }
        packed.append(writer, &mut parts)?;
    }
    let notes = &plan.layout.notes;
    let notes_at = parts.iter().find(|part| part.whole.start <= notes.start && notes.end <= part.whole.end);
    let Some(part) = notes_at else { return Err(Stop::Failed(Failure::Quota)) };
    let notes_at = part.at + (notes.start - part.whole.start);
    let trimmed = elf::trimmed(&plan.layout, &parts, notes_at, writer.file.content());
    for piece in trimmed.table.chunks(FRAME_LEN) {
        bench.buffer()[..piece.len()].copy_from_slice(piece);
        let frame = bench.compress(0..piece.len(), level).map_err(failed)?;
        writer.append(frame, piece.len() as u32)?;
    }
    writer.file.set_header(trimmed.header.to_vec());
    Ok(())
}

/// `range` as frames, filled up to whole pages, so that what follows begins on one.
fn pack(stage: &StagingArea, range: Range<u64>, bench: &mut FrameCompressor, level: i32) -> Result<Packed, Failure> {
    let mut frames = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at + FRAME_LEN as u64);
        let length = (end - at) as usize;
        let padded = length.next_multiple_of(PAGE as usize).min(FRAME_LEN);
        if stage.fill(at..end, bench.buffer()).map_err(Failure::from)? == super::chunk::Filled::Zeros {
            bench.buffer()[..length].fill(0);
        }
        bench.buffer()[length..padded].fill(0);
        let frame = bench.compress(0..padded, level).map_err(Failure::Write)?;
        frames.push((frame.to_vec(), padded as u32));
        at = end;
    }
    debug_assert!(range.start == HEADER_LEN as u64 || range.start.is_multiple_of(PAGE), "{range:?}");
    Ok(Packed { whole: range, frames })
}
