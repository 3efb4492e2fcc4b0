//! What the fuzz targets share: a crashed process as one sequence of bytes.
//!
//! Four bytes hold the length of the core's headers (little-endian); the headers follow, and then pages: eight bytes of
//! address and 4096 bytes of memory each.

use coreward::crash::Frame;
use coreward::elf::{CoreLayout, Registers};
use coreward::unwind::{ProcessUnwinder, ReadMemory, SignatureInput, compute_signature};
use std::cell::Cell;
use std::collections::BTreeMap;

const PAGE: usize = 4096;

/// Memory that consists of the pages in the map, by address.
pub struct SparseMemory(pub BTreeMap<u64, Vec<u8>>);

impl ReadMemory for SparseMemory {
    fn read_exact_at(&self, mut address: u64, mut buffer: &mut [u8]) -> bool {
        while !buffer.is_empty() {
            let Some((start, page)) = self.0.range(..=address).next_back() else { return false };
            let from = usize::try_from(address - start).unwrap_or(usize::MAX);
            let Some(bytes) = page.get(from..).filter(|bytes| !bytes.is_empty()) else { return false };
            let (part, rest) = buffer.split_at_mut(buffer.len().min(bytes.len()));
            part.copy_from_slice(&bytes[..part.len()]);
            address = address.wrapping_add(part.len() as u64);
            buffer = rest;
        }
        true
    }
}

/// Splits the input into the headers of a core and memory.
pub fn parse_crash(bytes: &[u8]) -> Option<(&[u8], SparseMemory)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (headers, rest) = rest.split_at_checked(length)?;
    Some((headers, parse_pages(rest)))
}

/// Pages with their addresses as memory.
pub fn parse_pages(bytes: &[u8]) -> SparseMemory {
    let pages = bytes.chunks(8 + PAGE).filter_map(|chunk| {
        let (address, page) = chunk.split_first_chunk::<8>()?;
        let mut page = page.to_vec();
        page.resize(PAGE, 0);
        Some((u64::from_le_bytes(*address), page))
    });
    SparseMemory(pages.collect())
}

/// Does what the daemon does with a crash before it decides what to keep. Returns the signature and the crashed thread's frames.
pub fn analyze(headers: &[u8], memory: &dyn ReadMemory) -> Option<(String, Vec<Frame>)> {
    let layout = CoreLayout::read(headers).ok()?;
    let mut process = ProcessUnwinder::new(&layout, memory);
    // The daemon stops after some milliseconds. Counting steps instead keeps runs reproducible.
    let steps = Cell::new(0_u32);
    let keep_going = || {
        steps.set(steps.get() + 1);
        steps.get() < 4096
    };
    let crashed = process.crashed_thread(Some(11), &keep_going);
    let failed = crashed.failed.as_ref();
    assert!(crashed.frames.len() <= 256 && failed.is_none_or(|failed| failed.handler.len() <= 16));
    let others = process.other_threads(failed.map(|failed| failed.tid), 64, &keep_going);
    assert!(others.iter().all(|(_, frames)| frames.len() <= 64));
    let signal = failed.map(|failed| failed.signal).or(Some(11));
    let anonymous = process.anonymous(&crashed.frames, signal);
    let modules = process.into_modules(&keep_going);
    let signature = compute_signature(&SignatureInput {
        signal,
        fault: failed.map_or(layout.notes.siginfo.map(|info| info.address), |failed| failed.address),
        stack_pointer: crashed.registers.map(Registers::stack_pointer),
        anonymous: &anonymous,
        frames: &crashed.frames,
        module: &|number| modules.get(number as usize),
        is_code: &|address| layout.is_code(address),
        build_id: None,
        program: "program",
    });
    Some((signature.id, crashed.frames))
}
