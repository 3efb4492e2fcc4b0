//! Captures a core from its stream: when the memory of the process cannot be used, and when the core must not be parsed.

use super::chunk::{CHUNK_LEN, frame_content};
use super::core_stream::CoreStream;
use super::core_writer::CoreWriter;
use super::error::{CaptureError, StopReason};
use super::health::Heartbeat;
use super::{CaptureResources, CapturedCore};
use crate::crash::Truncation;
use crate::elf;
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
            inspect_beginning(&mut captured, &bytes[..read.bytes], request.parse, request.resumed)?;
            begin = HEADER_LEN.min(read.bytes);
            captured.writer.file.set_header(bytes[..begin].to_vec());
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

/// Checks that the stream begins with a core, and learns its length and its process.
fn inspect_beginning(
    captured: &mut CapturedCore,
    bytes: &[u8],
    parse: bool,
    resumed: bool,
) -> Result<(), CaptureError> {
    if !parse {
        // Four bytes need no parser: without them, an earlier daemon has consumed the beginning.
        captured.truncation = (resumed && !bytes.starts_with(b"\x7fELF")).then_some(Truncation::Resumed);
        return Ok(());
    }
    match elf::summarize(bytes) {
        Ok(summary) => {
            captured.expected_len = summary.expected_len.unwrap_or(0);
            captured.notes = Some(elf::process_notes(bytes, &summary));
            Ok(())
        }
        // An earlier daemon has consumed the beginning. The rest may still be of use to somebody.
        Err(_) if resumed => {
            captured.truncation = Some(Truncation::Resumed);
            Ok(())
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
