//! The messages between the catalog's handles and its writer.

use super::rollup::Retention;
use super::rows::CrashCount;
use crate::crash::{CrashId, Record};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// The result of inserting a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is new, and was counted in this counter.
    Counted(CrashCount),
    /// It is in the catalog already.
    Known,
}

/// Where the writer sends its result; errors are formatted, because several callers may get the same one.
pub(super) type Reply<T> = oneshot::Sender<Result<T, String>>;

/// A crash to insert, and where to send the result.
pub(super) type PendingRow = (Box<Record>, Reply<Inserted>);

/// An instruction to the writer.
pub(super) enum Command {
    Insert(Box<Record>, Reply<Inserted>),
    Find(CrashId, Reply<Option<Box<Record>>>),
    /// Reply once all commands before this one have been carried out.
    Flush(oneshot::Sender<()>),
    /// The core was deleted by somebody else.
    MarkRemoved(CrashId),
    SetRetention(Retention),
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
