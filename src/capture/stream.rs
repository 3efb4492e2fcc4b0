//! The kernel's stream, as it comes: for what can't be read out of the process' memory, and for what must not be parsed.

use super::core_stream::StreamReader;
use super::core_writer::{CoreWriter, Failure, Stop};
use super::health::Heartbeat;
use super::{CaptureResources, CapturedCore};
use crate::crash::Truncation;
use crate::elf;
use crate::store::format::{FRAME_LEN, HEADER_LEN};
use std::io;
use std::time::Instant;

/// What to drain, and under what circumstances.
pub struct Stream<'a> {
    /// Where from.
    pub source: StreamReader,
    /// Where to.
    pub writer: CoreWriter,
    /// Pulse of this worker.
    pub heartbeat: &'a Heartbeat,
    /// Whether the bytes may be looked at.
    pub parse: bool,
    /// Whether an earlier daemon may have taken the beginning.
    pub resumed: bool,
    /// Level of compression.
    pub level: i32,
    /// Until when the process may be held.
    pub deadline: Option<Instant>,
}

/// Captures the whole stream, or as much as the limits allow.
///
/// # Errors
/// Nothing worth keeping was captured.
pub fn drain(stream: Stream<'_>, resources: &CaptureResources) -> Result<CapturedCore, Failure> {
    let Stream { mut source, writer, heartbeat, .. } = stream;
    let mut captured = CapturedCore { writer, expected: 0, cut: None, stage: None, notes: None };
    let mut bytes = vec![0; FRAME_LEN];
    loop {
        let content = captured.writer.file.content();
        let (most, limit) = captured.writer.limits().content();
        // Frames end where those of a core out of memory end, so that both are the same file.
        let to_boundary = FRAME_LEN - usize::try_from(content % FRAME_LEN as u64).unwrap_or(0);
        let allowed = usize::try_from(most.saturating_sub(content)).unwrap_or(FRAME_LEN).min(to_boundary);
        if allowed == 0 {
            // A core that is just as long as the limit is whole.
            captured.cut = Some(limit).filter(|_| captured.expected == 0 || content < captured.expected);
            return Ok(captured);
        }
        if stream.deadline.is_some_and(|deadline| Instant::now() >= deadline) && content > 0 {
            captured.cut = Some(Truncation::MaxHold);
            return Ok(captured);
        }
        // Not a bench: the kernel may take its time, and others want to work meanwhile.
        let filled = match source.fill(&mut bytes[..allowed], heartbeat) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(Failure::Cancelled),
            filled => filled.map_err(Failure::Read)?,
        };
        let (read, stalled) = (filled.bytes, filled.stalled);
        let first = content == 0;
        if read == 0 {
            return end(captured, first, stalled);
        }
        let mut begin = 0;
        if first {
            look(&mut captured, &bytes[..read], stream.parse, stream.resumed)?;
            begin = HEADER_LEN.min(read);
            captured.writer.file.set_header(bytes[..begin].to_vec());
        }
        if begin < read {
            let mut bench = resources.compressors.take();
            bench.buffer()[..read].copy_from_slice(&bytes[..read]);
            let frame = bench.compress(begin..read, stream.level).map_err(Failure::Write)?;
            heartbeat.tick();
            match captured.writer.append(frame, (read - begin) as u32) {
                Ok(()) => {}
                Err(Stop::Truncation(Truncation::DiskFull)) if first => {
                    return Err(Failure::DiskFull(io::Error::from_raw_os_error(nix::errno::Errno::ENOSPC as i32)));
                }
                Err(Stop::Truncation(_)) if first => return Err(Failure::Quota),
                Err(Stop::Truncation(cut)) => {
                    captured.cut = Some(cut);
                    return Ok(captured);
                }
                Err(Stop::Failed(failure)) => return Err(failure),
            }
        }
        if read < allowed {
            return end(captured, false, stalled);
        }
    }
}

/// Looks at the first frame: is it a core, how long will it be, whose is it?
fn look(captured: &mut CapturedCore, bytes: &[u8], parse: bool, resumed: bool) -> Result<(), Failure> {
    if !parse {
        // Four bytes are no parsing: they tell a beginning from what an earlier daemon left.
        captured.cut = (resumed && !bytes.starts_with(b"\x7fELF")).then_some(Truncation::Resumed);
        return Ok(());
    }
    match elf::inspect(bytes) {
        Ok(head) => {
            captured.expected = head.expected.unwrap_or(0);
            captured.notes = Some(elf::process_notes(bytes, &head));
            Ok(())
        }
        // An earlier daemon took the beginning with it. The rest may still tell something to somebody.
        Err(_) if resumed => {
            captured.cut = Some(Truncation::Resumed);
            Ok(())
        }
        Err(error) => Err(Failure::NotACore(error)),
    }
}

fn end(mut captured: CapturedCore, empty: bool, stalled: bool) -> Result<CapturedCore, Failure> {
    if empty {
        return Err(if stalled { Failure::Stalled } else { Failure::Empty });
    }
    if stalled {
        captured.cut = Some(Truncation::Stalled);
    } else if captured.writer.file.content() < captured.expected {
        captured.cut = Some(Truncation::EndedEarly);
    }
    Ok(captured)
}
