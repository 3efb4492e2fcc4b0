//! Which memory of a parked process belongs where in its core, what of it exists, and what is copied first. Pure: maps and
//! headers in, ranges of the core out.

use super::chunk::{self, CHUNK_LEN};
use super::holes::Holes;
use super::priority::{PRIORITY_MAX, priority_ranges};
use crate::elf::CoreLayout;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// A part of a mapping, in the core and in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingSlice {
    /// Offset in the core.
    pub offset: u64,
    /// Address in the process.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
    /// Pages that do not exist are zeros and need not be read. This holds for private anonymous memory and for holes; another absent page
    /// of a file or of shared memory has contents all the same, but is treated like this where nobody may ever answer for it.
    pub sparse: bool,
}

impl MappingSlice {
    /// The addresses in the process.
    pub fn addresses(&self) -> Range<u64> {
        self.address..self.address + self.length
    }
}

/// The plan for capturing one core.
#[derive(Debug)]
pub struct CapturePlan {
    /// The layout of the core.
    pub layout: Arc<CoreLayout>,
    /// Which absent pages are zeros.
    absent: AbsentPages,
    /// One bit for each chunk: whether it may have anything but zeros.
    chunks_with_data: Vec<u64>,
    /// Bytes of the core that may be anything but zeros.
    pub present_bytes: u64,
    /// Ranges of the core to copy first, in this order. Whole pages, and none twice.
    pub priority: Vec<Range<u64>>,
}

/// Which of the pages that are not in the page table are zeros.
#[derive(Debug)]
struct AbsentPages {
    /// For each segment of the layout, whether all of them are.
    sparse: Vec<bool>,
    /// Those that are in any segment.
    holes: Holes,
}

/// The part of a plan that the daemon needs. It leaves out which chunks have data: a core may have a hundred million chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSummary {
    present_bytes: u64,
    priority: Vec<Range<u64>>,
}

impl CapturePlan {
    /// Plans a core of this layout; `maps` is the process' `/proc/PID/maps` (proc_pid_maps(5)), and `holes` are what the shim found.
    /// `debugger_ranges` are addresses that a debugger reads to find its way. `answers` tells for an address whether absent pages of its mapping can be read.
    /// `present_runs` calls its second argument with the pages that exist in a range of
    /// sparse memory.
    ///
    /// # Errors
    /// Errors of `present_runs`.
    pub fn new<E>(
        layout: Arc<CoreLayout>,
        maps: &str,
        holes: Holes,
        debugger_ranges: &[Range<u64>],
        answers: &dyn Fn(u64) -> bool,
        mut present_runs: impl FnMut(Range<u64>, &mut dyn FnMut(Range<u64>)) -> Result<(), E>,
    ) -> Result<Self, E> {
        let absent = AbsentPages { sparse: sparse_segments(&layout, maps, answers), holes };
        let priority = priority_ranges(&layout, debugger_ranges);
        let mut data = DataMap::new(&layout);
        data.add(0..layout.memory_start());
        data.add(trailer_range(&layout));
        for slice in mapping_slices(&layout, &absent, 0..layout.total_len) {
            if slice.sparse {
                present_runs(slice.addresses(), &mut |run| {
                    let begin = slice.offset + (run.start - slice.address);
                    data.add(begin..begin + (run.end - run.start));
                })?;
            } else {
                data.add(slice.offset..slice.offset + slice.length);
            }
        }
        let DataMap { chunks: chunks_with_data, bytes: present_bytes } = data;
        Ok(Self { layout, absent, chunks_with_data, present_bytes, priority })
    }

    /// What of the plan the daemon needs.
    #[must_use]
    pub fn summary(&self) -> PlanSummary {
        PlanSummary { present_bytes: self.present_bytes, priority: self.priority.clone() }
    }

