//! The core of a parked process, put together from its headers and its memory as the kernel would write it.

use super::chunk::{CoreSource, RangeData, SourceError, buffer_len};
use super::plan::{CapturePlan, MappingSlice};
use super::process_memory::LiveMemory;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A core whose bytes are read from the process when they are needed.
#[derive(Debug)]
pub struct ProcessImage {
    /// Which memory is where in the core.
    pub plan: Arc<CapturePlan>,
    /// The memory of the process.
    pub memory: Arc<LiveMemory>,
    /// A file that has the headers at their place in the core.
    pub headers: Arc<File>,
}

impl ProcessImage {
    /// Fills `runs` with the addresses of what may be something else than zeros in a part of a mapping.
    fn find_runs(&self, slice: &MappingSlice, runs: &mut Vec<Range<u64>>) -> Result<(), SourceError> {
        runs.clear();
        if !slice.sparse {
            runs.push(slice.addresses());
        } else if let Some(present) = self.plan.present_runs(*slice) {
            runs.extend(present);
        } else {
            self.memory.present_runs(slice.addresses(), |run| runs.push(run))?;
        }
        Ok(())
    }

    /// Calls `write` with all memory in `range` of the core that may be something else than zeros: an offset in the core, and
    /// at most as many bytes as `buffer` has. Headers and trailer are left out.
    ///
    /// # Errors
    /// The process has ended, or `write` failed.
    pub fn copy_present(
        &self,
        range: Range<u64>,
        buffer: &mut [u8],
        mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> Result<(), SourceError> {
        // What is adjacent in the core is written at once: a process may have many thousand mappings of a page.
        let (mut begin, mut filled) = (0, 0);
        let mut runs = Vec::new();
        for slice in self.plan.mapping_slices(range) {
            let to_offset = slice.offset.wrapping_sub(slice.address);
            self.find_runs(&slice, &mut runs)?;
            for run in &runs {
                let mut address = run.start;
                while address < run.end {
                    let offset = address.wrapping_add(to_offset);
                    if filled == buffer.len() || begin + filled as u64 != offset {
                        if filled > 0 {
                            write(begin, &buffer[..filled]).map_err(SourceError::Write)?;
                        }
                        (begin, filled) = (offset, 0);
                    }
                    let length = buffer_len(&(address..run.end)).min(buffer.len() - filled);
                    self.memory.read_pages(address, &mut buffer[filled..filled + length])?;
                    filled += length;
                    address += length as u64;
                }
            }
        }
        if filled > 0 { write(begin, &buffer[..filled]).map_err(SourceError::Write) } else { Ok(()) }
    }

    /// How many bytes of memory in `range` of the core may be something else than zeros.
    ///
    /// # Errors
    /// The process has ended.
    pub fn present_bytes(&self, range: Range<u64>) -> Result<u64, SourceError> {
        let (mut present, mut runs) = (0, Vec::new());
        for slice in self.plan.mapping_slices(range) {
            self.find_runs(&slice, &mut runs)?;
            present += runs.iter().map(|run| run.end - run.start).sum::<u64>();
        }
        Ok(present)
    }
}

impl CoreSource for ProcessImage {
    fn read_range(&self, range: Range<u64>, buffer: &mut [u8]) -> Result<RangeData, SourceError> {
        if !self.plan.may_have_data(range.clone()) {
            return Ok(RangeData::Zeros);
        }
        let position = |offset: u64| buffer_len(&(range.start..offset));
        // Whatever is between the slices is zero.
        let (mut filled, mut runs) = (0, Vec::new());
        for slice in self.plan.mapping_slices(range.clone()) {
            let begin = position(slice.offset);
            let end = position(slice.offset + slice.length);
            buffer[filled..begin].fill(0);
            filled = end;
            self.find_runs(&slice, &mut runs)?;
            let mut run_end = begin;
            for run in &runs {
                let run_begin = begin + buffer_len(&(slice.address..run.start));
                buffer[run_end..run_begin].fill(0);
                run_end = run_begin + buffer_len(run);
                self.memory.read_pages(run.start, &mut buffer[run_begin..run_end])?;
            }
            buffer[run_end..end].fill(0);
        }
        buffer[filled..position(range.end)].fill(0);
        let headers_end = self.plan.layout.notes_range.end.min(range.end);
        if range.start < headers_end {
            let headers = &mut buffer[..position(headers_end)];
            self.headers.read_exact_at(headers, range.start).map_err(SourceError::Read)?;
        }
        let trailer = self.plan.trailer_range();
        if trailer.start < range.end && trailer.end > range.start {
            let (from, to) = (trailer.start.max(range.start), trailer.end.min(range.end));
            let bytes = &self.plan.layout.trailer[buffer_len(&(trailer.start..from))..buffer_len(&(trailer.start..to))];
            buffer[position(from)..position(to)].copy_from_slice(bytes);
        }
        Ok(RangeData::Bytes)
    }
}
