//! Which memory of a parked process belongs where in its core, what of it exists, and what is copied first. Pure: headers and what is
//! known of mappings in, ranges of the core out.

use super::chunk::{self, CHUNK_LEN};
use super::holes::Holes;
use super::priority::{PRIORITY_MAX, priority_ranges};
use crate::elf::{CoreLayout, LoadSegment};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// Ranges of sparse memory that are kept with the plan at most: they take 16 MiB. Of a process with more of them, which must have touched
/// 4 GiB, the page table is looked at again when it is copied.
const MAX_PRESENT: usize = 1 << 20;

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
    /// The ranges of the core that have what there is of sparse memory, in order; `None` if there are too many to keep them.
    present: Option<Vec<Range<u64>>>,
    /// One bit for each chunk: whether it may have anything but zeros.
    chunks_with_data: Vec<u64>,
    /// Bytes of the core that may be anything but zeros.
    pub present_bytes: u64,
    /// Ranges of the core to copy first, in this order. Whole pages, and none twice.
    pub priority: Vec<Range<u64>>,
    /// Only the kernel can read all of the memory.
    pub needs_pipe: bool,
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
    needs_pipe: bool,
}

impl CapturePlan {
    /// Plans a core of this layout; `holes` are what the shim found. `debugger_ranges` are addresses that a debugger reads to find its way.
    /// `is_sparse` tells of the addresses of a segment whether absent pages are zeros, or cannot be read. `present_runs` calls its second
    /// argument with the pages that exist in a range of sparse memory, which may be that of adjacent segments.
    ///
    /// # Errors
    /// Errors of `present_runs`.
    pub fn new<E>(
        layout: Arc<CoreLayout>,
        holes: Holes,
        debugger_ranges: &[Range<u64>],
        is_sparse: &dyn Fn(&Range<u64>) -> bool,
        mut present_runs: impl FnMut(Range<u64>, &mut dyn FnMut(Range<u64>)) -> Result<(), E>,
    ) -> Result<Self, E> {
        let is_sparse = |load: &LoadSegment| {
            let addresses = load.address..load.address + (load.offset.end - load.offset.start);
            !addresses.is_empty() && is_sparse(&addresses)
        };
        let absent = AbsentPages { sparse: layout.loads.iter().map(is_sparse).collect(), holes };
        let priority = priority_ranges(&layout, debugger_ranges);
        let mut data = DataMap::new(&layout);
        data.add(0..layout.memory_start());
        data.add(trailer_range(&layout));
        let mut present = Some(Vec::new());
        let mut slices = mapping_slices(&layout, &absent, 0..layout.total_len).peekable();
        let mut adjacent: Vec<MappingSlice> = Vec::new();
        while let Some(slice) = slices.next() {
            if !slice.sparse {
                data.add(slice.offset..slice.offset + slice.length);
                continue;
            }
            // The page table is looked at once for what is side by side: a process may have many thousand mappings of a page.
            let (start, mut end) = (slice.address, slice.address + slice.length);
            adjacent.clear();
            adjacent.push(slice);
            while let Some(next) = slices.next_if(|next| next.sparse && next.address == end) {
                end += next.length;
                adjacent.push(next);
            }
            let mut index = 0;
            present_runs(start..end, &mut |run| {
                index += offsets_of(&adjacent[index..], run, |offsets| {
                    data.add(offsets.clone());
                    present = present.take().filter(|present: &Vec<_>| present.len() < MAX_PRESENT);
                    if let Some(present) = &mut present {
                        present.push(offsets);
                    }
                });
            })?;
        }
        drop(slices);
        let DataMap { chunks: chunks_with_data, bytes: present_bytes } = data;
        Ok(Self { layout, absent, present, chunks_with_data, present_bytes, priority, needs_pipe: false })
    }

    /// What of the plan the daemon needs.
    #[must_use]
    pub fn summary(&self) -> PlanSummary {
        PlanSummary { present_bytes: self.present_bytes, priority: self.priority.clone(), needs_pipe: self.needs_pipe }
    }

