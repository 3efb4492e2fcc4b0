//! Which crashes the same reader may read, one after the other.

use crate::crash::auxv::Auxv;
use coreward_wire::{Credentials, Namespaces, Offer};
use nix::unistd::{Gid, Uid};

/// What a crash has in common with those that the same reader may read: a storm's crashes have all of it in common. Who may see the memory
/// of one may see that of the others. A principal would not do: sudo(8) runs programs for root in a user's session, and containers of
/// one slice belong to different people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderScope {
    cgroup: Vec<u8>,
    ids: (Option<Uid>, Option<Gid>, Option<Uid>),
    dumpable: Option<u32>,
    credentials: Vec<Credentials>,
    namespaces: Namespaces,
    /// What the process was when its program was started.
    started: (Option<bool>, Option<[Uid; 2]>, Option<[Gid; 2]>),
}

impl ReaderScope {
    /// That of the crash that is offered, but for the auxiliary vector.
    #[must_use]
    pub fn of(offer: &Offer) -> Self {
        Self {
            cgroup: offer.cgroup.clone(),
            ids: (offer.uid, offer.gid, offer.login_uid),
            dumpable: offer.dumpable,
            credentials: offer.credentials.clone(),
            namespaces: offer.namespaces,
            started: (None, None, None),
        }
    }

    /// With the auxiliary vector of its process.
    #[must_use]
    pub fn started_with(self, auxv: &Auxv) -> Self {
        Self { started: (auxv.secure, auxv.uids, auxv.gids), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_of_one_storm_have_one_scope_and_what_somebody_else_may_not_see_has_another() {
        let uid = Uid::from_raw(1000);
        let thread = |uid, capabilities| Credentials { uids: [uid; 4], gids: [Gid::from_raw(1000); 4], capabilities };
        let offer = Offer {
            uid: Some(uid),
            dumpable: Some(1),
            cgroup: b"0::/user.slice/user-1000.slice/session-2.scope\n".to_vec(),
            credentials: vec![thread(uid, 0)],
            ..Offer::default()
        };
        let auxv = Auxv { secure: Some(false), uids: Some([uid; 2]), ..Auxv::default() };
        let scope_with = |offer: &Offer, auxv: &Auxv| ReaderScope::of(offer).started_with(auxv);
        let scope = |offer: &Offer| scope_with(offer, &auxv);
        let next = Offer { pid: Some(nix::unistd::Pid::from_raw(7)), start_time: 9, ..offer.clone() };
        assert_eq!(scope(&offer), scope(&next));
        let elsewhere = Auxv { phdr: Some(1), ..auxv };
        assert_eq!(scope(&offer), scope_with(&offer, &elsewhere), "addresses differ each time");
        for other in [
            // sudo(8), a setuid program, a capability.
            Offer { uid: Some(Uid::from_raw(0)), ..offer.clone() },
            Offer { dumpable: Some(2), ..offer.clone() },
            Offer { credentials: vec![thread(Uid::from_raw(0), 0)], ..offer.clone() },
            Offer { credentials: vec![thread(uid, 1)], ..offer.clone() },
            Offer { cgroup: b"0::/system.slice/docker-1.scope\n".to_vec(), ..offer.clone() },
        ] {
            assert_ne!(scope(&offer), scope(&other), "{other:?}");
        }
        let of_root = Auxv { uids: Some([Uid::from_raw(0); 2]), ..auxv };
        assert_ne!(scope(&offer), scope_with(&offer, &of_root), "it may have root's memory");
    }
}
