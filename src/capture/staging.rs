//! The copy of a core that is made before its process is released: in memory, and on disk if it is large. Every byte is at its
//! offset in the core. The shim holds both files as well, so they outlive a daemon that is killed.

use super::chunk::{CoreSource, RangeData, SourceError};
use super::error::CaptureError;
use super::memory_budget::MemoryGrant;
use super::parked::ParkedImage;
use super::sparse::{PAGE_LEN, overlay_data};
use super::spill_file::{EXCESS, SpillFile, disk_usage};
use super::staging_files::StagingFiles;
use crate::store::QuotaHandle;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The files that hold the copy.
#[derive(Debug)]
pub struct StagingArea {
    /// A file in memory: the headers and the priority ranges, or all of a small core.
    pub memory: Arc<File>,
    /// A file on disk, for chunks from the back of the core.
    spill: Option<SpillFile>,
    /// The core from this offset on is in the spill file; what is before it is in memory, if it was copied.
    spill_start: AtomicU64,
    /// What the spill file had before this offset is in the core file, and was freed.
    freed_to: Mutex<u64>,
    grant: Mutex<Option<MemoryGrant>>,
    /// Bytes that the file "in memory" may take while a reader has it, if it is on disk. Otherwise the unit's `MemoryMax=` bounds it.
    memory_max: OnceLock<u64>,
}

impl StagingArea {
    /// A staging area in `memory`, for which `grant` was reserved.
    #[must_use]
    pub fn new(memory: Arc<File>, grant: Option<MemoryGrant>) -> Self {
        Self {
            memory,
            spill: None,
            spill_start: AtomicU64::new(u64::MAX),
            freed_to: Mutex::default(),
            grant: Mutex::new(grant),
            memory_max: OnceLock::new(),
        }
    }

    /// The staging area of an earlier daemon. `spill` is the file on disk and the offset from which on the core is in it.
    #[must_use]
    pub fn from_checkpoint(memory: File, spill: Option<(File, u64)>, quota: Arc<QuotaHandle>) -> Self {
        let mut staging = Self::new(Arc::new(memory), None);
        if let Some((file, start)) = spill {
            staging.spill = Some(SpillFile::open(file, quota));
            staging.spill_start = AtomicU64::new(start);
        }
        staging
    }

    /// Adds a file on disk.
    ///
    /// # Errors
    /// Errors of open(2).
    pub fn add_spill_file(&mut self, quota: Arc<QuotaHandle>) -> io::Result<()> {
        self.spill = Some(SpillFile::create(quota)?);
        Ok(())
    }

    /// The file on disk, if there is one.
    pub fn spill_file(&self) -> Option<&SpillFile> {
        self.spill.as_ref()
    }

