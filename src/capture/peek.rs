//! A look at headers and notes in the core pipe, which nothing is taken out of: whoever comes after finds the same.

use super::core_writer::Failure;
use crate::elf::{self, ElfError};
use coreward_sys::pipe::{self, Ready};
use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What stands in front of the memory.
#[derive(Clone, Debug)]
pub enum Head {
    /// Headers and notes, whole.
    Whole(Vec<u8>),
    /// They have so many bytes, more than the pipe can be made to hold.
    Long(u64),
    /// Not a core that can be planned for: another word length, a rest of a stream, or no core at all.
    Other(ElfError),
    /// It did not come.
    Nothing,
}

/// What an unprivileged pipe may grow to (fs.pipe-max-size).
const PIPE_MAX: u64 = 1 << 20;
/// The kernel writes headers and notes out of its own memory; what does not come in this time will not come.
const COME_WITHIN: Duration = Duration::from_secs(5);
/// The kernel's ELF header and what tells where the notes end.
const FIRST: u64 = 4096;
/// Room for the head of a program with one thread.
const USUAL: usize = 16 << 10;
/// How long a full pipe that is too small is looked at before that is believed.
const FULL_WITHIN: Duration = Duration::from_millis(100);

/// Looks.
///
/// # Errors
/// The pipe can't be read, or the look was called off.
pub fn peek(core: BorrowedFd<'_>, cancelled: &CancellationToken) -> Result<Head, Failure> {
    // All but the largest fit into what a pipe has from the beginning.
    wait_for(core, 4096, cancelled)?;
    let mut copy = pipe::peek(core, 64 << 10).map_err(Failure::Read)?;
    let mut bytes = Vec::with_capacity(USUAL);
    read(&mut copy, FIRST, &mut bytes)?;
    if bytes.is_empty() {
        return Ok(Head::Nothing);
    }
    let length = match elf::head_length(&bytes) {
        Ok(length) => length,
        Err(error) => return Ok(Head::Other(error)),
    };
    let rest = length.saturating_sub(bytes.len() as u64);
    read(&mut copy, rest, &mut bytes)?;
    let whole = |mut bytes: Vec<u8>| {
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Head::Whole(bytes)
    };
    if bytes.len() as u64 >= length {
        return Ok(whole(bytes));
    }
    if length > PIPE_MAX {
        return Ok(Head::Long(length));
    }
    if pipe::size(core).map_err(Failure::Read)? as u64 <= length {
        // A page is wasted wherever the kernel began a new one.
        let wanted = (length + length / 8).next_power_of_two().min(PIPE_MAX);
        let _ = pipe::set_size(core, i32::try_from(wanted).unwrap_or(i32::MAX));
    }
    wait_for(core, length, cancelled)?;
    let mut copy = pipe::peek(core, usize::try_from(PIPE_MAX).unwrap_or(usize::MAX)).map_err(Failure::Read)?;
    let mut bytes = Vec::new();
    read(&mut copy, length, &mut bytes)?;
    Ok(if bytes.len() as u64 >= length { whole(bytes) } else { Head::Long(length) })
}

/// Adds at most `length` bytes.
fn read(copy: &mut File, length: u64, bytes: &mut Vec<u8>) -> Result<(), Failure> {
    copy.take(length).read_to_end(bytes).map_err(Failure::Read)?;
    Ok(())
}

/// Waits until so many bytes are in the pipe, or no more will come.
fn wait_for(core: BorrowedFd<'_>, bytes: u64, cancelled: &CancellationToken) -> Result<(), Failure> {
    let begun = Instant::now();
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        if cancelled.is_cancelled() {
            return Err(Failure::Cancelled);
        }
        if seen == 0 && pipe::wait_readable(core, Duration::from_millis(250)).map_err(Failure::Read)? == Ready::TimedOut
        {
            if begun.elapsed() >= COME_WITHIN {
                return Ok(());
            }
            continue;
        }
        let ended = pipe::ended(core);
        let waiting = pipe::waiting(core).map_err(Failure::Read)?;
        if waiting as u64 >= bytes || ended || begun.elapsed() >= COME_WITHIN {
            return Ok(());
        }
        if waiting != seen {
            (seen, since) = (waiting, Instant::now());
        } else if since.elapsed() >= FULL_WITHIN {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}
