//! Which core to evict: the most redundant one, from whoever uses the most space.

use crate::crash::{Principal, Record, SignatureKey};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;

/// The accounts that a core is charged to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attribution {
    /// [`Record::principal`].
    pub principal: Principal,
    /// Real uid of the process.
    pub uid: Option<u32>,
    /// [`Record::program`].
    pub program: String,
    /// [`Record::signature_key`].
    pub signature: SignatureKey,
}

impl Attribution {
    /// The accounts for the core of the crash described by `record`.
    pub fn of_record(record: &Record) -> Self {
        Self {
            principal: record.principal(),
            uid: record.uid,
            program: record.program(),
            signature: record.signature_key(),
        }
    }
}

/// A stored core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a, Id> {
    /// Its crash.
    pub id: &'a Id,
    /// The accounts it is charged to.
    pub attribution: &'a Attribution,
    /// When it crashed, microseconds since 1970.
    pub time_us: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// Whether it may be chosen. Cores that may not still decide which of the others are redundant.
    pub evictable: bool,
}

/// Eviction rank: lower ranks are evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Redundancy {
    /// Neither the first nor the newest core of its signature.
    Between,
    /// The first of several. It shows how the bug began, but the newest core shows the current build and state.
    First,
    /// The newest core of its signature, or the only one.
    Newest,
}

/// The core to evict first: of those with the lowest rank, one of the principal with the most bytes; of its cores, one of the
/// signature with the most bytes; of those, the oldest. `None` if no core is evictable.
pub fn choose_victim<'a, Id: Ord>(cores: &[Candidate<'a, Id>]) -> Option<&'a Id> {
    let mut principals: HashMap<&Principal, u64> = HashMap::new();
    let mut signatures: HashMap<&SignatureKey, SignatureTotals<'a, Id>> = HashMap::new();
    for core in cores {
        *principals.entry(&core.attribution.principal).or_default() += core.bytes;
        let when = (core.time_us, core.id);
        let empty = SignatureTotals { bytes: 0, first: when, newest: when };
        let totals = signatures.entry(&core.attribution.signature).or_insert(empty);
        totals.bytes += core.bytes;
        totals.first = totals.first.min(when);
        totals.newest = totals.newest.max(when);
    }
    let order = |core: &&Candidate<'a, Id>| {
        let totals = &signatures[&core.attribution.signature];
        let when = (core.time_us, core.id);
        let redundancy = if when == totals.newest {
            Redundancy::Newest
        } else if when == totals.first {
            Redundancy::First
        } else {
            Redundancy::Between
        };
        (redundancy, Reverse(principals[&core.attribution.principal]), Reverse(totals.bytes), when)
    };
    cores.iter().filter(|core| core.evictable).min_by_key(order).map(|core| core.id)
}

/// The cores of one signature.
struct SignatureTotals<'a, Id> {
    bytes: u64,
    first: (u64, &'a Id),
    newest: (u64, &'a Id),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribution(unit: &str, signature: &str) -> Attribution {
        Attribution {
            principal: Principal::Unit(unit.to_owned()),
            uid: Some(0),
            program: "p".to_owned(),
            signature: SignatureKey::new(signature),
        }
    }

    /// The order in which all are evicted.
    fn order(cores: &[(u32, Attribution, u64, u64)]) -> Vec<u32> {
        let mut left = cores.to_vec();
        let mut gone = Vec::new();
        loop {
            let candidates: Vec<_> = left
                .iter()
                .map(|(id, attribution, time_us, bytes)| Candidate {
                    id,
                    attribution,
                    time_us: *time_us,
                    bytes: *bytes,
                    evictable: true,
                })
                .collect();
            let Some(id) = choose_victim(&candidates).copied() else { return gone };
            gone.push(id);
            left.retain(|core| core.0 != id);
        }
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
        let mut two = attribution("u", "small");
        let cores = [(1, two.clone(), 1, 1), (2, attribution("u", "large"), 2, 9)];
        assert_eq!(order(&cores), [2, 1]);
        two.signature = SignatureKey::new("large");
    }

    proptest! {
        #[test]
        fn no_signature_loses_its_newest_while_something_more_redundant_may_go(
            cores in prop::collection::vec((0..4_u8, 0..5_u8, 0..50_u64, 1..100_u64, any::<bool>()), 1..40)
        ) {
            let cores: Vec<(usize, Attribution, u64, u64, bool)> = cores
                .into_iter()
                .enumerate()
                .map(|(id, (unit, signature, time, bytes, evictable))| (id, attribution(&unit.to_string(), &signature.to_string()), time, bytes, evictable))
                .collect();
            let candidates: Vec<_> = cores
                .iter()
                .map(|(id, attribution, time_us, bytes, evictable)| Candidate { id, attribution, time_us: *time_us, bytes: *bytes, evictable: *evictable })
                .collect();
            let newest = |core: &(usize, Attribution, u64, u64, bool)| {
                cores.iter().filter(|other| other.1.signature == core.1.signature).map(|other| (other.2, other.0)).max() == Some((core.2, core.0))
            };
            match choose_victim(&candidates) {
                None => prop_assert!(cores.iter().all(|core| !core.4)),
                Some(id) => {
                    prop_assert!(cores[*id].4);
                    let spared = cores.iter().any(|core| core.4 && !newest(core));
                    prop_assert!(!(newest(&cores[*id]) && spared));
                }
            }
        }
    }
}
