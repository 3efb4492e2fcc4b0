//! Notifications to systemd (sd_notify(3)): READY, STATUS, STOPPING, and a keepalive that is only sent while work makes progress.

use crate::capture::HealthMonitor;
use crate::crash::text::printable;
use sd_notify::NotifyState;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a stop waits until its notification is sent.
const STOPPING_TIMEOUT: Duration = Duration::from_millis(300);

enum Notification {
    Ready,
    Reloading,
    Status(String),
    Stopping(Sender<()>),
}

/// Sends notifications from a thread of its own: a service manager that does not read them (its queue is full) blocks that
/// thread and no other.
pub(super) struct Notifier {
    queue: Sender<Notification>,
}

impl Notifier {
    /// Starts the thread. It is no task of the runtime, so that a runtime that blocks is noticed too.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(watchdog: Option<Duration>, health: HealthMonitor) -> io::Result<Self> {
        let (queue, notifications) = channel();
        let run = move || send_notifications(watchdog, &health, &notifications);
        thread::Builder::new().name("watchdog".to_owned()).spawn(run)?;
        Ok(Self { queue })
    }

    pub(super) fn ready(&self) {
        self.send(Notification::Ready);
    }

    pub(super) fn reloading(&self) {
        self.send(Notification::Reloading);
    }

    pub(super) fn stopping(&self) {
        let (sent, acknowledged) = channel();
        self.send(Notification::Stopping(sent));
        let _ = acknowledged.recv_timeout(STOPPING_TIMEOUT);
    }

    /// The line that `systemctl status` shows. It is escaped: a newline would begin another assignment.
    pub(super) fn status(&self, text: &str) {
        self.send(Notification::Status(printable(text)));
    }

    fn send(&self, notification: Notification) {
        // The thread ends with the daemon only.
        let _ = self.queue.send(notification);
    }
}

fn send_notifications(watchdog: Option<Duration>, health: &HealthMonitor, notifications: &Receiver<Notification>) {
    // At least three keepalives in each watchdog period.
    let pause = watchdog.map_or(Duration::from_secs(60), |period| (period / 3).min(Duration::from_secs(1)));
    let mut next = Instant::now();
    let mut reported = None;
    let mut status = String::new();
    loop {
        match notifications.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Notification::Ready) => send(&[NotifyState::Ready]),
            Ok(Notification::Reloading) => send_reloading(),
            Ok(Notification::Status(text)) if text == status => {}
            Ok(Notification::Status(text)) => {
                send(&[NotifyState::Status(&text)]);
                status = text;
            }
            Ok(Notification::Stopping(sent)) => {
                send(&[NotifyState::Stopping]);
                let _ = sent.send(());
            }
            Err(RecvTimeoutError::Timeout) => {
                next = Instant::now() + pause;
                if let Some(period) = watchdog {
                    send_keepalive(period, health, &mut reported);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// `WATCHDOG=1`, unless a worker has not moved for half of the period. `reported` is the worker that the log named last.
fn send_keepalive(period: Duration, health: &HealthMonitor, reported: &mut Option<String>) {
    let stuck = health.stuck(period / 2);
    match &stuck {
        None => send(&[NotifyState::Watchdog]),
        Some(worker) if *reported != stuck => {
            tracing::error!("{worker} has made no progress for {} ms: no keepalive is sent", (period / 2).as_millis());
        }
        Some(_) => {}
    }
    *reported = stuck;
}

/// `RELOADING=1` with the timestamp that systemd 253 and newer require.
fn send_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

fn send(states: &[NotifyState<'_>]) {
    // Without a service manager this does nothing.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("sd_notify: {error}");
    }
}
