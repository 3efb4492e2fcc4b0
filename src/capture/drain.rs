//! Captures a core from its stream: when the memory of the process cannot be used, and when the core must not be parsed.

use super::chunk::{CHUNK_LEN, frame_content};
use super::core_stream::CoreStream;
use super::core_writer::CoreWriter;
use super::error::{CaptureError, StopReason};
use super::health::Heartbeat;
use super::{CaptureResources, CapturedCore};
use crate::crash::Truncation;
use crate::elf::{self, ElfClass};
use crate::store::format::{FRAME_LEN, HEADER_LEN};
use nix::errno::Errno;
use std::io;
use std::time::Instant;

/// What to capture, and how.
pub struct DrainRequest<'a> {
    /// The stream.
    pub source: CoreStream,
    /// The file for the core.
    pub writer: CoreWriter,
    /// Heartbeat of this worker.
    pub heartbeat: &'a Heartbeat,
    /// Whether the core may be parsed.
    pub parse: bool,
    /// Whether an earlier daemon may have consumed the beginning of the stream.
    pub resumed: bool,
    /// Level of compression.
    pub level: i32,
    /// When the process is to be released.
    pub deadline: Option<Instant>,
}

/// Reads the stream to its end, or as far as the limits allow.
///
/// # Errors
/// Nothing useful was captured.
pub fn drain(request: DrainRequest<'_>, resources: &CaptureResources) -> Result<CapturedCore, CaptureError> {
    let DrainRequest { mut source, writer, heartbeat, .. } = request;
    let mut captured = CapturedCore { writer, expected_len: 0, truncation: None, staging: None, notes: None };
    let mut bytes = vec![0; FRAME_LEN];
    let mut last_segment = None;
    loop {
        let content = captured.writer.file.content();
        let (content_max, limit) = captured.writer.limits().content_max();
        // Frames end at the same offsets as in a core that is captured from memory, so that both are the same file.
        let frame_rest = CHUNK_LEN - content % CHUNK_LEN;
        let allowed = frame_rest.min(content_max.saturating_sub(content));
        let allowed = usize::try_from(allowed).unwrap_or(FRAME_LEN);
        if allowed == 0 {
            // A core that is exactly as long as the limit is complete.
            captured.truncation = Some(limit).filter(|_| captured.expected_len == 0 || content < captured.expected_len);
            return Ok(captured);
        }
        if request.deadline.is_some_and(|deadline| Instant::now() >= deadline) && content > 0 {
            captured.truncation = Some(Truncation::MaxHold);
            return Ok(captured);
        }
        // No compressor is held meanwhile: the kernel may be slow, and other captures need them.
        let read = match source.fill(&mut bytes[..allowed], heartbeat) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(CaptureError::Cancelled),
            read => read.map_err(CaptureError::Read)?,
        };
        let is_first = content == 0;
        if read.bytes == 0 {
            return at_end(captured, is_first, read.stalled);
        }
        let mut begin = 0;
        if is_first {
            last_segment = inspect_beginning(&mut captured, &bytes[..read.bytes], request.parse, request.resumed)?;
            begin = HEADER_LEN.min(read.bytes);
            captured.writer.file.set_header(bytes[..begin].to_vec());
        }
        if let Some(end) = last_segment.as_mut().and_then(|last| last.look_at(content, &bytes[..read.bytes])) {
            captured.expected_len = end;
            last_segment = None;
        }
        if begin < read.bytes {
            let mut compressor = resources.compressors.acquire();
            compressor.buffer()[..read.bytes].copy_from_slice(&bytes[..read.bytes]);
            let frame = compressor.compress(begin..read.bytes, request.level).map_err(CaptureError::Write)?;
            heartbeat.tick();
            match captured.writer.append(frame, frame_content(read.bytes - begin)) {
                Ok(()) => {}
                Err(StopReason::Truncated(Truncation::DiskFull)) if is_first => {
                    return Err(CaptureError::DiskFull(Errno::ENOSPC.into()));
                }
                Err(StopReason::Truncated(_)) if is_first => return Err(CaptureError::Quota),
                Err(StopReason::Truncated(truncation)) => {
                    captured.truncation = Some(truncation);
                    return Ok(captured);
                }
                Err(StopReason::Failed(error)) => return Err(error),
            }
        }
        if read.bytes < allowed {
            return at_end(captured, false, read.stalled);
        }
    }
}

