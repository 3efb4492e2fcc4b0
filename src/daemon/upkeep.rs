//! What goes on beside the crashes: cores that somebody deleted are struck out, and those that are too old go.

use super::context::Context;
use crate::crash::CrashId;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

/// `MaxAge=` is not more exact than this.
const SWEEP: Duration = Duration::from_secs(60);

/// Deletes what has become too old, again and again.
pub(super) async fn expire(context: Arc<Context>) {
    let mut turns = interval(SWEEP);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let context = Arc::clone(&context);
        let sweep = spawn_blocking(move || {
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let expired = context.ledger.evict_expired(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
            if expired > 0 {
                context.refresh();
                tracing::info!("{expired} cores were older than MaxAge= and are deleted");
            }
        });
        // A sweep that fails is tried again.
        let _ = sweep.await;
    }
}

/// Notices cores that others delete (`coreward rm`, `coreward vacuum`, rm(1)), in a thread of its own: until then they would count as
/// stored.
///
/// # Errors
/// inotify(7) is not to be had; then the next start of the daemon notices.
pub(super) fn watch_deletions(context: &Arc<Context>) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let cores = format!("/proc/self/fd/{}", context.ledger.dir().as_raw_fd());
    inotify.add_watch(cores.as_str(), AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM)?;
    // The thread ends with the process: it must not keep the context, whose end others wait for.
    let context = Arc::downgrade(context);
    std::thread::Builder::new().name("deletions".to_owned()).spawn(move || {
        while let Ok(events) = inotify.read_events() {
            let Some(context) = context.upgrade() else { return };
            let names = events.iter().filter_map(|event| event.name.as_deref()?.to_str());
            for id in names.filter_map(|name| CrashId::parse(name.strip_suffix(".core.zst")?)) {
                // What this daemon evicts is struck out before it is deleted.
                if context.ledger.forget(&id) {
                    tracing::info!("core {id} was removed");
                    context.catalog.mark_removed(id);
                }
            }
            context.refresh();
        }
    })?;
    Ok(())
}
