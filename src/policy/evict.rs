//! Which core makes way: the one that tells least, of who takes most.

use crate::crash::{Principal, SignatureKey};
use std::collections::HashMap;
use std::hash::Hash;

/// What a core is accounted to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attribution {
    /// Who answers for it ([`crate::crash::Record::principal`]).
    pub principal: Principal,
    /// Real uid of the process.
    pub uid: Option<u32>,
    /// The program.
    pub program: String,
    /// What crashes of the same bug share.
    pub signature: SignatureKey,
}

/// A core that may make way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<'a, Id> {
    /// Which.
    pub id: &'a Id,
    /// Whose.
    pub owner: &'a Attribution,
    /// When it crashed.
    pub time_us: u64,
    /// What it takes.
    pub bytes: u64,
    /// It may go: it is not pinned, nobody reads it, and it is of those that are asked about.
    pub may_go: bool,
}

/// How little is lost with a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Redundancy {
    /// Neither the first nor the newest of its signature.
    Between,
    /// The first of several: it shows how the bug began, but the newest shows the build and the state that are there now.
    First,
    /// The newest, or the only one.
    Newest,
}

/// The core that goes first: of the least loss, of the largest holder, of the largest signature, the oldest.
pub fn choose<'a, Id: Ord>(cores: &[Candidate<'a, Id>]) -> Option<&'a Id> {
    let mut holders: HashMap<&Principal, u64> = HashMap::new();
    let mut groups: HashMap<&SignatureKey, Group<'a, Id>> = HashMap::new();
    for core in cores {
        *holders.entry(&core.owner.principal).or_default() += core.bytes;
        let when = (core.time_us, core.id);
        let group = groups.entry(&core.owner.signature).or_insert(Group { bytes: 0, first: when, newest: when });
        group.bytes += core.bytes;
        group.first = group.first.min(when);
        group.newest = group.newest.max(when);
    }
    let order = |core: &&Candidate<'a, Id>| {
        let group = &groups[&core.owner.signature];
        let when = (core.time_us, core.id);
        let redundancy = match () {
            () if when == group.newest => Redundancy::Newest,
            () if when == group.first => Redundancy::First,
            () => Redundancy::Between,
        };
        let most = |bytes: u64| std::cmp::Reverse(bytes);
        (redundancy, most(holders[&core.owner.principal]), most(group.bytes), when)
    };
    cores.iter().filter(|core| core.may_go).min_by_key(order).map(|core| core.id)
}

struct Group<'a, Id> {
    bytes: u64,
    first: (u64, &'a Id),
    newest: (u64, &'a Id),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner(holder: &str, group: &str) -> Attribution {
        Attribution {
            principal: Principal::Unit(holder.to_owned()),
            uid: Some(0),
            program: "p".to_owned(),
            signature: SignatureKey::new(group),
        }
    }

    /// The order in which all go.
    fn order(cores: &[(u32, Attribution, u64, u64)]) -> Vec<u32> {
        let mut left = cores.to_vec();
        let mut gone = Vec::new();
        loop {
            let candidates: Vec<_> = left
                .iter()
                .map(|(id, owner, time_us, bytes)| Candidate {
                    id,
                    owner,
                    time_us: *time_us,
                    bytes: *bytes,
                    may_go: true,
                })
                .collect();
            let Some(id) = choose(&candidates).copied() else { return gone };
            gone.push(id);
            left.retain(|core| core.0 != id);
        }
    }

    #[test]
    fn what_is_between_goes_before_the_first_and_that_before_the_newest() {
        let (a, b) = (owner("u", "a"), owner("u", "b"));
        let cores = [(1, a.clone(), 1, 10), (2, a.clone(), 2, 10), (3, a.clone(), 3, 10), (4, a, 4, 10), (5, b, 0, 10)];
        assert_eq!(order(&cores), [2, 3, 1, 5, 4], "of two that are the only ones the older");
    }

    #[test]
    fn the_largest_holder_pays_and_among_its_signatures_the_largest() {
        let loud = |id: u32| (id, owner("loud", &format!("l{id}")), u64::from(id), 100);
        let quiet = (1, owner("quiet", "q"), 0, 150);
        let all: Vec<_> = (2..8).map(loud).chain([quiet]).collect();
        assert_eq!(order(&all)[..5], [2, 3, 4, 5, 6], "the quiet one's only core is older, and stays");
        let mut two = owner("u", "small");
        let cores = [(1, two.clone(), 1, 1), (2, owner("u", "large"), 2, 9)];
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
                .map(|(id, (holder, group, time, bytes, may_go))| (id, owner(&holder.to_string(), &group.to_string()), time, bytes, may_go))
                .collect();
            let candidates: Vec<_> = cores
                .iter()
                .map(|(id, owner, time_us, bytes, may_go)| Candidate { id, owner, time_us: *time_us, bytes: *bytes, may_go: *may_go })
                .collect();
            let newest = |core: &(usize, Attribution, u64, u64, bool)| {
                cores.iter().filter(|other| other.1.signature == core.1.signature).map(|other| (other.2, other.0)).max() == Some((core.2, core.0))
            };
            match choose(&candidates) {
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
