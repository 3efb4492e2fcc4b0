//! How much of the service each user may have: connections, and one query at a time.

use crate::policy::access::LocalUsers;
use nix::unistd::Uid;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// The most connections of an administrator, who may have many programs.
const OF_ADMINISTRATOR: usize = 64;
/// The most connections of another user.
const OF_USER: usize = 16;
/// The most connections of all who are not administrators; those always find some left.
const OF_USERS: usize = 128;
/// The most connections of all.
const OF_ALL: usize = 192;

/// Who answers for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ClientClass {
    Administrator(Uid),
    User(Uid),
    /// All uids together that no local user has: a user may have 65,536 of them (subuid(5)).
    Others,
}

impl ClientClass {
    pub(super) fn of(uid: Uid, is_administrator: bool, users: &LocalUsers) -> Self {
        if is_administrator {
            Self::Administrator(uid)
        } else if users.has_uid(uid) {
            Self::User(uid)
        } else {
            Self::Others
        }
    }

    fn is_administrator(self) -> bool {
        matches!(self, Self::Administrator(_))
    }
}

/// All connections, by class.
#[derive(Debug, Default)]
pub(super) struct ConnectionLimits(Mutex<HashMap<ClientClass, ClassUse>>);

#[derive(Debug)]
struct ClassUse {
    connections: usize,
    query_lock: Arc<Semaphore>,
}

/// A connection that was admitted. Dropped, it makes room for another one.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    class: ClientClass,
    /// For one query of the class at a time, whatever the number of connections.
    pub(super) query_lock: Arc<Semaphore>,
}

impl ConnectionLimits {
    /// Admits a connection.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub(super) fn admit(self: &Arc<Self>, class: ClientClass) -> Result<ConnectionPermit, usize> {
        let mut classes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: &dyn Fn(ClientClass) -> bool| -> usize {
            classes.iter().filter(|(class, _)| of(**class)).map(|(_, used)| used.connections).sum()
        };
        let own = classes.get(&class).map_or(0, |used| used.connections);
        let limits = if class.is_administrator() {
            [(own, OF_ADMINISTRATOR), (sum(&|_| true), OF_ALL)]
        } else {
            [(own, OF_USER), (sum(&|other| !other.is_administrator()), OF_USERS)]
        };
        if let Some((_, limit)) = limits.into_iter().find(|(count, limit)| count >= limit) {
            return Err(limit);
        }
        let new = || ClassUse { connections: 0, query_lock: Arc::new(Semaphore::new(1)) };
        let used = classes.entry(class).or_insert_with(new);
        used.connections += 1;
        Ok(ConnectionPermit { limits: Arc::clone(self), class, query_lock: Arc::clone(&used.query_lock) })
    }

    /// The number of connections.
    pub(super) fn count(&self) -> usize {
        let classes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        classes.values().map(|used| used.connections).sum()
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut classes = self.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = classes.get_mut(&self.class) {
            used.connections = used.connections.saturating_sub(1);
            if used.connections == 0 {
                classes.remove(&self.class);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_connections_of_others() {
        let users = LocalUsers { passwd: "a:x:1000:1000::/:\n".to_owned(), ..LocalUsers::default() };
        let class = |uid| ClientClass::of(Uid::from_raw(uid), false, &users);
        assert_eq!(
            (class(1000), class(100_000), class(100_001)),
            (ClientClass::User(Uid::from_raw(1000)), ClientClass::Others, ClientClass::Others)
        );
        let limits = Arc::new(ConnectionLimits::default());
        let admit = |class, most: usize| -> Vec<ConnectionPermit> {
            (0..most).map_while(|_| limits.admit(class).ok()).collect()
        };
        let of_one = admit(class(1000), 1000);
        assert_eq!(of_one.len(), OF_USER);
        let others = admit(ClientClass::Others, 1000);
        assert_eq!(others.len(), OF_USER);
        let many: Vec<Vec<ConnectionPermit>> =
            (1..100).map(|uid| admit(ClientClass::User(Uid::from_raw(uid)), 1000)).collect();
        assert_eq!(limits.count(), OF_USERS);
        assert_eq!(limits.admit(ClientClass::User(Uid::from_raw(5000))).unwrap_err(), OF_USERS);
        let root = admit(ClientClass::Administrator(Uid::from_raw(0)), 1000);
        assert_eq!((root.len(), limits.count()), (OF_ADMINISTRATOR, OF_ALL));
        drop((of_one, others, many, root));
        assert_eq!(limits.count(), 0);
        assert!(limits.0.lock().unwrap().is_empty());
    }
}
