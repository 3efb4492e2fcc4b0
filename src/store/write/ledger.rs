//! The disk space of all cores: reserved before it is written, committed once a core is stored, freed by eviction.

use super::usage_table::{ClassUsage, LimitScope, UsageEntry, UsageTable};
use crate::crash::{CrashId, Principal, PrincipalClass};
use crate::policy::evict::{Attribution, BugKey};
use crate::policy::quota::{QuotaLimits, Quotas};
use crate::store::core_dir::delete_core;
use crate::store::memory::memory_of_this_process;
use crate::store::pin::{self, Evictable};
use crate::store::volume::Volume;
use coreward_sys::file_system::Space;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The accounts of one directory of core files, shared by all captures.
#[derive(Debug)]
pub struct Ledger {
    dir: OwnedFd,
    volume: Volume,
    state: Mutex<LedgerState>,
}

#[derive(Debug, Default)]
struct LedgerState {
    usage: UsageTable,
    quotas: Quotas,
    /// Evicted cores that the catalog has not heard of yet.
    evicted: Vec<CrashId>,
    evictions: u64,
}

/// The answer to a request for disk space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The bytes are reserved.
    Granted,
    /// Refused: this limit is reached, and evicting all that it allows would not make enough room.
    Full(&'static str),
}

impl Ledger {
    /// An empty ledger for the core files in `dir`.
    #[must_use]
    pub fn new(dir: OwnedFd) -> Self {
        let volume = Volume::probe(dir.as_fd(), memory_of_this_process());
        Self { dir, volume, state: Mutex::default() }
    }

    /// The file system of that directory.
    #[must_use]
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The directory of the core files.
    pub fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    /// Replaces the configured limits.
    pub fn set_limits(&self, quotas: Quotas) {
        self.state().quotas = quotas;
    }

    /// The limits in force on this volume.
    pub fn limits(&self) -> QuotaLimits {
        let quotas = self.state().quotas;
        self.volume.limits(&quotas, Space::of(self.dir.as_fd()).map_or(0, |space| space.size))
    }

    /// Stored and reserved bytes, and the number of stored cores.
    pub fn usage(&self) -> (u64, usize) {
        let state = self.state();
        (state.usage.used(&LimitScope::All), state.usage.len())
    }

    /// The stored cores, and who each is charged to.
    pub(super) fn holders(&self) -> Vec<(CrashId, Principal)> {
        self.state().usage.holders()
    }

    /// What is stored of each class of principals, without what is reserved.
    pub fn usage_by_class(&self) -> [(PrincipalClass, ClassUsage); PrincipalClass::ALL.len()] {
        let state = self.state();
        PrincipalClass::ALL.map(|class| (class, state.usage.class(class)))
    }

    /// Whether a core of this bug is stored.
    pub fn has_bug(&self, bug: &BugKey) -> bool {
        self.state().usage.has_bug(bug)
    }

    /// Sets what the catalog takes of `MaxUse=`.
    pub(super) fn set_catalog(&self, bytes: u64) {
        self.state().usage.set_catalog(bytes);
    }

    /// Reserves `bytes` for a core. If that would exceed a limit, cores that count towards the limit are evicted, unless even
    /// evicting all of them would not make enough room.
    pub fn reserve(&self, attribution: &Attribution, bytes: u64) -> Grant {
        let mut busy = HashSet::new();
        loop {
            let (free, limits) = (self.free_bytes(), self.limits());
            let victim = {
                let mut state = self.state();
                let Some(exceeded) = state.usage.exceeded_limit(&limits, free, attribution, bytes) else {
                    state.usage.reserve(attribution, bytes);
                    return Grant::Granted;
                };
                match state.usage.choose_victim_for(attribution, bytes, &exceeded, &busy) {
                    Some(id) => id,
                    None => return Grant::Full(exceeded.name),
                }
            };
            // One at a time: only the volume knows how much space deleting a file frees.
            if !self.evict(&victim) {
                busy.insert(victim);
            }
        }
    }

