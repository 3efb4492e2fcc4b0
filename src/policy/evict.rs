//! Which core to evict: the most redundant one, from whoever uses the most space.

use crate::crash::{Party, Principal, Record, SignatureKey};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;

/// What a core is charged to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attribution {
    /// Whose disk space it takes.
    pub principal: Principal,
    /// Whose cores of the same signature make it redundant.
    pub party: Party,
    /// [`Record::program`].
    pub program: String,
    /// [`Record::signature_key`].
    pub signature: SignatureKey,
}

/// A bug as one party has it: the crashes with this key are duplicates of each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BugKey {
    /// Who answers for the crashes.
    pub party: Party,
    /// [`Record::signature_key`].
    pub signature: SignatureKey,
}

impl Attribution {
    /// What the core of the crash described by `record` is charged to.
    #[must_use]
    pub fn of_record(record: &Record) -> Self {
        let (principal, party) = record.answering();
        Self { principal, party, program: record.program(), signature: record.signature_key() }
    }

    /// The bug of its party.
    #[must_use]
    pub fn bug(&self) -> BugKey {
        BugKey { party: self.party.clone(), signature: self.signature.clone() }
    }
}

/// A stored core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a, Id> {
    /// Its crash.
    pub id: &'a Id,
    /// What it is charged to.
    pub attribution: &'a Attribution,
    /// When it crashed, microseconds since 1970.
    pub time_us: u64,
    /// What it takes of the limit: bytes of its file, or 1 where the number of cores is limited.
    pub cost: u64,
    /// Whether it may be chosen. Cores that may not still decide which of the others are redundant.
    pub evictable: bool,
}

/// Whom the room is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beneficiary<'a> {
    /// What its core is charged to.
    pub attribution: &'a Attribution,
    /// What its core will take of the limit, in the same unit as [`Candidate::cost`].
    pub cost: u64,
    /// What its principal takes of the limit already.
    pub used: u64,
}

/// Eviction rank: lower ranks are evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Redundancy {
    /// Neither the first nor the newest core of its bug.
    Between,
    /// The first of several. It shows how the bug began, but the newest core shows the current build and state.
    First,
    /// The newest core of its bug, or the only one.
    Newest,
}

/// The cores that may be evicted for `beneficiary` (`None`: for the administrator, or for the catalog), the first to go first: those
/// with the lowest rank, of those the ones of the principal that takes most; of its cores, those of the signature that takes
/// most; of those, the oldest.
///
/// The newest core of a bug is a different matter: it may be the only one. The beneficiary's own principal gives its own first. Of
/// another's it takes one only if that principal takes more than it would itself, and never one of root or of a system account,
/// unless it is one of those.
#[must_use]
pub fn eviction_order<'a, Id: Ord>(cores: &[Candidate<'a, Id>], beneficiary: Option<Beneficiary<'_>>) -> Vec<&'a Id> {
    let mut principals: HashMap<&Principal, u64> = HashMap::new();
    let mut bugs: HashMap<(&Party, &SignatureKey), BugTotals<'a, Id>> = HashMap::new();
    for core in cores {
        *principals.entry(&core.attribution.principal).or_default() += core.cost;
        let when = (core.time_us, core.id);
        let empty = BugTotals { cost: 0, first: when, newest: when };
        let totals = bugs.entry((&core.attribution.party, &core.attribution.signature)).or_insert(empty);
        totals.cost += core.cost;
        totals.first = totals.first.min(when);
        totals.newest = totals.newest.max(when);
    }
    let mut order: Vec<_> = Vec::new();
    for core in cores.iter().filter(|core| core.evictable) {
        let Attribution { principal, party, signature, .. } = core.attribution;
        let totals = &bugs[&(party, signature)];
        let when = (core.time_us, core.id);
        let redundancy = if when == totals.newest {
            Redundancy::Newest
        } else if when == totals.first {
            Redundancy::First
        } else {
            Redundancy::Between
        };
        let used = principals[principal];
        let is_protected = redundancy == Redundancy::Newest;
        let is_others = beneficiary.is_some_and(|beneficiary| beneficiary.attribution.principal != *principal);
        if is_protected && is_others && !beneficiary.is_some_and(|beneficiary| beneficiary.may_take(party, used)) {
            continue;
        }
        let privilege = is_protected && beneficiary.is_none() && party.is_system();
        order.push((
            (redundancy, is_protected && is_others, privilege, Reverse(used), Reverse(totals.cost), when),
            core.id,
        ));
    }
    order.sort_unstable_by_key(|(rank, _)| *rank);
    order.into_iter().map(|(_, id)| id).collect()
}

