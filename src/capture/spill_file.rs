//! The file on disk that takes the chunks of a core which are not compressed before its process is released.

use super::chunk::{CHUNK_LEN, SourceError};
use super::sparse::{PAGE_LEN, overlay_data};
use super::staging_files::StoredChunk;
use crate::store::QuotaHandle;
use coreward_sys::{sparse_io, tmpfile};
use nix::sys::stat::Mode;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that the file may take beyond what is known to be in it: blocks that are preallocated, and the file system's own.
pub(super) const EXCESS: u64 = 64 << 20;

/// A file without a name. Every byte is at its offset in the core, and only what is written takes space. It bypasses the page cache
/// where the file system can do that.
#[derive(Debug)]
pub struct SpillFile {
    direct: File,
    reserved: Mutex<Reserved>,
    quota: Arc<QuotaHandle>,
    /// The disk has refused a chunk.
    refused: AtomicBool,
}

#[derive(Debug, Default)]
struct Reserved {
    /// Bytes reserved for each chunk, by its offset.
    by_chunk: HashMap<u64, u64>,
    /// All of them together.
    total: u64,
}

impl Reserved {
    /// Sets what is reserved for the chunk at `offset`, if that is less than before. Returns by how much.
    fn shrink(&mut self, offset: u64, bytes: u64) -> u64 {
        let Some(current) = self.by_chunk.get_mut(&offset) else { return 0 };
        let freed = current.saturating_sub(bytes);
        *current -= freed;
        self.total -= freed;
        freed
    }
}

impl SpillFile {
    /// Creates a file in the directory of the cores.
    ///
    /// # Errors
    /// Errors of open(2).
    pub fn create(quota: Arc<QuotaHandle>) -> io::Result<Self> {
        let file = tmpfile::create_scratch(quota.dir().as_fd(), Mode::from_bits_truncate(0o600))?;
        Ok(Self::open(file.into(), quota))
    }

    /// Uses the file that an earlier daemon created.
    pub fn open(direct: File, quota: Arc<QuotaHandle>) -> Self {
        sparse_io::enable_direct_io(&direct);
        Self { direct, reserved: Mutex::default(), quota, refused: AtomicBool::new(false) }
    }

    /// Reserves space for the chunk at `offset` if that evicts nothing and leaves room for `uncompressed` bytes of the same core.
    pub fn reserve_chunk(&self, offset: u64, uncompressed: u64) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        let granted = !refused && self.quota.reserve_spare(CHUNK_LEN, uncompressed);
        if granted {
            let mut reserved = self.lock_reserved();
            reserved.total += CHUNK_LEN;
            reserved.by_chunk.insert(offset, CHUNK_LEN);
        }
        granted
    }

    /// Returns what is reserved for the chunk at `offset`, except for `bytes`.
    fn shrink_reservation(&self, offset: u64, bytes: u64) {
        let freed = self.lock_reserved().shrink(offset, bytes);
        self.quota.cancel(freed);
    }

    /// Corrects the account when a chunk is copied. What the copier says is believed as far as the file bears it out.
    pub fn settle(&self, offset: u64, stored: StoredChunk) {
        if self.on_disk() <= self.lock_reserved().total + EXCESS {
            self.shrink_reservation(offset, stored.on_disk);
        }
        if stored.refused {
            // No more is spilled then.
            self.refused.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it has more than all chunks that were to be copied: somebody writes to it who was not told to.
    pub fn is_overfilled(&self) -> bool {
        let chunks = self.lock_reserved().by_chunk.len() as u64;
        self.on_disk() > chunks * CHUNK_LEN + EXCESS
    }

    /// Bytes that the file takes.
    fn on_disk(&self) -> u64 {
        disk_usage(&self.direct)
    }

    /// Frees blocks that were preallocated before `offset` and are not needed.
    pub fn free_unused(&self, offset: u64) {
        sparse_io::punch_hole(&self.direct, 0..offset);
    }

    /// Frees a chunk and its reservation.
    pub fn free_chunk(&self, range: Range<u64>) {
        sparse_io::punch_hole(&self.direct, range.clone());
        self.shrink_reservation(range.start, 0);
    }

    /// Frees all of it.
    pub fn free(&self) {
        let _ = self.direct.set_len(0);
        self.quota.cancel(std::mem::take(&mut *self.lock_reserved()).total);
    }

    /// Reads a range over what `buffer` has, like [`overlay_data`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn overlay(&self, range: Range<u64>, buffer: &mut [u8], is_filled: bool) -> Result<bool, SourceError> {
        // O_DIRECT reads whole pages, and the last chunk of a core may end within one.
        let pages = range.start..range.end.next_multiple_of(PAGE_LEN as u64);
        overlay_data(&self.direct, pages, buffer, is_filled)
    }

    /// Two more descriptors of the file: one that bypasses the page cache, one that uses it.
    ///
    /// # Errors
    /// Errors of open(2).
    pub fn files(&self) -> io::Result<[File; 2]> {
        Ok([self.direct.try_clone()?, sparse_io::reopen_buffered(&self.direct)?])
    }

    /// Another descriptor of the file.
    ///
    /// # Errors
    /// Errors of fcntl(2).
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        Ok(self.direct.try_clone()?.into())
    }

    fn lock_reserved(&self) -> MutexGuard<'_, Reserved> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn write_for_test(&self, bytes: &[u8], offset: u64) {
        use std::os::unix::fs::FileExt;
        sparse_io::reopen_buffered(&self.direct).unwrap().write_all_at(bytes, offset).unwrap();
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        self.quota.cancel(self.lock_reserved().total);
    }
}

/// Bytes that a file takes on its file system, 0 if it does not tell.
pub(super) fn disk_usage(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.blocks() * sparse_io::BLOCK)
}
