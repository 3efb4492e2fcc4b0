//! Offering the crash to one daemon after another until one records it. Meanwhile the shim holds the core pipe, and with it the
//! crashed process; after the release it holds the daemon's checkpoint.

use super::connection::DaemonConnection;
use super::crash::Crash;
use super::kernel_log::KernelLog;
use super::requests;
use coreward_sys::datagram;
use coreward_wire::paths::Root;
use coreward_wire::{DaemonMessage, FdKind, Offer, journal, released_message};
use nix::unistd::{Gid, Uid};
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a daemon is waited for, and how many.
pub(super) struct Patience {
    /// How long to wait for `Taken`.
    taken: Duration,
    /// How long to try to connect.
    connect: Duration,
    /// How often a process that is held is offered.
    attempts: u32,
}

impl Patience {
    /// A daemon answers within milliseconds, and systemd starts one within a second or two. A service that waits for its restart should not
    /// wait longer for a collector that is not there. systemd holds the socket while a daemon starts, restarts or is upgraded; it is missing
    /// only for a moment while a package is replaced, or for good. From the third attempt on the daemon stores the core without parsing it; if
    /// that kills it as well, more attempts will not help.
    pub(super) const OF_CRASH: Self =
        Self { taken: Duration::from_secs(15), connect: Duration::from_secs(4), attempts: MAX_ATTEMPTS };
    /// A living process has better things to do than to wait for the next daemon: whoever asked can ask again.
    pub(super) const OF_DUMP: Self =
        Self { taken: Duration::from_secs(5), connect: Duration::from_secs(1), attempts: 1 };

    /// Once the process is released, nobody waits, and the next daemon may finish what this one has read.
    fn attempts_of(&self, offer: &Offer) -> u32 {
        if offer.released { MAX_ATTEMPTS } else { self.attempts }
    }
}

/// How long a daemon that has taken the crash may be silent. It sends `Busy` every two seconds, so it hangs if it does not.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a crash is offered.
const MAX_ATTEMPTS: u32 = 5;
/// How long the shim waits for a journal whose queue is full. It holds no process at that point.
const JOURNAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Why no daemon recorded the crash, so that it goes to the spool.
pub(super) enum SpoolReason {
    /// The daemon itself crashed.
    DaemonCrashed,
    /// The intake socket could not be connected to, or nobody answered.
    NoDaemon { socket: PathBuf, error: io::Error },
    /// A connection was made and stayed, but the offer was not taken within this time.
    NotTaken(Duration),
    /// Every attempt was taken, and every connection broke before the crash was recorded.
    TooManyAttempts { attempts: u32, error: io::Error },
    /// [`DaemonMessage::Rejected`].
    Rejected { reason: String },
    /// [`DaemonMessage::Unavailable`].
    Unavailable { reason: String },
}

impl fmt::Display for SpoolReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DaemonCrashed => f.write_str("it is the daemon that crashed"),
            Self::NoDaemon { socket, error } => write!(f, "no daemon at {}: {error}", socket.display()),
            Self::NotTaken(limit) => write!(f, "no daemon took it within {} s", limit.as_secs()),
            Self::TooManyAttempts { attempts: 1, error } => {
                write!(f, "the daemon took it and did not finish it ({error})")
            }
            Self::TooManyAttempts { attempts, error } => {
                write!(f, "{attempts} daemons took it and none finished it ({error})")
            }
            Self::Rejected { reason } => write!(f, "the daemon cannot read the offer: {reason}"),
            Self::Unavailable { reason } => write!(f, "the daemon cannot record it now: {reason}"),
        }
    }
}

/// How one connection ended.
enum ConnectionEnd {
    /// The daemon recorded the crash.
    Recorded,
    /// The deadline for `Taken` has passed.
    NotTaken,
    /// No other attempt would help.
    GiveUp(SpoolReason),
    /// The daemon disappeared after it had taken the crash: the next daemon may record it.
    Broken(io::Error),
    /// No connection could be made, or it was closed before anybody took the crash.
    Unreachable(io::Error),
}

/// Offers the crash until a daemon has recorded it.
pub(super) fn deliver(crash: &mut Crash, root: &Root, log: &KernelLog, patience: &Patience) -> Result<(), SpoolReason> {
    let mut taken_deadline = Instant::now() + patience.taken;
    let mut unreachable_since = None;
    loop {
        match offer_once(crash, root, log, taken_deadline) {
            ConnectionEnd::Recorded => return Ok(()),
            ConnectionEnd::NotTaken => return Err(SpoolReason::NotTaken(patience.taken)),
            ConnectionEnd::GiveUp(reason) => return Err(reason),
            ConnectionEnd::Broken(error) if crash.offer.attempt >= patience.attempts_of(&crash.offer) => {
                return Err(SpoolReason::TooManyAttempts { attempts: crash.offer.attempt, error });
            }
            ConnectionEnd::Broken(_) => {
                crash.offer.attempt += 1;
                unreachable_since = None;
                taken_deadline = Instant::now() + patience.taken;
            }
            ConnectionEnd::Unreachable(error) => {
                let since: Instant = *unreachable_since.get_or_insert_with(Instant::now);
                // Waiting gives nobody the right to connect, and nobody creates the socket soon if the daemon does not run either.
                let is_denied = error.kind() == ErrorKind::PermissionDenied;
                let is_futile = is_denied || error.kind() == ErrorKind::NotFound && is_stopped(root);
                if is_futile || since.elapsed() >= patience.connect || Instant::now() >= taken_deadline {
                    return Err(SpoolReason::NoDaemon { socket: root.intake_socket(), error });
                }
            }
        }
        sleep(RETRY_PAUSE);
    }
}

