//! The crashes that are being worked on, and since when.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The crashes in flight.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlightTable(Arc<Mutex<Crashes>>);

#[derive(Debug, Default)]
struct Crashes {
    /// The number of the next one.
    next: u64,
    by_number: HashMap<u64, Crash>,
}

#[derive(Debug)]
struct Crash {
    /// When its shim started.
    since: Instant,
    is_held: bool,
}

/// Their number and ages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct InFlightState {
    pub(super) crashes: usize,
    /// Age of the oldest one.
    pub(super) oldest: Duration,
    /// Age of the oldest one whose process is held.
    pub(super) held_oldest: Duration,
}

/// Keeps a crash in flight until it is dropped.
#[derive(Debug)]
pub struct InFlight {
    table: InFlightTable,
    number: u64,
}

impl InFlightTable {
    /// Adds a crash whose shim started `age` ago and holds its process.
    pub(super) fn add(&self, age: Duration) -> InFlight {
        let now = Instant::now();
        let mut crashes = self.lock();
        let number = crashes.next;
        crashes.next += 1;
        crashes.by_number.insert(number, Crash { since: now.checked_sub(age).unwrap_or(now), is_held: true });
        InFlight { table: self.clone(), number }
    }

    pub(super) fn state(&self) -> InFlightState {
        let crashes = self.lock();
        let all = crashes.by_number.values();
        let age = |since: Option<Instant>| since.map(|since| since.elapsed()).unwrap_or_default();
        InFlightState {
            crashes: crashes.by_number.len(),
            oldest: age(all.clone().map(|crash| crash.since).min()),
            held_oldest: age(all.filter(|crash| crash.is_held).map(|crash| crash.since).min()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Crashes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InFlight {
    /// The process is no longer held.
    pub fn release(&self) {
        if let Some(crash) = self.table.lock().by_number.get_mut(&self.number) {
            crash.is_held = false;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.table.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_crash_and_the_oldest_held_process() {
        let table = InFlightTable::default();
        assert_eq!(table.state(), InFlightState::default());
        let (old, older) = (table.add(Duration::from_secs(5)), table.add(Duration::from_secs(60)));
        let seconds = || {
            let state = table.state();
            (state.crashes, state.oldest.as_secs(), state.held_oldest.as_secs())
        };
        assert_eq!(seconds(), (2, 60, 60));
        older.release();
        assert_eq!(seconds(), (2, 60, 5));
        drop(older);
        assert_eq!(seconds(), (1, 5, 5));
        old.release();
        assert_eq!(seconds(), (1, 5, 0));
    }
}
