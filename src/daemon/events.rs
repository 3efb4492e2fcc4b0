//! Tells the operator's programs about new signatures: a file for each in the state directory, which makes systemd start
//! coreward-event.service (coreward-event.path). The daemon itself may execute nothing.

use super::blocking::run_blocking;
use super::shared::Shared;
use crate::crash::Principal;
use crate::policy::rate::{Bucket, Buckets, Rate};
use crate::store::NewBug;
use coreward_sys::{clock, openat, tmpfile};
use coreward_wire::paths::{EVENT_SUFFIX, EVENTS, Root};
use nix::sys::stat::{Mode, fchmod};
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The most files that wait. There are more only if coreward-event.path does not run, or a program hangs.
const MAX_WAITING: usize = 100;
/// Crashes that are looked up at once.
const BATCH: usize = 16;
/// When to look again after an error.
const RETRY: Duration = Duration::from_secs(30);

/// Announces new signatures until the daemon stops.
pub(super) async fn announce(shared: Arc<Shared>) {
    let mut limiter = EventLimiter::default();
    loop {
        // Its writer says so if the catalog cannot be read.
        let found = shared.catalog.new_bugs(BATCH).await.unwrap_or_default();
        let is_last = found.len() < BATCH;
        if !found.is_empty() {
            let (rate, sharing) = (shared.event_rate(), Arc::clone(&shared));
            let written = run_blocking(move || {
                let told = write_all(&sharing, &found, &mut limiter, rate);
                (told.map(|()| found), limiter)
            });
            let told;
            (told, limiter) = written.await.unwrap_or_else(|error| (Err(error), EventLimiter::default()));
            match told {
                Ok(found) => shared.catalog.forget_new_bugs(&found),
                Err(error) => {
                    tracing::warn!("event.d: nobody is told about new signatures: {error}");
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => continue,
                        () = shared.shutdown.stopped() => return,
                    }
                }
            }
        }
        if !is_last {
            continue;
        }
        tokio::select! {
            () = shared.new_bugs.notified() => {}
            // Those of an earlier daemon, if the catalog could not be opened until now.
            () = tokio::time::sleep(RETRY) => {}
            () = shared.shutdown.stopped() => return,
        }
    }
}

/// Writes a file for each crash that the limits let through.
fn write_all(shared: &Shared, found: &[NewBug], limiter: &mut EventLimiter, rate: Rate) -> io::Result<()> {
    let dir = open_queue(&shared.root)?;
    let mut waiting = std::fs::read_dir(shared.root.state_dir().join(EVENTS))?.count();
    for bug in found {
        let id = &bug.id;
        if waiting >= MAX_WAITING {
            shared.metrics.events_dropped.inc();
            tracing::warn!(
                "{id}: event.d is not told about this new signature: {waiting} others wait; is coreward-event.path running?"
            );
        } else if !limiter.admit(&bug.principal, rate, clock::since_boot()) {
            shared.metrics.events_dropped.inc();
            tracing::info!("{id}: event.d is not told about this new signature: EventBurst= was reached");
        } else {
            write(dir.as_fd(), bug)?;
            shared.metrics.events_announced.inc();
            waiting += 1;
        }
    }
    Ok(())
}

fn open_queue(root: &Root) -> io::Result<OwnedFd> {
    let state = File::open(root.state_dir())?;
    match openat::open_dir_below(state.as_fd(), Path::new(EVENTS)) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // coreward-event.service removes files as a member of the group.
            DirBuilder::new().mode(0o770).create(root.state_dir().join(EVENTS))?;
            let dir = openat::open_dir_below(state.as_fd(), Path::new(EVENTS))?;
            fchmod(&dir, Mode::from_bits_truncate(0o770))?;
            Ok(dir)
        }
        opened => opened,
    }
}

/// Writes the file of one crash. It may be there already, if an earlier daemon ended between this and forgetting it.
fn write(dir: std::os::fd::BorrowedFd<'_>, bug: &NewBug) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(0o640);
    let mut file = File::from(tmpfile::create(dir, mode)?);
    fchmod(&file, mode)?;
    file.write_all(bug.record.as_bytes())?;
    let name = format!("{}{EVENT_SUFFIX}", bug.id);
    match tmpfile::publish(file.as_fd(), dir, Path::new(&name)) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        published => published,
    }
}

/// `EventBurst=`, of which one principal gets half: ever new bugs of one user must not use up what tells of the others'.
#[derive(Default)]
struct EventLimiter {
    all: Bucket,
    by_principal: Buckets<Principal>,
}

impl EventLimiter {
    fn admit(&mut self, principal: &Principal, rate: Rate, now: Duration) -> bool {
        let share = Rate { burst: rate.burst.div_ceil(2), ..rate };
        let own = self.by_principal.bucket(principal, now);
        let admitted = own.has_token(share, now, 0) && self.all.has_token(rate, now, 0);
        if admitted {
            own.take_token(share, now);
            self.all.take_token(rate, now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_principal_gets_half_of_the_events() {
        let mut limiter = EventLimiter::default();
        let rate = Rate { burst: 4, interval: Duration::from_secs(4000) };
        let mut admit =
            |unit: &str, second| limiter.admit(&Principal::Unit(unit.to_owned()), rate, Duration::from_secs(second));
        assert_eq!([0; 3].map(|second| admit("a.service", second)), [true, true, false]);
        assert_eq!([0; 3].map(|second| admit("b.service", second)), [true, true, false]);
        assert!(!admit("c.service", 999) && admit("c.service", 1000), "one is refilled each thousand seconds");
    }
}
