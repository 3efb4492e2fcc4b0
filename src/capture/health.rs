//! Proof of monitor: what the watchdog asks before it says that the daemon lives.

use coreward_sys::clock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Everybody whose standstill is the daemon's.
#[derive(Clone, Debug, Default)]
pub struct HealthMonitor {
    beats: Arc<Mutex<Beats>>,
    next: Arc<AtomicU64>,
}

/// Who beats, and when they last did, by number.
type Beats = HashMap<u64, (String, Arc<AtomicU64>)>;

/// One worker's pulse. Waiting for others is not work: a worker that rests is never late.
#[derive(Debug)]
pub struct Heartbeat {
    at: Arc<AtomicU64>,
    number: u64,
    monitor: HealthMonitor,
}

/// The worker is waiting for somebody outside of the daemon.
const RESTING: u64 = u64::MAX;

impl HealthMonitor {
    /// A new pulse, resting. It counts as long as it exists.
    pub fn register(&self, name: &str) -> Heartbeat {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let at = Arc::new(AtomicU64::new(RESTING));
        self.lock().insert(number, (name.to_owned(), Arc::clone(&at)));
        Heartbeat { at, number, monitor: self.clone() }
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

impl Heartbeat {
    /// At work, and just now something was done.
    pub fn tick(&self) {
        self.at.store(millis(), Ordering::Relaxed);
    }

    /// Waiting for somebody outside.
    pub fn idle(&self) {
        self.at.store(RESTING, Ordering::Relaxed);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.monitor.lock().remove(&self.number);
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
        let monitor = HealthMonitor::default();
        let heartbeat = monitor.register("capture");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(monitor.stuck(Duration::from_millis(5)), None, "resting");
        heartbeat.tick();
        assert_eq!(monitor.stuck(Duration::from_secs(60)), None, "moving");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(monitor.stuck(Duration::from_millis(5)).as_deref(), Some("capture"));
        drop(heartbeat);
        assert_eq!(monitor.stuck(Duration::ZERO), None, "gone");
    }
}