    /// Other descriptors of the files, for whoever copies the process into them: at most `memory_limit` bytes to the one in memory.
    ///
    /// # Errors
    /// Errors of open(2).
    pub fn files(&self, memory_limit: u64) -> io::Result<StagingFiles> {
        let spill = self.spill.as_ref().map(SpillFile::files).transpose()?;
        if self.grant.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            // It is on disk. A file system may allocate more than a page for a page.
            let most = disk_usage(&self.memory).saturating_add(memory_limit.saturating_mul(2)).saturating_add(EXCESS);
            let _ = self.memory_max.set(most);
        }
        Ok(StagingFiles { memory: self.memory.try_clone()?, memory_limit, spill })
    }

    /// Copies `range` of the core of a parked process: to disk, or to memory if there is no file on disk.
    ///
    /// # Errors
    /// The process has ended, or there is no room.
    pub fn store(&self, image: &dyn ParkedImage, range: Range<u64>) -> Result<(), SourceError> {
        let offset = range.start;
        let stored = image.store(range)?;
        if let Some(spill) = &self.spill {
            spill.settle(offset, stored);
        }
        Ok(())
    }

    /// Checks that nobody fills the files who was not told to, as only a reader could that is not what it was any more.
    ///
    /// # Errors
    /// Somebody does: the process that has the files must be killed, and nothing of them is worth keeping.
    pub fn check(&self) -> Result<(), CaptureError> {
        let memory_max = self.memory_max.get().copied().unwrap_or(u64::MAX);
        if disk_usage(&self.memory) > memory_max || self.spill.as_ref().is_some_and(SpillFile::is_overfilled) {
            tracing::error!("a reader of a crashed process wrote more than it was to copy: it is killed");
            return Err(CaptureError::Overfilled);
        }
        Ok(())
    }

    /// Sets the offset from which on the core is on disk, when all of that is written.
    pub fn set_spill_start(&self, offset: u64) {
        self.spill_start.store(offset, Ordering::Relaxed);
        if let Some(spill) = &self.spill {
            spill.free_unused(offset);
        }
    }

    /// The offset from which on the core is on disk.
    pub fn spill_start(&self) -> u64 {
        self.spill_start.load(Ordering::Relaxed)
    }

    /// Frees the disk space of a chunk that is in the core file now; the core has `total_len` bytes.
    pub fn free_chunk(&self, range: Range<u64>, total_len: u64) {
        let Some(spill) = self.spill.as_ref().filter(|_| range.start >= self.spill_start()) else { return };
        let mut freed_to = self.freed_to.lock().unwrap_or_else(PoisonError::into_inner);
        *freed_to = (*freed_to).max(range.end);
        // Recorded first: if this daemon is killed, its successor must not mistake the hole for zeros of the core.
        if self.memory.write_all_at(&freed_to.to_le_bytes(), freed_to_offset(total_len)).is_err() {
            return;
        }
        drop(freed_to);
        spill.free_chunk(range);
    }

    /// The offset up to which an earlier daemon freed what it had compressed.
    pub fn recorded_freed_to(&self, total_len: u64) -> u64 {
        let mut bytes = [0; 8];
        match self.memory.read_exact_at(&mut bytes, freed_to_offset(total_len)) {
            Ok(()) => u64::from_le_bytes(bytes),
            // It freed nothing.
            Err(_) => 0,
        }
    }

    /// Other descriptors of the files in memory and on disk, for the shim.
    ///
    /// # Errors
    /// Errors of fcntl(2).
    pub fn clone_files(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let spill = self.spill.as_ref().map(SpillFile::try_clone).transpose()?;
        Ok((self.memory.try_clone()?.into(), spill))
    }

    /// Frees memory and disk when the core is published. Dropping this is not enough: a worker that hangs may keep it alive.
    pub fn free(&self) {
        let _ = self.memory.set_len(0);
        if let Some(spill) = &self.spill {
            spill.free();
        }
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Where [`StagingArea::free_chunk`] keeps its record in the file in memory: after the core.
fn freed_to_offset(total_len: u64) -> u64 {
    total_len.next_multiple_of(PAGE_LEN as u64)
}

impl CoreSource for StagingArea {
    fn read_range(&self, range: Range<u64>, buffer: &mut [u8]) -> Result<RangeData, SourceError> {
        let mut is_filled = false;
        if let Some(spill) = self.spill.as_ref().filter(|_| range.start >= self.spill_start()) {
            is_filled = spill.overlay(range.clone(), buffer, is_filled)?;
        }
        // Priority ranges, and what the disk refused, are in memory.
        is_filled = overlay_data(&self.memory, range, buffer, is_filled)?;
        Ok(if is_filled { RangeData::Bytes } else { RangeData::Zeros })
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::CHUNK_LEN;
    use super::super::frame_compressor::FrameCompressor;
    use super::super::staging_files::StoredChunk;
    use super::*;
    use crate::policy::evict::Attribution;
    use crate::policy::quota::Quotas;
    use crate::store::Ledger;
    use coreward_sys::sparse_io;

    fn quota(dir: &std::path::Path) -> Arc<QuotaHandle> {
        let ledger = Ledger::new(File::open(dir).unwrap().into());
        ledger.set_limits(Quotas { max_use: Some(1 << 30), keep_free: Some(0), ..Quotas::default() });
        Arc::new(QuotaHandle::new(Arc::new(ledger), Attribution::of_record(&crate::crash::fixtures::record(1))))
    }

    fn with_spill_file(quota: &Arc<QuotaHandle>) -> StagingArea {
        let mut staging = StagingArea::new(Arc::new(sparse_io::create_memfd("test").unwrap()), None);
        staging.add_spill_file(Arc::clone(quota)).unwrap();
        staging
    }

    #[test]
    fn data_in_memory_takes_precedence_over_data_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let staging = with_spill_file(&quota(dir.path()));
        staging.spill_file().unwrap().write_for_test(&[1; 4 * PAGE_LEN], CHUNK_LEN);
        staging.memory.write_all_at(&[2; PAGE_LEN], CHUNK_LEN + PAGE_LEN as u64).unwrap();
        staging.memory.write_all_at(&[3; PAGE_LEN], 0).unwrap();
        staging.set_spill_start(CHUNK_LEN);
        let mut compressor = FrameCompressor::new();
        let buffer = compressor.buffer();
        assert_eq!(staging.read_range(CHUNK_LEN..2 * CHUNK_LEN, buffer).unwrap(), RangeData::Bytes);
        let pages: Vec<u8> = buffer.chunks(PAGE_LEN).map(|page| page[0]).take(6).collect();
        assert_eq!(pages, [1, 2, 1, 1, 0, 0]);
        assert_eq!(staging.read_range(0..CHUNK_LEN, buffer).unwrap(), RangeData::Bytes);
        assert_eq!((buffer[0], buffer[PAGE_LEN]), (3, 0));
        assert_eq!(staging.read_range(5 * CHUNK_LEN..6 * CHUNK_LEN, buffer).unwrap(), RangeData::Zeros);
    }

    #[test]
    fn freed_chunks_are_recorded_and_reservations_are_returned() {
        let dir = tempfile::tempdir().unwrap();
        let quota = quota(dir.path());
        let staging = with_spill_file(&quota);
        let spill = staging.spill_file().unwrap();
        assert!(spill.reserve_chunk(2 * CHUNK_LEN, 0) && spill.reserve_chunk(3 * CHUNK_LEN, 0));
        assert!(!spill.reserve_chunk(4 * CHUNK_LEN, 1 << 30), "the rest of the core needs the room");
        staging.set_spill_start(2 * CHUNK_LEN);
        staging.free_chunk(2 * CHUNK_LEN..3 * CHUNK_LEN, 4 * CHUNK_LEN);
        assert_eq!((quota.used(), staging.recorded_freed_to(4 * CHUNK_LEN)), (CHUNK_LEN, 3 * CHUNK_LEN));
        staging.free();
        assert_eq!(quota.used(), 0);
        drop(staging);
        assert_eq!(quota.used(), 0);
    }

    #[test]
    fn what_a_copier_says_of_the_disk_is_believed_as_far_as_the_file_bears_it_out() {
        let dir = tempfile::tempdir().unwrap();
        let quota = quota(dir.path());
        let staging = with_spill_file(&quota);
        let files = staging.files(0).unwrap();
        let spill = staging.spill_file().unwrap();
        let [direct, _] = files.spill.as_ref().unwrap();
        assert!(spill.reserve_chunk(2 * CHUNK_LEN, 0) && spill.reserve_chunk(3 * CHUNK_LEN, 0));
        spill.settle(3 * CHUNK_LEN, StoredChunk { on_disk: 4096, refused: false });
        assert_eq!(quota.used(), CHUNK_LEN + 4096);
        staging.check().unwrap();
        let fill = |file: &File, bytes| sparse_io::preallocate(file, 0..bytes);
        fill(direct, EXCESS + 2 * CHUNK_LEN);
        staging.check().unwrap();
        spill.settle(2 * CHUNK_LEN, StoredChunk { on_disk: 0, refused: false });
        assert_eq!(quota.used(), CHUNK_LEN + 4096, "the file has more than that");
        fill(direct, EXCESS + 3 * CHUNK_LEN);
        assert!(matches!(staging.check(), Err(CaptureError::Overfilled)));
        direct.set_len(0).unwrap();
        staging.check().unwrap();
        fill(&files.memory, EXCESS + (1 << 20));
        assert!(matches!(staging.check(), Err(CaptureError::Overfilled)));
    }
}