/// The last program header of a core with so many that they are not all in the first frame. It tells how long the core is.
struct LastSegment {
    /// Its offset in the core.
    offset: u64,
    class: ElfClass,
    bytes: Vec<u8>,
}

impl LastSegment {
    /// Looks for it in the bytes of the core at `offset`, which follow those that it was looked for in before. Returns where the core ends.
    fn look_at(&mut self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let length = self.class.segment_len();
        let next = self.offset + self.bytes.len() as u64;
        let from = usize::try_from(next.checked_sub(offset)?).ok()?;
        let rest = bytes.get(from..)?;
        self.bytes.extend_from_slice(&rest[..rest.len().min(length - self.bytes.len())]);
        if self.bytes.len() == length { elf::segment_end(&self.bytes, self.class) } else { None }
    }
}

/// Checks that the stream begins with a core, and learns its length and its process. Returns what tells the length, if that is further on.
fn inspect_beginning(
    captured: &mut CapturedCore,
    bytes: &[u8],
    parse: bool,
    resumed: bool,
) -> Result<Option<LastSegment>, CaptureError> {
    if !parse {
        // Four bytes need no parser: without them, an earlier daemon has consumed the beginning.
        captured.truncation = (resumed && !bytes.starts_with(b"\x7fELF")).then_some(Truncation::Resumed);
        return Ok(None);
    }
    match elf::summarize(bytes) {
        Ok(summary) => {
            captured.expected_len = summary.expected_len.unwrap_or(0);
            captured.notes = Some(elf::process_notes(bytes, &summary));
            let is_unknown = summary.expected_len.is_none() && summary.last_segment > 0;
            let class = ElfClass::of(bytes).filter(|_| is_unknown);
            Ok(class.map(|class| LastSegment { offset: summary.last_segment, class, bytes: Vec::new() }))
        }
        // An earlier daemon has consumed the beginning. The rest may still be of use to somebody.
        Err(_) if resumed => {
            captured.truncation = Some(Truncation::Resumed);
            Ok(None)
        }
        Err(error) => Err(CaptureError::NotACore(error)),
    }
}

/// The outcome when the stream has ended or stalled.
fn at_end(mut captured: CapturedCore, is_empty: bool, stalled: bool) -> Result<CapturedCore, CaptureError> {
    if is_empty {
        return Err(if stalled { CaptureError::Stalled } else { CaptureError::Empty });
    }
    if stalled {
        captured.truncation = Some(Truncation::Stalled);
    } else if captured.writer.file.content() < captured.expected_len {
        captured.truncation = Some(Truncation::EndedEarly);
    }
    Ok(captured)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_program_header_is_found_across_the_boundary_of_two_frames() {
        let loads: Vec<(u64, u64, u64)> = (1..100).map(|page| (page << 20, 4096, 4096)).collect();
        let headers = elf::test_headers(&loads, &[]);
        let whole = elf::summarize(&headers).unwrap();
        let offset = whole.last_segment;
        for cut in [offset - 8, offset, offset + 8, offset + 56] {
            let mut last = LastSegment { offset, class: ElfClass::Elf64, bytes: Vec::new() };
            let (first, rest) = headers.split_at(usize::try_from(cut).unwrap());
            let found = last.look_at(0, first).or_else(|| last.look_at(cut, rest));
            assert_eq!(found, whole.expected_len, "{cut}");
        }
    }
}
