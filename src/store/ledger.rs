//! Who holds how much of the disk: asked before every write, settled after.

use super::books::{Entry, Key, UsageTable};
use super::core_file::file_name;
use super::keep::{self, Hold};
use crate::crash::{CrashId, Record, SignatureKey};
use crate::policy::evict::Attribution;
use crate::policy::quota::{Limits, Quotas};
use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The accounts of the core directory. Shared by all captures.
#[derive(Debug)]
pub struct Ledger {
    dir: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    books: UsageTable,
    quotas: Quotas,
    evicted: Vec<CrashId>,
    evictions: u64,
}

/// Whether a write may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Yes; the bytes are reserved.
    Granted,
    /// No: this limit is reached, and nothing is left to evict for it.
    Full(&'static str),
}

impl Ledger {
    /// Accounts for the directory `dir`, empty as yet.
    pub fn new(dir: OwnedFd) -> Self {
        Self { dir, state: Mutex::default() }
    }

    /// The directory of the cores.
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Puts limits in force.
    pub fn set_limits(&self, quotas: Quotas) {
        self.state().quotas = quotas;
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        let quotas = self.state().quotas;
        self.limits_of(&quotas)
    }

    /// Stored bytes (those being written included) and the number of stored cores.
    pub fn usage(&self) -> (u64, usize) {
        let state = self.state();
        (state.books.used(&Key::All), state.books.len())
    }

    /// Whether there is a core of this signature.
    pub fn has_signature(&self, signature: &SignatureKey) -> bool {
        self.state().books.has_signature(signature)
    }

    /// Reserves `bytes` for a core of `owner`. Where a limit is reached, cores that the limit is about make way; none does where
    /// all of them would not be enough.
    pub fn reserve(&self, owner: &Attribution, bytes: u64) -> Grant {
        let mut busy = HashSet::new();
        loop {
            let (free, limits) = (self.free(), self.limits());
            let victim = {
                let mut state = self.state();
                let Some(over) = state.books.over(&limits, free, owner, bytes) else {
                    state.books.reserve(owner, bytes);
                    return Grant::Granted;
                };
                let enough = over.missing <= state.books.evictable(&over.key, &busy);
                match state.books.choose(&over.key, &busy).filter(|_| enough) {
                    Some(id) => id,
                    None => return Grant::Full(over.name),
                }
            };
            // One after the other, looking again each time: how much a deleted file frees is the volume's affair.
            if !self.evict(&victim) {
                busy.insert(victim);
            }
        }
    }

    /// Reserves `bytes` only if nothing has to make way for them, nor for `margin` bytes more that are still to come.
    pub fn reserve_spare(&self, owner: &Attribution, bytes: u64, margin: u64) -> bool {
        let (free, limits) = (self.free(), self.limits());
        let mut state = self.state();
        let fits = state.books.over(&limits, free, owner, bytes.saturating_add(margin)).is_none();
        if fits {
            state.books.reserve(owner, bytes);
        }
        fits
    }

    /// Gives a reservation back.
    pub fn cancel(&self, owner: &Attribution, bytes: u64) {
        self.state().books.cancel(owner, bytes);
    }

    /// Turns a reservation into a stored core of `stored` bytes; where there are now more than `MaxCores=`, others make way.
    pub fn settle(&self, owner: Attribution, reserved: u64, id: CrashId, time_us: u64, stored: u64) {
        let cores = {
            let mut state = self.state();
            state.books.cancel(&owner, reserved);
            let pinned = keep::is_pinned(&self.dir, &id);
            state.books.enter(id.clone(), Entry { owner, time_us, bytes: stored, pinned });
            state.quotas.cores
        };
        let mut busy = HashSet::from([id]);
        while self.usage().1 as u64 > cores.max(1) {
            let Some(victim) = self.state().books.choose(&Key::All, &busy) else { return };
            if !self.evict(&victim) {
                busy.insert(victim);
            }
        }
    }

    /// Deletes one core, whatever the limits say: the catalog needs room. `false`: none may go.
    pub fn evict_one(&self) -> bool {
        let mut busy = HashSet::new();
        loop {
            let Some(victim) = self.state().books.choose(&Key::All, &busy) else { return false };
            if self.evict(&victim) {
                return true;
            }
            busy.insert(victim);
        }
    }

    /// Deletes the cores that are older than `MaxAge=` at `now_us`, but pinned ones and those that are read.
    pub fn expire(&self, now_us: u64) -> usize {
        let old = {
            let state = self.state();
            let age = u64::try_from(state.quotas.age.as_micros()).unwrap_or(u64::MAX);
            now_us.checked_sub(age).map(|before| state.books.older(before)).unwrap_or_default()
        };
        old.iter().filter(|id| self.evict(id)).count()
    }

    /// Strikes a core out that somebody else has deleted; `false`: it was not in the books.
    pub fn forget(&self, id: &CrashId) -> bool {
        self.state().books.remove(id).is_some()
    }

    /// Cores evicted since the daemon began.
    pub fn evictions(&self) -> u64 {
        self.state().evictions
    }

    /// The cores evicted since the last call, for the catalog.
    pub fn take_evicted(&self) -> Vec<CrashId> {
        std::mem::take(&mut self.state().evicted)
    }

    /// Deletes a core unless it is pinned or read.
    fn evict(&self, id: &CrashId) -> bool {
        let hold = keep::hold(&self.dir, id);
        let mut state = self.state();
        match hold {
            Hold::Pinned => {
                state.books.pin(id);
                return false;
            }
            Hold::Read => return false,
            Hold::Free(_) | Hold::Gone => {}
        }
        let Some(entry) = state.books.remove(id) else { return false };
        drop(state);
        // Deleting a large file takes its time: nobody waits for the books meanwhile.
        match unlinkat(&self.dir, &file_name(id), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {
                let mut state = self.state();
                state.evicted.push(id.clone());
                state.evictions += 1;
                true
            }
            Err(error) => {
                tracing::error!("core {id} can't be evicted: {error}");
                self.state().books.enter(id.clone(), entry);
                false
            }
        }
    }

    fn limits_of(&self, quotas: &Quotas) -> Limits {
        quotas.on(fstatvfs(&self.dir).map_or(0, |volume| volume.blocks() * volume.fragment_size()))
    }

    fn free(&self) -> u64 {
        let volume = fstatvfs(self.dir.as_fd());
        volume.map_or(0, |volume| volume.blocks_available() * volume.fragment_size())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the books is whole before anything in it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attribution {
    /// Who a crash is accounted to.
    pub fn of(record: &Record) -> Self {
        Self {
            principal: record.principal(),
            uid: record.uid,
            program: record.program(),
            signature: record.signature_key(),
        }
    }
}

#[cfg(test)]
mod tests;
