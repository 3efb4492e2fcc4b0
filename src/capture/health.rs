//! Heartbeats of the daemon's workers, which the watchdog checks before it reports to systemd that the daemon is alive.

use super::error::CaptureError;
use coreward_sys::clock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The heartbeats of all workers.
#[derive(Clone, Debug, Default)]
pub struct HealthMonitor {
    workers: Arc<Mutex<Workers>>,
    next_number: Arc<AtomicU64>,
}

/// Name and last tick of each worker, by number.
type Workers = HashMap<u64, (String, Arc<AtomicU64>)>;

/// The heartbeat of one worker. A worker that waits for something outside the daemon is idle, and never late.
#[derive(Debug)]
pub struct Heartbeat {
    /// Milliseconds since boot, or [`IDLE`].
    last_tick: Arc<AtomicU64>,
    number: u64,
    monitor: HealthMonitor,
}

/// The worker waits for something outside the daemon.
const IDLE: u64 = u64::MAX;

impl HealthMonitor {
    /// Registers a worker, which is idle at first. It is monitored until its heartbeat is dropped.
    #[must_use]
    pub fn register(&self, name: &str) -> Heartbeat {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let last_tick = Arc::new(AtomicU64::new(IDLE));
        self.lock().insert(number, (name.to_owned(), Arc::clone(&last_tick)));
        Heartbeat { last_tick, number, monitor: self.clone() }
    }

    /// The name of a worker that is not idle and has not ticked for `limit`.
    #[must_use]
    pub fn stuck_worker(&self, limit: Duration) -> Option<String> {
        let now = millis_since_boot();
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let is_late = |tick: u64| tick != IDLE && now.saturating_sub(tick) > limit;
        let workers = self.lock();
        workers.values().find(|(_, tick)| is_late(tick.load(Ordering::Relaxed))).map(|(name, _)| name.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heartbeat {
    /// The worker is busy, and has just made progress.
    pub fn tick(&self) {
        self.last_tick.store(millis_since_boot(), Ordering::Relaxed);
    }

    /// The worker waits for something outside the daemon.
    pub fn idle(&self) {
        self.last_tick.store(IDLE, Ordering::Relaxed);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.monitor.lock().remove(&self.number);
    }
}

/// The heartbeat of a worker, and the flag that cancels its work.
#[derive(Clone, Copy)]
pub(super) struct Supervision<'a> {
    /// Heartbeat of the worker.
    pub heartbeat: &'a Heartbeat,
    /// Set when the work is to be abandoned.
    pub cancelled: &'a CancellationToken,
}

impl Supervision<'_> {
    /// Reports progress.
    ///
    /// # Errors
    /// The work was cancelled.
    pub(super) fn check(&self) -> Result<(), CaptureError> {
        self.heartbeat.tick();
        if self.cancelled.is_cancelled() { Err(CaptureError::Cancelled) } else { Ok(()) }
    }
}

fn millis_since_boot() -> u64 {
    u64::try_from(clock::since_boot().as_millis()).unwrap_or(IDLE - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_busy_worker_can_be_stuck() {
        let monitor = HealthMonitor::default();
        let heartbeat = monitor.register("capture");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(monitor.stuck_worker(Duration::from_millis(5)), None, "idle");
        heartbeat.tick();
        assert_eq!(monitor.stuck_worker(Duration::from_secs(60)), None, "making progress");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(monitor.stuck_worker(Duration::from_millis(5)).as_deref(), Some("capture"));
        drop(heartbeat);
        assert_eq!(monitor.stuck_worker(Duration::ZERO), None, "dropped");
    }
}
