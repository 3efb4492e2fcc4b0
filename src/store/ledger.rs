//! Who holds how much of the disk: asked before every write, settled after.

use super::core_file::file_name;
use crate::crash::CrashId;
use crate::policy::quota::{self, Limits, Room, Usage};
use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The accounts of the core directory. Shared by all captures.
#[derive(Debug)]
pub struct Ledger {
    dir: OwnedFd,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// Oldest first.
    cores: BTreeMap<(u64, CrashId), u64>,
    /// When each was, to find it again.
    times: HashMap<CrashId, u64>,
    stored: u64,
    reserved: u64,
    max_use: Option<u64>,
    keep_free: Option<u64>,
    evicted: Vec<CrashId>,
    evictions: u64,
}

/// Whether a write may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Yes; the bytes are reserved.
    Granted,
    /// No, and nothing is left to evict.
    Full,
}

impl Ledger {
    /// Accounts for the directory `dir`, empty as yet.
    pub fn new(dir: OwnedFd) -> Self {
        Self { dir, books: Mutex::default() }
    }

    /// The directory of the cores.
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Puts limits in force; `None` is the default for the volume.
    pub fn set_limits(&self, max_use: Option<u64>, keep_free: Option<u64>) {
        let mut books = self.books();
        (books.max_use, books.keep_free) = (max_use, keep_free);
    }

    /// The limits in force, in bytes.
    pub fn limits(&self) -> Limits {
        self.limits_of(&self.books())
    }

    /// Stored bytes (those being written included) and the number of stored cores.
    pub fn usage(&self) -> (u64, usize) {
        let books = self.books();
        (books.stored + books.reserved, books.cores.len())
    }

    /// Reserves `bytes` for a capture, evicting the oldest cores where that makes room.
    pub fn reserve(&self, bytes: u64) -> Grant {
        loop {
            let free = self.free();
            {
                let mut books = self.books();
                let usage = Usage { used: books.stored + books.reserved, free };
                match quota::room(self.limits_of(&books), usage, bytes) {
                    Room::Fits => {
                        books.reserved += bytes;
                        return Grant::Granted;
                    }
                    // Where even all cores together would not make the room, somebody else has filled the volume:
                    // throwing evidence away would help nobody.
                    Room::AfterEvicting(needed) if needed > books.stored => return Grant::Full,
                    Room::AfterEvicting(_) => {}
                }
            }
            // One after the other, looking again each time: how much a deleted file frees is the volume's affair.
            if !self.evict_one() {
                return Grant::Full;
            }
        }
    }

    /// Reserves `bytes` only if nothing has to make way for them, nor for `margin` bytes more that are still to come.
    pub fn reserve_spare(&self, bytes: u64, margin: u64) -> Grant {
        let free = self.free();
        let mut books = self.books();
        let usage = Usage { used: books.stored + books.reserved, free };
        match quota::room(self.limits_of(&books), usage, bytes.saturating_add(margin)) {
            Room::Fits => {
                books.reserved += bytes;
                Grant::Granted
            }
            Room::AfterEvicting(_) => Grant::Full,
        }
    }

    /// Gives a reservation back.
    pub fn cancel(&self, bytes: u64) {
        let mut books = self.books();
        books.reserved = books.reserved.saturating_sub(bytes);
    }

    /// Turns a reservation into a stored core of `stored` bytes.
    pub fn settle(&self, reserved: u64, id: CrashId, time_us: u64, stored: u64) {
        let mut books = self.books();
        books.reserved = books.reserved.saturating_sub(reserved);
        // The same core may be entered again, when the catalog is opened again.
        books.remove(&id);
        books.times.insert(id.clone(), time_us);
        books.cores.insert((time_us, id), stored);
        books.stored += stored;
    }

    /// Deletes the oldest core, whatever the limits say: the catalog needs room. `false`: there is none.
    pub fn evict_one(&self) -> bool {
        let Some((time_us, id, bytes)) = self.books().take_oldest() else { return false };
        // Deleting a large file takes its time: nobody waits for the books meanwhile.
        match unlinkat(&self.dir, &file_name(&id), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {
                let mut books = self.books();
                books.evicted.push(id);
                books.evictions += 1;
                true
            }
            Err(error) => {
                tracing::error!("core {id} can't be evicted: {error}");
                self.settle(0, id, time_us, bytes);
                false
            }
        }
    }

    /// Cores evicted since the daemon began.
    pub fn evictions(&self) -> u64 {
        self.books().evictions
    }

    /// The cores evicted since the last call, for the catalog.
    pub fn take_evicted(&self) -> Vec<CrashId> {
        std::mem::take(&mut self.books().evicted)
    }

    fn limits_of(&self, books: &Books) -> Limits {
        let volume = fstatvfs(&self.dir).map_or(0, |volume| volume.blocks() * volume.fragment_size());
        Limits {
            max_use: books.max_use.unwrap_or_else(|| quota::default_max_use(volume)),
            keep_free: books.keep_free.unwrap_or_else(|| quota::default_keep_free(volume)),
        }
    }

    fn free(&self) -> u64 {
        let volume = fstatvfs(self.dir.as_fd());
        volume.map_or(0, |volume| volume.blocks_available() * volume.fragment_size())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Every change of the books is whole before anything in it can panic.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn remove(&mut self, id: &CrashId) {
        if let Some(time_us) = self.times.remove(id)
            && let Some(bytes) = self.cores.remove(&(time_us, id.clone()))
        {
            self.stored -= bytes;
        }
    }

    fn take_oldest(&mut self) -> Option<(u64, CrashId, u64)> {
        let ((time_us, id), bytes) = self.cores.pop_first()?;
        self.times.remove(&id);
        self.stored -= bytes;
        Some((time_us, id, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::CrashKey;

    fn id(number: u32) -> CrashId {
        CrashKey { boot_id: "0".repeat(32), pid: number, start_time: 0 }.id()
    }

    #[test]
    fn the_oldest_goes_first_and_the_total_is_never_over_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(std::fs::File::open(dir.path()).unwrap().into());
        ledger.set_limits(Some(1000), Some(0));
        for number in 0..5 {
            std::fs::write(dir.path().join(file_name(&id(number))), "x").unwrap();
            assert_eq!(ledger.reserve(300), Grant::Granted);
            ledger.settle(300, id(number), u64::from(number), 280);
            assert!(ledger.usage().0 <= 1000);
        }
        let left: Vec<bool> = (0..5).map(|number| dir.path().join(file_name(&id(number))).exists()).collect();
        assert_eq!(left, [false, false, true, true, true]);
        assert_eq!(ledger.take_evicted(), [id(0), id(1)]);
        assert_eq!(ledger.take_evicted(), []);
    }

    #[test]
    fn a_core_that_is_entered_twice_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(std::fs::File::open(dir.path()).unwrap().into());
        ledger.settle(0, id(1), 5, 100);
        ledger.settle(0, id(1), 9, 120);
        assert_eq!(ledger.usage(), (120, 1));
    }

    #[test]
    fn what_can_never_fit_is_refused_and_costs_no_evidence() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(std::fs::File::open(dir.path()).unwrap().into());
        ledger.set_limits(Some(1000), Some(0));
        ledger.settle(0, id(1), 5, 100);
        assert_eq!(ledger.reserve(1001), Grant::Full);
        assert_eq!(ledger.usage(), (100, 1));
        ledger.set_limits(Some(u64::MAX), Some(u64::MAX));
        assert_eq!(ledger.reserve(1), Grant::Full);
    }
}
