//! What is kept of a crash: of one signature the first of every window whole, then stacks, then the record; and of one unit, of
//! one user, and of all together, only so many cores in a time.

use super::rate::{Bucket, Buckets, Rate};
use crate::crash::{Decision, Keep, Principal, Reason, SignatureKey};
use std::collections::HashMap;
use std::time::Duration;

/// `StormBurst=`, `StormStacks=` and `StormIntervalSec=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whole cores of a signature that are kept in one window; 0: no limit.
    pub burst: u32,
    /// Cores with stacks only that are kept after those.
    pub stacks: u32,
    /// Length of the window.
    pub interval: Duration,
}

/// The rules in force for a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Of one signature.
    pub storm: Rule,
    /// `UnitBurst=` and `UnitIntervalSec=`.
    pub unit: Rate,
    /// `UserBurst=` and `UserIntervalSec=`.
    pub user: Rate,
    /// `TotalBurst=` and `TotalIntervalSec=`.
    pub total: Rate,
}

/// A crash that is decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What crashes of the same bug share.
    pub signature: SignatureKey,
    /// Who is to blame: [`crate::crash::Record::principal`].
    pub principal: Principal,
    /// Real uid.
    pub uid: Option<u32>,
    /// No core of the group is there.
    pub first: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    began: Duration,
    whole: u32,
    stacks: u32,
}

/// What was decided lately.
#[derive(Debug, Default)]
pub struct Storms {
    windows: HashMap<SignatureKey, Window>,
    units: Buckets<Principal>,
    users: Buckets<u32>,
    total: Bucket,
}

/// Only crashes that keep a core open a window, and `TotalBurst=` bounds those: nobody can push a window out by names alone.
const MAX_WINDOWS: usize = 8192;
/// Of the bucket of all a quarter is for signatures that have no core yet: a storm elsewhere does not hide a new bug.
const RESERVE: u32 = 64;

impl Storms {
    /// Decides on a crash at `now`, a time that never runs backwards.
    pub fn decide(&mut self, rules: &Rules, event: &Event, now: Duration) -> Decision {
        let (keep, reason) = self.of_signature(rules.storm, event, now);
        if keep == Keep::Record {
            return Decision { keep, reason };
        }
        if let Some(reason) = self.refused(rules, event, now) {
            return Decision { keep: Keep::Record, reason };
        }
        self.units.of(&event.principal, now).take(rules.unit, now);
        if let Some(uid) = limited(event) {
            self.users.of(&uid, now).take(rules.user, now);
        }
        self.total.take(rules.total, now);
        self.count(rules.storm, event, keep, now);
        Decision { keep, reason }
    }

    fn of_signature(&self, rule: Rule, event: &Event, now: Duration) -> (Keep, Reason) {
        let whole = if event.first { Reason::First } else { Reason::Burst };
        if rule.burst == 0 {
            return (Keep::Full, if event.first { Reason::First } else { Reason::Unlimited });
        }
        match self.windows.get(&event.signature).filter(|window| now.saturating_sub(window.began) < rule.interval) {
            None if event.first => (Keep::Full, Reason::First),
            None => (Keep::Full, Reason::NewWindow),
            Some(window) if window.whole < rule.burst => (Keep::Full, whole),
            Some(window) if window.stacks < rule.stacks => (Keep::Stacks, Reason::StacksBurst),
            Some(_) => (Keep::Record, Reason::Storm),
        }
    }

    /// Whose bucket is empty.
    fn refused(&mut self, rules: &Rules, event: &Event, now: Duration) -> Option<Reason> {
        if !self.units.of(&event.principal, now).has(rules.unit, now, 0) {
            return Some(Reason::UnitRate);
        }
        if limited(event).is_some_and(|uid| !self.users.of(&uid, now).has(rules.user, now, 0)) {
            return Some(Reason::UserRate);
        }
        // Who makes new signatures all the time has soon emptied half of its own bucket, and the reserve is not for it.
        let quiet = event.first && self.units.of(&event.principal, now).has(rules.unit, now, 128);
        let reserve = if quiet { 0 } else { RESERVE };
        (!self.total.has(rules.total, now, reserve)).then_some(Reason::TotalRate)
    }

    fn count(&mut self, rule: Rule, event: &Event, keep: Keep, now: Duration) {
        if rule.burst == 0 {
            return;
        }
        let is_open = |window: &Window| now.saturating_sub(window.began) < rule.interval;
        if !self.windows.contains_key(&event.signature) {
            self.make_room(&is_open);
        }
        let window = self.windows.entry(event.signature.clone()).or_insert(Window { began: now, ..Window::default() });
        if !is_open(window) {
            *window = Window { began: now, ..Window::default() };
        }
        match keep {
            Keep::Full => window.whole += 1,
            Keep::Stacks => window.stacks += 1,
            Keep::Record => {}
        }
    }

    fn make_room(&mut self, is_open: &dyn Fn(&Window) -> bool) {
        if self.windows.len() >= MAX_WINDOWS {
            self.windows.retain(|_, window| is_open(window));
        }
        if self.windows.len() >= MAX_WINDOWS
            && let Some(oldest) =
                self.windows.iter().min_by_key(|(_, window)| window.began).map(|(group, _)| group.clone())
        {
            self.windows.remove(&oldest);
        }
    }
}

/// The user whose bucket counts. Root runs half of a server's units: its bucket would let one of them starve the others.
fn limited(event: &Event) -> Option<u32> {
    event.uid.filter(|uid| *uid != 0)
}

#[cfg(test)]
mod tests;
