//! The accounts themselves: which core takes how much, and whom it is accounted to.

use crate::crash::{CrashId, Principal, SignatureKey};
use crate::policy::evict::{self, Attribution, Candidate};
use crate::policy::quota::{self, Limits, Room, Usage};
use std::collections::{HashMap, HashSet};

/// A stored core.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) owner: Attribution,
    pub(super) time_us: u64,
    pub(super) bytes: u64,
    pub(super) pinned: bool,
}

/// What a limit is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    All,
    Principal(Principal),
    User(u32),
    Program(String),
    Signature(SignatureKey),
}

/// A limit that a write would break.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exceeded {
    pub(super) key: Key,
    /// Bytes that must go first.
    pub(super) missing: u64,
    /// The limit's name.
    pub(super) name: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct UsageTable {
    cores: HashMap<CrashId, Entry>,
    /// Stored and reserved bytes.
    used: HashMap<Key, u64>,
    /// Cores of each signature.
    signatures: HashMap<SignatureKey, usize>,
}

impl UsageTable {
    pub(super) fn len(&self) -> usize {
        self.cores.len()
    }

    pub(super) fn used(&self, key: &Key) -> u64 {
        self.used.get(key).copied().unwrap_or(0)
    }

    pub(super) fn has_signature(&self, signature: &SignatureKey) -> bool {
        self.signatures.contains_key(signature)
    }

    /// The limit that `want` more bytes of `owner` would break, the narrowest first.
    pub(super) fn over(&self, limits: &Limits, free: u64, owner: &Attribution, want: u64) -> Option<Exceeded> {
        let narrow = keys(owner).into_iter().filter(|key| *key != Key::All).find_map(|key| {
            let (limit, name) = limit(limits, &key);
            let missing = self.used(&key).saturating_add(want).saturating_sub(limit);
            (missing > 0).then_some(Exceeded { key, missing, name })
        });
        narrow.or_else(|| {
            let usage = Usage { used: self.used(&Key::All), free };
            match quota::room(*limits, usage, want) {
                Room::Fits => None,
                Room::AfterEvicting(missing) => {
                    let within = usage.used.saturating_add(want) <= limits.max_use;
                    Some(Exceeded { key: Key::All, missing, name: if within { "KeepFree=" } else { "MaxUse=" } })
                }
            }
        })
    }

    pub(super) fn reserve(&mut self, owner: &Attribution, bytes: u64) {
        for key in keys(owner) {
            *self.used.entry(key).or_default() += bytes;
        }
    }

    pub(super) fn cancel(&mut self, owner: &Attribution, bytes: u64) {
        for key in keys(owner) {
            if let Some(used) = self.used.get_mut(&key) {
                *used = used.saturating_sub(bytes);
                if *used == 0 {
                    self.used.remove(&key);
                }
            }
        }
    }

    /// Enters a core; the same one may be entered again, when the catalog is opened again.
    pub(super) fn enter(&mut self, id: CrashId, entry: Entry) {
        self.remove(&id);
        self.reserve(&entry.owner, entry.bytes);
        *self.signatures.entry(entry.owner.signature.clone()).or_default() += 1;
        self.cores.insert(id, entry);
    }

    pub(super) fn remove(&mut self, id: &CrashId) -> Option<Entry> {
        let entry = self.cores.remove(id)?;
        self.cancel(&entry.owner, entry.bytes);
        if let Some(count) = self.signatures.get_mut(&entry.owner.signature) {
            *count -= 1;
            if *count == 0 {
                self.signatures.remove(&entry.owner.signature);
            }
        }
        Some(entry)
    }

    pub(super) fn pin(&mut self, id: &CrashId) {
        if let Some(entry) = self.cores.get_mut(id) {
            entry.pinned = true;
        }
    }

    pub(super) fn older(&self, before_us: u64) -> Vec<CrashId> {
        self.cores.iter().filter(|(_, entry)| entry.time_us < before_us).map(|(id, _)| id.clone()).collect()
    }

    /// Bytes that can make way for what the limit is about.
    pub(super) fn evictable(&self, key: &Key, busy: &HashSet<CrashId>) -> u64 {
        let may_go = self.cores.iter().filter(|(id, entry)| may_go(id, entry, key, busy));
        may_go.map(|(_, entry)| entry.bytes).sum()
    }

    /// The next that makes way for what the limit is about.
    pub(super) fn choose(&self, key: &Key, busy: &HashSet<CrashId>) -> Option<CrashId> {
        let candidates: Vec<Candidate<'_, CrashId>> = self
            .cores
            .iter()
            .map(|(id, entry)| Candidate {
                id,
                owner: &entry.owner,
                time_us: entry.time_us,
                bytes: entry.bytes,
                may_go: may_go(id, entry, key, busy),
            })
            .collect();
        evict::choose(&candidates).cloned()
    }
}

fn may_go(id: &CrashId, entry: &Entry, key: &Key, busy: &HashSet<CrashId>) -> bool {
    !entry.pinned && !busy.contains(id) && is_of(&entry.owner, key)
}

fn is_of(owner: &Attribution, key: &Key) -> bool {
    match key {
        Key::All => true,
        Key::Principal(principal) => owner.principal == *principal,
        Key::User(uid) => owner.uid == Some(*uid),
        Key::Program(program) => owner.program == *program,
        Key::Signature(signature) => owner.signature == *signature,
    }
}

/// What a core of `owner` counts towards. Root runs half of a server's units, which have limits of their own.
fn keys(owner: &Attribution) -> Vec<Key> {
    let mut keys = vec![
        Key::Signature(owner.signature.clone()),
        Key::Program(owner.program.clone()),
        Key::Principal(owner.principal.clone()),
        Key::All,
    ];
    keys.extend(owner.uid.filter(|uid| *uid != 0).map(Key::User));
    keys
}

fn limit(limits: &Limits, key: &Key) -> (u64, &'static str) {
    match key {
        Key::All => (limits.max_use, "MaxUse="),
        Key::Principal(_) => (limits.per_unit, "MaxUsePerUnit="),
        Key::User(_) => (limits.per_user, "MaxUsePerUser="),
        Key::Program(_) => (limits.per_executable, "MaxUsePerExecutable="),
        Key::Signature(_) => (limits.per_signature, "MaxUsePerSignature="),
    }
}
