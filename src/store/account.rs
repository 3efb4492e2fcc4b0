//! The ledger as one capture sees it.

use super::ledger::{Grant, Ledger};
use crate::crash::CrashId;
use crate::policy::evict::Attribution;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What one core is charged to.
#[derive(Debug)]
pub struct QuotaHandle {
    ledger: Arc<Ledger>,
    owner: Attribution,
}

impl QuotaHandle {
    /// The account of a crash.
    pub fn new(ledger: Arc<Ledger>, owner: Attribution) -> Self {
        Self { ledger, owner }
    }

    /// The directory of the cores.
    pub fn dir(&self) -> &OwnedFd {
        self.ledger.dir()
    }

    /// [`Ledger::reserve`].
    pub fn reserve(&self, bytes: u64) -> Grant {
        self.ledger.reserve(&self.owner, bytes)
    }

    /// [`Ledger::reserve_spare`].
    pub fn reserve_spare(&self, bytes: u64, margin: u64) -> bool {
        self.ledger.reserve_spare(&self.owner, bytes, margin)
    }

    /// [`Ledger::cancel`].
    pub fn cancel(&self, bytes: u64) {
        self.ledger.cancel(&self.owner, bytes);
    }

    /// [`Ledger::settle`].
    pub fn settle(&self, reserved: u64, id: CrashId, time_us: u64, stored: u64) {
        self.ledger.settle(self.owner.clone(), reserved, id, time_us, stored);
    }

    /// Bytes that all cores take, those being written included.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.ledger.usage().0
    }
}
