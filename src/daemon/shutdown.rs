//! How the daemon stops: first nothing new is begun, then sessions may finish, then the rest is called off.

use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TrackedFuture;

/// How long a stop waits for sessions that are nearly done; the shims offer the other crashes to the next daemon.
const GRACE: Duration = Duration::from_secs(10);
/// How long sessions may take to end after they are called off.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of a shutdown, shared by all tasks.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    stop: CancellationToken,
    abort: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Runs a task that a stop waits for.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// The same task, such that a stop waits for it.
    pub(super) fn track<T: Future<Output = ()>>(&self, task: T) -> TrackedFuture<T> {
        self.tasks.track_future(task)
    }

    /// Returns when the daemon stops: nothing new may be begun.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the daemon stops.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// A token that is cancelled when unfinished work is called off. Cancelling it calls off its own work only.
    pub(super) fn abort_token(&self) -> CancellationToken {
        self.abort.child_token()
    }

    /// Stops the daemon; returns when all tasks have ended, or do not end in time.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(GRACE, self.tasks.wait()).await.is_err() {
            let seconds = GRACE.as_secs();
            tracing::warn!("captures are still running after {seconds} s: their shims offer them to the next daemon");
            self.abort.cancel();
            let _ = timeout(ABORT_TIMEOUT, self.tasks.wait()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn a_task_may_finish_in_its_own_time_and_is_called_off_after_that() {
        let shutdown = Arc::new(Shutdown::default());
        let abort = shutdown.abort_token();
        let finished = CancellationToken::new();
        let (stopping, own_time) = (Arc::clone(&shutdown), finished.clone());
        shutdown.spawn(async move {
            stopping.stopped().await;
            tokio::time::sleep(GRACE / 2).await;
            own_time.cancel();
            abort.cancelled().await;
        });
        let begun = tokio::time::Instant::now();
        shutdown.stop().await;
        assert!(finished.is_cancelled(), "the task had half of the grace period");
        assert_eq!(begun.elapsed(), GRACE, "called off then, not later");
    }
}