    /// The plan of this layout that `summary` is of. All of the core may have data as far as it tells. `None`: it is of another
    /// layout.
    #[must_use]
    pub fn from_summary(layout: Arc<CoreLayout>, summary: PlanSummary) -> Option<Self> {
        let PlanSummary { present_bytes, priority } = summary;
        let in_order = |range: &Range<u64>| range.start < range.end && range.end <= layout.total_len;
        if !priority.iter().all(in_order) || total_len(&priority) > PRIORITY_MAX {
            return None;
        }
        let absent = AbsentPages { sparse: vec![false; layout.loads.len()], holes: Holes::default() };
        Some(Self { layout, absent, chunks_with_data: Vec::new(), present_bytes, priority })
    }

    /// Bytes of all priority ranges.
    #[must_use]
    pub fn priority_len(&self) -> u64 {
        total_len(&self.priority)
    }

    /// Whether a chunk of `range` may have anything but zeros.
    #[must_use]
    pub fn may_have_data(&self, range: Range<u64>) -> bool {
        let has_data = |number: u64| {
            let word = usize::try_from(number / 64).ok().and_then(|word| self.chunks_with_data.get(word));
            word.is_none_or(|word| word >> (number % 64) & 1 == 1)
        };
        (range.start / CHUNK_LEN..chunk::count(range.end)).any(has_data)
    }

    /// The range of the section header after the memory. Empty if there is none.
    #[must_use]
    pub fn trailer_range(&self) -> Range<u64> {
        trailer_range(&self.layout)
    }

    /// The parts of mappings that are in `range` of the core, in order.
    pub fn mapping_slices(&self, range: Range<u64>) -> impl Iterator<Item = MappingSlice> {
        mapping_slices(&self.layout, &self.absent, range)
    }
}

/// What of a core may be anything but zeros.
struct DataMap {
    /// One bit for each chunk.
    chunks: Vec<u64>,
    bytes: u64,
}

impl DataMap {
    fn new(layout: &CoreLayout) -> Self {
        let words = usize::try_from(chunk::count(layout.total_len).div_ceil(64)).unwrap_or(usize::MAX);
        Self { chunks: vec![0; words], bytes: 0 }
    }

    fn add(&mut self, range: Range<u64>) {
        self.bytes += range.end - range.start;
        for number in range.start / CHUNK_LEN..chunk::count(range.end) {
            if let Some(word) = usize::try_from(number / 64).ok().and_then(|word| self.chunks.get_mut(word)) {
                *word |= 1 << (number % 64);
            }
        }
    }
}

fn trailer_range(layout: &CoreLayout) -> Range<u64> {
    layout.total_len - layout.trailer.len() as u64..layout.total_len
}

/// The parts of mappings that are in `range` of the core, in order, divided where holes begin and end.
fn mapping_slices(layout: &CoreLayout, absent: &AbsentPages, range: Range<u64>) -> impl Iterator<Item = MappingSlice> {
    let loads = &layout.loads;
    let first = loads.partition_point(|load| load.offset.end <= range.start);
    let in_range = loads[first..].iter().zip(&absent.sparse[first..]);
    in_range.take_while(move |(load, _)| load.offset.start < range.end).flat_map(move |(load, sparse)| {
        let (mut at, end) = (load.offset.start.max(range.start), load.offset.end.min(range.end));
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let address = load.address + (at - load.offset.start);
            let rest = address..address + (end - at);
            let (part_end, sparse) = if *sparse { (rest.end, true) } else { absent.holes.first_part(&rest) };
            let slice = MappingSlice { offset: at, address, length: part_end - address, sparse };
            at += slice.length;
            Some(slice)
        })
    })
}

/// Bytes of all `ranges`, which another process may have made up.
fn total_len(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().fold(0, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)))
}

