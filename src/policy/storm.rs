//! How much of a crash to keep. In each window of time the first crashes of a signature are kept whole, the next ones as stacks
//! and the rest as records; each party has windows of its own, so that nobody's duplicates hide
//! a crash of somebody else. Rate limits per unit, per user and in total bound the number of cores.

use super::evict::BugKey;
use super::rate::{Bucket, Buckets, Rate};
use crate::crash::{Decision, Keep, Principal, Reason, Signature};
use nix::unistd::Uid;
use std::collections::HashMap;
use std::time::Duration;

/// `StormBurst=`, `StormStacks=` and `StormIntervalSec=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StormRule {
    /// Whole cores of one signature kept in a window; 0 means no limit.
    pub burst: u32,
    /// Stacks-only cores kept after those.
    pub stacks: u32,
    /// Length of a window.
    pub interval: Duration,
}

/// The rules that apply to a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StormRules {
    /// For one signature.
    pub storm: StormRule,
    /// `UnitBurst=` and `UnitIntervalSec=`.
    pub unit: Rate,
    /// `UserBurst=` and `UserIntervalSec=`.
    pub user: Rate,
    /// `TotalBurst=` and `TotalIntervalSec=`.
    pub total: Rate,
}

/// A crash to decide on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StormEvent {
    /// The signature, and whose crashes of it are duplicates of this one.
    pub bug: BugKey,
    /// Whose rate it counts towards.
    pub principal: Principal,
    /// Whether its party has no core of this signature.
    pub first: bool,
    /// What the signature does not tell apart ([`Signature::variant`]).
    pub variant: Option<String>,
}

/// The cores of one bug kept since the window began.
#[derive(Clone, Debug, Default)]
struct Window {
    began: Duration,
    whole: u32,
    stacks: u32,
    /// Those of the whole cores that were kept for their variant.
    variants: u32,
    /// Variants of the whole cores, without the unknown one: at most [`MAX_SEEN`].
    seen: Vec<String>,
}

impl Window {
    /// Which one is forgotten first: without it, one that has cores would open again.
    fn rank(&self) -> (bool, Duration) {
        (self.whole + self.stacks > 0, self.began)
    }

    /// Whether a core of this variant is kept though those of the signature are used up.
    fn wants(&self, variant: &str) -> bool {
        self.variants < MAX_VARIANTS && !self.has_seen(variant)
    }

    /// Whether a whole core of this variant was kept. Nobody knows that of an unknown one.
    fn has_seen(&self, variant: &str) -> bool {
        self.seen.iter().any(|seen| seen == variant)
    }

    /// Counts a whole core.
    fn add_whole(&mut self, reason: Reason, variant: Option<&String>) {
        self.whole += 1;
        self.variants += u32::from(reason == Reason::Variant);
        let is_known = |variant: &&String| *variant != Signature::UNKNOWN_VARIANT;
        if let Some(variant) = variant.filter(is_known)
            && !self.has_seen(variant)
            && self.seen.len() < MAX_SEEN
        {
            self.seen.push(variant.clone());
        }
    }
}

/// What each unit and each user has left, and all of them.
#[derive(Debug, Default)]
struct RateBuckets {
    units: Buckets<Principal>,
    users: Buckets<Uid>,
    total: Bucket,
}

/// Recent decisions.
#[derive(Debug, Default)]
pub struct StormPolicy {
    windows: HashMap<BugKey, Window>,
    cores: RateBuckets,
    /// For records with the stacks of crashes whose cores a rate limit refused.
    stacks: RateBuckets,
}

/// How many times as many stacks as cores are kept of new signatures: a stack takes some kilobytes and a few milliseconds.
const STACKS_PER_CORE: u32 = 8;
/// As many where there is no limit on cores, in this time at least.
const UNLIMITED_STACKS: u32 = 240;
const LEAST_INTERVAL: Duration = Duration::from_secs(60);
/// The most windows that are remembered. Only a crash whose core or stack is kept opens one, and `TotalBurst=` limits those, so a flood
/// of signatures hardly pushes a window out.
const MAX_WINDOWS: usize = 8192;
/// The most whole cores of a signature that a window keeps for their variants, beyond `StormBurst=`. More would be a storm again: code without
/// a file may differ in each run.
const MAX_VARIANTS: u32 = 4;
/// The most variants of a signature that a window remembers.
const MAX_SEEN: usize = 16;
/// A quarter of the total bucket, in parts of 256, is reserved for signatures without a core, so that a storm does not hide
/// another bug.
const RESERVE: u32 = 64;

impl StormPolicy {
    /// Decides on a crash at `now`, a time of a monotonic clock.
    pub fn decide(&mut self, rules: &StormRules, event: &StormEvent, now: Duration) -> Decision {
        let (keep, reason) = self.decide_by_signature(rules.storm, event, now);
        if keep == Keep::Record {
            return Decision { keep, reason };
        }
        if let Err(reason) = self.cores.take(rules, event, now) {
            return Decision { keep: Keep::Record, reason };
        }
        self.count_kept(rules.storm, event, Decision { keep, reason }, now);
        Decision { keep, reason }
    }

