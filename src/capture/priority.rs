//! What is copied first from a parked process, and kept if the core has to be truncated: notes, stacks, and what a debugger
//! reads to find its way.

use crate::elf::CoreLayout;
use coreward_sys::pagemap::PAGE;
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of every thread's stack that come first, from its stack pointer on.
const STACK_FIRST: u64 = 16 << 10;
/// Bytes of the crashed thread's stack that come first: after a stack overflow it is long.
const STACK_CRASHED: u64 = 256 << 10;
/// Bytes of a stack that have priority at all.
const STACK_MAX: u64 = 128 << 10;
/// Mappings of at most this many bytes are likely to have what a debugger needs: the dynamic linker's data, the first pages of
/// ELF files with their build-ids, the vDSO.
const SMALL_MAPPING: u64 = 64 << 10;
/// Bytes that all priority ranges have together at most.
pub(super) const PRIORITY_MAX: u64 = 8 << 20;
/// Bytes below the stack pointer that a leaf function may use (the red zone of the x86_64 ABI).
const RED_ZONE: u64 = 128;

/// The ranges of the core that come first, in their order. `debugger_ranges` are addresses.
pub(super) fn priority_ranges(layout: &CoreLayout, debugger_ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut priority = PriorityList { ranges: Vec::new(), known: BTreeMap::new(), left: PRIORITY_MAX };
    // The notes follow the ELF header. They share no page with the memory, which the kernel aligns.
    let notes_end = layout.notes_range.end.next_multiple_of(PAGE).min(layout.memory_start());
    priority.add(crate::elf::HEADER_LEN as u64..notes_end);
    let threads = layout.notes.threads.iter();
    let stacks: Vec<Range<u64>> =
        threads.filter_map(|thread| stack_range(layout, thread.registers.stack_pointer())).collect();
    let beginning = |stack: &Range<u64>, length: u64| stack.start..stack.end.min(stack.start + length);
    if let Some(crashed) = stacks.first() {
        priority.add(beginning(crashed, STACK_CRASHED));
    }
    stacks.iter().for_each(|stack| priority.add(beginning(stack, STACK_FIRST)));
    for addresses in debugger_ranges {
        if let Some(range) = layout.file_range(addresses.start) {
            priority.add(beginning(&range, addresses.end - addresses.start));
        }
    }
    let small = layout.loads.iter().filter(|load| load.offset.end - load.offset.start <= SMALL_MAPPING);
    small.for_each(|load| priority.add(load.offset.clone()));
    stacks.iter().for_each(|stack| priority.add(beginning(stack, STACK_MAX)));
    priority.ranges
}

/// The range of the core that has the used part of a stack.
fn stack_range(layout: &CoreLayout, stack_pointer: u64) -> Option<Range<u64>> {
    layout.file_range(stack_pointer.wrapping_sub(RED_ZONE)).or_else(|| layout.file_range(stack_pointer))
}

struct PriorityList {
    ranges: Vec<Range<u64>>,
    /// The same by their beginning, with their ends: a process may have many thousand small mappings.
    known: BTreeMap<u64, u64>,
    /// Bytes that may be added.
    left: u64,
}

impl PriorityList {
    /// Adds the pages of `range` that are not in the list yet, as many as there is room for.
    fn add(&mut self, range: Range<u64>) {
        let end = range.end.next_multiple_of(PAGE);
        // In the first page, the ELF header is left out.
        let mut at = if range.start < PAGE { range.start } else { range.start / PAGE * PAGE };
        while at < end && self.left > 0 {
            let before = self.known.range(..=at).next_back().map_or(0, |(_, known_end)| *known_end);
            if before > at {
                at = before;
                continue;
            }
            let gap_end = self.known.range(at..).next().map_or(end, |(known, _)| (*known).min(end));
            let last = if gap_end - at <= self.left { gap_end } else { (at + self.left) / PAGE * PAGE };
            if last <= at {
                return;
            }
            self.left -= last - at;
            self.known.insert(at, last);
            match self.ranges.last_mut() {
                Some(before) if before.end == at => before.end = last,
                _ => self.ranges.push(at..last),
            }
            at = gap_end;
        }
    }
}
