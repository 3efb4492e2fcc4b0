//! What the catalog's handles and its writer exchange.

use super::new_bugs::NewBug;
use super::rows::Inserted;
use crate::crash::{CrashId, Record};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Where the writer sends its result; errors are formatted, because several callers may get the same one.
pub(super) type ReplySender<T> = oneshot::Sender<Result<T, String>>;

/// A crash to insert, and who waits for it.
pub(super) type PendingRow = (Arc<Record>, ReplySender<Inserted>);

/// An instruction to the writer.
pub(super) enum Command {
    Insert(Arc<Record>, ReplySender<Inserted>),
    Find(CrashId, ReplySender<Option<Box<Record>>>),
    /// The oldest crashes to tell about, at most this many.
    NewBugs(usize, ReplySender<Vec<NewBug>>),
    /// These have been told about.
    ForgetNewBugs(Vec<i64>),
    /// Reply once all commands before this one have been carried out.
    Flush(oneshot::Sender<()>),
    /// The core was deleted by somebody else.
    MarkRemoved(CrashId),
    /// The most rows, and the age at which they are deleted.
    SetRetention(u64, Duration),
}

/// Whether rows can be written. The writer sets it, the handles read it.
#[derive(Clone, Debug)]
pub(super) struct Availability(Arc<Mutex<Option<String>>>);

impl Availability {
    /// Not yet available.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Some("the catalog is not open yet".to_owned()))))
    }

    /// Why rows cannot be written; `None` if they can.
    pub(super) fn obstacle(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_obstacle(&self, obstacle: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = obstacle;
    }
}
