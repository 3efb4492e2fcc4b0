//! The stacks of the threads that did not crash, for the record of a crash whose core is kept.

use super::context::Context;
use super::opened::Opened;
use super::probe::probe;
use super::stack::{MAX_FRAMES, source, within};
use crate::crash::{Frame, Module, Record, ThreadStacks};
use crate::elf::CoreLayout;
use crate::unwind::ProcessUnwinder;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The process waits meanwhile. A thread takes some ten microseconds.
const OTHERS_WITHIN: Duration = Duration::from_millis(100);
/// Of all of them, so many go into the record: they are some 70 bytes each, and a shim keeps 128 KiB.
const MAX_OTHER_FRAMES: usize = 512;
/// Ids that are told of threads that were all at the same place.
const MAX_TIDS: usize = 32;

/// Adds to the record where the other threads were, as far as time and room allow; what is missing is said.
pub(super) async fn look(context: &Context, record: &mut Record, opened: &Opened, mem: Option<OwnedFd>) {
    let Some(head) = opened.head.clone() else { return };
    let source = source(record, opened, mem);
    let walk = move || {
        let Ok(layout) = CoreLayout::read(&head) else { return (Vec::new(), Vec::new(), 0) };
        let layout = Arc::new(layout);
        let memory = source.map(|source| source.open(&layout));
        let mut process = ProcessUnwinder::new(&layout, &memory);
        let walked = process.other_threads(MAX_FRAMES, &within(OTHERS_WITHIN));
        let count = layout.notes.threads.len().saturating_sub(1);
        (walked, process.into_modules(&|| false), count)
    };
    let Some((walked, modules, count)) = probe(context, walk).await else {
        return record.warnings.push("the stacks of the other threads could not be unwound in time".to_owned());
    };
    record.other_threads = grouped(walked, &modules, &record.modules);
    let told: usize = record.other_threads.iter().map(|stacks| stacks.count as usize).sum();
    if told < count {
        let missing = count - told;
        record
            .warnings
            .push(format!("the stacks of {missing} of {count} other threads did not fit into time and room"));
    }
}

/// Threads with the same frames together, those of most threads first, as many as fit. Frames are given the numbers that their
/// modules have in the record.
fn grouped(walked: Vec<(u32, Vec<Frame>)>, modules: &[Module], recorded: &[Module]) -> Vec<ThreadStacks> {
    let numbers: Vec<Option<u32>> = modules
        .iter()
        .map(|module| recorded.iter().position(|known| known.start == module.start).map(|number| number as u32))
        .collect();
    let mut places: HashMap<Vec<u64>, usize> = HashMap::new();
    let mut groups: Vec<ThreadStacks> = Vec::new();
    for (tid, mut frames) in walked {
        for frame in &mut frames {
            frame.module = frame.module.and_then(|number| *numbers.get(number as usize)?);
        }
        let addresses = frames.iter().map(|frame| frame.address).collect();
        let place = *places.entry(addresses).or_insert(groups.len());
        if place == groups.len() {
            groups.push(ThreadStacks { count: 0, tids: Vec::new(), frames });
        }
        let group = &mut groups[place];
        group.count += 1;
        if group.tids.len() < MAX_TIDS {
            group.tids.push(tid);
        }
    }
    // Stable: of equals the first thread's comes first.
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    let mut room = MAX_OTHER_FRAMES;
    groups.retain(|group| {
        let fits = group.frames.len() <= room;
        room -= if fits { group.frames.len() } else { 0 };
        fits
    });
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::FrameTrust;

    fn module(start: u64) -> Module {
        Module { path: format!("/{start}"), build_id: None, package: None, bias: start, start, end: start + 100 }
    }

    fn frames(address: u64, module: Option<u32>, count: usize) -> Vec<Frame> {
        let frame =
            |number: u64| Frame { address: address + number, module, offset: number, trust: FrameTrust::CallFrameInfo };
        (0..count as u64).map(frame).collect()
    }

    #[test]
    fn threads_at_one_place_stand_together_and_all_is_bounded() {
        let recorded = [module(1000), module(2000)];
        let seen = [module(2000), module(3000)];
        let mut walked = vec![(1, frames(2001, Some(0), 3)), (2, frames(3001, Some(1), 2))];
        walked.extend((10..50).map(|tid| (tid, frames(2005, Some(0), 4))));
        let groups = grouped(walked, &seen, &recorded);
        assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [40, 1, 1]);
        assert_eq!(groups[0].tids, (10..10 + MAX_TIDS as u32).collect::<Vec<_>>());
        assert_eq!(groups[0].frames, frames(2005, Some(1), 4), "the number that the record has for the module");
        assert_eq!(groups[2].frames[0].module, None, "a module that the record does not have");
        let apart = (0..1000).map(|tid| (tid, frames(u64::from(tid) * 1000, None, 1 + tid as usize % 60)));
        let groups = grouped(apart.collect(), &[], &[]);
        let total: usize = groups.iter().map(|group| group.frames.len()).sum();
        assert!(total <= MAX_OTHER_FRAMES && total > MAX_OTHER_FRAMES - 60, "{total}");
    }
}