impl Beneficiary<'_> {
    /// Whether it may take the newest core of a bug from a party whose principal takes `used` of the limit.
    fn may_take(&self, party: &Party, used: u64) -> bool {
        let outranks = self.attribution.party.is_system() || !party.is_system();
        outranks && used > self.used.saturating_add(self.cost)
    }
}

/// The cores of one bug.
struct BugTotals<'a, Id> {
    cost: u64,
    first: (u64, &'a Id),
    newest: (u64, &'a Id),
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Uid;
    use proptest::prelude::*;

    fn of(principal: Principal, uid: u32, signature: &str) -> Attribution {
        let party = Party::User(Uid::from_raw(uid));
        Attribution { principal, party, program: "p".to_owned(), signature: SignatureKey::new(signature) }
    }

    fn attribution(unit: &str, signature: &str) -> Attribution {
        of(Principal::Unit(unit.to_owned()), 0, signature)
    }

    fn user(uid: u32, signature: &str) -> Attribution {
        of(Principal::User(Uid::from_raw(uid)), uid, signature)
    }

    type Core = (u32, Attribution, u64, u64);

    fn candidates(cores: &[Core]) -> Vec<Candidate<'_, u32>> {
        cores
            .iter()
            .map(|(id, attribution, time_us, cost)| Candidate {
                id,
                attribution,
                time_us: *time_us,
                cost: *cost,
                evictable: true,
            })
            .collect()
    }

    /// The order in which all are evicted for the administrator.
    fn order(cores: &[Core]) -> Vec<u32> {
        let mut left = cores.to_vec();
        let mut gone = Vec::new();
        while let Some(id) = eviction_order(&candidates(&left), None).first().map(|id| **id) {
            gone.push(id);
            left.retain(|core| core.0 != id);
        }
        gone
    }

    /// Those that may be evicted for a core of `attribution`.
    fn taken_for(cores: &[Core], attribution: &Attribution, cost: u64) -> Vec<u32> {
        let own = cores.iter().filter(|core| core.1.principal == attribution.principal);
        let beneficiary = Beneficiary { attribution, cost, used: own.map(|core| core.3).sum() };
        eviction_order(&candidates(cores), Some(beneficiary)).into_iter().copied().collect()
    }

    #[test]
    fn what_is_between_goes_before_the_first_and_that_before_the_newest() {
        let (a, b) = (attribution("u", "a"), attribution("u", "b"));
        let cores = [(1, a.clone(), 1, 10), (2, a.clone(), 2, 10), (3, a.clone(), 3, 10), (4, a, 4, 10), (5, b, 0, 10)];
        assert_eq!(order(&cores), [2, 3, 1, 5, 4], "of two that are the only ones the older");
    }

    #[test]
    fn the_largest_holder_pays_and_among_its_signatures_the_largest() {
        let loud = |id: u32| (id, attribution("loud", &format!("l{id}")), u64::from(id), 100);
        let quiet = (1, attribution("quiet", "q"), 0, 150);
        let all: Vec<_> = (2..8).map(loud).chain([quiet]).collect();
        assert_eq!(order(&all)[..5], [2, 3, 4, 5, 6], "the quiet one's only core is older, and stays");
        let cores = [(1, attribution("u", "small"), 1, 1), (2, attribution("u", "large"), 2, 9)];
        assert_eq!(order(&cores), [2, 1]);
    }

    #[test]
    fn a_core_is_not_redundant_because_somebody_else_has_one() {
        let cores = [(1, user(1000, "a"), 1, 9), (2, user(1001, "a"), 2, 9), (3, attribution("u", "a"), 3, 9)];
        for newcomer in [user(1000, "b"), user(1002, "b")] {
            assert!(!taken_for(&cores, &newcomer, 9).iter().any(|id| [2, 3].contains(id)), "{newcomer:?}");
        }
        let more = [&cores[..], &[(4, user(1000, "a"), 4, 1)]].concat();
        assert_eq!(
            taken_for(&more, &attribution("u", "c"), 1)[0],
            1,
            "the user's own later one makes the first redundant"
        );
    }

    #[test]
    fn a_flood_pays_for_itself_and_leaves_what_others_have_only_once() {
        let mut cores: Vec<Core> =
            (0..5).map(|id| (id, attribution("db.service", &format!("d{id}")), 0, 100)).collect();
        cores.extend((10..15).map(|id| (id, user(1001, &format!("v{id}")), 1, 50)));
        cores.extend((20..40).map(|id| (id, user(1000, &format!("f{id}")), 2, 5)));
        let flood = user(1000, "new");
        let taken = taken_for(&cores, &flood, 5);
        assert!(taken[..20].iter().all(|id| *id >= 20), "its own first: {taken:?}");
        assert!(taken.iter().all(|id| *id >= 10), "never the service's: {taken:?}");
        // Somebody who has nothing yet takes from the largest that is no system service.
        assert_eq!(taken_for(&cores, &user(1002, "first"), 5)[0], 10);
        // A service takes from whoever has more.
        assert_eq!(taken_for(&cores, &attribution("web.service", "first"), 5)[0], 0);
    }

    proptest! {
        #[test]
        fn nobody_loses_the_newest_to_less_privilege_and_redundant_ones_go_first(
            cores in prop::collection::vec((0..4_u32, 0..5_u8, 0..50_u64, 1..100_u64, any::<bool>()), 1..40),
            beneficiary in (0..5_u32, 1..200_u64),
        ) {
            // 0 and 1 are services, 2 to 4 users.
            let who = |number: u32, signature: &str| if number < 2 { attribution(&number.to_string(), signature) } else { user(1000 + number, signature) };
            let cores: Vec<(usize, Attribution, u64, u64, bool)> = cores
                .into_iter()
                .enumerate()
                .map(|(id, (number, signature, time, cost, evictable))| (id, who(number, &signature.to_string()), time, cost, evictable))
                .collect();
            let candidates: Vec<_> = cores
                .iter()
                .map(|(id, attribution, time_us, cost, evictable)| Candidate { id, attribution, time_us: *time_us, cost: *cost, evictable: *evictable })
                .collect();
            let newest = |core: &(usize, Attribution, u64, u64, bool)| {
                cores.iter().filter(|other| other.1.bug() == core.1.bug()).map(|other| (other.2, other.0)).max() == Some((core.2, core.0))
            };
            if let Some(core) = eviction_order(&candidates, None).first() {
                prop_assert!(cores[**core].4);
                let spared = cores.iter().any(|core| core.4 && !newest(core));
                prop_assert!(!(newest(&cores[**core]) && spared));
            }
            let attribution = who(beneficiary.0, "new");
            let used = |of: &Attribution| cores.iter().filter(|core| core.1.principal == of.principal).map(|core| core.3).sum::<u64>();
            let order = eviction_order(&candidates, Some(Beneficiary { attribution: &attribution, cost: beneficiary.1, used: used(&attribution) }));
            for id in &order {
                let core = &cores[**id];
                prop_assert!(core.4);
                if newest(core) && core.1.principal != attribution.principal {
                    prop_assert!(attribution.party.is_system() || !core.1.party.is_system());
                    prop_assert!(used(&core.1) > used(&attribution) + beneficiary.1);
                }
            }
            let is_newest: Vec<bool> = order.iter().map(|id| newest(&cores[**id])).collect();
            prop_assert!(is_newest.is_sorted());
        }
    }
}
