//! Who answers for a crash: the principal that its disk space, rate and rows are charged to, and the party whose crashes of the
//! same bug are duplicates of it.

use nix::unistd::Uid;
use std::fmt;
use std::ops::RangeInclusive;

/// The party that quotas and rate limits apply to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A system service. For containers the unit or slice that they were started in, because what is below it belongs to the
    /// container, and its names change with every start.
    Unit(String),
    /// All containers that a manager starts outside of systemd's units, by the name of its cgroup.
    Container(String),
    /// A user, for everything in a login session, under the user's service manager, or under a subordinate uid.
    User(Uid),
    /// The user is unknown, because the kernel's arguments could not be read.
    Unknown,
}

/// Those whose crashes of the same bug are duplicates of each other. What one party does never hides a crash of another: not
/// in a storm window, not as the first of its signature, not as the more recent core.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// All processes that this user answers for, in whatever unit.
    User(Uid),
    /// The containers of a principal, whose uids are the containers' own.
    Containers(Principal),
    /// The user is unknown.
    Unknown,
}

/// A coarse kind of principal, for metrics: there are as many of these on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PrincipalClass {
    /// Root's processes, services included.
    Root,
    /// Other system accounts, and services with users of their own.
    System,
    /// Users.
    User,
    /// Containers whose uids are their own.
    Container,
    /// The user is unknown.
    Unknown,
}

/// What the accounts of a crash depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountFacts<'a> {
    /// Path of the cgroup.
    pub cgroup: &'a str,
    /// Unit of the system manager. Only looked at if the path is not known, as in rows without a record.
    pub unit: Option<&'a str>,
    /// It ran in a container that its cgroup names.
    pub in_container: bool,
    /// It ran in a PID or user namespace of its own.
    pub in_namespace: bool,
    /// It changed its privileges, or may have.
    pub privileged: bool,
    /// Real uid.
    pub uid: Option<Uid>,
    /// The uid that logged in (`/proc/PID/loginuid`).
    pub login_uid: Option<Uid>,
    /// The user whom `/etc/subuid` gives the uid to.
    pub subuid_owner: Option<Uid>,
}

/// The uids of system accounts are below this (SYS_UID_MAX, login.defs(5)).
const FIRST_REGULAR_UID: u32 = 1000;

impl Principal {
    /// The user with this id, or [`Self::Unknown`] for `None`.
    #[must_use]
    pub fn user(uid: Option<Uid>) -> Self {
        uid.map_or(Self::Unknown, Self::User)
    }

    /// The principal and the party that answer for a crash.
    #[must_use]
    pub fn answering(facts: &AccountFacts<'_>) -> (Self, Party) {
        let place = Place::of(facts);
        if facts.in_container && place.owner.is_none() {
            let principal = place.container_principal();
            return (principal.clone(), Party::Containers(principal));
        }
        let user = facts.answering_user(&place);
        // Root in another namespace, or under a subordinate uid of root's, is not the host's root.
        let is_foreign_root =
            facts.in_namespace && place.unit.is_none() && place.owner.is_none() && user.is_some_and(Uid::is_root);
        if is_foreign_root || (user.is_none() && facts.subuid_owner.is_some()) {
            let principal = place.container_principal();
            return (principal.clone(), Party::Containers(principal));
        }
        let principal = match (&place.unit, facts.own_login()) {
            (Some(_), Some(login)) => Self::User(login),
            (Some(unit), None) => Self::Unit((*unit).to_owned()),
            (None, _) => Self::user(user),
        };
        // sudo(8) leaves a session's slice and login uid as they are. What runs as root is still root's to debug.
        let party_user = if facts.uid.is_some_and(Uid::is_root) && !facts.privileged { facts.uid } else { user };
        (principal, party_user.map_or(Party::Unknown, Party::User))
    }

    /// Reads the form in which [`fmt::Display`] writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(' ')?;
        match (kind, name) {
            ("unit", name) => Some(Self::Unit(name.to_owned())),
            ("container", name) => Some(Self::Container(name.to_owned())),
            ("user", "unknown") => Some(Self::Unknown),
            ("user", uid) => uid.parse().ok().map(Uid::from_raw).map(Self::User),
            _ => None,
        }
    }
}

