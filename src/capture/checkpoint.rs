//! What a shim keeps of a snapshot, so that the next daemon can finalize the core if this one is killed.

use super::MissingPages;
use super::chunk::{self, CHUNK_LEN, frame_content};
use super::core_writer::{CoreLimits, CoreWriter};
use super::error::CaptureError;
use super::holes::Holes;
use super::plan::CapturePlan;
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

/// The state of a snapshot that its files do not show. The names in JSON are those of earlier versions, which may have written
/// it: a daemon is upgraded while shims wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureCheckpoint {
    /// Bytes that the core file keeps free for the record.
    record_room: usize,
    /// Length of the headers, in bytes.
    #[serde(rename = "head")]
    headers_len: usize,
    /// The first chunk that is not to be stored.
    #[serde(rename = "end")]
    chunks_end: u64,
    /// The core from this offset on is in the spill file.
    #[serde(rename = "raw_from")]
    spill_start: u64,
    /// If the core is truncated, the ranges that are staged completely.
    #[serde(rename = "aside")]
    spilled: Vec<(u64, u64)>,
    #[serde(rename = "cut")]
    truncation: Option<Truncation>,
    level: i32,
    in_memory: bool,
}

/// The files of a snapshot.
#[derive(Debug)]
pub struct CheckpointFiles {
    /// The core file.
    pub file: OwnedFd,
    /// What is staged in memory.
    pub memory: OwnedFd,
    /// What is staged on disk.
    pub spill: Option<OwnedFd>,
}

impl Snapshot {
    /// What the shim has to keep.
    ///
    /// # Errors
    /// Errors of fcntl(2).
    pub fn save_checkpoint(&self) -> io::Result<(CaptureCheckpoint, CheckpointFiles)> {
        let (memory, spill) = self.staging.clone_files()?;
        let checkpoint = CaptureCheckpoint {
            record_room: self.writer.file.record_room(),
            headers_len: usize::try_from(self.plan.layout.notes_range.end).unwrap_or(usize::MAX),
            chunks_end: self.chunks_end,
            spill_start: self.staging.spill_start(),
            spilled: merge_adjacent(&self.spilled),
            truncation: self.truncation,
            level: self.level,
            in_memory: self.in_memory,
        };
        Ok((checkpoint, CheckpointFiles { file: self.writer.file.duplicate_fd()?, memory, spill }))
    }
}

/// Merges adjacent ranges, to keep the checkpoint short.
fn merge_adjacent(ranges: &[Range<u64>]) -> Vec<(u64, u64)> {
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some((_, end)) if *end == range.start => *end = range.end,
            _ => merged.push((range.start, range.end)),
        }
    }
    merged
}

/// The chunks in a range of the core.
fn chunks_in(range: Range<u64>, total_len: u64) -> impl Iterator<Item = Range<u64>> {
    let numbers = range.start / CHUNK_LEN..chunk::count(range.end.min(total_len));
    numbers.map(move |number| chunk::range(number, total_len))
}

impl CaptureCheckpoint {
    /// Restores a snapshot from what a shim kept.
    ///
    /// # Errors
    /// The files are not those of the checkpoint, or there is no room.
    pub fn resume(
        self,
        files: CheckpointFiles,
        quota: &Arc<QuotaHandle>,
        limits: CoreLimits,
    ) -> Result<Snapshot, CaptureError> {
        let spill = files.spill.map(|spill| (File::from(spill), self.spill_start));
        let staging = StagingArea::from_checkpoint(File::from(files.memory), spill, Arc::clone(quota));
        let mut headers = vec![0; self.headers_len.min(elf::MAX_HEADERS)];
        staging.memory.read_exact_at(&mut headers, 0).map_err(CaptureError::Read)?;
        let layout = CoreLayout::read(&headers).map_err(CaptureError::NotACore)?;
        let total_len = layout.total_len;
        let Ok(plan) =
            CapturePlan::new(Arc::new(layout), Holes::default(), &[], &|_| false, |_, _| Ok::<(), Infallible>(()));
        let expected_content = |number: u64| {
            // Beyond the last chunk there is no range.
            let part = || chunk::framed_part(&chunk::range(number, total_len));
            (number < self.chunks_end).then(|| frame_content(part().len()))
        };
        let header = plan.layout.header.to_vec();
        let file = CoreFile::resume(File::from(files.file), self.record_room, header, expected_content)?;
        let next_chunk = file.frames();
        let mut truncation = self.truncation;
        let mut chunks_end = self.chunks_end;
        let mut spilled: Vec<_> = self.spilled.iter().flat_map(|(from, to)| chunks_in(*from..*to, total_len)).collect();
        let is_shortened = truncation.is_some_and(|truncation| !truncation.is_a_size());
        // The staging area has everything from this offset on.
        let staged_from = staging.recorded_freed_to(total_len).max(self.spill_start.min(chunks_end * CHUNK_LEN));
        if !self.in_memory && !is_shortened && next_chunk * CHUNK_LEN < staged_from {
            // The earlier daemon removed frames to make room, and had already freed the chunks that they came from.
            truncation = truncation.or(Some(Truncation::Resumed));
            spilled = chunks_in(staged_from..chunks_end * CHUNK_LEN, total_len).collect();
            chunks_end = next_chunk;
        }
        let notes = process_notes(&headers);
        let writer = CoreWriter::new(file, Arc::clone(quota), limits)?;
        Ok(Snapshot {
            writer,
            staging: Arc::new(staging),
            plan: Arc::new(plan),
            next_chunk,
            chunks_end,
            spilled,
            truncation,
            notes,
            level: self.level,
            in_memory: self.in_memory,
            // The record says so already.
            missing_pages: MissingPages::default(),
        })
    }
}