    /// Reserves `bytes` if they fit, together with `margin` bytes that will be needed later, without any eviction.
    pub fn reserve_spare(&self, attribution: &Attribution, bytes: u64, margin: u64) -> bool {
        let (free, limits) = (self.free_bytes(), self.limits());
        let mut state = self.state();
        let wanted = bytes.saturating_add(margin);
        let fits = state.usage.exceeded_limit(&limits, free, attribution, wanted).is_none();
        if fits {
            state.usage.reserve(attribution, bytes);
        }
        fits
    }

    /// Returns `bytes` of a reservation.
    pub fn cancel(&self, attribution: &Attribution, bytes: u64) {
        self.state().usage.release(attribution, bytes);
    }

    /// Replaces a reservation of `reserved` bytes with a stored core of `stored` bytes that crashed at `time_us`
    /// (microseconds since 1970). If there are more than `MaxCores=` now, others are evicted.
    pub fn commit(&self, attribution: Attribution, reserved: u64, id: CrashId, time_us: u64, stored: u64) {
        let charged = attribution.clone();
        let max_cores = {
            let mut state = self.state();
            state.usage.release(&attribution, reserved);
            let pinned = pin::is_pinned(&self.dir, &id);
            state.usage.insert(id.clone(), UsageEntry { attribution, time_us, bytes: stored, pinned });
            usize::try_from(state.quotas.cores).unwrap_or(usize::MAX).max(1)
        };
        let mut busy = HashSet::from([id]);
        while self.usage().1 > max_cores {
            let victim = {
                let state = self.state();
                // Where nobody has more than this one, the number is a limit all the same.
                state.usage.choose_surplus(&charged, &busy).or_else(|| state.usage.choose_any(&busy))
            };
            let Some(victim) = victim else { return };
            if !self.evict(&victim) {
                busy.insert(victim);
            }
        }
    }

    /// Evicts one core regardless of the limits, to make room for the catalog. `false` if none can be evicted.
    pub fn evict_one(&self) -> bool {
        let mut busy = HashSet::new();
        loop {
            let Some(victim) = self.state().usage.choose_any(&busy) else { return false };
            if self.evict(&victim) {
                return true;
            }
            busy.insert(victim);
        }
    }

    /// Evicts the cores that are older than `MaxAge=` at `now_us` (microseconds since 1970), except pinned ones and those
    /// being read. Returns how many.
    pub fn evict_expired(&self, now_us: u64) -> usize {
        let expired = {
            let state = self.state();
            let age_us = u64::try_from(state.quotas.age.as_micros()).unwrap_or(u64::MAX);
            now_us.checked_sub(age_us).map(|before_us| state.usage.older_than(before_us)).unwrap_or_default()
        };
        expired.iter().filter(|id| self.evict(id)).count()
    }

    /// Removes a core that somebody else deleted; `false` if it was not in the ledger.
    pub fn forget(&self, id: &CrashId) -> bool {
        self.state().usage.remove(id).is_some()
    }

    /// The number of evictions since the daemon started.
    pub fn evictions(&self) -> u64 {
        self.state().evictions
    }

    /// Removes and returns the list of cores evicted since the last call.
    pub(super) fn drain_evicted(&self) -> Vec<CrashId> {
        std::mem::take(&mut self.state().evicted)
    }

    /// Deletes a core unless it is pinned or being read; `false` if it stays.
    fn evict(&self, id: &CrashId) -> bool {
        let _lock = match pin::lock_for_eviction(&self.dir, id) {
            Evictable::Pinned => {
                self.state().usage.mark_pinned(id);
                return false;
            }
            Evictable::BeingRead => return false,
            held @ (Evictable::Yes(_) | Evictable::Unlocked | Evictable::Gone) => held,
        };
        let Some(entry) = self.state().usage.remove(id) else { return false };
        // Deleting a large file takes time; the ledger is not locked meanwhile.
        match delete_core(&self.dir, id) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::error!("core {id} cannot be evicted: {error}");
                self.state().usage.insert(id.clone(), entry);
                false
            }
            _ => {
                let mut state = self.state();
                state.evicted.push(id.clone());
                state.evictions += 1;
                true
            }
        }
    }

    /// Bytes on the volume that are free for this user.
    fn free_bytes(&self) -> u64 {
        Space::of(self.dir.as_fd()).map_or(0, |space| space.free)
    }

    fn state(&self) -> MutexGuard<'_, LedgerState> {
        // A panic cannot leave an update of the table half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