impl Party {
    /// The party that a row of the catalog stands for: `user` is that of [`Self::user`].
    #[must_use]
    pub fn of_row(principal: &Principal, user: Option<Uid>) -> Self {
        match (user, principal) {
            (Some(uid), _) => Self::User(uid),
            (None, Principal::Unknown) => Self::Unknown,
            (None, principal) => Self::Containers(principal.clone()),
        }
    }

    /// Whether it is root or a system account: what others do costs it nothing that it has.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.user().is_some_and(|uid| uid.as_raw() < FIRST_REGULAR_UID)
    }

    /// The user whose own limits apply; `None` for containers, which have those of their principal.
    #[must_use]
    pub fn user(&self) -> Option<Uid> {
        match self {
            Self::User(uid) => Some(*uid),
            Self::Containers(_) | Self::Unknown => None,
        }
    }
}

impl PrincipalClass {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Root, Self::System, Self::User, Self::Container, Self::Unknown];

    /// The class of what this principal and this party answer for.
    #[must_use]
    pub fn of(principal: &Principal, party: &Party) -> Self {
        match (party, principal) {
            (Party::Containers(_), _) => Self::Container,
            (Party::Unknown, _) => Self::Unknown,
            (Party::User(uid), _) if uid.is_root() => Self::Root,
            (Party::User(_), Principal::Unit(_)) => Self::System,
            (Party::User(_), _) if party.is_system() => Self::System,
            (Party::User(_), _) => Self::User,
        }
    }

    /// The name that metrics use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::System => "system",
            Self::User => "user",
            Self::Container => "container",
            Self::Unknown => "unknown",
        }
    }
}

impl AccountFacts<'_> {
    /// The person whose job a process of a service is, as those of cron(8), at(1), and sshd(8) without pam_systemd(8): pam_loginuid(8)
    /// sets the login uid. A process that finds it unset may set it to any other, so it is believed only of a process that has no
    /// other uid than the person's own, or one that `/etc/subuid` gives the person: with it, nobody can name anybody else.
    fn own_login(&self) -> Option<Uid> {
        /// Uids that a service may get anew at each start or on request: with one of these it would be somebody else each time
        /// (`DynamicUser=`, containers; systemd's page on uids and gids).
        const HANDED_OUT: [RangeInclusive<u32>; 2] = [60_000..=65_535, 524_288..=1_879_048_191];
        let is_persons = |uid: &Uid| {
            uid.as_raw() >= FIRST_REGULAR_UID && !HANDED_OUT.iter().any(|range| range.contains(&uid.as_raw()))
        };
        let login = self.login_uid.filter(is_persons)?;
        (self.uid == Some(login) || self.subuid_owner == Some(login)).then_some(login)
    }

    /// The user who answers for a process outside of containers. Nobody becomes root this way who is not: a login of root's may
    /// have started the process of a user.
    fn answering_user(&self, place: &Place<'_>) -> Option<Uid> {
        let is_root = self.uid.is_some_and(Uid::is_root);
        let believable = |uid: &Uid| is_root || !uid.is_root();
        if place.unit.is_some() {
            // A service's login uid was never set, and a process that finds it unset may set it to any other.
            return self.subuid_owner.filter(believable).or(self.uid);
        }
        // For the same reason a system account's is not believed.
        let logs_in = self.uid.is_some_and(|uid| uid.is_root() || uid.as_raw() >= FIRST_REGULAR_UID);
        let login = self.login_uid.filter(|_| logs_in);
        let owner = [place.owner, login, self.subuid_owner].into_iter().flatten().find(believable);
        match owner {
            // A uid of a range that is root's, as container managers have it: neither root nor a user.
            None if self.subuid_owner.is_some() => None,
            owner => owner.or(self.uid),
        }
    }
}

/// Where in the cgroup tree a process is, up to what it can choose itself: names below a service, scope or container are those of
/// whoever it was delegated to.
#[derive(Debug, Default)]
struct Place<'a> {
    /// The user whose slice it is in.
    owner: Option<Uid>,
    /// The system service it is in.
    unit: Option<&'a str>,
    /// The Kubernetes pod's slice or directory, or the innermost slice.
    around: Option<&'a str>,
    /// The outermost directory, if that is no slice.
    outermost: Option<&'a str>,
}

