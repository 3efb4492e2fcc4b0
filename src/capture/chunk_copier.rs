//! Copies chunks of a parked process into the files of a staging area.

use super::chunk::{CHUNK_LEN, CoreSource, RangeData, SourceError, buffer_len};
use super::process_image::ProcessImage;
use super::sparse::{PAGE_LEN, write_nonzero_pages};
use super::staging_files::{StagingFiles, StoredChunk};
use super::write_depth::WriteDepth;
use coreward_sys::sparse_io;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Bytes that are preallocated at a time.
const PREALLOCATED: u64 = 32 << 20;
/// A chunk of which less than this fraction is present is written page by page.
const SPARSE_FRACTION: u64 = 4;

/// Copies chunks to disk or to memory. Every byte goes to its offset in the core.
#[derive(Debug)]
pub struct ChunkCopier {
    memory: Arc<File>,
    /// Bytes that may still be copied to memory.
    memory_left: AtomicU64,
    /// The ranges of the core that are in memory by now, in order.
    copied_first: OnceLock<Vec<Range<u64>>>,
    spill: Option<SpillTarget>,
}

#[derive(Debug)]
struct SpillTarget {
    /// Bypasses the page cache: for whole chunks, as fast as the disk.
    direct: File,
    /// How much of a chunk is written at once.
    depth: WriteDepth,
    /// Uses the page cache: for single pages of chunks that are mostly holes.
    cached: File,
    /// Blocks are allocated from this offset on. Chunks are written from the back.
    preallocated_from: Mutex<u64>,
}

impl ChunkCopier {
    /// Copies into these files.
    #[must_use]
    pub fn new(files: StagingFiles) -> Self {
        let StagingFiles { memory, memory_limit, spill } = files;
        let spill = spill.map(|[direct, cached]| SpillTarget {
            direct,
            depth: WriteDepth::default(),
            cached,
            preallocated_from: Mutex::new(u64::MAX),
        });
        Self {
            memory: Arc::new(memory),
            memory_left: AtomicU64::new(memory_limit),
            copied_first: OnceLock::new(),
            spill,
        }
    }

    /// Copies the priority ranges of the plan to memory, before anything else.
    ///
    /// # Errors
    /// The process has ended, or there is no memory.
    pub fn store_priority(&self, image: &ProcessImage, buffer: &mut [u8]) -> Result<(), SourceError> {
        let mut ranges = image.plan.priority.clone();
        for range in &ranges {
            self.store_in_memory(image, range.clone(), buffer)?;
        }
        ranges.sort_unstable_by_key(|range| range.start);
        let _ = self.copied_first.set(ranges);
        Ok(())
    }

    /// The file in memory. It has the headers of the core at their place.
    #[must_use]
    pub fn memory(&self) -> &Arc<File> {
        &self.memory
    }

    /// Copies `range`, one chunk if there is a file on disk.
    ///
    /// # Errors
    /// The process has ended, or neither file can be written.
    pub fn store(
        &self,
        image: &ProcessImage,
        range: Range<u64>,
        buffer: &mut [u8],
    ) -> Result<StoredChunk, SourceError> {
        match &self.spill {
            Some(spill) => self.store_on_disk(spill, image, range, buffer),
            None => {
                for rest in self.not_copied(range) {
                    self.store_in_memory(image, rest, buffer)?;
                }
                Ok(StoredChunk::default())
            }
        }
    }

    /// The parts of `range` that are not in memory yet, in order.
    fn not_copied(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let copied = self.copied_first.get().map(Vec::as_slice).unwrap_or_default();
        let first = copied.partition_point(|copied| copied.end <= range.start);
        let (mut parts, mut at) = (Vec::new(), range.start);
        for next in copied[first..].iter().take_while(|next| next.start < range.end) {
            if at < next.start {
                parts.push(at..next.start);
            }
            at = next.end;
        }
        if at < range.end {
            parts.push(at..range.end);
        }
        parts
    }

