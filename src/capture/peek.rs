//! Reads the headers of a core in the pipe without consuming them, so that whoever reads the pipe afterwards finds all of it.

use super::error::CaptureError;
use super::headers::{Headers, HeadersGrant};
use super::memory_budget::MemoryBudget;
use crate::elf::{self, ElfError};
use coreward_sys::pipe::{self, Ready};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The outcome of [`peek_headers`].
#[derive(Clone, Debug)]
pub enum PeekedHeaders {
    /// The headers.
    Complete(Headers),
    /// Others have taken the memory for them.
    NoMemory,
    /// They have more bytes than the pipe can hold. The notes, which they end with, have this range.
    TooLong(Range<u64>),
    /// Not the beginning of a little-endian core: the rest of a stream, or something else.
    Unsupported(ElfError),
    /// Nothing arrived.
    Empty,
}

/// Largest size of an unprivileged pipe, in bytes (fs.pipe-max-size).
const PIPE_MAX: u32 = 1 << 20;
/// Size of a pipe that was not changed, in bytes (pipe(7)).
const PIPE_DEFAULT: usize = 64 << 10;
/// How long to wait for the headers. The kernel writes them from its own memory, so they arrive at once or not at all.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a wait checks whether it was cancelled.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// How long to wait for memory for the headers.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that contain the ELF header and the first program header, which tell how long the headers are.
const FIRST_PAGE: u16 = 4096;
/// Room for the headers of a process with one thread, in bytes.
const USUAL_LEN: usize = 16 << 10;
/// A pipe whose contents have not changed for this long is full.
const FULL_AFTER: Duration = Duration::from_millis(100);

/// The headers of the core in a pipe if they have arrived whole, as they mostly have when their shim has offered the crash, and there
/// is memory for them. Does not block.
#[must_use]
pub fn peek_arrived_headers(core: BorrowedFd<'_>, budget: &MemoryBudget) -> Option<Headers> {
    if pipe::bytes_waiting(core).ok()? < usize::from(FIRST_PAGE) {
        return None;
    }
    let (mut bytes, mut copy) = peek_first_page(core).ok()?;
    let length = elf::headers_len(&bytes).ok().filter(|length| *length <= PIPE_DEFAULT as u64)?;
    let grant = HeadersGrant::reserve(budget, length)?;
    read_more(&mut copy, length.saturating_sub(bytes.len() as u64), &mut bytes).ok()?;
    is_complete(&mut bytes, length).then(|| Headers::new(bytes, grant))
}

/// Reads the headers of the core in a pipe, which grows if it is too small for them. Blocks for seconds at most.
///
/// # Errors
/// The pipe cannot be read, or the capture was cancelled.
pub fn peek_headers(
    core: BorrowedFd<'_>,
    budget: &MemoryBudget,
    cancelled: &CancellationToken,
) -> Result<PeekedHeaders, CaptureError> {
    // Most headers fit into the pipe as it is.
    wait_for_bytes(core, u64::from(FIRST_PAGE), cancelled)?;
    let (mut bytes, mut copy) = peek_first_page(core)?;
    if bytes.is_empty() {
        return Ok(PeekedHeaders::Empty);
    }
    let notes = match elf::notes_range(&bytes) {
        Ok(notes) => notes,
        Err(error) => return Ok(PeekedHeaders::Unsupported(error)),
    };
    let length = notes.end;
    if length > u64::from(PIPE_MAX) {
        return Ok(PeekedHeaders::TooLong(notes));
    }
    let Some(grant) = HeadersGrant::wait(budget, length, Instant::now() + MEMORY_TIMEOUT) else {
        return Ok(PeekedHeaders::NoMemory);
    };
    let rest = length.saturating_sub(bytes.len() as u64);
    read_more(&mut copy, rest, &mut bytes)?;
    if is_complete(&mut bytes, length) {
        return Ok(PeekedHeaders::Complete(Headers::new(bytes, grant)));
    }
    if pipe::capacity(core).map_err(CaptureError::Read)? as u64 <= length {
        // Pages of a pipe are not filled completely, so it needs more room than the length.
        let wanted = (length + length / 8).next_power_of_two().min(u64::from(PIPE_MAX));
        let _ = pipe::set_capacity(core, i32::try_from(wanted).unwrap_or(i32::MAX));
    }
    wait_for_bytes(core, length, cancelled)?;
    let mut copy = pipe::peek(core, PIPE_MAX as usize).map_err(CaptureError::Read)?;
    let mut bytes = Vec::new();
    read_more(&mut copy, length, &mut bytes)?;
    let is_complete = is_complete(&mut bytes, length);
    Ok(if is_complete { PeekedHeaders::Complete(Headers::new(bytes, grant)) } else { PeekedHeaders::TooLong(notes) })
}

/// The first page of the core in a pipe, and a copy of the pipe with what follows.
fn peek_first_page(core: BorrowedFd<'_>) -> Result<(Vec<u8>, File), CaptureError> {
    let mut copy = pipe::peek(core, PIPE_DEFAULT).map_err(CaptureError::Read)?;
    let mut bytes = Vec::with_capacity(USUAL_LEN);
    read_more(&mut copy, u64::from(FIRST_PAGE), &mut bytes)?;
    Ok((bytes, copy))
}

/// Whether there are `length` bytes; more are cut off.
fn is_complete(bytes: &mut Vec<u8>, length: u64) -> bool {
    let Some(length) = usize::try_from(length).ok().filter(|length| *length <= bytes.len()) else { return false };
    bytes.truncate(length);
    true
}

/// Appends at most `length` bytes.
fn read_more(copy: &mut File, length: u64, bytes: &mut Vec<u8>) -> Result<(), CaptureError> {
    copy.take(length).read_to_end(bytes).map_err(CaptureError::Read)?;
    Ok(())
}

/// Waits until there are `bytes` in the pipe, or no more will arrive.
fn wait_for_bytes(core: BorrowedFd<'_>, bytes: u64, cancelled: &CancellationToken) -> Result<(), CaptureError> {
    let begun = Instant::now();
    let (mut last_count, mut changed) = (0, Instant::now());
    loop {
        if cancelled.is_cancelled() {
            return Err(CaptureError::Cancelled);
        }
        if last_count == 0 && pipe::wait_readable(core, POLL_INTERVAL).map_err(CaptureError::Read)? == Ready::TimedOut {
            if begun.elapsed() >= ARRIVAL_TIMEOUT {
                return Ok(());
            }
            continue;
        }
        let ended = pipe::writer_closed(core);
        let count = pipe::bytes_waiting(core).map_err(CaptureError::Read)?;
        if count as u64 >= bytes || ended || begun.elapsed() >= ARRIVAL_TIMEOUT {
            return Ok(());
        }
        if count != last_count {
            (last_count, changed) = (count, Instant::now());
        } else if changed.elapsed() >= FULL_AFTER {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}
