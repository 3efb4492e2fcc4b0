//! The ledger as one capture sees it.

use super::ledger::{Grant, Ledger};
use crate::crash::{CrashId, Principal};
use crate::policy::evict::Attribution;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The ledger, and to whom one core is charged.
#[derive(Debug)]
pub struct QuotaHandle {
    ledger: Arc<Ledger>,
    attribution: Attribution,
}

impl QuotaHandle {
    /// A handle that charges a core to `attribution`.
    pub fn new(ledger: Arc<Ledger>, attribution: Attribution) -> Self {
        Self { ledger, attribution }
    }

    /// The directory of the core files.
    #[must_use]
    pub fn dir(&self) -> &OwnedFd {
        self.ledger.dir()
    }

    /// Whether a large core may be copied to an uncompressed file while its process waits.
    #[must_use]
    pub fn may_spill(&self) -> bool {
        self.ledger.volume().may_spill()
    }

    /// Who is charged.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.attribution.principal
    }

    /// [`Ledger::reserve`].
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> Grant {
        self.ledger.reserve(&self.attribution, bytes)
    }

    /// [`Ledger::reserve_spare`].
    #[must_use]
    pub fn reserve_spare(&self, bytes: u64, margin: u64) -> bool {
        self.ledger.reserve_spare(&self.attribution, bytes, margin)
    }

    /// [`Ledger::cancel`].
    pub fn cancel(&self, bytes: u64) {
        self.ledger.cancel(&self.attribution, bytes);
    }

    /// [`Ledger::commit`].
    pub fn commit(&self, reserved: u64, id: CrashId, time_us: u64, stored: u64) {
        self.ledger.commit(self.attribution.clone(), reserved, id, time_us, stored);
    }

    /// Bytes of all cores, including those being written.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.ledger.usage().0
    }
}
