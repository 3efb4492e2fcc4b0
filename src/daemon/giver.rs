//! Who gives a crash to the daemon: a shim that holds the process, or the spool.

use super::connection::{Connection, ConnectionError};
use crate::crash::Origin;
use coreward_sys::clock;
use coreward_wire::{DaemonMessage, FdKind, Offer, Request};
use std::os::fd::OwnedFd;

/// Who gives the crash.
pub(super) enum Giver {
    /// A shim that holds the process.
    Shim(Connection),
    /// A file of the spool, at the first byte of its core, if there is one.
    Spool(Option<OwnedFd>),
}

impl Giver {
    pub(super) fn origin(&self) -> Origin {
        match self {
            Self::Shim(_) => Origin::Live,
            Self::Spool(_) => Origin::Spool,
        }
    }

    pub(super) async fn tell(&mut self, answer: &DaemonMessage) -> Result<(), ConnectionError> {
        match self {
            Self::Shim(link) => link.send(answer).await,
            Self::Spool(_) => Ok(()),
        }
    }

    /// Whether there may be a core.
    pub(super) fn has_core(&self, offer: &Offer) -> bool {
        match self {
            Self::Shim(_) => !offer.released,
            Self::Spool(core) => core.is_some(),
        }
    }

    /// The core, once.
    pub(super) async fn core(&mut self) -> Result<Option<OwnedFd>, ConnectionError> {
        match self {
            Self::Shim(link) => Ok(link.ask_for_fd(Request::Core).await?),
            Self::Spool(core) => Ok(core.take()),
        }
    }

    /// Lets the process go; fails where this daemon is no longer the one that the crash belongs to. The shim keeps `kept` and
    /// the descriptors for the next daemon.
    pub(super) async fn release(&mut self, kept: Vec<u8>, fds: Vec<(FdKind, OwnedFd)>) -> Result<(), ConnectionError> {
        match self {
            Self::Shim(link) => link.release(kept, fds).await,
            Self::Spool(_) => Ok(()),
        }
    }
}

/// How long the process has been held by now, microseconds; what the spool has holds nobody.
pub(super) fn held_us(offer: &Offer, giver: &Giver) -> u64 {
    match giver.origin() {
        Origin::Live => {
            u64::try_from(clock::since_boot().saturating_sub(offer.started).as_micros()).unwrap_or(u64::MAX)
        }
        Origin::Spool => 0,
    }
}
