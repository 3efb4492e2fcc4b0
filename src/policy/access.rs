//! Who may read a core besides root and the administrators: the user whose process it was, by the kernel's own rule for looking
//! into a process (`__ptrace_may_access`, kernel/ptrace.c), or a stricter one.

use super::subordinate::SubordinateRanges;
use nix::unistd::{Gid, Uid};
use std::fmt;
use std::ops::RangeInclusive;

/// What the decision rests on. `None` is what could not be learnt.
#[derive(Clone, Debug)]
pub struct AccessFacts {
    /// Real uid of the process by the kernel's arguments, in the initial user namespace.
    pub uid: Option<Uid>,
    /// Real gid, likewise.
    pub gid: Option<Gid>,
    /// `%d` of core_pattern.
    pub dumpable: Option<u32>,
    /// AT_SECURE.
    pub secure: Option<bool>,
    /// All uids of the process, when its program was started and when it crashed.
    pub uids: Option<Vec<Uid>>,
    /// All gids, likewise.
    pub gids: Option<Vec<Gid>>,
    /// All capabilities of the process when it crashed, one bit each.
    pub capabilities: Option<u64>,
    /// The process was in the host's PID and user namespace, for sure.
    pub on_host: bool,
}

/// The uids of people (login.defs(5), systemd's uids-gids page, Debian policy 9.2.2). Below are system accounts: a web server's
/// uid must not read its siblings' memory. Between are uids that are handed out anew, to another user each time (systemd-homed,
/// greeters, `DynamicUser=`), those that Debian assigns to packages, and `nobody`. Above are those of containers.
const PEOPLE: [RangeInclusive<u32>; 2] = [1000..=59_999, 65_536..=524_287];

/// Whether the process changed its privilege or has more than its user, or may have (CVE-2025-4598): its core is for root and the
/// administrators.
#[must_use]
pub fn is_privileged(facts: &AccessFacts) -> bool {
    // A program that was started by root had root's memory, also after it gave up root's ids and made itself dumpable again.
    let are_own = |ids: Option<bool>| ids == Some(true);
    let uids = facts.uid.zip(facts.uids.as_ref()).map(|(uid, all)| all.iter().all(|other| *other == uid));
    let gids = facts.gid.zip(facts.gids.as_ref()).map(|(gid, all)| all.iter().all(|other| *other == gid));
    let has_no_capability = facts.capabilities == Some(0) || facts.uid.is_some_and(Uid::is_root);
    let is_plain = facts.dumpable == Some(1) && facts.secure == Some(false);
    !(is_plain && are_own(uids) && are_own(gids) && has_no_capability)
}

/// The user who gets read access if [`LocalUsers::check`] agrees. A container's uid 1000 is not the host's: such a crash has no
/// reader.
#[must_use]
pub fn reader(facts: &AccessFacts) -> Option<Uid> {
    let uid = facts.uid?;
    let is_person = PEOPLE.iter().any(|range| range.contains(&uid.as_raw()));
    (is_person && facts.on_host && !is_privileged(facts)).then_some(uid)
}

/// The machine's own users: passwd(5), group(5) and subuid(5), as text. Other sources of users are not asked: they may be the
/// program that crashed.
#[derive(Clone, Debug, Default)]
pub struct LocalUsers {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
    /// `/etc/subuid`.
    pub subuid: String,
}

/// Why a process with a person's uid is not that person's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTheUsers {
    /// No local user has the uid.
    NoSuchUser,
    /// Somebody may use the uid for containers.
    SubordinateUid,
    /// The user is not a member of the group that the process ran with.
    Group(Option<Gid>),
}

impl fmt::Display for NotTheUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchUser => f.write_str("no user in /etc/passwd has it"),
            Self::SubordinateUid => f.write_str("it is a subordinate uid (/etc/subuid)"),
            Self::Group(Some(gid)) => {
                write!(f, "the process ran with gid {gid}, which is not one of the user's groups")
            }
            Self::Group(None) => f.write_str("the gid of the process is unknown"),
        }
    }
}

impl LocalUsers {
    /// Whether a process with this uid and gid is one that a user of this machine could have started.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(&self, uid: Uid, gid: Option<Gid>) -> Result<(), NotTheUsers> {
        let mut names = Vec::new();
        let mut is_member = false;
        for [name, user, group] in lines(&self.passwd, [0, 2, 3]) {
            if user.parse() == Ok(uid.as_raw()) {
                names.push(name);
                is_member |= gid.is_some_and(|gid| group.parse() == Ok(gid.as_raw()));
            }
        }
        if names.is_empty() {
            return Err(NotTheUsers::NoSuchUser);
        }
        if SubordinateRanges::parse(&self.subuid, &self.passwd).owner_of(uid).is_some() {
            return Err(NotTheUsers::SubordinateUid);
        }
        is_member |= lines(&self.group, [2, 3]).any(|[group, members]| {
            gid.is_some_and(|gid| group.parse() == Ok(gid.as_raw()))
                && members.split(',').any(|one| names.contains(&one))
        });
        if is_member { Ok(()) } else { Err(NotTheUsers::Group(gid)) }
    }
}

