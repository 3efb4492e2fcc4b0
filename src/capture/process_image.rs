//! The core of a parked process, put together from its headers and its memory as the kernel would write it.

use super::chunk::{Fill, Filled, SourceError};
use super::plan::Plan;
use super::process_memory::LiveMemory;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The core of a parked process, put together as the kernel would write it.
#[derive(Debug)]
pub struct ProcessImage {
    /// What lies where.
    pub plan: Arc<Plan>,
    /// Its memory.
    pub memory: Arc<LiveMemory>,
    /// Headers and notes, at their place in the core.
    pub head: Arc<File>,
}

impl ProcessImage {
    /// Calls `take` with every stretch of `range` of the core that may hold something: its place in the core and its bytes,
    /// at most a buffer at once.
    ///
    /// # Errors
    /// The process is gone, or `take`'s own.
    pub fn copy(
        &self,
        range: Range<u64>,
        buffer: &mut [u8],
        mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), SourceError> {
        for part in self.plan.parts(range) {
            let to_core = part.offset.wrapping_sub(part.address);
            let mut runs = Vec::new();
            if part.sparse {
                self.memory.present_runs(part.address..part.address + part.length, |run| runs.push(run))?;
            } else {
                runs.push(part.address..part.address + part.length);
            }
            for run in runs {
                let mut at = run.start;
                while at < run.end {
                    let length = usize::try_from(run.end - at).unwrap_or(usize::MAX).min(buffer.len());
                    self.memory.read_pages(at, &mut buffer[..length])?;
                    take(at.wrapping_add(to_core), &buffer[..length]).map_err(SourceError::Write)?;
                    at += length as u64;
                }
            }
        }
        Ok(())
    }

    /// How many bytes of `range` of the core may be something else than zeros.
    ///
    /// # Errors
    /// The process is gone.
    pub fn present(&self, range: Range<u64>) -> Result<u64, SourceError> {
        let mut present = 0;
        for part in self.plan.parts(range) {
            if part.sparse {
                self.memory
                    .present_runs(part.address..part.address + part.length, |run| present += run.end - run.start)?;
            } else {
                present += part.length;
            }
        }
        Ok(present)
    }
}

impl Fill for ProcessImage {
    fn fill(&self, range: Range<u64>, buffer: &mut [u8]) -> Result<Filled, SourceError> {
        if !self.plan.may_hold(range.clone()) {
            return Ok(Filled::Zeros);
        }
        let place = |offset: u64| usize::try_from(offset - range.start).unwrap_or(usize::MAX);
        // What lies between the parts is zero.
        let mut zero_from = 0;
        for part in self.plan.parts(range.clone()) {
            let begin = place(part.offset);
            let end = begin + part.length as usize;
            buffer[zero_from..begin].fill(0);
            zero_from = end;
            if !part.sparse {
                self.memory.read_pages(part.address, &mut buffer[begin..end])?;
                continue;
            }
            let mut runs = Vec::new();
            self.memory.present_runs(part.address..part.address + part.length, |run| runs.push(run))?;
            let mut at = begin;
            for run in runs {
                let from = begin + (run.start - part.address) as usize;
                let to = begin + (run.end - part.address) as usize;
                buffer[at..from].fill(0);
                self.memory.read_pages(run.start, &mut buffer[from..to])?;
                at = to;
            }
            buffer[at..end].fill(0);
        }
        let length = place(range.end);
        buffer[zero_from..length].fill(0);
        let head_end = self.plan.layout.notes_range.end.min(range.end);
        if range.start < head_end {
            self.head.read_exact_at(&mut buffer[..place(head_end)], range.start).map_err(SourceError::Io)?;
        }
        let tail = self.plan.tail_range();
        if tail.start < range.end && tail.end > range.start {
            let from = tail.start.max(range.start);
            let to = tail.end.min(range.end);
            let bytes = &self.plan.layout.trailer[(from - tail.start) as usize..(to - tail.start) as usize];
            buffer[place(from)..place(to)].copy_from_slice(bytes);
        }
        Ok(Filled::Data)
    }
}
