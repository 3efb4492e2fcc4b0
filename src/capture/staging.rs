//! What was copied out of a process before it was let go, every byte at its place in the core: in memory, and on disk where that
//! is not enough. The shim holds both files as well, so a daemon that is killed loses neither.

use super::chunk::{CHUNK, Fill, Filled, SourceError};
use super::process_memory::ProcessImage;
use crate::store::QuotaHandle;
use coreward_sys::{sparse_io, tmpfile};
use nix::sys::stat::Mode;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What O_DIRECT moves.
const PAGE: usize = 4096;

/// ProcessMemory that all stages together may take, counted to the unit's MemoryMax= though not to the daemon's resident size.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    left: Arc<AtomicU64>,
}

/// ProcessMemory that one stage may take, given back when it is dropped.
#[derive(Debug)]
pub struct MemoryGrant {
    bytes: u64,
    left: Arc<AtomicU64>,
}

impl MemoryBudget {
    /// So many bytes in all.
    pub fn new(bytes: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(bytes)) }
    }

    /// `bytes` of it, if they are left.
    pub fn take(&self, bytes: u64) -> Option<MemoryGrant> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.ok().map(|_| MemoryGrant { bytes, left: Arc::clone(&self.left) })
    }
}

impl Drop for MemoryGrant {
    fn drop(&mut self) {
        self.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// So much disk is made ready at once.
const PREPARED: u64 = 32 << 20;

/// The file on disk, opened twice.
#[derive(Debug)]
struct SpillFile {
    /// Past the page cache, in whole chunks: as fast as the disk is.
    direct: File,
    /// Through the page cache, page by page: for chunks that are holes for the most part.
    cached: File,
}

impl SpillFile {
    fn new(direct: File) -> io::Result<Self> {
        let cached = sparse_io::through_the_cache(&direct)?;
        sparse_io::past_the_cache(&direct);
        Ok(Self { direct, cached })
    }
}

/// A chunk with less data than one part in so many is written page by page.
const SCATTERED: u64 = 4;

/// The two files.
#[derive(Debug)]
pub struct StagingArea {
    /// Headers and notes, and what comes first; the whole core if it is small.
    pub memory: Arc<File>,
    /// Chunks on disk.
    raw: Option<SpillFile>,
    /// From here on there are blocks for them.
    prepared_from: Mutex<u64>,
    /// From here on the core is in `raw`; before it, it is in memory or nowhere.
    raw_from: AtomicU64,
    /// Up to here what was in `raw` is in the core's file.
    gone: Mutex<u64>,
    /// Bytes reserved for what is in `raw`, by where the chunk begins.
    reserved: Mutex<HashMap<u64, u64>>,
    account: Arc<QuotaHandle>,
    /// The disk has refused a chunk.
    refused: AtomicBool,
    allowed: Mutex<Option<MemoryGrant>>,
}

impl StagingArea {
    /// A stage in memory.
    pub fn new(memory: Arc<File>, account: Arc<QuotaHandle>, allowed: Option<MemoryGrant>) -> Self {
        let raw_from = AtomicU64::new(u64::MAX);
        Self {
            memory,
            raw: None,
            prepared_from: Mutex::new(u64::MAX),
            raw_from,
            gone: Mutex::default(),
            reserved: Mutex::default(),
            account,
            refused: AtomicBool::new(false),
            allowed: Mutex::new(allowed),
        }
    }

    /// What another daemon staged.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn kept(memory: File, raw: Option<(File, u64)>, account: Arc<QuotaHandle>) -> io::Result<Self> {
        let mut stage = Self::new(Arc::new(memory), account, None);
        if let Some((raw, from)) = raw {
            stage.raw = Some(SpillFile::new(raw)?);
            stage.raw_from = AtomicU64::new(from);
        }
        Ok(stage)
    }

    /// Lets chunks be put on disk as well.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn add_raw(&mut self) -> io::Result<()> {
        let raw = File::from(tmpfile::create(self.account.dir().as_fd(), Mode::from_bits_truncate(0o600))?);
        self.raw = Some(SpillFile::new(raw)?);
        Ok(())
    }

    /// Whether chunks may be put on disk.
    pub fn has_raw(&self) -> bool {
        self.raw.is_some()
    }

    /// Reserves disk for the chunk at `at` if that costs nobody anything, with `to_come` bytes of the same core not yet compressed.
    pub fn reserve(&self, at: u64, to_come: u64) -> bool {
        let refused = self.refused.load(Ordering::Relaxed);
        let granted = !refused && self.account.reserve_spare(CHUNK, to_come);
        if granted {
            self.reserved().insert(at, CHUNK);
        }
        granted
    }

    /// Keeps no more than `bytes` of what was reserved for the chunk at `at`.
    fn settle(&self, at: u64, bytes: u64) {
        let mut reserved = self.reserved();
        if let Some(known) = reserved.get_mut(&at)
            && *known > bytes
        {
            self.account.cancel(*known - bytes);
            *known = bytes;
        }
    }

