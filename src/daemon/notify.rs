//! Speaking to systemd (sd_notify(3)): READY, STATUS, STOPPING, and a keepalive that is sent only while work moves.

use crate::capture::HealthMonitor;
use crate::crash::text::printable;
use sd_notify::NotifyState;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long a stop waits for its own word to be heard.
const HEARD_WITHIN: Duration = Duration::from_millis(300);

/// What there is to say.
enum Word {
    Ready,
    Reloading,
    Status(String),
    Stopping(Sender<()>),
}

/// The way to the thread that speaks. A manager that does not listen (its queue is full) makes that thread wait, and
/// nobody else.
pub(super) struct Notifier {
    words: Sender<Word>,
}

impl Notifier {
    /// Starts the thread: one of its own, so that a runtime that stands still is found out too.
    pub(super) fn start(watchdog: Option<Duration>, health: HealthMonitor) -> io::Result<Self> {
        let (words, said) = channel();
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || keep(watchdog, &health, &said))?;
        Ok(Self { words })
    }

    pub(super) fn ready(&self) {
        self.say(Word::Ready);
    }

    pub(super) fn reloading(&self) {
        self.say(Word::Reloading);
    }

    pub(super) fn stopping(&self) {
        let (heard, answer) = channel();
        self.say(Word::Stopping(heard));
        let _ = answer.recv_timeout(HEARD_WITHIN);
    }

    /// The line that `systemctl status` shows. A newline in it would begin another assignment, so it is escaped.
    pub(super) fn status(&self, text: &str) {
        self.say(Word::Status(printable(text)));
    }

    fn say(&self, word: Word) {
        // The thread ends with the daemon only.
        let _ = self.words.send(word);
    }
}

fn keep(watchdog: Option<Duration>, health: &HealthMonitor, words: &Receiver<Word>) {
    // Three chances in each period.
    let pause = watchdog.map_or(Duration::from_secs(60), |period| (period / 3).min(Duration::from_secs(1)));
    let mut next = Instant::now();
    let mut told = None;
    let mut status = String::new();
    loop {
        match words.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(Word::Ready) => send(&[NotifyState::Ready]),
            Ok(Word::Reloading) => reloading(),
            Ok(Word::Status(text)) if text == status => {}
            Ok(Word::Status(text)) => {
                send(&[NotifyState::Status(&text)]);
                status = text;
            }
            Ok(Word::Stopping(heard)) => {
                send(&[NotifyState::Stopping]);
                let _ = heard.send(());
            }
            Err(RecvTimeoutError::Timeout) => {
                next = Instant::now() + pause;
                if let Some(period) = watchdog {
                    keepalive(period, health, &mut told);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// `WATCHDOG=1`, unless somebody at work has not moved for half of the period.
fn keepalive(period: Duration, health: &HealthMonitor, told: &mut Option<String>) {
    let stuck = health.stuck_worker(period / 2);
    match &stuck {
        None => send(&[NotifyState::Watchdog]),
        Some(who) if *told != stuck => {
            tracing::error!("{who} has not moved for {} ms: no keepalive", (period / 2).as_millis());
        }
        Some(_) => {}
    }
    *told = stuck;
}

/// `RELOADING=1` with the time that systemd 253 and newer ask for.
fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

fn send(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("sd_notify: {error}");
    }
}
