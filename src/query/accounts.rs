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
pub(super) enum Holder {
    Administrator(Uid),
    User(Uid),
    /// All uids together that no local user has: a user may have 65,536 of them (subuid(5)).
    Others,
}

impl Holder {
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

/// All connections, by holder.
#[derive(Debug, Default)]
pub(super) struct Accounts(Mutex<HashMap<Holder, Account>>);

#[derive(Debug)]
struct Account {
    connections: usize,
    turn: Arc<Semaphore>,
}

/// A connection that was admitted. Dropped, it makes room for another one.
#[derive(Debug)]
pub(super) struct Seat {
    accounts: Arc<Accounts>,
    holder: Holder,
    /// For one query of the holder at a time, whatever the number of connections.
    pub(super) turn: Arc<Semaphore>,
}

impl Accounts {
    /// Admits a connection.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub(super) fn admit(self: &Arc<Self>, holder: Holder) -> Result<Seat, usize> {
        let mut accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |of: &dyn Fn(Holder) -> bool| -> usize {
            accounts.iter().filter(|(holder, _)| of(**holder)).map(|(_, account)| account.connections).sum()
        };
        let own = accounts.get(&holder).map_or(0, |account| account.connections);
        let limits = if holder.is_administrator() {
            [(own, OF_ADMINISTRATOR), (sum(&|_| true), OF_ALL)]
        } else {
            [(own, OF_USER), (sum(&|other| !other.is_administrator()), OF_USERS)]
        };
        if let Some((_, limit)) = limits.into_iter().find(|(count, limit)| count >= limit) {
            return Err(limit);
        }
        let new = || Account { connections: 0, turn: Arc::new(Semaphore::new(1)) };
        let account = accounts.entry(holder).or_insert_with(new);
        account.connections += 1;
        Ok(Seat { accounts: Arc::clone(self), holder, turn: Arc::clone(&account.turn) })
    }

    /// The number of connections.
    pub(super) fn count(&self) -> usize {
        let accounts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.values().map(|account| account.connections).sum()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut accounts = self.accounts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get_mut(&self.holder) {
            account.connections = account.connections.saturating_sub(1);
            if account.connections == 0 {
                accounts.remove(&self.holder);
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
        let holder = |uid| Holder::of(Uid::from_raw(uid), false, &users);
        assert_eq!(
            (holder(1000), holder(100_000), holder(100_001)),
            (Holder::User(Uid::from_raw(1000)), Holder::Others, Holder::Others)
        );
        let accounts = Arc::new(Accounts::default());
        let admit =
            |holder, most: usize| -> Vec<Seat> { (0..most).map_while(|_| accounts.admit(holder).ok()).collect() };
        let of_one = admit(holder(1000), 1000);
        assert_eq!(of_one.len(), OF_USER);
        let others = admit(Holder::Others, 1000);
        assert_eq!(others.len(), OF_USER);
        let many: Vec<Vec<Seat>> = (1..100).map(|uid| admit(Holder::User(Uid::from_raw(uid)), 1000)).collect();
        assert_eq!(accounts.count(), OF_USERS);
        assert_eq!(accounts.admit(Holder::User(Uid::from_raw(5000))).unwrap_err(), OF_USERS);
        let root = admit(Holder::Administrator(Uid::from_raw(0)), 1000);
        assert_eq!((root.len(), accounts.count()), (OF_ADMINISTRATOR, OF_ALL));
        drop((of_one, others, many, root));
        assert_eq!(accounts.count(), 0);
        assert!(accounts.0.lock().unwrap().is_empty());
    }
}