    fn reserved(&self) -> MutexGuard<'_, HashMap<u64, u64>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `range` of the core of a parked process aside: on disk, or in memory where there is none or the disk refuses it.
    ///
    /// # Errors
    /// The process is gone, or nothing takes it.
    pub fn put(&self, parked: &ProcessImage, range: Range<u64>, buffer: &mut [u8]) -> Result<(), SourceError> {
        let Some(raw) = &self.raw else { return self.put_in_memory(parked, range, buffer) };
        let length = (range.end - range.start) as usize;
        if parked.present(range.clone())? < length as u64 / SCATTERED {
            let (at, mut written) = (range.start, 0);
            if at >= *self.prepared() {
                // Blocks that were made ready for whole chunks.
                sparse_io::punch(&raw.direct, range.clone());
            }
            parked.copy(range, buffer, |at, bytes| {
                written += bytes.len() as u64;
                write_data(&raw.cached, at, bytes).or_else(|_| self.instead(at, bytes))
            })?;
            self.settle(at, written);
            return Ok(());
        }
        self.prepare(&raw.direct, range.start);
        // O_DIRECT writes whole pages.
        let pages = length.next_multiple_of(PAGE);
        match parked.fill(range.clone(), buffer)? {
            Filled::Zeros => {
                self.settle(range.start, 0);
                Ok(())
            }
            Filled::Data => {
                buffer[length..pages].fill(0);
                let put = raw.direct.write_all_at(&buffer[..pages], range.start);
                put.or_else(|_| self.instead(range.start, &buffer[..length])).map_err(SourceError::Write)
            }
        }
    }

    /// Has blocks ready for the chunk at `at` and those before it: chunks come from the back.
    fn prepare(&self, raw: &File, at: u64) {
        let mut from = self.prepared();
        if at < *from {
            let end = (at + CHUNK).min(*from);
            *from = end.saturating_sub(PREPARED);
            sparse_io::prepare(raw, *from..end);
        }
    }

    fn prepared(&self) -> MutexGuard<'_, u64> {
        self.prepared_from.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In memory, what the disk refused. It is not asked again: memory is for this one chunk and not for gibibytes.
    fn instead(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.refused.store(true, Ordering::Relaxed);
        write_data(&self.memory, at, bytes)
    }

    /// Puts what is not zero in `range` of the core aside in memory.
    ///
    /// # Errors
    /// The process is gone, or there is no memory.
    pub fn put_in_memory(
        &self,
        parked: &ProcessImage,
        range: Range<u64>,
        buffer: &mut [u8],
    ) -> Result<(), SourceError> {
        parked.copy(range, buffer, |at, bytes| write_data(&self.memory, at, bytes))
    }

    /// Says from where on the core is on disk.
    pub fn set_raw_from(&self, offset: u64) {
        self.raw_from.store(offset, Ordering::Relaxed);
        // Blocks that were made ready and not needed.
        let from = *self.prepared();
        if let Some(raw) = self.raw.as_ref().filter(|_| from < offset) {
            sparse_io::punch(&raw.direct, from..offset);
        }
    }

    /// Where the part on disk begins.
    pub fn raw_from(&self) -> u64 {
        self.raw_from.load(Ordering::Relaxed)
    }

    /// Gives back the disk of a chunk that was compressed into a core of `total` bytes.
    pub fn done_with(&self, range: Range<u64>, total: u64) {
        let Some(raw) = self.raw.as_ref().filter(|_| range.start >= self.raw_from()) else { return };
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        *gone = (*gone).max(range.end);
        // Should this daemon be killed, its successor must not take what was given back for zeros.
        if self.memory.write_all_at(&gone.to_le_bytes(), total.next_multiple_of(PAGE as u64)).is_err() {
            return;
        }
        drop(gone);
        let at = range.start;
        sparse_io::punch(&raw.direct, range);
        self.settle(at, 0);
    }

    /// Up to where the daemon before gave the disk back of what it had compressed.
    pub fn gone_before(&self, total: u64) -> u64 {
        let mut bytes = [0; 8];
        match self.memory.read_exact_at(&mut bytes, total.next_multiple_of(PAGE as u64)) {
            Ok(()) => u64::from_le_bytes(bytes),
            // It did not get that far.
            Err(_) => 0,
        }
    }

