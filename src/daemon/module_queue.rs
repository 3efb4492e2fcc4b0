//! Whose modules are copied, and who waits.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// Crashes whose modules wait or are copied. Each has a descriptor for every file. Those of others are not stored.
pub(super) const MAX_WAITING: usize = 16;

/// The work that goes on beside the sessions.
#[derive(Debug)]
pub(super) struct ModuleQueue {
    pub(super) places: Arc<Semaphore>,
    /// One crash at a time: the second of two like it finds the modules of the first.
    pub(super) copy_lock: tokio::sync::Mutex<()>,
    /// A reader that was killed and may still hang. While it does, no other one is made.
    pub(super) lost: Mutex<Option<Arc<OwnedFd>>>,
}

impl Default for ModuleQueue {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_WAITING)),
            copy_lock: tokio::sync::Mutex::default(),
            lost: Mutex::default(),
        }
    }
}
