//! Offering the crash until a daemon has it: the shim is the keeper of the parked process.

use super::connection::Connection;
use super::kmsg::Kmsg;
use super::{Crash, requests};
use coreward_sys::datagram;
use coreward_wire::paths::Root;
use coreward_wire::{DaemonMessage, FdKind, journal, released_message};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long an offer may stand untaken. A daemon answers in milliseconds, and systemd starts one in a second or two;
/// a service that waits for its restart should not wait longer than this for a collector that is not there.
const TAKE_WITHIN: Duration = Duration::from_secs(15);
/// systemd holds the socket while a daemon starts, restarts or is upgraded. Where there is none, it is only missing for the
/// moment in which a package is replaced, or for good.
const SOCKET_WITHIN: Duration = Duration::from_secs(4);
/// A daemon that has taken a crash says "busy" every two seconds. Silence for this long is a hang.
const SILENCE: Duration = Duration::from_secs(20);
/// The third attempt is stored without being parsed; a daemon that dies of that as well won't survive a sixth.
const ATTEMPTS: u32 = 5;
/// How long a journal that is behind is waited for. The process has long gone then.
const JOURNAL_WITHIN: Duration = Duration::from_secs(10);
/// Pause before the socket is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// How it ended.
pub(super) enum Delivery {
    /// The record is durable.
    Done,
    /// Nobody has it, and why.
    NotTaken(String),
}

/// How one connection ended.
enum Ended {
    Done,
    GiveUp(String),
    /// The daemon was there and went: offer it to the next one.
    Broken(io::Error),
    /// No offer was made: nobody listens.
    Unreachable(io::Error),
}

/// Offers `crash` to one daemon after the other.
pub(super) fn deliver(crash: &mut Crash, root: &Root, kmsg: &Kmsg) -> Delivery {
    let mut give_up = Instant::now() + TAKE_WITHIN;
    let mut unreachable_since = None;
    loop {
        match converse(crash, root, kmsg, give_up) {
            Ended::Done => return Delivery::Done,
            Ended::GiveUp(reason) => return Delivery::NotTaken(reason),
            Ended::Broken(error) if crash.offer.attempt >= ATTEMPTS => {
                return Delivery::NotTaken(format!(
                    "{ATTEMPTS} daemons took the crash and did not finish it ({error})"
                ));
            }
            Ended::Broken(_) => {
                crash.offer.attempt += 1;
                unreachable_since = None;
                give_up = Instant::now() + TAKE_WITHIN;
            }
            Ended::Unreachable(error) => {
                let since: Instant = *unreachable_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= SOCKET_WITHIN || Instant::now() >= give_up {
                    let socket = root.intake_socket();
                    return Delivery::NotTaken(format!("no daemon at {}: {error}", socket.display()));
                }
            }
        }
        sleep(PAUSE);
    }
}

fn converse(crash: &mut Crash, root: &Root, kmsg: &Kmsg, give_up: Instant) -> Ended {
    let mut link = match Connection::connect(root, give_up.saturating_duration_since(Instant::now())) {
        Ok(link) => link,
        Err(error) => return Ended::Unreachable(error),
    };
    let (message, fds) = offer_message(crash);
    if let Err(error) = link.send(&message, &fds) {
        return Ended::Broken(error);
    }
    let mut deadline = give_up;
    let mut taken = false;
    loop {
        let (answer, fds) = match link.receive(deadline) {
            Ok(answer) => answer,
            Err(error) if error.kind() == ErrorKind::TimedOut && !taken => {
                return Ended::GiveUp(format!("no daemon took the crash within {} s", TAKE_WITHIN.as_secs()));
            }
            Err(error) => return Ended::Broken(error),
        };
        taken = true;
        deadline = Instant::now() + SILENCE;
        let sent = match answer {
            DaemonMessage::Taken | DaemonMessage::Busy => Ok(()),
            DaemonMessage::Request(wanted) => {
                let (reply, fds) = requests::answer(wanted, crash);
                let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
                link.send(&reply.encode(raw.len()), &raw)
            }
            DaemonMessage::Release { checkpoint, fds: kinds, needs_ack } => {
                crash.release();
                crash.keep(checkpoint, kinds, fds);
                if needs_ack { link.send(&released_message(), &[]) } else { Ok(()) }
            }
            DaemonMessage::Done { journal } => {
                crash.release();
                send_to_journal(&journal, root, kmsg);
                return Ended::Done;
            }
            DaemonMessage::Rejected { reason } => {
                return Ended::GiveUp(format!("the daemon cannot read the offer: {reason}"));
            }
            DaemonMessage::Unavailable { reason } => {
                return Ended::GiveUp(format!("the daemon cannot record the crash now: {reason}"));
            }
        };
        if let Err(error) = sent {
            return Ended::Broken(error);
        }
    }
}

fn offer_message(crash: &Crash) -> (Vec<u8>, Vec<RawFd>) {
    let (kinds, fds): (Vec<_>, Vec<_>) = crash.process.fds.iter().map(|(kind, fd)| (*kind, fd.as_raw_fd())).unzip();
    (crash.offer.encode(&kinds), fds)
}

/// The entry is the daemon's, the sender root: `journalctl -u UNIT` and `systemctl status UNIT` show the crash of a unit only
/// where `_UID=0` says so.
fn send_to_journal(entry: &[u8], root: &Root, kmsg: &Kmsg) {
    if entry.is_empty() {
        return;
    }
    if !journal::is_about_a_crash(entry) {
        kmsg.say("the daemon wanted an entry in the journal that is not about a crash: not sent");
        return;
    }
    // The journal's queue is short and a storm is long: wait a little for it, holding nobody.
    if let Err(error) = datagram::send_patiently(&root.journal_socket(), entry, JOURNAL_WITHIN)
        && error.kind() != ErrorKind::NotFound
    {
        kmsg.say(&format!("the journal did not take an entry: {error}"));
    }
}

impl Crash {
    /// Lets the process go. Nothing that may hang comes before this.
    pub(super) fn release(&mut self) {
        self.core = None;
        self.offer.released = true;
    }

    /// Keeps what the daemon took of the process, for the next daemon: it is all that is left of it.
    fn keep(&mut self, checkpoint: Vec<u8>, kinds: Vec<FdKind>, fds: Vec<OwnedFd>) {
        if kinds.len() == fds.len() {
            self.offer.checkpoint = checkpoint;
            self.process.fds = kinds.into_iter().zip(fds).collect();
        }
    }
}