/// These fields of each line that has them all.
fn lines<const N: usize>(text: &str, fields: [usize; N]) -> impl Iterator<Item = [&str; N]> {
    text.lines().filter_map(move |line| {
        let all: Vec<&str> = line.split(':').collect();
        let wanted: Option<Vec<&str>> = fields.iter().map(|field| all.get(*field).copied()).collect();
        wanted?.try_into().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Uid = Uid::from_raw(1000);
    const GROUP: Gid = Gid::from_raw(1001);
    const ROOT: Uid = Uid::from_raw(0);

    fn alice() -> AccessFacts {
        AccessFacts {
            uid: Some(USER),
            gid: Some(GROUP),
            dumpable: Some(1),
            secure: Some(false),
            uids: Some(vec![USER; 6]),
            gids: Some(vec![GROUP; 6]),
            capabilities: Some(0),
            on_host: true,
        }
    }

    fn with_uid(uid: u32) -> AccessFacts {
        let uid = Uid::from_raw(uid);
        AccessFacts { uid: Some(uid), uids: Some(vec![uid; 6]), ..alice() }
    }

    #[test]
    fn a_users_plain_process_is_the_users_own() {
        assert_eq!(reader(&alice()), Some(USER));
        for uid in [1000, 59_999, 65_536, 200_000] {
            assert_eq!(reader(&with_uid(uid)), Some(Uid::from_raw(uid)));
        }
    }

    #[test]
    fn every_doubt_takes_it_away() {
        for doubtful in [
            AccessFacts { uid: None, ..alice() },
            AccessFacts { gid: None, ..alice() },
            AccessFacts { dumpable: Some(2), ..alice() },
            AccessFacts { dumpable: Some(0), ..alice() },
            AccessFacts { dumpable: None, ..alice() },
            AccessFacts { secure: Some(true), ..alice() },
            AccessFacts { secure: None, ..alice() },
            AccessFacts { uids: None, ..alice() },
            AccessFacts { gids: None, ..alice() },
            AccessFacts { capabilities: None, ..alice() },
            AccessFacts { capabilities: Some(1 << 10), ..alice() },
            AccessFacts { on_host: false, ..alice() },
        ] {
            assert_eq!(reader(&doubtful), None, "{doubtful:?}");
            assert!(is_privileged(&doubtful) || !doubtful.on_host);
        }
        for at in 0..6 {
            let (mut uids, mut gids) = (vec![USER; 6], vec![GROUP; 6]);
            (uids[at], gids[at]) = (ROOT, Gid::from_raw(42));
            assert!(is_privileged(&AccessFacts { uids: Some(uids), ..alice() }), "uid {at}");
            assert!(is_privileged(&AccessFacts { gids: Some(gids), ..alice() }), "gid {at}");
        }
        // Root lacks no capability.
        assert!(!is_privileged(&AccessFacts { capabilities: Some(u64::MAX), ..with_uid(0) }));
    }

    #[test]
    fn uids_that_are_no_persons_own_have_no_reader() {
        for uid in [
            0,
            33,
            999,
            60_000,
            60_001,
            60_705,
            61_184,
            64_999,
            65_519,
            65_534,
            65_535,
            524_288,
            1_879_048_192,
            u32::MAX,
        ] {
            assert_eq!(reader(&with_uid(uid)), None, "{uid}");
        }
    }

    #[test]
    fn the_user_and_the_group_must_be_in_the_local_files() {
        let users = LocalUsers {
            passwd: "root:x:0:0::/:/bin/sh\nalice:x:1000:1001::/:\nmalformed\nsub:x:100005:1001::/:\n".to_owned(),
            group: "alice:x:1001:\nsecrets:x:2000:bob\nshared:x:2001:bob,alice\nmalformed:x:x:alice\n".to_owned(),
            subuid: "bob:100000:65536\nnonsense:x:y\n1000:18446744073709551615:9\n".to_owned(),
        };
        let check = |uid, gid| users.check(Uid::from_raw(uid), Some(Gid::from_raw(gid)));
        assert_eq!(check(1000, 1001), Ok(()));
        assert_eq!(check(1000, 2001), Ok(()));
        for gid in [0, 2000, 2002] {
            assert_eq!(check(1000, gid), Err(NotTheUsers::Group(Some(Gid::from_raw(gid)))));
        }
        assert_eq!(users.check(USER, None), Err(NotTheUsers::Group(None)));
        assert_eq!(check(1001, 1001), Err(NotTheUsers::NoSuchUser));
        assert_eq!(check(100_005, 1001), Err(NotTheUsers::SubordinateUid));
        assert_eq!(LocalUsers::default().check(USER, Some(GROUP)), Err(NotTheUsers::NoSuchUser));
    }
}