impl<'a> Place<'a> {
    fn of(facts: &AccountFacts<'a>) -> Self {
        let mut place = Self::default();
        let mut parts = facts.cgroup.split('/').filter(|part| !part.is_empty()).peekable();
        if let Some(unit) = facts.unit.filter(|_| parts.peek().is_none()) {
            place.owner = manager_of(unit);
            place.unit = Some(unit).filter(|unit| unit.ends_with(".service") && place.owner.is_none());
            return place;
        }
        let mut parent = "";
        while let Some(slice) = parts.next_if(|part| part.ends_with(".slice")) {
            let is_users = parent == "user.slice" && place.owner.is_none();
            let owner = slice.strip_prefix("user-").filter(|_| is_users);
            place.owner = place.owner.or_else(|| owner?.strip_suffix(".slice")?.parse().ok().map(Uid::from_raw));
            place.around = Some(slice);
            parent = slice;
        }
        let Some(next) = parts.next() else { return place };
        place.owner = place.owner.or_else(|| manager_of(next));
        if place.owner.is_none() && !facts.in_container && next.ends_with(".service") {
            place.unit = Some(next.strip_prefix('_').unwrap_or(next));
        }
        if place.around.is_none() {
            place.outermost = Some(next);
            // Kubernetes without systemd: /kubepods/QOS/podUID/CONTAINER, and guaranteed pods without the class.
            let is_pod = |part: &&str| part.starts_with("pod") && part.len() > 32;
            place.around = parts.take(2).find(is_pod).filter(|_| next == "kubepods");
        }
        place
    }

    /// The principal of a container here.
    fn container_principal(&self) -> Principal {
        match (self.around, self.outermost) {
            (Some(around), _) => Principal::Unit(around.to_owned()),
            // The name of a container is its own, that of its manager is not: /lxc.payload.web, /docker/ID.
            (None, Some(name)) if name.starts_with("lxc.payload") => Principal::Container("lxc.payload".to_owned()),
            (None, Some(name)) if name.len() < 32 && !name.contains(".scope") => Principal::Container(name.to_owned()),
            _ => Principal::Container("unnamed".to_owned()),
        }
    }
}

/// The user whose service manager has this unit.
fn manager_of(unit: &str) -> Option<Uid> {
    unit.strip_prefix("user@")?.strip_suffix(".service")?.parse().ok().map(Uid::from_raw)
}