    /// Descriptors for the shim to keep: memory, disk.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn share(&self) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
        let raw = self.raw.as_ref().map(|raw| raw.direct.try_clone()).transpose()?;
        Ok((self.memory.try_clone()?.into(), raw.map(OwnedFd::from)))
    }

    /// Lays what `file` has of `range` over what is in `buffer`, if there `is` anything; returns whether there is now.
    fn overlay(file: &File, range: Range<u64>, buffer: &mut [u8], mut is: bool) -> Result<bool, SourceError> {
        let place = |offset: u64| (offset - range.start) as usize;
        let mut at = range.start;
        while let Some(run) = sparse_io::next_data(file, at..range.end).map_err(SourceError::Io)? {
            if !is {
                buffer[..place(range.end)].fill(0);
                is = true;
            }
            read_whole(file, run.start, &mut buffer[place(run.start)..place(run.end)])?;
            at = run.end;
        }
        Ok(is)
    }

    /// Frees memory and disk. What is sealed and published needs neither, but a worker that hangs may hold this for long.
    pub fn clear(&self) {
        let _ = self.memory.set_len(0);
        if let Some(raw) = &self.raw {
            let _ = raw.direct.set_len(0);
        }
        self.account.cancel(self.reserved().drain().map(|(_, bytes)| bytes).sum());
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Writes the pages that are not zero.
fn write_data(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let is_zero = |page: &[u8]| *page == [0; PAGE][..page.len()];
    let mut from = 0;
    while from < bytes.len() {
        let zero = is_zero(&bytes[from..bytes.len().min(from + PAGE)]);
        let same = |page: &&[u8]| is_zero(page) == zero;
        let length: usize = bytes[from..].chunks(PAGE).take_while(same).map(<[u8]>::len).sum();
        if !zero {
            file.write_all_at(&bytes[from..from + length], at + from as u64)?;
        }
        from += length;
    }
    Ok(())
}

/// A file's end may lie within the last page that is asked for.
fn read_whole(file: &File, from: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
    let mut at = 0;
    while at < buffer.len() {
        match file.read_at(&mut buffer[at..], from + at as u64) {
            Ok(0) => {
                buffer[at..].fill(0);
                break;
            }
            Ok(count) => at += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SourceError::Io(error)),
        }
    }
    Ok(())
}

impl Fill for StagingArea {
    fn fill(&self, range: Range<u64>, buffer: &mut [u8]) -> Result<Filled, SourceError> {
        let mut is = false;
        if let Some(raw) = self.raw.as_ref().filter(|_| range.start >= self.raw_from()) {
            // O_DIRECT reads whole pages: the last chunk may end within one.
            let pages = range.start..range.end.next_multiple_of(PAGE as u64);
            is = Self::overlay(&raw.direct, pages, buffer, is)?;
        }
        // What comes first, and what the disk refused, is in memory.
        is = Self::overlay(&self.memory, range, buffer, is)?;
        Ok(if is { Filled::Data } else { Filled::Zeros })
    }
}

impl Drop for StagingArea {
    fn drop(&mut self) {
        self.account.cancel(self.reserved().values().sum());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::evict::Attribution;
    use crate::policy::quota::Quotas;
    use crate::store::Ledger;

    fn account(dir: &std::path::Path) -> Arc<QuotaHandle> {
        let ledger = Ledger::new(File::open(dir).unwrap().into());
        ledger.set_limits(Quotas { max_use: Some(1 << 30), keep_free: Some(0), ..Quotas::default() });
        Arc::new(QuotaHandle::new(Arc::new(ledger), Attribution::of(&crate::crash::fixtures::record(1))))
    }

    #[test]
    fn what_is_in_memory_lies_over_what_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Arc::new(sparse_io::in_memory("test").unwrap());
        let mut stage = StagingArea::new(memory, account(dir.path()), None);
        stage.add_raw().unwrap();
        stage.raw.as_ref().unwrap().cached.write_all_at(&[1; 4 * PAGE], CHUNK).unwrap();
        stage.memory.write_all_at(&[2; PAGE], CHUNK + PAGE as u64).unwrap();
        stage.memory.write_all_at(&[3; PAGE], 0).unwrap();
        stage.set_raw_from(CHUNK);
        let mut bench = super::super::compressor_pool::CompressorPool::new(1).take();
        let buffer = bench.buffer();
        assert_eq!(stage.fill(CHUNK..2 * CHUNK, buffer).unwrap(), Filled::Data);
        let pages: Vec<u8> = buffer.chunks(PAGE).map(|page| page[0]).take(6).collect();
        assert_eq!(pages, [1, 2, 1, 1, 0, 0]);
        assert_eq!(stage.fill(0..CHUNK, buffer).unwrap(), Filled::Data);
        assert_eq!((buffer[0], buffer[PAGE]), (3, 0));
        assert_eq!(stage.fill(5 * CHUNK..6 * CHUNK, buffer).unwrap(), Filled::Zeros);
    }

    #[test]
    fn what_is_given_back_is_said_and_what_is_reserved_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let account = account(dir.path());
        let mut stage = StagingArea::new(Arc::new(sparse_io::in_memory("test").unwrap()), Arc::clone(&account), None);
        stage.add_raw().unwrap();
        assert!(stage.reserve(2 * CHUNK, 0) && stage.reserve(3 * CHUNK, 0));
        assert!(!stage.reserve(4 * CHUNK, 1 << 30), "not at the cost of what is to come");
        stage.set_raw_from(2 * CHUNK);
        stage.done_with(2 * CHUNK..3 * CHUNK, 4 * CHUNK);
        assert_eq!((account.used(), stage.gone_before(4 * CHUNK)), (CHUNK, 3 * CHUNK));
        stage.clear();
        assert_eq!(account.used(), 0);
        drop(stage);
        assert_eq!(account.used(), 0);
    }
}
