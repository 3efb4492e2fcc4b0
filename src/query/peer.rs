//! Who is at the other end of a connection.

use crate::policy::access::LocalUsers;
use crate::store::Viewer;
use coreward_sys::peer;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Uid};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// The group whose members see all crashes.
const ADMINISTRATORS: &str = "adm";

/// The credentials of a peer, as of the moment when it connected (SO_PEERCRED, SO_PEERGROUPS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The effective uid.
    pub uid: Uid,
    /// The effective gid and the supplementary groups.
    groups: Vec<Gid>,
}

impl Peer {
    /// Asks the kernel.
    ///
    /// # Errors
    /// It is not a connected Unix socket.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let credentials = getsockopt(&socket, sockopt::PeerCredentials)?;
        let mut groups: Vec<Gid> = peer::groups(socket)?.into_iter().map(Gid::from_raw).collect();
        groups.push(Gid::from_raw(credentials.gid()));
        Ok(Self { uid: Uid::from_raw(credentials.uid()), groups })
    }

    /// Whether it is root or a member of group adm, among these users.
    #[must_use]
    pub fn is_administrator(&self, users: &LocalUsers) -> bool {
        self.uid.is_root() || users.gid_of(ADMINISTRATORS).is_some_and(|adm| self.groups.contains(&adm))
    }

    /// What it may see.
    #[must_use]
    pub fn viewer(&self, users: Arc<LocalUsers>) -> Viewer {
        if self.is_administrator(&users) { Viewer::Administrator } else { Viewer::User(self.uid, users) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn root_and_members_of_adm_are_administrators() {
        let (one, _other) = UnixStream::pair().unwrap();
        let own = Peer::of(one.as_fd()).unwrap();
        assert_eq!(own.uid, nix::unistd::geteuid());
        assert!(own.groups.contains(&nix::unistd::getegid()));
        let users = LocalUsers { group: "adm:x:4:alice\n".to_owned(), ..LocalUsers::default() };
        let of = |uid, groups: &[u32]| Peer {
            uid: Uid::from_raw(uid),
            groups: groups.iter().copied().map(Gid::from_raw).collect(),
        };
        assert!(of(0, &[]).is_administrator(&users) && of(1000, &[1000, 4]).is_administrator(&users));
        assert!(!of(1000, &[1000]).is_administrator(&users), "the kernel knows her groups, and this is not one");
        assert!(!of(1000, &[4]).is_administrator(&LocalUsers::default()), "there is no group adm");
    }
}
