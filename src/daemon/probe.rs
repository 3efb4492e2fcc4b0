//! Reading what may never answer: memory of the crashed process that a dead mount backs.

use super::context::Context;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// A local read takes microseconds.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Runs `read` in a thread of its own and waits a little for it. `None`: it hangs, and its thread with it, or too many
/// others hang already.
pub(super) async fn probe<T: Send + 'static>(
    context: &Context,
    read: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    probe_within(context, ANSWER_WITHIN, read).await
}

/// [`probe`] for work that a loaded machine may take longer for.
pub(super) async fn probe_within<T: Send + 'static>(
    context: &Context,
    within: Duration,
    read: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let place = Arc::clone(&context.probes).try_acquire_owned().ok();
    let place = match place {
        Some(place) => place,
        None => timeout(within, Arc::clone(&context.probes).acquire_owned()).await.ok()?.ok()?,
    };
    let reading = spawn_blocking(move || {
        let answer = read();
        drop(place);
        answer
    });
    timeout(within, reading).await.ok()?.ok()
}