/// Whether systemd runs on this machine and the daemon does not: early at boot and late in a shutdown, or because somebody stopped it.
/// As long as a service runs there is a link with its name (`unit_export_invocation_id` and `unit_unlink_state_files` in systemd's
/// src/core/unit.c).
fn is_stopped(root: &Root) -> bool {
    let exists = |path: &str| root.join(path).symlink_metadata().is_ok();
    exists("/run/systemd/units") && !exists("/run/systemd/units/invocation:coreward.service")
}

/// Offers the crash on a new connection, and serves the daemon until the connection ends.
fn offer_once(crash: &mut Crash, root: &Root, log: &KernelLog, taken_deadline: Instant) -> ConnectionEnd {
    let timeout = taken_deadline.saturating_duration_since(Instant::now());
    let mut connection = match DaemonConnection::connect(root, timeout) {
        Ok(connection) => connection,
        Err(error) => return ConnectionEnd::Unreachable(error),
    };
    if let Err(error) = send_offer(&mut connection, crash) {
        return ConnectionEnd::Unreachable(error);
    }
    let mut deadline = taken_deadline;
    let mut taken = false;
    loop {
        let (message, fds) = match connection.receive(deadline) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::TimedOut && !taken => {
                return ConnectionEnd::NotTaken;
            }
            // Nobody has begun to work on the crash: during a shutdown systemd closes every connection.
            Err(error) if !taken => return ConnectionEnd::Unreachable(error),
            Err(error) => return ConnectionEnd::Broken(error),
        };
        taken = true;
        deadline = Instant::now() + SILENCE_TIMEOUT;
        let sent = match message {
            DaemonMessage::Taken | DaemonMessage::Busy => Ok(()),
            DaemonMessage::Request(request) => {
                let (reply, fds) = requests::reply_to(request, crash);
                let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
                connection.send(&reply.encode(raw.len()), &raw)
            }
            DaemonMessage::Release { checkpoint, fds: kinds, needs_ack } => {
                crash.release();
                crash.save_checkpoint(checkpoint, kinds, fds);
                if needs_ack { connection.send(&released_message(), &[]) } else { Ok(()) }
            }
            DaemonMessage::Done { journal, user } => {
                crash.release();
                send_to_journal(&journal, &crash.offer, user, root, log);
                return ConnectionEnd::Recorded;
            }
            DaemonMessage::Rejected { reason } => return ConnectionEnd::GiveUp(SpoolReason::Rejected { reason }),
            DaemonMessage::Unavailable { reason } => return ConnectionEnd::GiveUp(SpoolReason::Unavailable { reason }),
        };
        if let Err(error) = sent {
            return ConnectionEnd::Broken(error);
        }
    }
}

fn send_offer(connection: &mut DaemonConnection, crash: &mut Crash) -> io::Result<()> {
    let (kinds, fds): (Vec<FdKind>, Vec<RawFd>) =
        crash.process.fds.iter().map(|(kind, fd)| (*kind, fd.as_raw_fd())).unzip();
    connection.send(&crash.encode_offer(&kinds), &fds)
}

/// The user and group of the crashed process, if that is who the daemon wants to have the entry.
fn owner(offer: &Offer, user: Option<Uid>) -> Option<(Uid, Gid)> {
    let uid = user.filter(|uid| offer.uid == Some(*uid) && !uid.is_root())?;
    Some((uid, offer.gid?))
}

/// Sends the daemon's entry to the journal: under the name of the user whose process crashed, so that journald puts it into that
/// user's journal (`SplitMode=uid`, journald.conf(5)), or else as root: for root's processes and those of services, `journalctl -u`
/// and `systemctl status` of systemd before 257 accept no other (`add_matches_for_unit` in systemd's src/shared/logs-show.c).
fn send_to_journal(entry: &[u8], offer: &Offer, user: Option<Uid>, root: &Root, log: &KernelLog) {
    if entry.is_empty() {
        return;
    }
    // What root did is in root's journal.
    let user = owner(offer, user).filter(|_| offer.dump.is_none());
    let is_allowed =
        if offer.dump.is_some() { journal::is_about_a_dump(entry) } else { journal::is_about_a_crash(entry) };
    if !is_allowed {
        log.log("the daemon wanted to send a journal entry that is not about a crash: not sent");
        return;
    }
    // The queue of the journal's socket is short and fills up in a storm.
    if let Err(error) = datagram::send_as(&root.journal_socket(), entry, JOURNAL_TIMEOUT, user)
        && error.kind() != ErrorKind::NotFound
    {
        log.log(format_args!("the journal did not accept an entry: {error}"));
    }
}