/// For each segment whether it is private anonymous memory, or nobody may answer for its absent pages.
fn sparse_segments(layout: &CoreLayout, maps: &str, answers: &dyn Fn(u64) -> bool) -> Vec<bool> {
    // begin-end perms offset device inode path
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (begin, end) = fields.next()?.split_once('-')?;
        let (perms, inode) = (fields.next()?, fields.nth(2)?);
        let path = fields.next().unwrap_or_default();
        let is_private = perms.ends_with('p') && inode == "0";
        // Other paths in brackets are the kernel's mappings ([vdso], [vsyscall]), whose pages the pagemap does not show.
        let is_anonymous = path.is_empty() || path == "[heap]" || path == "[stack]" || path.starts_with("[anon");
        Some((u64::from_str_radix(begin, 16).ok()?, u64::from_str_radix(end, 16).ok()?, is_private && is_anonymous))
    };
    let mut mappings: Vec<(u64, u64, bool)> = maps.lines().filter_map(parse).collect();
    mappings.sort_unstable();
    let is_sparse = |begin: u64, end: u64| {
        let next = mappings.partition_point(|(_, to, _)| *to <= begin);
        mappings.get(next).is_some_and(|(from, to, sparse)| *sparse && *from <= begin && end <= *to)
    };
    layout
        .loads
        .iter()
        .map(|load| {
            let length = load.offset.end - load.offset.start;
            length > 0 && (is_sparse(load.address, load.address + length) || !answers(load.address))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreward_sys::pagemap::PAGE;
    use proptest::prelude::*;
    use std::convert::Infallible;

    const MIB: u64 = 1 << 20;

    /// A core with these mappings (address, bytes), and a thread for each of these stack pointers.
    fn layout(loads: &[(u64, u64)], stack_pointers: &[u64]) -> CoreLayout {
        let mut notes = Vec::new();
        for pointer in stack_pointers {
            let mut status = [0; 336];
            status[264..272].copy_from_slice(&pointer.to_le_bytes());
            for word in [5_u32, 336, 1] {
                notes.extend_from_slice(&word.to_le_bytes());
            }
            notes.extend_from_slice(b"CORE\0\0\0\0");
            notes.extend_from_slice(&status);
        }
        let loads: Vec<(u64, u64, u64)> = loads.iter().map(|(address, length)| (*address, *length, *length)).collect();
        CoreLayout::read(&crate::elf::test_headers(&loads, &notes)).unwrap()
    }

    fn plan(layout: CoreLayout, maps: &str, touched: &[Range<u64>]) -> CapturePlan {
        let runs = |range: Range<u64>, found: &mut dyn FnMut(Range<u64>)| {
            for run in touched {
                let (from, to) = (run.start.max(range.start), run.end.min(range.end));
                if from < to {
                    found(from..to);
                }
            }
            Ok::<(), Infallible>(())
        };
        CapturePlan::new(Arc::new(layout), maps, Holes::default(), &[], &|_| true, runs).unwrap()
    }

    #[test]
    fn a_plan_that_another_process_made_is_the_same_or_refused() {
        let made = plan(layout(&[(0x1000_0000, 64 * MIB), (0x2000_0000, 64 * MIB)], &[0x1000_8000]), MAPS, &[]);
        let copy = |summary| CapturePlan::from_summary(Arc::clone(&made.layout), summary);
        let restored = copy(made.summary()).unwrap();
        assert_eq!(restored.summary(), made.summary());
        let end = made.layout.total_len;
        let with_priority = |priority| PlanSummary { priority, ..made.summary() };
        assert!(copy(with_priority(vec![Range { start: 0, end: end + 1 }])).is_none(), "beyond the core");
        assert!(copy(with_priority(vec![Range { start: 8192, end: 4096 }])).is_none(), "backwards");
        assert!(copy(with_priority(vec![0..MIB; 9])).is_none(), "more than there ever are");
        assert!(restored.may_have_data(0..end));
    }

    const MAPS: &str = "\
10000000-14000000 rw-p 00000000 00:00 0 \n\
20000000-24000000 rw-s 00000000 00:01 77 /dev/zero (deleted)\n\
30000000-34000000 rw-p 00000000 fe:00 99 /srv/a file with\\040a name\n\
7ffc0000000-7ffc4000000 rw-p 00000000 00:00 0 [stack]\n";

    #[test]
    fn only_private_anonymous_memory_is_sparse() {
        let loads =
            [(0x1000_0000, 64 * MIB), (0x2000_0000, 64 * MIB), (0x3000_0000, 64 * MIB), (0x7ff_c000_0000, 64 * MIB)];
        let touched = 0x1000_5000..0x1000_6000;
        let plan = plan(layout(&loads, &[]), MAPS, &[touched]);
        assert_eq!(plan.absent.sparse, [true, false, false, true]);
        // The headers, one page, and all of the two mappings that are not sparse.
        assert!((128 * MIB..129 * MIB).contains(&plan.present_bytes), "{}", plan.present_bytes);
        assert!(
            plan.may_have_data(0..MIB)
                && !plan.may_have_data(10 * MIB..20 * MIB)
                && plan.may_have_data(70 * MIB..71 * MIB)
        );
    }

    #[test]
    fn without_maps_nothing_is_sparse() {
        let plan = plan(layout(&[(0x1000_0000, 64 * MIB)], &[]), "", &[]);
        assert!(plan.may_have_data(30 * MIB..31 * MIB) && plan.present_bytes >= 64 * MIB);
    }

    #[test]
    fn notes_precede_the_crashed_stack_which_precedes_the_others() {
        let stacks: Vec<(u64, u64)> = (0..20).map(|thread| (0x7000_0000_0000 + thread * 16 * MIB, 8 * MIB)).collect();
        let mut loads = vec![(0x1000, 4096), (0x1000_0000, 64 * MIB)];
        loads.extend(&stacks);
        let pointers: Vec<u64> = stacks.iter().map(|(begin, length)| begin + length - 512 * 1024).collect();
        let layout = layout(&loads, &pointers);
        let offsets: Vec<u64> = pointers.iter().map(|pointer| layout.file_range(*pointer).unwrap().start).collect();
        let plan = plan(layout, "", &[]);
        assert!(plan.priority[0].contains(&plan.layout.notes_range.start));
        let position = |offset: &u64| plan.priority.iter().position(|range| range.contains(offset)).unwrap();
        assert_eq!(position(&offsets[0]), 1);
        assert!(offsets[1..].is_sorted_by_key(position));
        assert!(plan.priority[1].end - plan.priority[1].start > plan.priority[2].end - plan.priority[2].start);
        let small = plan.layout.file_range(0x1000).unwrap().start;
        assert!(position(&small) > position(&offsets[19]), "small mappings follow the stacks");
    }

    proptest! {
        #[test]
        fn priority_ranges_are_bounded_and_do_not_overlap(
            loads in prop::collection::vec((1..64_u64, 1..4000_u64), 1..40),
            pointers in prop::collection::vec(any::<u64>(), 0..40), inside in any::<bool>(),
        ) {
            let mut at = 0x10000;
            let mut placed = Vec::new();
            for (gap, pages) in loads {
                at += gap * PAGE;
                placed.push((at, pages * PAGE));
                at += pages * PAGE;
            }
            let pointers: Vec<u64> = pointers.iter().map(|pointer| if inside { pointer % at } else { *pointer }).collect();
            let plan = plan(layout(&placed, &pointers), "", &[]);
            let total: u64 = plan.priority.iter().map(|range| range.end - range.start).sum();
            prop_assert!(total <= PRIORITY_MAX);
            let mut sorted = plan.priority.clone();
            sorted.sort_by_key(|range| range.start);
            prop_assert!(sorted.windows(2).all(|two| two[0].end <= two[1].start));
            // The slices of the complete core are its mappings, once each and in order.
            let slices: Vec<MappingSlice> = plan.mapping_slices(0..plan.layout.total_len).collect();
            let lengths: Vec<(u64, u64)> = slices.iter().map(|slice| (slice.address, slice.length)).collect();
            prop_assert_eq!(lengths, placed);
        }
    }
}
