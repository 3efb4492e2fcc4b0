//! Proof of progress: what the watchdog asks before it says that the daemon lives.

use crate::sys::clock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Everybody whose standstill is the daemon's.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    beats: Arc<Mutex<Beats>>,
    next: Arc<AtomicU64>,
}

/// Who beats, and when they last did, by number.
type Beats = HashMap<u64, (String, Arc<AtomicU64>)>;

/// One worker's pulse. Waiting for others is not work: a worker that rests is never late.
#[derive(Debug)]
pub struct Beat {
    at: Arc<AtomicU64>,
    number: u64,
    progress: Progress,
}

/// The worker is waiting for somebody outside of the daemon.
const RESTING: u64 = u64::MAX;

impl Progress {
    /// A new pulse, resting. It counts as long as it exists.
    pub fn join(&self, name: &str) -> Beat {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let at = Arc::new(AtomicU64::new(RESTING));
        self.lock().insert(number, (name.to_owned(), Arc::clone(&at)));
        Beat { at, number, progress: self.clone() }
    }

    /// Somebody who is at work and has not moved for `limit`.
    pub fn stuck(&self, limit: Duration) -> Option<String> {
        let now = millis();
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let late = |at: u64| at != RESTING && now.saturating_sub(at) > limit;
        self.lock().values().find(|(_, at)| late(at.load(Ordering::Relaxed))).map(|(name, _)| name.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beat {
    /// At work, and just now something was done.
    pub fn work(&self) {
        self.at.store(millis(), Ordering::Relaxed);
    }

    /// Waiting for somebody outside.
    pub fn rest(&self) {
        self.at.store(RESTING, Ordering::Relaxed);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.progress.lock().remove(&self.number);
    }
}

fn millis() -> u64 {
    u64::try_from(clock::since_boot().as_millis()).unwrap_or(RESTING - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_worker_at_work_can_be_stuck() {
        let progress = Progress::default();
        let beat = progress.join("capture");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(progress.stuck(Duration::from_millis(5)), None, "resting");
        beat.work();
        assert_eq!(progress.stuck(Duration::from_secs(60)), None, "moving");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(progress.stuck(Duration::from_millis(5)).as_deref(), Some("capture"));
        drop(beat);
        assert_eq!(progress.stuck(Duration::ZERO), None, "gone");
    }
}