    /// The plan of this layout that `summary` is of. All of the core may have data as far as it tells. `None`: it is of another
    /// layout.
    #[must_use]
    pub fn from_summary(layout: Arc<CoreLayout>, summary: PlanSummary) -> Option<Self> {
        let PlanSummary { present_bytes, priority, needs_pipe } = summary;
        let in_order = |range: &Range<u64>| range.start < range.end && range.end <= layout.total_len;
        if !priority.iter().all(in_order) || total_len(&priority) > PRIORITY_MAX {
            return None;
        }
        let absent = AbsentPages { sparse: vec![false; layout.loads.len()], holes: Holes::default() };
        Some(Self { layout, absent, present: None, chunks_with_data: Vec::new(), present_bytes, priority, needs_pipe })
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

    /// The addresses of what there is of a slice of sparse memory, in order; `None` if they are not kept.
    #[must_use]
    pub fn present_runs(&self, slice: MappingSlice) -> Option<impl Iterator<Item = Range<u64>>> {
        let present = self.present.as_deref()?;
        let (start, end) = (slice.offset, slice.offset + slice.length);
        let first = present.partition_point(|run| run.end <= start);
        let to_address = slice.address.wrapping_sub(start);
        let runs = present.get(first..)?.iter().take_while(move |run| run.start < end);
        Some(
            runs.map(move |run| {
                run.start.max(start).wrapping_add(to_address)..run.end.min(end).wrapping_add(to_address)
            }),
        )
    }

    /// The parts of mappings that are in `range` of the core, in order.
    pub fn mapping_slices(&self, range: Range<u64>) -> impl Iterator<Item = MappingSlice> {
        mapping_slices(&self.layout, &self.absent, range)
    }
}

/// Calls `found` with the offsets in the core of the addresses `run`, which are in these slices of adjacent memory. Returns how many of the
/// slices end before it.
fn offsets_of(slices: &[MappingSlice], run: Range<u64>, mut found: impl FnMut(Range<u64>)) -> usize {
    let first = slices.partition_point(|slice| slice.address + slice.length <= run.start);
    for slice in slices[first..].iter().take_while(|slice| slice.address < run.end) {
        let (from, to) = (run.start.max(slice.address), run.end.min(slice.address + slice.length));
        found(slice.offset + (from - slice.address)..slice.offset + (to - slice.address));
    }
    first
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

    /// A plan where the segments that begin at the addresses `sparse` are sparse, and these ranges of addresses were touched.
    fn plan(layout: CoreLayout, sparse: &[u64], touched: &[Range<u64>]) -> CapturePlan {
        let runs = |range: Range<u64>, found: &mut dyn FnMut(Range<u64>)| {
            for run in touched {
                let (from, to) = (run.start.max(range.start), run.end.min(range.end));
                if from < to {
                    found(from..to);
                }
            }
            Ok::<(), Infallible>(())
        };
        let is_sparse = |addresses: &Range<u64>| sparse.contains(&addresses.start);
        CapturePlan::new(Arc::new(layout), Holes::default(), &[], &is_sparse, runs).unwrap()
    }

    #[test]
    fn a_plan_that_another_process_made_is_the_same_or_refused() {
        let made =
            plan(layout(&[(0x1000_0000, 64 * MIB), (0x2000_0000, 64 * MIB)], &[0x1000_8000]), &[0x1000_0000], &[]);
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

    #[test]
    fn what_is_absent_is_left_out_of_sparse_segments_only() {
        let loads = [(0x1000_0000, 64 * MIB), (0x2000_0000, 64 * MIB), (0x7ff_c000_0000, 64 * MIB)];
        let touched = 0x1000_5000..0x1000_6000;
        let plan = plan(layout(&loads, &[]), &[0x1000_0000, 0x7ff_c000_0000], &[touched]);
        assert_eq!(plan.absent.sparse, [true, false, true]);
        // The headers, one page, and all of the mapping that is not sparse.
        assert!((64 * MIB..65 * MIB).contains(&plan.present_bytes), "{}", plan.present_bytes);
        assert!(
            plan.may_have_data(0..MIB)
                && !plan.may_have_data(10 * MIB..20 * MIB)
                && plan.may_have_data(70 * MIB..71 * MIB)
        );
    }

    #[test]
    fn what_there_is_of_adjacent_segments_is_found_at_once_and_told_for_each() {
        // The last one is elsewhere.
        let loads = [0x10_0000, 0x10_2000, 0x10_4000, 0x20_0000].map(|address| (address, 2 * PAGE));
        let layout = layout(&loads, &[]);
        let asked = std::cell::RefCell::new(Vec::new());
        let runs = |range: Range<u64>, found: &mut dyn FnMut(Range<u64>)| {
            asked.borrow_mut().push(range.clone());
            if range.start == 0x10_0000 {
                found(0x10_1000..0x10_3000);
                found(0x10_5000..0x10_6000);
            }
            Ok::<(), Infallible>(())
        };
        let plan = CapturePlan::new(Arc::new(layout), Holes::default(), &[], &|_| true, runs).unwrap();
        assert_eq!(*asked.borrow(), [0x10_0000..0x10_6000, 0x20_0000..0x20_2000]);
        let found = |range: Range<u64>| -> Vec<Range<u64>> {
            plan.mapping_slices(range).flat_map(|slice| plan.present_runs(slice).unwrap()).collect()
        };
        let pages = [0x10_1000..0x10_2000, 0x10_2000..0x10_3000, 0x10_5000..0x10_6000];
        assert_eq!(found(0..plan.layout.total_len), pages);
        let start = plan.layout.memory_start();
        assert_eq!(found(start..start + 2 * PAGE), pages[..1]);
        assert_eq!(found(start + 3 * PAGE..start + 6 * PAGE), pages[2..]);
        assert_eq!(plan.present_bytes, start + 3 * PAGE);
    }

    #[test]
    fn notes_precede_the_crashed_stack_which_precedes_the_others() {
        let stacks: Vec<(u64, u64)> = (0..20).map(|thread| (0x7000_0000_0000 + thread * 16 * MIB, 8 * MIB)).collect();
        let mut loads = vec![(0x1000, 4096), (0x1000_0000, 64 * MIB)];
        loads.extend(&stacks);
        let pointers: Vec<u64> = stacks.iter().map(|(begin, length)| begin + length - 512 * 1024).collect();
        let layout = layout(&loads, &pointers);
        let offsets: Vec<u64> = pointers.iter().map(|pointer| layout.file_range(*pointer).unwrap().start).collect();
        let plan = plan(layout, &[], &[]);
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
            let plan = plan(layout(&placed, &pointers), &[], &[]);
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
