//! Limits how many large cores are captured at once. Two share processors and disk; more would only hold all their processes
//! for longer.

use super::error::CaptureError;
use crate::crash::Principal;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Large cores that are captured at once.
const AT_ONCE: usize = 2;
/// How often a waiting capture checks whether it is to go on.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Admits large cores to their capture.
#[derive(Clone, Default)]
pub struct LargeCoreLimiter {
    shared: Arc<SharedLimiter>,
}

#[derive(Default)]
struct SharedLimiter {
    state: Mutex<LimiterState>,
    released: Condvar,
}

#[derive(Default)]
struct LimiterState {
    active: Vec<Principal>,
    waiting: Vec<Principal>,
}

impl LimiterState {
    /// Whether this principal's next core may begin. While others wait, nobody has two.
    fn may_begin(&self, principal: &Principal) -> bool {
        let is_active = |principal: &Principal| self.active.contains(principal);
        self.active.len() < AT_ONCE && (!is_active(principal) || self.waiting.iter().all(is_active))
    }
}

/// Permission to capture a large core, until it is dropped.
pub struct LargeCorePermit {
    limiter: LargeCoreLimiter,
    principal: Principal,
}

impl LargeCoreLimiter {
    /// Waits for a permit; `None` if there was none by the `deadline`.
    ///
    /// # Errors
    /// That of `check`, which is called all the time.
    pub fn acquire(
        &self,
        principal: &Principal,
        deadline: Instant,
        check: impl Fn() -> Result<(), CaptureError>,
    ) -> Result<Option<LargeCorePermit>, CaptureError> {
        let mut state = self.lock();
        state.waiting.push(principal.clone());
        let permit = loop {
            if let Err(error) = check() {
                break Err(error);
            }
            if state.may_begin(principal) {
                state.active.push(principal.clone());
                break Ok(Some(LargeCorePermit { limiter: self.clone(), principal: principal.clone() }));
            }
            if Instant::now() >= deadline {
                break Ok(None);
            }
            let waited = self.shared.released.wait_timeout(state, POLL_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        remove_one(&mut state.waiting, principal);
        permit
    }

    /// Whether other captures wait for a permit.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, LimiterState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LargeCorePermit {
    fn drop(&mut self) {
        remove_one(&mut self.limiter.lock().active, &self.principal);
        self.limiter.shared.released.notify_all();
    }
}

fn remove_one(list: &mut Vec<Principal>, principal: &Principal) {
    if let Some(index) = list.iter().position(|one| one == principal) {
        list.swap_remove(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_waits_until_one_ends_or_its_deadline_passes() {
        let user = &Principal::Unknown;
        let limiter = LargeCoreLimiter::default();
        let soon = || Instant::now() + Duration::from_millis(30);
        let acquire = || limiter.acquire(user, soon(), || Ok(())).unwrap();
        let (one, two) = (acquire(), acquire());
        assert!(one.is_some() && two.is_some() && !limiter.has_waiters());
        assert!(acquire().is_none());
        let waiting = {
            let limiter = limiter.clone();
            std::thread::spawn(move || {
                limiter.acquire(&Principal::Unknown, Instant::now() + Duration::from_secs(60), || Ok(()))
            })
        };
        while !limiter.has_waiters() {
            std::thread::yield_now();
        }
        drop(one);
        assert!(waiting.join().unwrap().unwrap().is_some());
        let cancelled = limiter.acquire(user, soon(), || Err(CaptureError::Cancelled));
        assert!(matches!(cancelled, Err(CaptureError::Cancelled)));
    }

    #[test]
    fn nobody_has_two_while_others_wait() {
        let (one, other) = (Principal::Unit("a".to_owned()), Principal::Unit("b".to_owned()));
        let mut state = LimiterState::default();
        assert!(state.may_begin(&one));
        state.active.push(one.clone());
        assert!(state.may_begin(&one) && state.may_begin(&other));
        state.waiting.extend([one.clone(), other.clone()]);
        assert!(!state.may_begin(&one) && state.may_begin(&other));
        state.active.push(other.clone());
        assert!(!state.may_begin(&one) && !state.may_begin(&other), "two at once");
    }
}
