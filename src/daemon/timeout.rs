//! Reads that may block for ever: memory that a dead mount backs, files on such a mount.

use super::shared::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Runs `read` in a thread of its own and waits for it as long as `limit`. `None`: it blocks, and its thread is left behind,
/// or too many others block already.
pub(super) async fn run_with_timeout<T: Send + 'static>(
    shared: &Shared,
    limit: Duration,
    read: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let permit = match Arc::clone(&shared.memory_readers).try_acquire_owned() {
        Ok(permit) => permit,
        Err(_) => timeout(limit, Arc::clone(&shared.memory_readers).acquire_owned()).await.ok()?.ok()?,
    };
    let reading = spawn_blocking(move || {
        let result = read();
        drop(permit);
        result
    });
    timeout(limit, reading).await.ok()?.ok()
}
