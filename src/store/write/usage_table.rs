//! Disk usage by principal, user, program and signature, and the limits on it.

use crate::crash::{CrashId, Principal, SignatureKey};
use crate::policy::evict::{self, Attribution, Candidate};
use crate::policy::quota::{self, QuotaLimits, Room, VolumeUsage};
use nix::unistd::Uid;
use std::collections::{HashMap, HashSet};

/// A stored core.
#[derive(Clone, Debug)]
pub(super) struct UsageEntry {
    pub(super) attribution: Attribution,
    /// When it crashed, microseconds since 1970.
    pub(super) time_us: u64,
    /// Bytes of the file.
    pub(super) bytes: u64,
    pub(super) pinned: bool,
}

/// The cores that share a limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum LimitScope {
    All,
    Principal(Principal),
    User(Uid),
    Program(String),
    Signature(SignatureKey),
}

/// A limit that a write would exceed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exceeded {
    pub(super) scope: LimitScope,
    /// Bytes to evict before the write fits.
    pub(super) missing: u64,
    /// The limit's name in the configuration.
    pub(super) name: &'static str,
}

/// All stored cores, and the bytes stored and reserved in each scope.
#[derive(Debug, Default)]
pub(super) struct UsageTable {
    cores: HashMap<CrashId, UsageEntry>,
    used: HashMap<LimitScope, u64>,
    cores_by_signature: HashMap<SignatureKey, usize>,
}

impl UsageTable {
    /// The number of stored cores.
    pub(super) fn len(&self) -> usize {
        self.cores.len()
    }

    /// Stored and reserved bytes in a scope.
    pub(super) fn used(&self, scope: &LimitScope) -> u64 {
        self.used.get(scope).copied().unwrap_or(0)
    }

    pub(super) fn has_signature(&self, signature: &SignatureKey) -> bool {
        self.cores_by_signature.contains_key(signature)
    }

    /// The limit that `wanted` more bytes would exceed, the narrowest scope first. `free` is the free space on the volume.
    pub(super) fn exceeded_limit(
        &self,
        limits: &QuotaLimits,
        free: u64,
        attribution: &Attribution,
        wanted: u64,
    ) -> Option<Exceeded> {
        let narrow = scopes(attribution).into_iter().filter(|scope| *scope != LimitScope::All).find_map(|scope| {
            let (limit, name) = limit_on(limits, &scope);
            let missing = self.used(&scope).saturating_add(wanted).saturating_sub(limit);
            (missing > 0).then_some(Exceeded { scope, missing, name })
        });
        narrow.or_else(|| {
            let usage = VolumeUsage { used: self.used(&LimitScope::All), free };
            match quota::room_for(*limits, usage, wanted) {
                Room::Fits => None,
                Room::AfterEvicting(missing) => {
                    let within_max_use = usage.used.saturating_add(wanted) <= limits.max_use;
                    let name = if within_max_use { "KeepFree=" } else { "MaxUse=" };
                    Some(Exceeded { scope: LimitScope::All, missing, name })
                }
            }
        })
    }

    pub(super) fn reserve(&mut self, attribution: &Attribution, bytes: u64) {
        for scope in scopes(attribution) {
            *self.used.entry(scope).or_default() += bytes;
        }
    }

    pub(super) fn release(&mut self, attribution: &Attribution, bytes: u64) {
        for scope in scopes(attribution) {
            if let Some(used) = self.used.get_mut(&scope) {
                *used = used.saturating_sub(bytes);
                if *used == 0 {
                    self.used.remove(&scope);
                }
            }
        }
    }

    /// Adds a core, or replaces its entry: reopening the catalog adds all cores again.
    pub(super) fn insert(&mut self, id: CrashId, entry: UsageEntry) {
        self.remove(&id);
        self.reserve(&entry.attribution, entry.bytes);
        *self.cores_by_signature.entry(entry.attribution.signature.clone()).or_default() += 1;
        self.cores.insert(id, entry);
    }

    pub(super) fn remove(&mut self, id: &CrashId) -> Option<UsageEntry> {
        let entry = self.cores.remove(id)?;
        self.release(&entry.attribution, entry.bytes);
        if let Some(count) = self.cores_by_signature.get_mut(&entry.attribution.signature) {
            *count -= 1;
            if *count == 0 {
                self.cores_by_signature.remove(&entry.attribution.signature);
            }
        }
        Some(entry)
    }

    pub(super) fn mark_pinned(&mut self, id: &CrashId) {
        if let Some(entry) = self.cores.get_mut(id) {
            entry.pinned = true;
        }
    }

    /// The cores of crashes before `before_us`.
    pub(super) fn older_than(&self, before_us: u64) -> Vec<CrashId> {
        self.cores.iter().filter(|(_, entry)| entry.time_us < before_us).map(|(id, _)| id.clone()).collect()
    }

    /// Bytes in a scope that can be evicted, not counting cores that are `busy`.
    pub(super) fn evictable_bytes(&self, scope: &LimitScope, busy: &HashSet<CrashId>) -> u64 {
        let evictable = self.cores.iter().filter(|(id, entry)| is_evictable(id, entry, scope, busy));
        evictable.map(|(_, entry)| entry.bytes).sum()
    }

    /// The core in a scope to evict first, not considering cores that are `busy`.
    pub(super) fn choose_victim(&self, scope: &LimitScope, busy: &HashSet<CrashId>) -> Option<CrashId> {
        let candidates: Vec<Candidate<'_, CrashId>> = self
            .cores
            .iter()
            .map(|(id, entry)| Candidate {
                id,
                attribution: &entry.attribution,
                time_us: entry.time_us,
                bytes: entry.bytes,
                evictable: is_evictable(id, entry, scope, busy),
            })
            .collect();
        evict::choose_victim(&candidates).cloned()
    }
}

fn is_evictable(id: &CrashId, entry: &UsageEntry, scope: &LimitScope, busy: &HashSet<CrashId>) -> bool {
    !entry.pinned && !busy.contains(id) && is_in_scope(&entry.attribution, scope)
}

fn is_in_scope(attribution: &Attribution, scope: &LimitScope) -> bool {
    match scope {
        LimitScope::All => true,
        LimitScope::Principal(principal) => attribution.principal == *principal,
        LimitScope::User(uid) => attribution.uid == Some(*uid),
        LimitScope::Program(program) => attribution.program == *program,
        LimitScope::Signature(signature) => attribution.signature == *signature,
    }
}

/// The scopes that a core counts in, the narrowest first. Root has no limit of its own: it runs many of a server's units, and
/// those have theirs.
fn scopes(attribution: &Attribution) -> Vec<LimitScope> {
    let mut scopes = vec![
        LimitScope::Signature(attribution.signature.clone()),
        LimitScope::Program(attribution.program.clone()),
        LimitScope::Principal(attribution.principal.clone()),
        LimitScope::All,
    ];
    scopes.extend(attribution.uid.filter(|uid| !uid.is_root()).map(LimitScope::User));
    scopes
}

/// The limit on a scope in bytes, and its name in the configuration.
fn limit_on(limits: &QuotaLimits, scope: &LimitScope) -> (u64, &'static str) {
    match scope {
        LimitScope::All => (limits.max_use, "MaxUse="),
        LimitScope::Principal(_) => (limits.per_unit, "MaxUsePerUnit="),
        LimitScope::User(_) => (limits.per_user, "MaxUsePerUser="),
        LimitScope::Program(_) => (limits.per_executable, "MaxUsePerExecutable="),
        LimitScope::Signature(_) => (limits.per_signature, "MaxUsePerSignature="),
    }
}
