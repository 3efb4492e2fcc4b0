//! Large cores one after the other: two at once share processors and disk, more would only hold all their processes longer.

use super::core_writer::Failure;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// At work at once.
const AT_ONCE: usize = 2;
/// How often a wait looks whether it was called off.
const LOOK: Duration = Duration::from_millis(100);

/// The way in.
#[derive(Clone, Default)]
pub struct LargeCoreLimiter {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    at_work: usize,
    waiting: usize,
}

/// One that is in.
pub struct Passed {
    large_cores: LargeCoreLimiter,
}

impl LargeCoreLimiter {
    /// Waits for the way to be free. `Ok(None)`: it was not by the `deadline`.
    ///
    /// # Errors
    /// It was called off.
    pub fn pass(&self, deadline: Instant, cancelled: &CancellationToken) -> Result<Option<Passed>, Failure> {
        let mut state = self.lock();
        state.waiting += 1;
        let passed = loop {
            if cancelled.is_cancelled() {
                break Err(Failure::Cancelled);
            }
            if state.at_work < AT_ONCE {
                state.at_work += 1;
                break Ok(Some(Passed { large_cores: self.clone() }));
            }
            if Instant::now() >= deadline {
                break Ok(None);
            }
            state = self.shared.1.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.waiting -= 1;
        passed
    }

    /// Whether others wait: then what is done twice is done at their cost.
    pub fn is_crowded(&self) -> bool {
        self.lock().waiting > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.large_cores.lock().at_work -= 1;
        self.large_cores.shared.1.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_may_are_in_and_the_next_is_told_when_it_is_too_late() {
        let large_cores = LargeCoreLimiter::default();
        let (never, soon) = (CancellationToken::new(), || Instant::now() + Duration::from_millis(30));
        let (one, two) = (large_cores.pass(soon(), &never).unwrap(), large_cores.pass(soon(), &never).unwrap());
        assert!(one.is_some() && two.is_some() && !large_cores.is_crowded());
        assert!(large_cores.pass(soon(), &never).unwrap().is_none());
        let waiting = {
            let large_cores = large_cores.clone();
            std::thread::spawn(move || {
                large_cores.pass(Instant::now() + Duration::from_secs(60), &CancellationToken::new())
            })
        };
        while !large_cores.is_crowded() {
            std::thread::yield_now();
        }
        drop(one);
        assert!(waiting.join().unwrap().unwrap().is_some());
        assert!(matches!(large_cores.pass(soon(), &CancellationToken::new(true)), Err(Failure::Cancelled)));
    }
}
