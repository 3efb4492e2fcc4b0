//! The memory that all captures together may use for staged data.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A budget of memory. memfd_create(2) files count towards the unit's `MemoryMax=`, though not to the daemon's resident size.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    left: Arc<AtomicU64>,
}

/// A part of the budget, returned when this is dropped.
#[derive(Debug)]
pub struct MemoryGrant {
    bytes: u64,
    left: Arc<AtomicU64>,
}

impl MemoryBudget {
    /// A budget of this many bytes.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(bytes)) }
    }

    /// Takes `bytes` out of the budget; `None` if fewer are left.
    #[must_use]
    pub fn reserve(&self, bytes: u64) -> Option<MemoryGrant> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        taken.ok().map(|_| MemoryGrant { bytes, left: Arc::clone(&self.left) })
    }
}

impl Drop for MemoryGrant {
    fn drop(&mut self) {
        self.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}