    /// Copies what is not zero in `range` to memory.
    ///
    /// # Errors
    /// The process has ended, or there is no memory.
    fn store_in_memory(&self, image: &ProcessImage, range: Range<u64>, buffer: &mut [u8]) -> Result<(), SourceError> {
        image.copy_present(range, buffer, |offset, bytes| self.write_to_memory(offset, bytes))
    }

    /// Writes what is not zero to memory, as far as memory was reserved.
    fn write_to_memory(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        let left = self.memory_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(length));
        left.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        write_nonzero_pages(&self.memory, offset, bytes)
    }

    /// Copies a chunk to disk, or to memory if the disk refuses it.
    fn store_on_disk(
        &self,
        spill: &SpillTarget,
        image: &ProcessImage,
        range: Range<u64>,
        buffer: &mut [u8],
    ) -> Result<StoredChunk, SourceError> {
        let length = buffer_len(&range);
        if image.present_bytes(range.clone())? < length as u64 / SPARSE_FRACTION {
            return self.store_pages(spill, image, range, buffer);
        }
        spill.preallocate(range.start);
        let mut stored = StoredChunk::default();
        if image.read_range(range.clone(), buffer)? == RangeData::Bytes {
            // Only the last chunk of a core can end within a page.
            let padded = length.next_multiple_of(PAGE_LEN);
            buffer[length..padded].fill(0);
            stored.on_disk = CHUNK_LEN;
            if spill.depth.write_all_at(&spill.direct, &buffer[..padded], range.start).is_err() {
                stored.refused = true;
                self.write_to_memory(range.start, &buffer[..length]).map_err(SourceError::Write)?;
            }
        }
        Ok(stored)
    }

    /// Copies only the pages of the chunk that exist.
    fn store_pages(
        &self,
        spill: &SpillTarget,
        image: &ProcessImage,
        range: Range<u64>,
        buffer: &mut [u8],
    ) -> Result<StoredChunk, SourceError> {
        if range.start >= *spill.lock_preallocated() {
            // Blocks were preallocated for the whole chunk.
            sparse_io::punch_hole(&spill.direct, range.clone());
        }
        let mut stored = StoredChunk::default();
        image.copy_present(range, buffer, |offset, bytes| -> io::Result<()> {
            stored.on_disk += bytes.len() as u64;
            write_nonzero_pages(&spill.cached, offset, bytes).or_else(|_| {
                // The memory has room for a few chunks; the daemon spills no more after this.
                stored.refused = true;
                self.write_to_memory(offset, bytes)
            })
        })?;
        Ok(stored)
    }
}

impl SpillTarget {
    /// Allocates blocks for the chunk at `offset`, and for some before it, which are written next.
    fn preallocate(&self, offset: u64) {
        let mut from = self.lock_preallocated();
        if offset < *from {
            let end = (offset + CHUNK_LEN).min(*from);
            *from = end.saturating_sub(PREALLOCATED);
            sparse_io::preallocate(&self.direct, *from..end);
        }
    }

    fn lock_preallocated(&self) -> std::sync::MutexGuard<'_, u64> {
        self.preallocated_from.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_copied_first_is_not_copied_again() {
        let memory = sparse_io::create_memfd("test").unwrap();
        let copier = ChunkCopier::new(StagingFiles { memory, memory_limit: 0, spill: None });
        let one = |from, to| Range { start: from, end: to };
        assert_eq!(copier.not_copied(0..100), [one(0, 100)]);
        copier.copied_first.set(vec![10..20, 20..30, 90..110]).unwrap();
        assert_eq!(copier.not_copied(0..100), [0..10, 30..90]);
        assert_eq!(copier.not_copied(15..40), [one(30, 40)]);
        assert_eq!(copier.not_copied(110..120), [one(110, 120)]);
        assert_eq!(copier.not_copied(12..28), []);
    }
}
