//! Who may read a core besides root and the administrators: the user whose process it was, by the kernel's own rule for looking
//! into a process (`__ptrace_may_access`, kernel/ptrace.c), or a stricter one.

use super::subordinate::SubordinateRanges;
use crate::crash::{Origin, Record};
use nix::unistd::{Gid, Uid};
use serde::Deserialize;
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

/// Uids that are nobody's own, whatever login.defs(5) says: root's; those that Debian assigns to packages (policy 9.2.2), those that
/// are handed out anew to another user each time (systemd-homed, greeters, `DynamicUser=`) and `nobody`; those of containers
/// (systemd's uids-gids page).
const NOBODYS: [RangeInclusive<u32>; 3] = [0..=0, 60_000..=65_535, 524_288..=u32::MAX];

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

/// The user who gets read access if [`LocalUsers::check`] agrees, which knows which uids are people's on this machine. A container's uid 1000 is not the host's: such a crash has no
/// reader.
#[must_use]
pub fn reader(facts: &AccessFacts) -> Option<Uid> {
    let uid = facts.uid?;
    let is_nobodys = NOBODYS.iter().any(|range| range.contains(&uid.as_raw()));
    (!is_nobodys && facts.on_host && !is_privileged(facts)).then_some(uid)
}

/// Like [`reader`], for a crash that is recorded.
#[must_use]
pub fn reader_of(record: &Record) -> Option<Uid> {
    RecordedAccess::from(record).reader()
}

/// What the decision rests on for a crash that is recorded: some fields of its [`Record`], under the same names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RecordedAccess {
    uid: Option<u32>,
    gid: Option<u32>,
    in_namespace: bool,
    privileged: bool,
    #[serde(default)]
    namespaces: Vec<String>,
    origin: Origin,
}

impl From<&Record> for RecordedAccess {
    fn from(record: &Record) -> Self {
        Self {
            uid: record.uid.map(Uid::as_raw),
            gid: record.gid.map(Gid::as_raw),
            in_namespace: record.in_namespace,
            privileged: record.privileged,
            namespaces: record.namespaces.clone(),
            origin: record.origin,
        }
    }
}

impl RecordedAccess {
    /// The user whose own crash this is, if [`LocalUsers::check`] agrees.
    #[must_use]
    pub fn reader(&self) -> Option<Uid> {
        let uid = self.uid?;
        let is_nobodys = NOBODYS.iter().any(|range| range.contains(&uid));
        let is_elsewhere =
            self.origin == Origin::Import || self.in_namespace || self.namespaces.iter().any(|name| name == "unknown");
        (!is_nobodys && !is_elsewhere && !self.privileged).then_some(Uid::from_raw(uid))
    }

    /// Whether it is the own crash of this user, among the users that the machine has now.
    #[must_use]
    pub fn is_own_of(&self, uid: Uid, users: &LocalUsers) -> bool {
        self.reader() == Some(uid) && users.check(uid, self.gid.map(Gid::from_raw)).is_ok()
    }
}

/// The machine's own users: passwd(5), group(5), subuid(5) and login.defs(5), as text. Other sources of users are not asked: they may be the
/// program that crashed.
#[derive(Clone, Debug, Default)]
pub struct LocalUsers {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
    /// `/etc/subuid`.
    pub subuid: String,
    /// `/etc/login.defs`.
    pub login_defs: String,
}

/// Why a process with a person's uid is not that person's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTheUsers {
    /// The uid is a system account's, or that of something else that is no person: people have these uids.
    NoPerson(u32, u32),
    /// `/etc/login.defs` has a value that is no number for this key.
    LoginDefs(&'static str),
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
            Self::NoPerson(min, max) => {
                write!(f, "people have uids from {min} to {max} (UID_MIN and UID_MAX in /etc/login.defs)")
            }
            Self::LoginDefs(key) => write!(f, "{key} in /etc/login.defs is not a number"),
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
        check_person(&self.login_defs, uid)?;
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

    /// Whether a local user has this uid.
    #[must_use]
    pub fn has_uid(&self, uid: Uid) -> bool {
        lines(&self.passwd, [2]).any(|[user]| user.parse() == Ok(uid.as_raw()))
    }

    /// The gid of the local group of this name.
    #[must_use]
    pub fn gid_of(&self, name: &str) -> Option<Gid> {
        let mut groups = lines(&self.group, [0, 2]).filter(|[group, _]| *group == name);
        groups.find_map(|[_, gid]| gid.parse().ok()).map(Gid::from_raw)
    }
}

/// Whether people have this uid, by the text of login.defs(5).
///
/// # Errors
/// They do not, or the text does not tell.
pub fn check_person(login_defs: &str, uid: Uid) -> Result<(), NotTheUsers> {
    let (min, max) = (login_value(login_defs, "UID_MIN", 1000)?, login_value(login_defs, "UID_MAX", 60_000)?);
    if (min..=max).contains(&uid.as_raw()) { Ok(()) } else { Err(NotTheUsers::NoPerson(min, max)) }
}

