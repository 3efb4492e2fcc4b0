//! The pipe that stands for the kernel's: a thread writes the core into it, as far as the daemon reads, and ends when nobody has the other
//! end any more. Mostly the daemon reads the headers only, and copies memory where it is.

use crate::elf::{CoreFrame, StoppedImage};
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::thread;

/// Bytes of memory that are read at once.
const CHUNK: usize = 64 << 10;
const PAGE: usize = 4096;

/// Writes the core of a stopped process. Returns the end to read from.
pub(super) fn write(pid: Pid, (frame, image): &(CoreFrame, StoppedImage)) -> io::Result<OwnedFd> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let (from, to) = pipe2(OFlag::O_CLOEXEC)?;
    let frame = frame.clone();
    let ranges: Vec<(u64, u64)> = image.segments.iter().map(|segment| (segment.address, segment.stored)).collect();
    // It may wait for memory that does not answer for as long as this process runs.
    thread::Builder::new().name("core pipe".to_owned()).spawn(move || {
        // An error is that nobody reads.
        let _ = write_all(&mut File::from(to), &frame, &ranges, &memory);
    })?;
    Ok(from)
}

fn write_all(to: &mut File, frame: &CoreFrame, ranges: &[(u64, u64)], memory: &File) -> io::Result<()> {
    to.write_all(&frame.headers)?;
    let mut chunk = vec![0; CHUNK];
    for (address, length) in ranges {
        let mut at = *address;
        let end = address.saturating_add(*length);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let bytes = chunk.get_mut(..wanted).unwrap_or_default();
            read_pages(memory, at, bytes);
            to.write_all(bytes)?;
            at += wanted as u64;
        }
    }
    to.write_all(&frame.trailer)
}

/// Pages that cannot be read are zeros, as in the kernel's cores.
fn read_pages(memory: &File, at: u64, bytes: &mut [u8]) {
    if memory.read_exact_at(bytes, at).is_ok() {
        return;
    }
    for (number, page) in (0_u64..).zip(bytes.chunks_mut(PAGE)) {
        if memory.read_exact_at(page, at + number * PAGE as u64).is_err() {
            page.fill(0);
        }
    }
}
