//! The file on disk that takes the chunks of a core which are not compressed before its process is released.

use super::chunk::{CHUNK_LEN, CoreSource, RangeData, SourceError, buffer_len};
use super::process_image::ProcessImage;
use super::sparse::{PAGE_LEN, overlay_data, write_nonzero_pages};
use crate::store::QuotaHandle;
use coreward_sys::{sparse_io, tmpfile};
use nix::sys::stat::Mode;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that are preallocated at a time.
const PREALLOCATED: u64 = 32 << 20;
/// A chunk of which less than this fraction is present is written page by page.
const SPARSE_FRACTION: u64 = 4;

/// A file without a name. Every byte is at its offset in the core, and only what is written takes space.
#[derive(Debug)]
pub struct SpillFile {
    /// Bypasses the page cache: for whole chunks, as fast as the disk.
    direct: File,
    /// Uses the page cache: for single pages of chunks that are mostly holes.
    cached: File,
    /// Blocks are allocated from this offset on. Chunks are written from the back.
    preallocated_from: Mutex<u64>,
    /// Bytes reserved for each chunk, by its offset.
    reserved: Mutex<HashMap<u64, u64>>,
    quota: Arc<QuotaHandle>,
    /// The disk has refused a chunk.
    refused: AtomicBool,
}

impl SpillFile {
    /// Creates a file in the directory of the cores.
    ///
    /// # Errors
    /// Errors of open(2).
    pub fn create(quota: Arc<QuotaHandle>) -> io::Result<Self> {
        let file = tmpfile::create(quota.dir().as_fd(), Mode::from_bits_truncate(0o600))?;
        Self::open(file.into(), quota)
    }

    /// Uses the file that an earlier daemon created.
    ///
    /// # Errors
    /// Errors of open(2).
    pub fn open(direct: File, quota: Arc<QuotaHandle>) -> io::Result<Self> {
        let cached = sparse_io::reopen_buffered(&direct)?;
        sparse_io::enable_direct_io(&direct);
        Ok(Self {
            direct,
            cached,
            preallocated_from: Mutex::new(u64::MAX),
            reserved: Mutex::default(),
            quota,
            refused: AtomicBool::new(false),
        })
    }

    /// Reserves space for the chunk at `offset` if that evicts nothing and leaves room for `uncompressed` bytes of the same core.
    pub fn reserve_chunk(&self, offset: u64, uncompressed: u64) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        let granted = !refused && self.quota.reserve_spare(CHUNK_LEN, uncompressed);
        if granted {
            self.lock_reserved().insert(offset, CHUNK_LEN);
        }
        granted
    }

    /// Returns what is reserved for the chunk at `offset`, except for `bytes`.
    fn shrink_reservation(&self, offset: u64, bytes: u64) {
        let mut reserved = self.lock_reserved();
        if let Some(current) = reserved.get_mut(&offset)
            && *current > bytes
        {
            self.quota.cancel(*current - bytes);
            *current = bytes;
        }
    }

    /// Copies a chunk out of the process into the file, or into `fallback` if the disk refuses it.
    ///
    /// # Errors
    /// The process has ended, or neither file can be written.
    pub fn store(
        &self,
        image: &ProcessImage,
        range: Range<u64>,
        buffer: &mut [u8],
        fallback: &File,
    ) -> Result<(), SourceError> {
        let length = buffer_len(&range);
        if image.present_bytes(range.clone())? < length as u64 / SPARSE_FRACTION {
            return self.store_pages(image, range, buffer, fallback);
        }
        self.preallocate(range.start);
        match image.read_range(range.clone(), buffer)? {
            RangeData::Zeros => self.shrink_reservation(range.start, 0),
            RangeData::Bytes => {
                // Only the last chunk of a core can end within a page.
                let padded = length.next_multiple_of(PAGE_LEN);
                buffer[length..padded].fill(0);
                let written = self.direct.write_all_at(&buffer[..padded], range.start);
                written
                    .or_else(|_| self.store_in_fallback(fallback, range.start, &buffer[..length]))
                    .map_err(SourceError::Write)?;
            }
        }
        Ok(())
    }

    /// Copies only the pages of the chunk that exist.
    fn store_pages(
        &self,
        image: &ProcessImage,
        range: Range<u64>,
        buffer: &mut [u8],
        fallback: &File,
    ) -> Result<(), SourceError> {
        let chunk = range.start;
        if chunk >= *self.lock_preallocated() {
            // Blocks were preallocated for the whole chunk.
            sparse_io::punch_hole(&self.direct, range.clone());
        }
        let mut written = 0;
        image.copy_present(range, buffer, |offset, bytes| {
            written += bytes.len() as u64;
            write_nonzero_pages(&self.cached, offset, bytes)
                .or_else(|_| self.store_in_fallback(fallback, offset, bytes))
        })?;
        self.shrink_reservation(chunk, written);
        Ok(())
    }

    /// Stores elsewhere what the disk refused. No more is spilled then: the fallback is memory, and has room for a few chunks.
    fn store_in_fallback(&self, fallback: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.refused.store(true, Ordering::Relaxed);
        write_nonzero_pages(fallback, offset, bytes)
    }

    /// Allocates blocks for the chunk at `offset`, and for some before it, which are written next.
    fn preallocate(&self, offset: u64) {
        let mut from = self.lock_preallocated();
        if offset < *from {
            let end = (offset + CHUNK_LEN).min(*from);
            *from = end.saturating_sub(PREALLOCATED);
            sparse_io::preallocate(&self.direct, *from..end);
        }
    }

    /// Frees blocks that were preallocated before `offset` and are not needed.
    pub fn free_unused(&self, offset: u64) {
        let from = *self.lock_preallocated();
        if from < offset {
            sparse_io::punch_hole(&self.direct, from..offset);
        }
    }

    /// Frees a chunk and its reservation.
    pub fn free_chunk(&self, range: Range<u64>) {
        sparse_io::punch_hole(&self.direct, range.clone());
        self.shrink_reservation(range.start, 0);
    }

    /// Frees all of it.
    pub fn free(&self) {
        let _ = self.direct.set_len(0);
        self.quota.cancel(self.lock_reserved().drain().map(|(_, bytes)| bytes).sum());
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

    /// Another descriptor of the file.
    ///
    /// # Errors
    /// Errors of fcntl(2).
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        Ok(self.direct.try_clone()?.into())
    }

    fn lock_preallocated(&self) -> MutexGuard<'_, u64> {
        self.preallocated_from.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_reserved(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn write_for_test(&self, bytes: &[u8], offset: u64) {
        self.cached.write_all_at(bytes, offset).unwrap();
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        self.quota.cancel(self.lock_reserved().values().sum());
    }
}
