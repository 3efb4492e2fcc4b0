//! Subordinate uids (subuid(5)): ranges of uids that users may give to processes in their own user namespaces.

use nix::unistd::Uid;
use std::collections::HashMap;

/// The ranges of `/etc/subuid`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubordinateRanges(Vec<SubordinateRange>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct SubordinateRange {
    first: u32,
    last: u32,
    owner: Uid,
}

/// The most ranges that are read.
const MAX_RANGES: usize = 65_536;

impl SubordinateRanges {
    /// Parses `/etc/subuid`, with `/etc/passwd` for its names. A range whose owner has no number, for example because a
    /// directory service has the name, is its own owner: all of its uids are one user, that with the first of them.
    #[must_use]
    pub fn parse(subuid: &str, passwd: &str) -> Self {
        let uid_of_name: HashMap<&str, u32> = passwd
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(':');
                Some((fields.next()?, fields.nth(1)?.parse().ok()?))
            })
            .collect();
        let ranges = subuid.lines().filter_map(|line| {
            let (owner, range) = line.trim().split_once(':')?;
            let (first, count) = range.split_once(':')?;
            let (first, count): (u32, u64) = (first.parse().ok()?, count.parse().ok()?);
            let last = u64::from(first).saturating_add(count.checked_sub(1)?);
            let last = u32::try_from(last).unwrap_or(u32::MAX);
            let owner = uid_of_name.get(owner).copied().or_else(|| owner.parse().ok()).unwrap_or(first);
            Some(SubordinateRange { first, last, owner: Uid::from_raw(owner) })
        });
        Self(ranges.take(MAX_RANGES).collect())
    }

    /// The owner of the first range that contains `uid`. A range that contains its own owner is a mistake.
    #[must_use]
    pub fn owner_of(&self, uid: Uid) -> Option<Uid> {
        let contains = |range: &&SubordinateRange| (range.first..=range.last).contains(&uid.as_raw());
        self.0.iter().find(contains).map(|range| range.owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbroken\n";

    #[test]
    fn a_uid_belongs_to_the_owner_of_its_range() {
        let subuid =
            "alice:100000:65536\n1001:165536:65536\nldap-user:300000:10\n# comment\n\nroot:400000:1\nx:1:0\nx:y:z\n";
        let ranges = SubordinateRanges::parse(subuid, PASSWD);
        let owner = |uid| ranges.owner_of(Uid::from_raw(uid)).map(Uid::as_raw);
        assert_eq!([99_999, 100_000, 165_535].map(owner), [None, Some(1000), Some(1000)]);
        assert_eq!([165_536, 231_071, 231_072].map(owner), [Some(1001), Some(1001), None]);
        assert_eq!([300_000, 300_009, 300_010].map(owner), [Some(300_000), Some(300_000), None]);
        assert_eq!([400_000, 1, 0].map(owner), [Some(0), None, None]);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed(subuid in "[a-z0-9:\n]{0,200}", passwd in any::<String>(), uid in any::<u32>()) {
            let _ = SubordinateRanges::parse(&subuid, &passwd).owner_of(Uid::from_raw(uid));
        }
    }
}
