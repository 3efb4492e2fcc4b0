//! Whose crashes may be read and captured at once. A place is held from before the first read until the process is released.

use crate::crash::Principal;
use coreward_sys::pidfd;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Places in all: small crashes must not wait for a large one that has all of them.
const PLACES: usize = 16;
/// Places of one principal.
const PLACES_OF_ONE: usize = PLACES / 4;
/// Readers of one principal's crashes that were killed and hang all the same: no more of them are started.
const HANGING_OF_ONE: usize = 8;
/// Such readers in all. They count towards the unit's TasksMax=.
const HANGING: usize = 64;

/// The places, and who has them.
#[derive(Debug, Default)]
pub struct Places {
    state: Mutex<State>,
    returned: Notify,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    by_principal: HashMap<Principal, usize>,
    /// Readers that were killed, until they have ended.
    killed: Vec<(Principal, Arc<OwnedFd>)>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    principal: Principal,
}

/// So many killed readers of this principal's crashes hang that no other is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyHanging;

impl Places {
    /// Waits for a place.
    pub async fn take(self: &Arc<Self>, principal: &Principal) -> Place {
        loop {
            let returned = self.returned.notified();
            let mut returned = std::pin::pin!(returned);
            // From here on no notification is missed.
            returned.as_mut().enable();
            if let Some(place) = self.try_take(principal) {
                return place;
            }
            returned.await;
        }
    }

    fn try_take(self: &Arc<Self>, principal: &Principal) -> Option<Place> {
        let mut state = self.lock();
        let own = state.by_principal.get(principal).copied().unwrap_or(0);
        if state.taken >= PLACES || own >= PLACES_OF_ONE {
            return None;
        }
        state.taken += 1;
        *state.by_principal.entry(principal.clone()).or_insert(0) += 1;
        Some(Place { places: Arc::clone(self), principal: principal.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether another reader may be started for this principal.
    ///
    /// # Errors
    /// Too many hang.
    pub fn may_read(&self) -> Result<(), TooManyHanging> {
        let mut state = self.places.lock();
        state.killed.retain(|(_, reader)| pidfd::is_alive(reader.as_fd()));
        let own = state.killed.iter().filter(|(principal, _)| *principal == self.principal).count();
        if own < HANGING_OF_ONE && state.killed.len() < HANGING { Ok(()) } else { Err(TooManyHanging) }
    }

    /// Remembers a reader that is killed because it was late.
    pub fn add_killed(&self, reader: Arc<OwnedFd>) {
        self.places.lock().killed.push((self.principal.clone(), reader));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.taken -= 1;
        if let Some(own) = state.by_principal.get_mut(&self.principal) {
            *own -= 1;
            if *own == 0 {
                state.by_principal.remove(&self.principal);
            }
        }
        drop(state);
        // All: the first that waits may be one whose principal has no place left.
        self.places.returned.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Uid;

    fn user(uid: u32) -> Principal {
        Principal::User(Uid::from_raw(uid))
    }

    #[test]
    fn nobody_has_more_than_a_quarter() {
        let places = Arc::new(Places::default());
        let own: Vec<Place> = std::iter::from_fn(|| places.try_take(&user(1))).collect();
        assert_eq!(own.len(), PLACES / 4);
        let others: Vec<Place> = (2..9).filter_map(|uid| places.try_take(&user(uid))).collect();
        assert_eq!(others.len(), 7);
        drop(own);
        assert!(places.try_take(&user(1)).is_some());
        drop(others);
        let state = places.lock();
        assert_eq!((state.taken, state.by_principal.len()), (0, 0));
    }

    #[tokio::test]
    async fn one_that_waits_gets_the_next_place_of_its_principal() {
        let places = Arc::new(Places::default());
        let mut own = Vec::new();
        for _ in 0..PLACES_OF_ONE {
            own.push(places.take(&user(1)).await);
        }
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take(&user(1)).await }
        });
        let other = places.take(&user(2)).await;
        drop(other);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        own.pop();
        waiting.await.unwrap();
    }

    #[test]
    fn killed_readers_count_until_they_have_ended() {
        let places = Arc::new(Places::default());
        let place = places.try_take(&user(1)).unwrap();
        let mut hanging: Vec<std::process::Child> =
            (0..HANGING_OF_ONE).map(|_| std::process::Command::new("sleep").arg("60").spawn().unwrap()).collect();
        for child in &hanging {
            assert_eq!(place.may_read(), Ok(()));
            place.add_killed(Arc::new(pidfd::open(child.id().cast_signed()).unwrap()));
        }
        assert_eq!(place.may_read(), Err(TooManyHanging));
        assert_eq!(places.try_take(&user(2)).unwrap().may_read(), Ok(()));
        for child in &mut hanging {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(place.may_read(), Ok(()));
    }
}
