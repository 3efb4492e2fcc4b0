//! Limits how many large cores are captured at once. Two share processors and disk; more would only hold all their processes
//! for longer.

use super::error::CaptureError;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Large cores that are captured at once.
const AT_ONCE: usize = 2;
/// How often a waiting capture checks whether it was cancelled.
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
    active: usize,
    waiting: usize,
}

/// Permission to capture a large core, until it is dropped.
pub struct LargeCorePermit {
    limiter: LargeCoreLimiter,
}

impl LargeCoreLimiter {
    /// Waits for a permit; `None` if there was none by the `deadline`.
    ///
    /// # Errors
    /// The capture was cancelled.
    pub fn acquire(
        &self,
        deadline: Instant,
        cancelled: &CancellationToken,
    ) -> Result<Option<LargeCorePermit>, CaptureError> {
        let mut state = self.lock();
        state.waiting += 1;
        let permit = loop {
            if cancelled.is_cancelled() {
                break Err(CaptureError::Cancelled);
            }
            if state.active < AT_ONCE {
                state.active += 1;
                break Ok(Some(LargeCorePermit { limiter: self.clone() }));
            }
            if Instant::now() >= deadline {
                break Ok(None);
            }
            let waited = self.shared.released.wait_timeout(state, POLL_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting -= 1;
        permit
    }

    /// Whether other captures wait for a permit.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
        self.lock().waiting > 0
    }

    fn lock(&self) -> MutexGuard<'_, LimiterState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LargeCorePermit {
    fn drop(&mut self) {
        self.limiter.lock().active -= 1;
        self.limiter.shared.released.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_waits_until_one_ends_or_its_deadline_passes() {
        let limiter = LargeCoreLimiter::default();
        let (never, soon) = (CancellationToken::new(), || Instant::now() + Duration::from_millis(30));
        let (one, two) = (limiter.acquire(soon(), &never).unwrap(), limiter.acquire(soon(), &never).unwrap());
        assert!(one.is_some() && two.is_some() && !limiter.has_waiters());
        assert!(limiter.acquire(soon(), &never).unwrap().is_none());
        let waiting = {
            let limiter = limiter.clone();
            std::thread::spawn(move || {
                limiter.acquire(Instant::now() + Duration::from_secs(60), &CancellationToken::new())
            })
        };
        while !limiter.has_waiters() {
            std::thread::yield_now();
        }
        drop(one);
        assert!(waiting.join().unwrap().unwrap().is_some());
        let cancelled = CancellationToken::new();
        cancelled.cancel();
        assert!(matches!(limiter.acquire(soon(), &cancelled), Err(CaptureError::Cancelled)));
    }
}
