//! Who is at the other end of a connection.

use crate::policy::access::LocalUsers;
use crate::store::Viewer;
use coreward_sys::peer;
use nix::sys::socket::{UnixAddr, getpeername, getsockname, getsockopt, sockopt};
use nix::unistd::{Gid, Uid};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

/// The group whose members see all crashes.
const ADMINISTRATORS: &str = "adm";

/// The credentials of a peer, as of the moment when it connected (SO_PEERCRED, SO_PEERGROUPS). They are those of whoever connected only at
/// the end that was accepted: at the other end they are those of whoever called listen(2) (unix(7)), for systemd's sockets root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The effective uid.
    pub uid: Uid,
    /// The effective gid and the supplementary groups.
    groups: Vec<Gid>,
}

impl Peer {
    /// Asks the kernel who connected to the socket with the name `listening`. An accepted connection has that name, and only whoever may
    /// create files in its directory can give it to another one.
    ///
    /// # Errors
    /// `NotConnected`: it is the listening socket itself. `InvalidInput`: the connection was not accepted there. Otherwise as `Self::of`.
    pub fn of_accepted(socket: BorrowedFd<'_>, listening: &Path) -> io::Result<Self> {
        // The listening socket has the name as well, and the credentials of whoever called listen(2), but no peer.
        let _: UnixAddr = getpeername(socket.as_raw_fd())?;
        let name: UnixAddr = getsockname(socket.as_raw_fd())?;
        if !listening.is_absolute() || name.path() != Some(listening) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the connection was not accepted by the query service",
            ));
        }
        Self::of(socket)
    }

    /// Asks the kernel. `socket` must have been accepted by this process.
    ///
    /// # Errors
    /// It is not a connected Unix socket.
    pub(super) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
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
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn only_the_accepted_end_of_a_connection_says_who_connected() {
        let dir = tempfile::tempdir().unwrap();
        let [name, other] = ["socket", "other"].map(|name| dir.path().join(name));
        let listener = UnixListener::bind(&name).unwrap();
        let connected = UnixStream::connect(&name).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(Peer::of_accepted(accepted.as_fd(), &name).unwrap().uid, nix::unistd::geteuid());
        let (pair, _pair) = UnixStream::pair().unwrap();
        for stream in [&connected, &pair] {
            let refused = Peer::of_accepted(stream.as_fd(), &name).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
        assert!(Peer::of_accepted(listener.as_fd(), &name).is_err(), "nobody is connected");
        assert!(Peer::of_accepted(accepted.as_fd(), &other).is_err());
        assert!(Peer::of_accepted(accepted.as_fd(), Path::new("socket")).is_err());
    }

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
