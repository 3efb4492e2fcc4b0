//! Where a crash comes from: a shim that holds the process, or the spool.

use super::connection::{Connection, ConnectionError};
use crate::crash::Origin;
use crate::report::InFlight;
use coreward_wire::{DaemonMessage, Details, FdKind, MAX_MODULES, Offer, Request, WireError};
use nix::errno::Errno;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::time::interval;

/// How often a shim hears that its crash is being worked on.
const BUSY: Duration = Duration::from_secs(2);

/// The source of a crash. The spool answers every request with "there is none": what it has came with the offer.
pub(super) enum CrashSource {
    /// A shim that holds the process. Test crashes and dumps are not counted in flight.
    Shim(Connection, Option<InFlight>),
    /// A file of the spool, at the first byte of its core, if it has one.
    Spool(Option<OwnedFd>),
}

impl CrashSource {
    /// How the record says that the crash arrived.
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Shim(..) => Origin::Live,
            Self::Spool(_) => Origin::Spool,
        }
    }

    /// Whether a process waits for this daemon.
    pub(super) fn holds_process(&self) -> bool {
        matches!(self, Self::Shim(..))
    }

    /// Tells the shim that its offer was read. For a crash that nobody had before, also requests its core: both go out
    /// together, so that the shim wakes up once.
    pub(super) async fn accept(&mut self, offer: &Offer) -> Result<Option<OwnedFd>, ConnectionError> {
        match self {
            Self::Shim(connection, _) if offer.attempt > 1 || offer.released => {
                connection.send(&DaemonMessage::Taken).await.map(|()| None)
            }
            Self::Shim(connection, _) => connection.request_fd_after(&[DaemonMessage::Taken], Request::Core).await,
            Self::Spool(_) => Ok(None),
        }
    }

    /// Requests the core of a crash. A spooled core is handed over once.
    pub(super) async fn request_core(&mut self, offer: &Offer) -> Result<Option<OwnedFd>, ConnectionError> {
        match self {
            Self::Shim(..) if offer.released => Ok(None),
            Self::Shim(connection, _) => connection.request_fd(Request::Core).await,
            Self::Spool(core) => Ok(core.take()),
        }
    }

    /// Has the shim take the first `bytes` of the core out of the pipe into a file that it keeps for later daemons.
    pub(super) async fn request_prefix(&mut self, bytes: u64) -> Result<Option<OwnedFd>, ConnectionError> {
        self.request_fd(Request::Head(bytes)).await
    }

    /// Requests the executable, open for reading. What the spool does not have, its warnings explain.
    pub(super) async fn request_executable(&mut self) -> Result<Result<Option<OwnedFd>, Errno>, ConnectionError> {
        let Self::Shim(connection, _) = self else { return Ok(Ok(None)) };
        Ok(connection.request(Request::Exe).await?.map(|(_, fds)| fds.into_iter().next()))
    }

    /// Requests the mapped files in which mappings with these first addresses are: those that the shim can open, with their addresses.
    pub(super) async fn request_modules(
        &mut self,
        mut addresses: Vec<u64>,
    ) -> Result<Vec<(u64, OwnedFd)>, ConnectionError> {
        let Self::Shim(connection, _) = self else { return Ok(Vec::new()) };
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        addresses.truncate(MAX_MODULES);
        let Ok((reply, fds)) = connection.request(Request::Modules(addresses)).await? else { return Ok(Vec::new()) };
        let opened = reply.addresses();
        if opened.len() != fds.len() {
            return Err(WireError::Descriptors { announced: opened.len(), arrived: fds.len() }.into());
        }
        Ok(opened.into_iter().zip(fds).collect())
    }

    /// Requests the first of these files that the process may have written itself, open for reading, and its path. `offer` is that of the shim.
    pub(super) async fn request_written_file(
        &mut self,
        offer: &Offer,
        paths: Vec<Vec<u8>>,
    ) -> Result<Option<(Vec<u8>, OwnedFd)>, ConnectionError> {
        let Self::Shim(connection, _) = self else { return Ok(None) };
        if !offer.opens_written_files || paths.is_empty() {
            return Ok(None);
        }
        let Ok((reply, fds)) = connection.request(Request::WrittenFile(paths)).await? else { return Ok(None) };
        Ok(fds.into_iter().next().map(|file| (reply.data, file)))
    }

    async fn request_fd(&mut self, request: Request) -> Result<Option<OwnedFd>, ConnectionError> {
        match self {
            Self::Shim(connection, _) => connection.request_fd(request).await,
            Self::Spool(_) => Ok(None),
        }
    }

    /// Requests what no duplicate in a storm is asked for, for a core that is going to be copied with the list of its holes. `None`: the
    /// process is gone, or everything came with the offer.
    ///
    /// `thread` is the one whose name is asked for.
    pub(super) async fn request_details(
        &mut self,
        holes: bool,
        thread: Option<u32>,
    ) -> Result<Option<ProcessDetails>, ConnectionError> {
        let Self::Shim(connection, _) = self else { return Ok(None) };
        let Ok((reply, fds)) = connection.request(Request::Details { holes, thread: thread.unwrap_or(0) }).await?
        else {
            return Ok(None);
        };
        if reply.fds.len() != fds.len() {
            let (announced, arrived) = (reply.fds.len(), fds.len());
            return Err(WireError::Descriptors { announced, arrived }.into());
        }
        let (details, warnings) = Details::decode(&reply.data)?;
        Ok(Some(ProcessDetails { details, warnings, descriptors: reply.fds.into_iter().zip(fds).collect() }))
    }

    /// Lets the process go where nothing will be published: the shim need not confirm it. It keeps `checkpoint` for the next
    /// daemon.
    pub(super) async fn release(&mut self, checkpoint: Vec<u8>) -> Result<(), ConnectionError> {
        self.note_release();
        match self {
            Self::Shim(connection, _) => {
                connection.send(&DaemonMessage::Release { checkpoint, fds: Vec::new(), needs_ack: false }).await
            }
            Self::Spool(_) => Ok(()),
        }
    }

    /// Lets the process go and waits until the shim confirms it. Fails where the shim has turned to another daemon: then this
    /// one must publish nothing. The shim keeps `checkpoint` and its files for the next daemon.
    pub(super) async fn release_and_confirm(
        &mut self,
        checkpoint: Vec<u8>,
        files: Vec<(FdKind, OwnedFd)>,
    ) -> Result<(), ConnectionError> {
        self.note_release();
        match self {
            Self::Shim(connection, _) => connection.release(checkpoint, files).await,
            Self::Spool(_) => Ok(()),
        }
    }

    /// From here on the process is not held by this daemon.
    pub(super) fn note_release(&self) {
        if let Self::Shim(_, Some(in_flight)) = self {
            in_flight.release();
        }
    }

    /// Sends a message that needs no reply.
    pub(super) async fn send(&mut self, message: &DaemonMessage) -> Result<(), ConnectionError> {
        match self {
            Self::Shim(connection, _) => connection.send(message).await,
            Self::Spool(_) => Ok(()),
        }
    }

    /// Sends "busy" every two seconds; returns when the shim is gone. Never returns for the spool.
    pub(super) async fn keep_alive(&mut self) {
        let Self::Shim(connection, _) = self else { return std::future::pending().await };
        let mut busy = interval(BUSY);
        loop {
            tokio::select! {
                // A shim has nothing to send now: a message breaks the protocol, and counts as the end of the connection.
                _ = connection.receive() => return,
                _ = busy.tick() => {
                    if connection.send(&DaemonMessage::Busy).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// The answer to [`CrashSource::request_details`].
pub(super) struct ProcessDetails {
    /// Texts for the record.
    pub(super) details: Details,
    /// What the shim could not get.
    pub(super) warnings: Vec<String>,
    /// The list of holes.
    pub(super) descriptors: Vec<(FdKind, OwnedFd)>,
}
