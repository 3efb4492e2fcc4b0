//! What is read of a parked process, and in which order. Pure: maps, headers and notes in, ranges of the core out.

use super::chunk::{self, CHUNK};
use crate::elf::CoreLayout;
use coreward_sys::pagemap::PAGE;
use std::ops::Range;

/// Of every thread's stack so much comes first...
const STACK_FIRST: u64 = 16 << 10;
/// ... and of the crashed thread's so much: a recursion that ran out of stack is long.
const STACK_CRASHED: u64 = 256 << 10;
/// What of a stack counts as such at all.
const STACK_MAX: u64 = 128 << 10;
/// Mappings up to this length hold what a debugger needs to find its way: the dynamic linker's list of libraries, the first
/// pages of ELF files with their build-ids, the vDSO.
const SMALL: u64 = 64 << 10;
/// All that comes first together.
const FIRST_MAX: u64 = 8 << 20;

/// A stretch of a mapping, in the core and in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where in the core.
    pub offset: u64,
    /// Where in the process.
    pub address: u64,
    /// How long.
    pub length: u64,
    /// Pages that were never touched are zeros and need not be read. Only so in private memory without a file: an absent page of
    /// a file or of shared memory is not a hole.
    pub sparse: bool,
}

/// What lies where in a core, and what of it is needed first.
#[derive(Debug)]
pub struct Plan {
    /// Headers and mappings.
    pub layout: CoreLayout,
    /// For each mapping of the layout, whether it is sparse.
    sparse: Vec<bool>,
    /// For each chunk, whether there may be something else than zeros in it.
    there: Vec<u64>,
    /// Bytes that may be something else than zeros.
    pub present: u64,
    /// What comes first, in this order: notes, stacks, what a debugger needs. Whole pages, none twice.
    pub first: Vec<Range<u64>>,
}

impl Plan {
    /// A plan for a core of this layout whose process has these `maps` (proc_pid_maps(5)). `useful` are addresses that a debugger
    /// will ask for. `runs` tells which pages of a sparse stretch exist.
    ///
    /// # Errors
    /// Those of `runs`.
    pub fn new<E>(
        layout: CoreLayout,
        maps: &str,
        useful: &[Range<u64>],
        mut runs: impl FnMut(Range<u64>, &mut dyn FnMut(Range<u64>)) -> Result<(), E>,
    ) -> Result<Self, E> {
        let sparse = sparse(&layout, maps);
        let first = first(&layout, useful);
        let words = usize::try_from(chunk::count(layout.total_len).div_ceil(64)).unwrap_or(usize::MAX);
        let mut plan = Self { layout, sparse, there: vec![0; words], present: 0, first };
        plan.mark(0..plan.layout.memory_start());
        plan.mark(plan.tail_range());
        for index in 0..plan.layout.loads.len() {
            let load = plan.layout.loads[index].clone();
            let length = load.offset.end - load.offset.start;
            if length == 0 {
                continue;
            }
            if plan.sparse[index] {
                runs(load.address..load.address + length, &mut |run| {
                    let begin = load.offset.start + (run.start - load.address);
                    plan.mark(begin..begin + (run.end - run.start));
                })?;
            } else {
                plan.mark(load.offset);
            }
        }
        Ok(plan)
    }

    fn mark(&mut self, range: Range<u64>) {
        self.present += range.end - range.start;
        for chunk in range.start / CHUNK..chunk::count(range.end) {
            if let Some(word) = usize::try_from(chunk / 64).ok().and_then(|word| self.there.get_mut(word)) {
                *word |= 1 << (chunk % 64);
            }
        }
    }

    /// Whether there may be something else than zeros in `range`.
    pub fn may_hold(&self, range: Range<u64>) -> bool {
        let holds = |chunk: u64| {
            usize::try_from(chunk / 64)
                .ok()
                .and_then(|word| self.there.get(word))
                .is_none_or(|word| word >> (chunk % 64) & 1 == 1)
        };
        (range.start / CHUNK..chunk::count(range.end)).any(holds)
    }

    /// The section header behind the memory.
    pub fn tail_range(&self) -> Range<u64> {
        self.layout.total_len - self.layout.trailer.len() as u64..self.layout.total_len
    }

