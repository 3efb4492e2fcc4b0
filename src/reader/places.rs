//! Whose crashes may be read and captured at once. A place is held from before the first read until the process is released.

use crate::crash::Principal;
use coreward_sys::pidfd;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Places in all: small crashes must not wait for a large one that has all of them.
const PLACES: usize = 16;
/// Places of one principal.
const PLACES_OF_ONE: usize = PLACES / 4;
/// Readers of one principal's crashes that were killed and hang all the same: no more of them are started.
const HANGING_OF_ONE: usize = 8;
/// Such readers in all. They count towards the unit's TasksMax=.
const HANGING: usize = 64;

/// The most crashes of one principal that wait for a place. Each keeps one of the daemon's sessions (`MAX_SESSIONS`).
const WAITING_OF_ONE: usize = 512;

/// The places, and who has them.
#[derive(Debug)]
pub struct Places {
    places: usize,
    places_of_one: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    by_principal: HashMap<Principal, usize>,
    /// Those that wait, the first one first. One that does not wait any more has dropped its receiver.
    waiting: VecDeque<(Principal, oneshot::Sender<Place>)>,
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
    /// The places for crashes that are read and captured.
    #[must_use]
    pub fn for_captures() -> Self {
        Self::new(PLACES, PLACES_OF_ONE)
    }

    /// `places` in all, and `places_of_one` for each principal.
    #[must_use]
    pub fn new(places: usize, places_of_one: usize) -> Self {
        Self { places, places_of_one, state: Mutex::default() }
    }

    /// Waits for a place. `None`: too many of the same principal wait already.
    pub async fn take(self: &Arc<Self>, principal: &Principal) -> Option<Place> {
        let receiver = {
            let mut state = self.lock();
            if self.has_place(&state, principal) {
                return Some(self.give(&mut state, principal));
            }
            state.waiting.retain(|(_, sender)| !sender.is_closed());
            if state.waiting.iter().filter(|(waiting, _)| waiting == principal).count() >= WAITING_OF_ONE {
                return None;
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back((principal.clone(), sender));
            receiver
        };
        receiver.await.ok()
    }

    /// A place, if there is one now.
    pub fn try_take(self: &Arc<Self>, principal: &Principal) -> Option<Place> {
        let mut state = self.lock();
        self.has_place(&state, principal).then(|| self.give(&mut state, principal))
    }

    fn has_place(&self, state: &State, principal: &Principal) -> bool {
        let own = state.by_principal.get(principal).copied().unwrap_or(0);
        state.taken < self.places && own < self.places_of_one
    }

    fn give(self: &Arc<Self>, state: &mut State, principal: &Principal) -> Place {
        state.taken += 1;
        *state.by_principal.entry(principal.clone()).or_insert(0) += 1;
        Place { places: Arc::clone(self), principal: principal.clone() }
    }

    /// Takes a place back, and gives it to the first that may have one.
    fn take_back(self: &Arc<Self>, principal: &Principal) {
        let mut state = self.lock();
        state.taken -= 1;
        if let Some(own) = state.by_principal.get_mut(principal) {
            *own -= 1;
            if *own == 0 {
                state.by_principal.remove(principal);
            }
        }
        let may_have = |state: &State, (waiting, sender): &(Principal, oneshot::Sender<Place>)| {
            !sender.is_closed() && self.has_place(state, waiting)
        };
        let next = state.waiting.iter().position(|waiting| may_have(&state, waiting));
        let given = next.and_then(|index| state.waiting.remove(index)).map(|(principal, sender)| {
            let place = self.give(&mut state, &principal);
            (sender, place)
        });
        drop(state);
        if let Some((sender, place)) = given {
            // One that has just ceased to wait gives it back: the place is dropped.
            let _ = sender.send(place);
        }
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
        self.places.take_back(&self.principal);
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
        let places = Arc::new(Places::for_captures());
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
        let places = Arc::new(Places::for_captures());
        let mut own = Vec::new();
        for _ in 0..PLACES_OF_ONE {
            own.push(places.take(&user(1)).await.unwrap());
        }
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take(&user(1)).await.unwrap() }
        });
        let other = places.take(&user(2)).await.unwrap();
        drop(other);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        own.pop();
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn so_many_may_wait_and_those_that_cease_to_wait_do_not_count() {
        let places = Arc::new(Places::new(1, 1));
        let one = user(1);
        let place = places.take(&one).await.unwrap();
        let waiting: Vec<_> = (0..WAITING_OF_ONE)
            .map(|_| {
                let places = Arc::clone(&places);
                tokio::spawn(async move { places.take(&user(1)).await })
            })
            .collect();
        while places.lock().waiting.len() < WAITING_OF_ONE {
            tokio::task::yield_now().await;
        }
        assert!(places.take(&one).await.is_none());
        for task in &waiting[..WAITING_OF_ONE - 1] {
            task.abort();
        }
        tokio::task::yield_now().await;
        drop(place);
        let last = waiting.into_iter().next_back().unwrap().await.unwrap();
        assert!(last.is_some(), "the place comes to one that still waits");
        drop(last);
        assert_eq!(places.lock().taken, 0);
    }

    #[test]
    fn killed_readers_count_until_they_have_ended() {
        let places = Arc::new(Places::for_captures());
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
