//! Disk usage by principal, user, program and signature, and the limits on it.

use crate::crash::{CrashId, Party, Principal, PrincipalClass, SignatureKey};
use crate::policy::evict::{self, Attribution, Beneficiary, BugKey, Candidate};
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
    /// A limit on programs or signatures that units share is not one that users can fill for them.
    Program(Party, String),
    Signature(Party, SignatureKey),
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

/// What the stored cores of a class of principals take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassUsage {
    /// Bytes of the files.
    pub bytes: u64,
    /// The number of files.
    pub cores: u64,
}

/// All stored cores, and the bytes stored and reserved in each scope.
#[derive(Debug, Default)]
pub(super) struct UsageTable {
    cores: HashMap<CrashId, UsageEntry>,
    used: HashMap<LimitScope, u64>,
    cores_by_bug: HashMap<BugKey, usize>,
    by_class: HashMap<PrincipalClass, ClassUsage>,
    /// Bytes of the catalog, which count towards `MaxUse=` as well.
    catalog: u64,
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

    /// The stored cores, and who each is charged to.
    pub(super) fn holders(&self) -> Vec<(CrashId, Principal)> {
        self.cores.iter().map(|(id, entry)| (id.clone(), entry.attribution.principal.clone())).collect()
    }

    pub(super) fn has_bug(&self, bug: &BugKey) -> bool {
        self.cores_by_bug.contains_key(bug)
    }

    /// What is stored of a class, without what is reserved.
    pub(super) fn class(&self, class: PrincipalClass) -> ClassUsage {
        self.by_class.get(&class).copied().unwrap_or_default()
    }

    pub(super) fn set_catalog(&mut self, bytes: u64) {
        self.catalog = bytes;
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
            let usage = VolumeUsage { used: self.used(&LimitScope::All).saturating_add(self.catalog), free };
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
        *self.cores_by_bug.entry(entry.attribution.bug()).or_default() += 1;
        let class = self.by_class.entry(class_of(&entry.attribution)).or_default();
        class.bytes = class.bytes.saturating_add(entry.bytes);
        class.cores += 1;
        self.cores.insert(id, entry);
    }

    pub(super) fn remove(&mut self, id: &CrashId) -> Option<UsageEntry> {
        let entry = self.cores.remove(id)?;
        self.release(&entry.attribution, entry.bytes);
        if let Some(class) = self.by_class.get_mut(&class_of(&entry.attribution)) {
            class.bytes = class.bytes.saturating_sub(entry.bytes);
            class.cores = class.cores.saturating_sub(1);
        }
        let bug = entry.attribution.bug();
        if let Some(count) = self.cores_by_bug.get_mut(&bug) {
            *count -= 1;
            if *count == 0 {
                self.cores_by_bug.remove(&bug);
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

    /// The core to evict first so that `bytes` more of `attribution` fit into a scope, not considering cores that are `busy`.
    /// `None` if all that may be evicted for it would not free `missing` bytes.
    pub(super) fn choose_victim_for(
        &self,
        attribution: &Attribution,
        bytes: u64,
        Exceeded { scope, missing, .. }: &Exceeded,
        busy: &HashSet<CrashId>,
    ) -> Option<CrashId> {
        let of_principal = self.used(&LimitScope::Principal(attribution.principal.clone()));
        let beneficiary = Beneficiary { attribution, cost: bytes, used: of_principal };
        let order = evict::eviction_order(&self.candidates(scope, busy, false), Some(beneficiary));
        let evictable: u64 = order.iter().filter_map(|id| self.cores.get(*id)).map(|entry| entry.bytes).sum();
        order.first().filter(|_| *missing <= evictable).map(|id| (*id).clone())
    }

    /// The core to evict first because there are too many since `attribution`'s was stored.
    pub(super) fn choose_surplus(&self, attribution: &Attribution, busy: &HashSet<CrashId>) -> Option<CrashId> {
        let is_own = |entry: &&UsageEntry| entry.attribution.principal == attribution.principal;
        let used = self.cores.values().filter(is_own).count() as u64;
        let candidates = self.candidates(&LimitScope::All, busy, true);
        let beneficiary = Beneficiary { attribution, cost: 0, used };
        let order = evict::eviction_order(&candidates, Some(beneficiary));
        order.first().map(|id| (*id).clone())
    }

    /// The core to evict first for nobody's sake but the volume's.
    pub(super) fn choose_any(&self, busy: &HashSet<CrashId>) -> Option<CrashId> {
        evict::eviction_order(&self.candidates(&LimitScope::All, busy, false), None).first().map(|id| (*id).clone())
    }

    /// All cores, each with its bytes as its cost, or one if cores are `counted`.
    fn candidates(&self, scope: &LimitScope, busy: &HashSet<CrashId>, counted: bool) -> Vec<Candidate<'_, CrashId>> {
        self.cores
            .iter()
            .map(|(id, entry)| Candidate {
                id,
                attribution: &entry.attribution,
                time_us: entry.time_us,
                cost: if counted { 1 } else { entry.bytes },
                evictable: is_evictable(id, entry, scope, busy),
            })
            .collect()
    }
}

fn class_of(attribution: &Attribution) -> PrincipalClass {
    PrincipalClass::of(&attribution.principal, &attribution.party)
}

fn is_evictable(id: &CrashId, entry: &UsageEntry, scope: &LimitScope, busy: &HashSet<CrashId>) -> bool {
    !entry.pinned && !busy.contains(id) && is_in_scope(&entry.attribution, scope)
}

fn is_in_scope(attribution: &Attribution, scope: &LimitScope) -> bool {
    match scope {
        LimitScope::All => true,
        LimitScope::Principal(principal) => attribution.principal == *principal,
        LimitScope::User(uid) => attribution.party.user() == Some(*uid),
        LimitScope::Program(party, program) => attribution.party == *party && attribution.program == *program,
        LimitScope::Signature(party, signature) => attribution.party == *party && attribution.signature == *signature,
    }
}

/// The scopes that a core counts in, the narrowest first. Root has no limit of its own: it runs many of a server's units, and
/// those have theirs.
fn scopes(attribution: &Attribution) -> Vec<LimitScope> {
    let mut scopes = vec![
        LimitScope::Signature(attribution.party.clone(), attribution.signature.clone()),
        LimitScope::Program(attribution.party.clone(), attribution.program.clone()),
        LimitScope::Principal(attribution.principal.clone()),
        LimitScope::All,
    ];
    scopes.extend(attribution.party.user().filter(|uid| !uid.is_root()).map(LimitScope::User));
    scopes
}

/// The limit on a scope in bytes, and its name in the configuration.
fn limit_on(limits: &QuotaLimits, scope: &LimitScope) -> (u64, &'static str) {
    match scope {
        LimitScope::All => (limits.max_use, "MaxUse="),
        LimitScope::Principal(_) => (limits.per_unit, "MaxUsePerUnit="),
        LimitScope::User(_) => (limits.per_user, "MaxUsePerUser="),
        LimitScope::Program(..) => (limits.per_executable, "MaxUsePerExecutable="),
        LimitScope::Signature(..) => (limits.per_signature, "MaxUsePerSignature="),
    }
}
