//! Work that blocks, in threads of its own: slow disks, memory that a dead mount backs, files on such a mount.

use super::shared::Shared;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tracing::Span;

/// Runs `work` in a thread of its own.
///
/// # Errors
/// `work` panicked.
pub(super) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    Ok(spawn_in_span(work).await?)
}

/// Runs `read` in a thread of its own and waits for it as long as `limit`. `None`: it blocks, and its thread is left behind,
/// or too many others block already.
pub(super) async fn run_with_timeout<T: Send + 'static>(
    shared: &Shared,
    limit: Duration,
    read: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let reading = async {
        let permit = Arc::clone(&shared.abandonable).acquire_owned().await.ok()?;
        let reading = spawn_in_span(move || {
            let result = read();
            drop(permit);
            result
        });
        reading.await.ok()
    };
    timeout(limit, reading).await.ok()?
}

/// What `work` logs belongs to the crash that it works on.
fn spawn_in_span<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let span = Span::current();
    spawn_blocking(move || span.in_scope(work))
}