/// The number that login.defs(5) gives a key: decimal, octal or hexadecimal as in C; the last line counts.
fn login_value(login_defs: &str, key: &'static str, default: u32) -> Result<u32, NotTheUsers> {
    let mut values = login_defs.lines().filter_map(|line| {
        let (name, value) = line.trim_start().split_once([' ', '\t'])?;
        (name == key).then(|| value.trim_matches([' ', '\t', '"']))
    });
    let Some(value) = values.next_back() else { return Ok(default) };
    let parsed = match (value.strip_prefix("0x").or(value.strip_prefix("0X")), value.strip_prefix('0')) {
        (Some(digits), _) => u32::from_str_radix(digits, 16),
        (None, Some(digits)) if !digits.is_empty() => u32::from_str_radix(digits, 8),
        _ => value.parse(),
    };
    parsed.map_err(|_| NotTheUsers::LoginDefs(key))
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
    use crate::crash::fixtures::record;

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
        for uid in [500, 1000, 59_999, 65_536, 200_000] {
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
        for uid in [0, 60_000, 60_001, 60_705, 61_184, 64_999, 65_519, 65_534, 65_535, 524_288, 1_879_048_192, u32::MAX]
        {
            assert_eq!(reader(&with_uid(uid)), None, "{uid}");
        }
    }

    #[test]
    fn the_user_and_the_group_must_be_in_the_local_files() {
        let users = LocalUsers {
            passwd: "root:x:0:0::/:/bin/sh\nalice:x:1000:1001::/:\nmalformed\nsub:x:100005:1001::/:\n".to_owned(),
            group: "alice:x:1001:\nsecrets:x:2000:bob\nshared:x:2001:bob,alice\nmalformed:x:x:alice\n".to_owned(),
            subuid: "bob:100000:65536\nnonsense:x:y\n1000:18446744073709551615:9\n".to_owned(),
            login_defs: "UID_MAX 400000\n".to_owned(),
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

    #[test]
    fn a_recorded_crash_is_that_of_the_user_whose_core_it_would_be() {
        let users = LocalUsers {
            passwd: "alice:x:1000:1001::/:\nbob:x:1001:1001::/:\n".to_owned(),
            group: "adm:x:x:\nadm:x:4:alice\nadm:x:5:\n".to_owned(),
            ..LocalUsers::default()
        };
        let mut own = record(7);
        (own.uid, own.gid) = (Some(USER), Some(GROUP));
        let is_own = |record: &Record, uid| {
            // As the catalog has it.
            let access: RecordedAccess = serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap();
            assert_eq!(access, RecordedAccess::from(record));
            access.is_own_of(Uid::from_raw(uid), &users)
        };
        assert!(is_own(&own, 1000) && !is_own(&own, 1001) && !is_own(&own, 0));
        for (doubt, record) in [
            ("privileged", Record { privileged: true, ..own.clone() }),
            ("in a namespace", Record { in_namespace: true, ..own.clone() }),
            ("in an unknown namespace", Record { namespaces: vec!["unknown".to_owned()], ..own.clone() }),
            ("no uid", Record { uid: None, ..own.clone() }),
            ("no gid", Record { gid: None, ..own.clone() }),
            ("another group", Record { gid: Some(Gid::from_raw(4000)), ..own.clone() }),
        ] {
            assert!(!is_own(&record, 1000), "{doubt}");
        }
        assert!(users.has_uid(USER) && !users.has_uid(ROOT));
        assert_eq!((users.gid_of("adm"), users.gid_of("wheel")), (Some(Gid::from_raw(4)), None));
    }

    #[test]
    fn login_defs_says_which_uids_are_peoples() {
        let check = |login_defs: &str, uid: u32| {
            let users = LocalUsers {
                passwd: format!("someone:x:{uid}:{uid}::/:\n"),
                login_defs: login_defs.to_owned(),
                ..LocalUsers::default()
            };
            users.check(Uid::from_raw(uid), Some(Gid::from_raw(uid)))
        };
        let debian = "# UID_MIN 1\nSYS_UID_MIN\t100\nUID_MIN\t\t\t 1000\nUID_MAX\t\t\t60000\nSUB_UID_MIN 100000\n";
        for login_defs in ["", debian] {
            for (uid, is_person) in [(33, false), (999, false), (1000, true), (59_999, true), (65_536, false)] {
                assert_eq!(check(login_defs, uid).is_ok(), is_person, "{uid}");
            }
        }
        assert_eq!(check(debian, 33), Err(NotTheUsers::NoPerson(1000, 60_000)));
        assert_eq!(check("UID_MIN 500\n", 500), Ok(()));
        assert_eq!(check("UID_MIN 5000\n", 4999), Err(NotTheUsers::NoPerson(5000, 60_000)));
        assert_eq!(check("UID_MIN 2000\nUID_MIN 3000\n", 2500), Err(NotTheUsers::NoPerson(3000, 60_000)));
        assert_eq!(check("UID_MIN 0x7d0\nUID_MAX\t\"03720\"\n", 2000), Ok(()));
        assert_eq!(check("UID_MIN many\n", 1000), Err(NotTheUsers::LoginDefs("UID_MIN")));
        assert_eq!(check("UID_MAX -1\n", 1000), Err(NotTheUsers::LoginDefs("UID_MAX")));
    }
}