/// The form in tables, JSON and the catalog: `unit nginx.service`, `container docker`, `user 1000`.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => write!(f, "unit {unit}"),
            Self::Container(name) => write!(f, "container {name}"),
            Self::User(uid) => write!(f, "user {uid}"),
            Self::Unknown => f.write_str("user unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uid(uid: u32) -> Uid {
        Uid::from_raw(uid)
    }

    fn facts(cgroup: &str, of: u32) -> AccountFacts<'_> {
        AccountFacts { cgroup, uid: Some(uid(of)), ..AccountFacts::default() }
    }

    fn of(facts: &AccountFacts<'_>) -> (String, Party) {
        let (principal, party) = Principal::answering(facts);
        (principal.to_string(), party)
    }

    fn user(uid: u32) -> Party {
        Party::User(Uid::from_raw(uid))
    }

    #[test]
    fn every_crash_is_in_one_of_five_classes() {
        let class = |facts: &AccountFacts<'_>| {
            let (principal, party) = Principal::answering(facts);
            PrincipalClass::of(&principal, &party)
        };
        let service = "/system.slice/nginx.service";
        let container = AccountFacts { in_container: true, ..facts("/system.slice/docker-1.scope", 0) };
        for (facts, expected) in [
            (facts(service, 0), PrincipalClass::Root),
            (facts(service, 33), PrincipalClass::System),
            (facts(service, 1000), PrincipalClass::System),
            (facts(service, 61_184), PrincipalClass::System),
            (facts("/init.scope", 33), PrincipalClass::System),
            (facts("/user.slice/user-1000.slice/session-2.scope", 1000), PrincipalClass::User),
            (container, PrincipalClass::Container),
            (AccountFacts::default(), PrincipalClass::Unknown),
        ] {
            assert_eq!(class(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn whoever_a_slice_belongs_to_answers_under_every_uid() {
        for path in [
            "/user.slice/user-1000.slice/session-2.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/a.service",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-1.scope/container",
        ] {
            for number in [1000, 100_000, 165_535, 1001] {
                for (in_container, in_namespace) in [(false, false), (false, true), (true, true)] {
                    let facts = AccountFacts { in_container, in_namespace, ..facts(path, number) };
                    assert_eq!(of(&facts), ("user 1000".to_owned(), user(1000)), "{facts:?}");
                }
            }
        }
        // Root by sudo(8) uses up the user's rate, and is no duplicate of the user's.
        assert_eq!(of(&facts("/user.slice/user-1000.slice/session-2.scope", 0)), ("user 1000".to_owned(), user(0)));
        // A user whom root's session starts does not become root.
        assert_eq!(of(&facts("/user.slice/user-0.slice/session-1.scope", 33)), ("user 33".to_owned(), user(33)));
    }

    #[test]
    fn names_below_what_is_delegated_decide_nothing() {
        let nested = "/system.slice/web.service/user.slice/user-1001.slice/user@1001.service";
        assert_eq!(of(&facts(nested, 33)), ("unit web.service".to_owned(), user(33)));
        let container = "/system.slice/docker-1.scope/user.slice/user-0.slice/user@0.service";
        let inside = AccountFacts { in_container: true, ..facts(container, 0) };
        assert_eq!(of(&inside).0, "unit system.slice");
        assert_eq!(of(&facts("/evil/user.slice/user-0.slice", 1000)).0, "user 1000");
        assert_eq!(of(&facts("/user-0.slice/x", 1000)).0, "user 1000");
    }

    #[test]
    fn without_a_slice_the_login_answers_and_then_the_owner_of_the_range() {
        let login = AccountFacts { login_uid: Some(uid(1000)), ..facts("/", 100_007) };
        assert_eq!(of(&login), ("user 1000".to_owned(), user(1000)));
        let both = AccountFacts { subuid_owner: Some(uid(1001)), ..login };
        assert_eq!(of(&both).0, "user 1000");
        let range = AccountFacts { subuid_owner: Some(uid(1001)), ..facts("/", 100_007) };
        assert_eq!(of(&range), ("user 1001".to_owned(), user(1001)));
        assert_eq!(of(&facts("/", 1002)), ("user 1002".to_owned(), user(1002)));
        assert_eq!(of(&AccountFacts::default()), ("user unknown".to_owned(), Party::Unknown));
        // A uid of root's own range is neither root nor everybody's.
        let of_root = AccountFacts { subuid_owner: Some(uid(0)), in_namespace: true, ..facts("/c1", 100_007) };
        assert_eq!(of(&of_root).0, "container c1");
    }

    #[test]
    fn a_service_cannot_blame_its_crashes_on_a_login() {
        let blaming = AccountFacts { login_uid: Some(uid(1000)), ..facts("/system.slice/nginx.service", 33) };
        assert_eq!(of(&blaming), ("unit nginx.service".to_owned(), user(33)));
        let outside = AccountFacts { login_uid: Some(uid(1000)), ..facts("/", 33) };
        assert_eq!(of(&outside), ("user 33".to_owned(), user(33)));
    }

    #[test]
    fn a_job_of_a_service_is_its_users_if_it_runs_as_that_user() {
        let job =
            |number, login| AccountFacts { login_uid: Some(uid(login)), ..facts("/system.slice/cron.service", number) };
        assert_eq!(of(&job(1000, 1000)), ("user 1000".to_owned(), user(1000)));
        // A setuid program that the job runs: its real uid is still the user's.
        let privileged = AccountFacts { privileged: true, ..job(1000, 1000) };
        assert_eq!(of(&privileged), ("user 1000".to_owned(), user(1000)));
        // In a container of the user's own.
        let nested = AccountFacts { subuid_owner: Some(uid(1000)), in_namespace: true, ..job(100_007, 1000) };
        assert_eq!(of(&nested), ("user 1000".to_owned(), user(1000)));
        // Whoever the login uid does not belong to may have chosen it, and so may a service with a uid of its own.
        for (number, login) in
            [(1001, 1000), (0, 0), (0, 1000), (33, 33), (1000, 0), (61_184, 61_184), (600_000, 600_000)]
        {
            assert_eq!(of(&job(number, login)).0, "unit cron.service", "{number} {login}");
        }
        assert_eq!(of(&AccountFacts { in_container: true, ..job(1000, 1000) }).0, "unit system.slice");
    }

    #[test]
    fn containers_answer_by_where_they_were_started() {
        let id = "4f5c".repeat(16);
        for (path, expected) in [
            (format!("/system.slice/docker-{id}.scope"), "unit system.slice"),
            (format!("/docker/{id}"), "container docker"),
            (format!("/{id}"), "container unnamed"),
            (format!("/machine.slice/libpod-{id}.scope/container"), "unit machine.slice"),
            ("/machine.slice/systemd-nspawn@web.service/payload".to_owned(), "unit machine.slice"),
            ("/lxc.payload.web/init.scope".to_owned(), "container lxc.payload"),
            (format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"), "unit kubepods-pod1.slice"),
            (
                format!("/kubepods/burstable/pod0a1b2c3d-0000-1111-2222-333344445555/{id}"),
                "unit pod0a1b2c3d-0000-1111-2222-333344445555",
            ),
        ] {
            for number in [0, 33, 1000, 4_000_000] {
                let facts = AccountFacts { in_container: true, in_namespace: true, ..facts(&path, number) };
                let (principal, party) = Principal::answering(&facts);
                assert_eq!(principal.to_string(), expected, "{path}");
                assert_eq!(party, Party::Containers(principal));
            }
        }
        // Root in a namespace that nothing names is not the host's root; a user in one is that user.
        assert_eq!(of(&AccountFacts { in_namespace: true, ..facts("/c1", 0) }).0, "container c1");
        assert_eq!(of(&AccountFacts { in_namespace: true, ..facts("/c1", 1000) }).0, "user 1000");
        // A sandboxed service is that service.
        let sandboxed = AccountFacts { in_namespace: true, ..facts("/system.slice/a.service", 0) };
        assert_eq!(of(&sandboxed), ("unit a.service".to_owned(), user(0)));
    }

    #[test]
    fn rows_without_a_path_keep_their_unit() {
        let unit = |unit, number| AccountFacts { unit: Some(unit), ..facts("", number) };
        assert_eq!(of(&unit("nginx.service", 33)).0, "unit nginx.service");
        assert_eq!(of(&unit("user@1000.service", 100_001)).0, "user 1000");
        assert_eq!(of(&unit("session-1.scope", 1000)).0, "user 1000");
    }

    proptest! {
        #[test]
        fn a_principal_is_read_as_it_was_written(name in "[ -~]{0,20}", number in any::<u32>()) {
            let user = Principal::User(Uid::from_raw(number));
            for principal in [Principal::Unit(name.clone()), Principal::Container(name), user, Principal::Unknown] {
                prop_assert_eq!(Principal::parse(&principal.to_string()), Some(principal.clone()));
            }
        }

        /// In one slice, with one login or in one range, no uid but root's gets a party or a principal of its own.
        #[test]
        fn new_uids_are_no_new_principals(number in 1000..u32::MAX, in_namespace: bool, privileged: bool, which in 0..3) {
            let base = AccountFacts { in_namespace, privileged, ..facts("/", number) };
            let facts = match which {
                0 => AccountFacts { cgroup: "/user.slice/user-1000.slice/session-1.scope", ..base },
                1 => AccountFacts { login_uid: Some(uid(1000)), ..base },
                _ => AccountFacts { subuid_owner: Some(uid(1000)), ..base },
            };
            prop_assert_eq!(of(&facts), ("user 1000".to_owned(), user(1000)));
        }
    }
}