    /// Whether the record of a crash keeps its stack though a rate limit refused its core: the first of a signature of which nothing is known yet.
    pub fn tells_stack(&mut self, rules: &StormRules, event: &StormEvent, now: Duration) -> bool {
        let is_open = |window: &Window| now.saturating_sub(window.began) < rules.storm.interval;
        if !event.first || self.windows.get(&event.bug).is_some_and(is_open) {
            return false;
        }
        // Another limit than that which refused the core may be off.
        let stacks = |rate: Rate| match rate.burst {
            0 => Rate { burst: UNLIMITED_STACKS, interval: rate.interval.max(LEAST_INTERVAL) },
            burst => Rate { burst: burst.saturating_mul(STACKS_PER_CORE), ..rate },
        };
        let [unit, user, total] = [rules.unit, rules.user, rules.total].map(stacks);
        if self.stacks.take(&StormRules { unit, user, total, ..*rules }, event, now).is_err() {
            return false;
        }
        self.evict_window(&is_open);
        self.windows.insert(event.bug.clone(), Window { began: now, ..Window::default() });
        true
    }

    fn decide_by_signature(&self, rule: StormRule, event: &StormEvent, now: Duration) -> (Keep, Reason) {
        let whole = if event.first { Reason::First } else { Reason::Burst };
        if rule.burst == 0 {
            return (Keep::Full, if event.first { Reason::First } else { Reason::Unlimited });
        }
        match self.windows.get(&event.bug).filter(|window| now.saturating_sub(window.began) < rule.interval) {
            None if event.first => (Keep::Full, Reason::First),
            None => (Keep::Full, Reason::NewWindow),
            Some(window) if window.whole < rule.burst => (Keep::Full, whole),
            Some(window) if event.variant.as_ref().is_some_and(|variant| window.wants(variant)) => {
                (Keep::Full, Reason::Variant)
            }
            Some(window) if window.stacks < rule.stacks => (Keep::Stacks, Reason::StacksBurst),
            Some(_) => (Keep::Record, Reason::Storm),
        }
    }

    fn count_kept(&mut self, rule: StormRule, event: &StormEvent, decision: Decision, now: Duration) {
        if rule.burst == 0 {
            return;
        }
        let is_open = |window: &Window| now.saturating_sub(window.began) < rule.interval;
        if !self.windows.contains_key(&event.bug) {
            self.evict_window(&is_open);
        }
        let window = self.windows.entry(event.bug.clone()).or_insert(Window { began: now, ..Window::default() });
        if !is_open(window) {
            *window = Window { began: now, ..Window::default() };
        }
        match decision.keep {
            Keep::Full => window.add_whole(decision.reason, event.variant.as_ref()),
            Keep::Stacks => window.stacks += 1,
            Keep::Record => {}
        }
    }

    fn evict_window(&mut self, is_open: &dyn Fn(&Window) -> bool) {
        if self.windows.len() >= MAX_WINDOWS {
            self.windows.retain(|_, window| is_open(window));
        }
        if self.windows.len() >= MAX_WINDOWS
            && let Some(oldest) =
                self.windows.iter().min_by_key(|(_, window)| window.rank()).map(|(bug, _)| bug.clone())
        {
            self.windows.remove(&oldest);
        }
    }
}

impl RateBuckets {
    /// Takes a token for a crash.
    ///
    /// # Errors
    /// The limit that refuses it.
    fn take(&mut self, rules: &StormRules, event: &StormEvent, now: Duration) -> Result<(), Reason> {
        if let Some(reason) = self.exceeded(rules, event, now) {
            return Err(reason);
        }
        self.units.bucket(&event.principal, now).take_token(rules.unit, now);
        if let Some(uid) = rate_limited_uid(event) {
            self.users.bucket(&uid, now).take_token(rules.user, now);
        }
        self.total.take_token(rules.total, now);
        Ok(())
    }

    /// The limit that refuses the crash a token, if any.
    fn exceeded(&mut self, rules: &StormRules, event: &StormEvent, now: Duration) -> Option<Reason> {
        if !self.units.bucket(&event.principal, now).has_token(rules.unit, now, 0) {
            return Some(Reason::UnitRate);
        }
        if rate_limited_uid(event).is_some_and(|uid| !self.users.bucket(&uid, now).has_token(rules.user, now, 0)) {
            return Some(Reason::UserRate);
        }
        // The reserve is not for a unit that has used up half of its own bucket, as one that keeps producing new signatures
        // soon has.
        let quiet = event.first && self.units.bucket(&event.principal, now).has_token(rules.unit, now, 128);
        let reserve = if quiet { 0 } else { RESERVE };
        (!self.total.has_token(rules.total, now, reserve)).then_some(Reason::TotalRate)
    }
}

/// The user whose rate limit applies. Root has none: it runs many of a server's units, and one of them would starve the others.
fn rate_limited_uid(event: &StormEvent) -> Option<Uid> {
    event.bug.party.user().filter(|uid| !uid.is_root())
}

#[cfg(test)]
mod tests;
