//! Speaking to systemd (sd_notify(3)): READY, STATUS, STOPPING, and a keepalive that is sent only while work moves.

use crate::capture::Progress;
use crate::crash::text::printable;
use sd_notify::NotifyState;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

pub(super) struct Notifier {
    status: Arc<Mutex<Option<String>>>,
}

impl Notifier {
    /// Starts the keeper of the watchdog: a thread of its own, so that a runtime that stands still is found out too.
    pub(super) fn start(watchdog: Option<Duration>, progress: Progress) -> io::Result<Self> {
        let status = Arc::new(Mutex::new(None));
        let waiting = Arc::clone(&status);
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || keep(watchdog, &progress, &waiting))?;
        Ok(Self { status })
    }

    pub(super) fn ready(&self) {
        send(&[NotifyState::Ready]);
    }

    pub(super) fn stopping(&self) {
        send(&[NotifyState::Stopping]);
    }

    /// `RELOADING=1` with the time that systemd 253 and newer ask for.
    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => send(&[NotifyState::Reloading, now]),
            Err(_) => send(&[NotifyState::Reloading]),
        }
    }

    /// The line that `systemctl status` shows. A newline in it would begin another assignment, so it is escaped.
    pub(super) fn status(&self, text: &str) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(printable(text));
    }
}

fn keep(watchdog: Option<Duration>, progress: &Progress, status: &Mutex<Option<String>>) {
    // Three chances in each period; stuck is who has not moved for half of it.
    let pause = watchdog.map_or(Duration::from_secs(1), |period| (period / 3).min(Duration::from_secs(1)));
    let mut told = None;
    loop {
        if let Some(text) = status.lock().unwrap_or_else(PoisonError::into_inner).take() {
            send(&[NotifyState::Status(&text)]);
        }
        if let Some(period) = watchdog {
            match progress.stuck(period / 2) {
                None => {
                    told = None;
                    send(&[NotifyState::Watchdog]);
                }
                Some(who) => {
                    if told.as_ref() != Some(&who) {
                        tracing::error!("{who} has not moved for {} ms: no keepalive", (period / 2).as_millis());
                        told = Some(who);
                    }
                }
            }
        }
        thread::sleep(pause);
    }
}

fn send(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("sd_notify: {error}");
    }
}
