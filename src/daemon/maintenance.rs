//! Background work: cores that are too old are deleted, and modules that no core refers to, and cores that somebody else deleted are no longer
//! accounted for.

use super::blocking::run_blocking;
use super::shared::Shared;
use crate::crash::CrashId;
use coreward_sys::{essential, openat, tmpfile};
use coreward_wire::paths::SPOOL;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{MissedTickBehavior, interval};

/// `MaxAge=` is no more exact than this.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// Removes what writers that were killed left on a file system without unnamed files.
fn remove_unfinished(shared: &Shared) {
    let spools = [shared.root.state_dir(), shared.root.run_dir()].map(|dir| dir.join(SPOOL));
    let dirs = spools.iter().filter_map(|spool| openat::open_dir(spool).ok());
    let stored = [shared.ledger.dir(), shared.modules.dir()].into_iter().filter_map(|dir| dir.try_clone().ok());
    for dir in dirs.chain(stored) {
        match tmpfile::sweep(dir.as_fd()) {
            Ok(0) => {}
            Ok(count) => tracing::info!("{count} files that nobody finished were removed"),
            Err(error) => tracing::warn!("files that nobody finished cannot be looked for: {error}"),
        }
    }
}

/// Deletes cores that are older than `MaxAge=`, until the daemon stops.
pub(super) async fn expire(shared: Arc<Shared>) {
    let mut tick = interval(EXPIRY_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.shutdown.stopped() => return,
        }
        let sweeping = Arc::clone(&shared);
        let sweep = run_blocking(move || {
            remove_unfinished(&sweeping);
            let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
            let expired = sweeping.ledger.evict_expired(u64::try_from(now.as_micros()).unwrap_or(u64::MAX));
            // Somebody may have deleted modules, and cores that referred to others.
            sweeping.modules.refresh();
            let orphans = sweeping.modules.remove_orphans();
            if orphans > 0 {
                tracing::info!("{orphans} modules were deleted: no stored core has referred to them for a day");
            }
            if expired > 0 {
                sweeping.refresh_metrics();
                tracing::info!("{expired} cores were older than MaxAge= and were deleted");
            }
        });
        // A sweep that fails is tried again.
        let _ = sweep.await;
    }
}

/// Starts a thread that notices cores deleted by others (`coreward rm`, `coreward vacuum`, rm(1)). Until then they count as
/// stored.
///
/// # Errors
/// inotify(7) is not available; the next start of the daemon notices them.
pub(super) fn watch_deletions(shared: &Arc<Shared>) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let cores = format!("/proc/self/fd/{}", shared.ledger.dir().as_raw_fd());
    inotify.add_watch(cores.as_str(), AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM)?;
    // The thread ends with the process: it must not keep alive what others wait for the end of.
    let shared = Arc::downgrade(shared);
    essential::spawn("deletions", move || {
        loop {
            let events = match inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                Err(error) => panic!("the directory of the cores cannot be watched any more: {error}"),
            };
            let Some(shared) = shared.upgrade() else { return };
            let names = events.iter().filter_map(|event| event.name.as_deref()?.to_str());
            for id in names.filter_map(|name| CrashId::parse(name.strip_suffix(".core.zst")?)) {
                // A core that this daemon evicts leaves the ledger before its file is deleted.
                if shared.ledger.forget(&id) {
                    tracing::info!("core {id} was removed");
                    shared.catalog.mark_removed(id);
                }
            }
            shared.refresh_metrics();
        }
    })?;
    Ok(())
}
