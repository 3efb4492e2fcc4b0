//! What a shim keeps of a core whose process has gone, so that the next daemon can go on where this one was killed.

use super::chunk;
use super::core_writer::{CoreWriter, Failure, Limits};
use super::plan::Plan;
use super::snapshot::{Snapshot, process_notes};
use super::staging::StagingArea;
use crate::crash::Truncation;
use crate::elf::{self, CoreLayout};
use crate::store::{CoreFile, QuotaHandle};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What the files alone do not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureCheckpoint {
    /// Bytes kept for the record in front of the core.
    record_room: usize,
    /// Bytes of headers and notes.
    head: usize,
    /// Behind the last chunk to be stored.
    end: u64,
    /// From here on the core is on disk.
    raw_from: u64,
    /// Chunks that were put aside where it was cut.
    aside: Vec<(u64, u64)>,
    cut: Option<Truncation>,
    level: i32,
    in_memory: bool,
}

/// The files.
#[derive(Debug)]
pub struct CheckpointFiles {
    /// The core's own.
    pub file: OwnedFd,
    /// The stage in memory.
    pub memory: OwnedFd,
    /// The stage on disk.
    pub raw: Option<OwnedFd>,
}

impl Snapshot {
    /// What the shim has to keep.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn save_checkpoint(&self) -> io::Result<(CaptureCheckpoint, CheckpointFiles)> {
        let (memory, raw) = self.stage.share()?;
        let kept = CaptureCheckpoint {
            record_room: self.writer.file.record_room(),
            head: usize::try_from(self.plan.layout.notes.end).unwrap_or(usize::MAX),
            end: self.end,
            raw_from: self.stage.raw_from(),
            aside: merged(&self.aside),
            cut: self.cut,
            level: self.level,
            in_memory: self.in_memory,
        };
        Ok((kept, CheckpointFiles { file: self.writer.file.share()?, memory, raw }))
    }
}

/// Neighbouring ranges as one, so that few words tell of many.
fn merged(ranges: &[Range<u64>]) -> Vec<(u64, u64)> {
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some((_, end)) if *end == range.start => *end = range.end,
            _ => merged.push((range.start, range.end)),
        }
    }
    merged
}

/// The chunks that lie in `range`.
fn chunks(range: Range<u64>, total: u64) -> impl Iterator<Item = Range<u64>> {
    (range.start / chunk::CHUNK..chunk::count(range.end.min(total))).map(move |number| chunk::range(number, total))
}

impl CaptureCheckpoint {
    /// Goes on with what a shim kept.
    ///
    /// # Errors
    /// The files are not what they were, or there is no room.
    pub fn resume(
        self,
        files: CheckpointFiles,
        account: &Arc<QuotaHandle>,
        limits: Limits,
    ) -> Result<Snapshot, Failure> {
        let raw = files.raw.map(|raw| (File::from(raw), self.raw_from));
        let stage = StagingArea::kept(File::from(files.memory), raw, Arc::clone(account)).map_err(Failure::write)?;
        let mut head = vec![0; self.head.min(elf::MAX_HEADERS)];
        stage.memory.read_exact_at(&mut head, 0).map_err(Failure::Read)?;
        let layout = CoreLayout::read(&head).map_err(Failure::NotACore)?;
        let total = layout.total;
        let Ok(plan) = Plan::new(layout, "", &[], |_, _| Ok::<(), Infallible>(()));
        let expected = |number: u64| {
            let part = chunk::framed(&chunk::range(number, total));
            (number < self.end).then_some((part.end - part.start) as u32)
        };
        let header = plan.layout.header.to_vec();
        let file = CoreFile::resume(File::from(files.file), self.record_room, header, expected)?;
        let turn = file.frames();
        let (mut cut, mut aside): (_, Vec<_>) =
            (self.cut, self.aside.iter().flat_map(|(from, to)| chunks(*from..*to, total)).collect());
        let (mut end, by_limit) = (self.end, cut.is_none_or(Truncation::is_a_size));
        // From here on the stage still has it all.
        let staged = stage.gone_before(total).max(self.raw_from.min(end * chunk::CHUNK));
        if !self.in_memory && by_limit && turn * chunk::CHUNK < staged {
            // Frames had been taken away again to make room, and what they came from is gone.
            cut = cut.or(Some(Truncation::Resumed));
            aside = chunks(staged..end * chunk::CHUNK, total).collect();
            end = turn;
        }
        let notes = process_notes(&head);
        let writer = CoreWriter::new(file, Arc::clone(account), limits)?;
        let (stage, plan) = (Arc::new(stage), Arc::new(plan));
        Ok(Snapshot { writer, stage, plan, turn, end, aside, cut, notes, level: self.level, in_memory: self.in_memory })
    }
}
