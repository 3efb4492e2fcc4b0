//! Who may read a core besides root and the administrators.

use nix::unistd::Uid;

/// What the decision rests on.
#[derive(Clone, Copy, Debug)]
pub struct AccessFacts {
    /// Real uid of the process, in the initial user namespace.
    pub uid: Option<Uid>,
    /// `%d` of core_pattern.
    pub dumpable: Option<u32>,
    /// AT_SECURE.
    pub secure: Option<bool>,
    /// uid is euid and gid is egid, by the auxiliary vector.
    pub same_ids: Option<bool>,
    /// The process was in the host's PID and user namespace, for sure.
    pub on_host: bool,
}

/// Below this are system accounts (SYS_UID_MAX of login.defs(5)): a web server's uid must not read its siblings' memory.
const FIRST_USER: u32 = 1000;
/// `nobody`, shared by everybody.
const NOBODY: u32 = 65534;
/// Not a uid.
const INVALID: u32 = u32::MAX;

/// Whether the process changed its privilege, or may have (CVE-2025-4598): its core is for root and the administrators.
#[must_use]
pub fn is_privileged(facts: &AccessFacts) -> bool {
    !(facts.dumpable == Some(1) && facts.secure == Some(false) && facts.same_ids == Some(true))
}

/// The user who gets read access. A container's uid 1000 is not the host's: such a crash has no reader.
#[must_use]
pub fn reader(facts: &AccessFacts) -> Option<Uid> {
    let uid = facts.uid?;
    let is_person = uid.as_raw() >= FIRST_USER && ![NOBODY, INVALID].contains(&uid.as_raw());
    (is_person && facts.on_host && !is_privileged(facts)).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: AccessFacts = AccessFacts {
        uid: Some(Uid::from_raw(1000)),
        dumpable: Some(1),
        secure: Some(false),
        same_ids: Some(true),
        on_host: true,
    };

    #[test]
    fn a_users_plain_process_is_the_users_own() {
        assert_eq!(reader(&ALICE), Some(Uid::from_raw(1000)));
    }

    #[test]
    fn every_doubt_takes_it_away() {
        for doubtful in [
            AccessFacts { uid: None, ..ALICE },
            AccessFacts { uid: Some(Uid::from_raw(0)), ..ALICE },
            AccessFacts { uid: Some(Uid::from_raw(33)), ..ALICE },
            AccessFacts { uid: Some(Uid::from_raw(65534)), ..ALICE },
            AccessFacts { uid: Some(Uid::from_raw(u32::MAX)), ..ALICE },
            AccessFacts { dumpable: Some(2), ..ALICE },
            AccessFacts { dumpable: Some(0), ..ALICE },
            AccessFacts { dumpable: None, ..ALICE },
            AccessFacts { secure: Some(true), ..ALICE },
            AccessFacts { secure: None, ..ALICE },
            AccessFacts { same_ids: Some(false), ..ALICE },
            AccessFacts { same_ids: None, ..ALICE },
            AccessFacts { on_host: false, ..ALICE },
        ] {
            assert_eq!(reader(&doubtful), None, "{doubtful:?}");
        }
    }
}