    /// The stretches of mappings in `range` of the core, in order.
    pub fn parts(&self, range: Range<u64>) -> impl Iterator<Item = Stretch> {
        let loads = &self.layout.loads;
        let begin = loads.partition_point(|load| load.offset.end <= range.start);
        loads[begin..]
            .iter()
            .zip(&self.sparse[begin..])
            .take_while(move |(load, _)| load.offset.start < range.end)
            .filter_map(move |(load, sparse)| {
                let (from, to) = (load.offset.start.max(range.start), load.offset.end.min(range.end));
                (from < to).then(|| Stretch {
                    offset: from,
                    address: load.address + (from - load.offset.start),
                    length: to - from,
                    sparse: *sparse,
                })
            })
    }
}

/// Which mappings are private memory without a file.
fn sparse(layout: &CoreLayout, maps: &str) -> Vec<bool> {
    // begin-end perms offset device inode path
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (begin, end) = words.next()?.split_once('-')?;
        let (perms, inode) = (words.next()?, words.nth(2)?);
        let path = words.next().unwrap_or_default();
        let private = perms.ends_with('p') && inode == "0";
        // Kernel mappings ([vdso], [vsyscall]) have no pages that the pagemap would count.
        let plain = path.is_empty() || path == "[heap]" || path == "[stack]" || path.starts_with("[anon");
        Some((u64::from_str_radix(begin, 16).ok()?, u64::from_str_radix(end, 16).ok()?, private && plain))
    };
    let mut known: Vec<(u64, u64, bool)> = maps.lines().filter_map(parse).collect();
    known.sort_unstable();
    let is_sparse = |begin: u64, end: u64| {
        let next = known.partition_point(|(_, to, _)| *to <= begin);
        known.get(next).is_some_and(|(from, to, sparse)| *sparse && *from <= begin && end <= *to)
    };
    layout
        .loads
        .iter()
        .map(|load| is_sparse(load.address, load.address + (load.offset.end - load.offset.start)))
        .collect()
}

/// What comes first.
fn first(layout: &CoreLayout, useful: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut first = First { ranges: Vec::new(), left: FIRST_MAX };
    // Where notes and memory share no page, as the kernel aligns memory to the next one.
    first.add(64..layout.memory_start().min(layout.notes_range.end.next_multiple_of(PAGE)));
    let stacks: Vec<Range<u64>> =
        layout.notes.threads.iter().filter_map(|thread| stack(layout, thread.registers.stack_pointer())).collect();
    let of = |stack: &Range<u64>, length: u64| stack.start..stack.end.min(stack.start + length);
    if let Some(crashed) = stacks.first() {
        first.add(of(crashed, STACK_CRASHED));
    }
    stacks.iter().for_each(|stack| first.add(of(stack, STACK_FIRST)));
    for range in useful {
        if let Some(found) = layout.file_range(range.start) {
            let length = (range.end - range.start).min(found.end - found.start);
            first.add(found.start..found.start + length);
        }
    }
    let small = layout.loads.iter().filter(|load| load.offset.end - load.offset.start <= SMALL);
    small.for_each(|load| first.add(load.offset.clone()));
    stacks.iter().for_each(|stack| first.add(of(stack, STACK_MAX)));
    first.ranges
}

/// The used part of the stack that `pointer` points into, in the core. Below the pointer there are 128 bytes that a leaf
/// function may use without moving it (the red zone of the x86_64 ABI).
fn stack(layout: &CoreLayout, pointer: u64) -> Option<Range<u64>> {
    layout.file_range(pointer.wrapping_sub(128)).or_else(|| layout.file_range(pointer))
}

struct First {
    ranges: Vec<Range<u64>>,
    left: u64,
}

