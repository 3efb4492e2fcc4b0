//! Whose modules are copied, and who waits.

use super::lock::lock;
use crate::crash::Principal;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

/// Crashes whose modules wait or are copied. Each has a descriptor for every file. Those of others are not stored.
const MAX_WAITING: usize = 16;
/// Of these, the most of one principal.
const MAX_OF_PRINCIPAL: usize = 4;

/// The work that goes on beside the sessions.
#[derive(Debug, Default)]
pub(super) struct ModuleQueue {
    waiting: Arc<Mutex<HashMap<Principal, usize>>>,
    /// One crash at a time: the second of two like it finds the modules of the first.
    pub(super) copy_lock: tokio::sync::Mutex<()>,
    /// A reader that was killed and may still hang. While it does, no other one is made.
    pub(super) lost: Mutex<Option<Arc<OwnedFd>>>,
}

/// A place in the queue. Dropped, it makes room for another one.
#[derive(Debug)]
pub(super) struct Place {
    waiting: Arc<Mutex<HashMap<Principal, usize>>>,
    principal: Principal,
}

impl ModuleQueue {
    /// A place for a crash of `principal`.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub(super) fn enter(&self, principal: Principal) -> Result<Place, usize> {
        let mut waiting = lock(&self.waiting);
        let own = waiting.get(&principal).copied().unwrap_or(0);
        for (count, limit) in [(own, MAX_OF_PRINCIPAL), (waiting.values().sum(), MAX_WAITING)] {
            if count >= limit {
                return Err(limit);
            }
        }
        waiting.insert(principal.clone(), own + 1);
        Ok(Place { waiting: Arc::clone(&self.waiting), principal })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        match waiting.get_mut(&self.principal) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(waiting.remove(&self.principal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_principal_leaves_places_for_others() {
        let queue = ModuleQueue::default();
        let enter = |name: &str| queue.enter(Principal::Unit(name.to_owned()));
        let of_one: Vec<Place> = (0..9).map_while(|_| enter("a").ok()).collect();
        assert_eq!((of_one.len(), enter("a").unwrap_err()), (4, MAX_OF_PRINCIPAL));
        let others: Vec<Place> = (0..12).map(|number| enter(&number.to_string()).unwrap()).collect();
        assert_eq!(enter("b").unwrap_err(), MAX_WAITING);
        drop(of_one);
        assert!(enter("a").is_ok());
        drop(others);
        assert!(lock(&queue.waiting).is_empty());
    }
}
