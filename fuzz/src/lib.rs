//! What the fuzz targets share: a crashed process as one piece of bytes.
//!
//! Four bytes of length, so many bytes of head (headers and notes of a core), then pages: eight bytes of address, 4096 of memory.

use coreward::crash::Frame;
use coreward::elf::CoreLayout;
use coreward::unwind::{SignatureInput, ReadMemory, Process, compute_signature};
use std::cell::Cell;
use std::collections::BTreeMap;

const PAGE: usize = 4096;

/// Pages by address.
pub struct Pages(pub BTreeMap<u64, Vec<u8>>);

impl ReadMemory for Pages {
    fn look(&self, address: u64, buffer: &mut [u8]) -> bool {
        let Some((start, page)) = self.0.range(..=address).next_back() else { return false };
        let from = usize::try_from(address - start).unwrap_or(usize::MAX);
        match page.get(from..from.saturating_add(buffer.len())) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }
}

/// Takes a piece apart.
pub fn parse(bytes: &[u8]) -> Option<(&[u8], Pages)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (head, rest) = rest.split_at_checked(length)?;
    let pages = rest.chunks(8 + PAGE).filter_map(|chunk| {
        let (address, page) = chunk.split_first_chunk::<8>()?;
        let mut page = page.to_vec();
        page.resize(PAGE, 0);
        Some((u64::from_le_bytes(*address), page))
    });
    Some((head, Pages(pages.collect())))
}

/// All that the daemon does with a crash before it decides.
pub fn look(head: &[u8], memory: &dyn ReadMemory) -> Option<(String, Vec<Frame>)> {
    let layout = CoreLayout::read(head).ok()?;
    let mut process = Process::new(&layout, memory);
    // The daemon's clock ends it after some milliseconds; here so many steps do.
    let steps = Cell::new(0_u32);
    let go_on = || {
        steps.set(steps.get() + 1);
        steps.get() < 4096
    };
    let frames = process.crashed(&go_on);
    let others = process.others(64, &go_on);
    assert!(others.iter().all(|(_, frames)| frames.len() <= 64));
    let modules = process.modules(&go_on);
    let signature = compute_signature(&SignatureInput {
        signal: Some(11),
        fault: layout.dump.siginfo.map(|info| info.value),
        stack_pointer: layout.dump.threads.first().map(|thread| thread.registers.stack()),
        frames: &frames,
        module: &|number| modules.get(number as usize),
        is_code: &|address| layout.is_code(address),
        build_id: None,
        program: "program",
    });
    Some((signature.id, frames))
}