impl First {
    /// Adds what of `range`, in whole pages, is not there yet.
    fn add(&mut self, range: Range<u64>) {
        if self.left == 0 {
            return;
        }
        let end = range.end.next_multiple_of(PAGE);
        // Notes begin behind the ELF header, everything else on a page.
        let begin = if range.start < PAGE { range.start } else { range.start / PAGE * PAGE };
        let whole = begin..end;
        let mut missing = vec![whole];
        for known in &self.ranges {
            missing = missing
                .into_iter()
                .flat_map(|gap| [gap.start..gap.end.min(known.start), gap.start.max(known.end)..gap.end])
                .filter(|gap| gap.start < gap.end)
                .collect();
        }
        for gap in missing {
            let end = if gap.end - gap.start <= self.left { gap.end } else { (gap.start + self.left) / PAGE * PAGE };
            if end > gap.start {
                self.left -= end - gap.start;
                self.ranges.push(gap.start..end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::convert::Infallible;

    const MIB: u64 = 1 << 20;

    /// The head of a core with these mappings (address, bytes), and a note for each thread with this stack pointer.
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

    fn plan(layout: CoreLayout, maps: &str, touched: &[Range<u64>]) -> Plan {
        let runs = |range: Range<u64>, found: &mut dyn FnMut(Range<u64>)| {
            for run in touched {
                let (from, to) = (run.start.max(range.start), run.end.min(range.end));
                if from < to {
                    found(from..to);
                }
            }
            Ok::<(), Infallible>(())
        };
        Plan::new(layout, maps, &[], runs).unwrap()
    }

    const MAPS: &str = "\
10000000-14000000 rw-p 00000000 00:00 0 \n\
20000000-24000000 rw-s 00000000 00:01 77 /dev/zero (deleted)\n\
30000000-34000000 rw-p 00000000 fe:00 99 /srv/a file with\\040a name\n\
7ffc0000000-7ffc4000000 rw-p 00000000 00:00 0 [stack]\n";

    #[test]
    fn only_private_memory_without_a_file_has_holes() {
        let loads =
            [(0x1000_0000, 64 * MIB), (0x2000_0000, 64 * MIB), (0x3000_0000, 64 * MIB), (0x7ff_c000_0000, 64 * MIB)];
        let touched = 0x1000_5000..0x1000_6000;
        let plan = plan(layout(&loads, &[]), MAPS, &[touched]);
        assert_eq!(plan.sparse, [true, false, false, true]);
        // The head, one page, and all of the two that must be read.
        assert!((128 * MIB..129 * MIB).contains(&plan.present), "{}", plan.present);
        assert!(plan.may_hold(0..MIB) && !plan.may_hold(10 * MIB..20 * MIB) && plan.may_hold(70 * MIB..71 * MIB));
    }

    #[test]
    fn without_maps_nothing_is_taken_for_a_hole() {
        let plan = plan(layout(&[(0x1000_0000, 64 * MIB)], &[]), "", &[]);
        assert!(plan.may_hold(30 * MIB..31 * MIB) && plan.present >= 64 * MIB);
    }

    #[test]
    fn notes_come_first_then_the_crashed_stack_then_the_others() {
        let stacks: Vec<(u64, u64)> = (0..20).map(|thread| (0x7000_0000_0000 + thread * 16 * MIB, 8 * MIB)).collect();
        let mut loads = vec![(0x1000, 4096), (0x1000_0000, 64 * MIB)];
        loads.extend(&stacks);
        let pointers: Vec<u64> = stacks.iter().map(|(begin, length)| begin + length - 512 * 1024).collect();
        let layout = layout(&loads, &pointers);
        let of: Vec<u64> = pointers.iter().map(|pointer| layout.file_range(*pointer).unwrap().start).collect();
        let plan = plan(layout, "", &[]);
        assert!(plan.first[0].contains(&plan.layout.notes_range.start));
        let position = |offset: &u64| plan.first.iter().position(|range| range.contains(offset)).unwrap();
        assert_eq!(position(&of[0]), 1);
        assert!(of[1..].is_sorted_by_key(position));
        assert!(plan.first[1].end - plan.first[1].start > plan.first[2].end - plan.first[2].start);
        let small = plan.layout.file_range(0x1000).unwrap().start;
        assert!(position(&small) > position(&of[19]), "after every stack what a debugger needs");
    }

    proptest! {
        #[test]
        fn what_comes_first_is_bounded_and_nothing_twice(
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
            let total: u64 = plan.first.iter().map(|range| range.end - range.start).sum();
            prop_assert!(total <= FIRST_MAX);
            let mut sorted = plan.first.clone();
            sorted.sort_by_key(|range| range.start);
            prop_assert!(sorted.windows(2).all(|two| two[0].end <= two[1].start));
            // The stretches of the whole core are its mappings, once each and in order.
            let stretches: Vec<Stretch> = plan.parts(0..plan.layout.total_len).collect();
            let lengths: Vec<(u64, u64)> = stretches.iter().map(|part| (part.address, part.length)).collect();
            prop_assert_eq!(lengths, placed);
        }
    }
}
