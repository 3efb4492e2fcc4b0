//! A crash with the present state of its core.

use crate::crash::{CrashId, Keep, Record};
use crate::store::Layout;
use crate::store::columns::RecordedCore;
use crate::store::core_dir::core_file_name;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A crash, and its core if that is present.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listed {
    /// The record.
    #[serde(flatten)]
    pub record: Record,
    /// The present state of the core.
    pub core_state: CoreState,
    /// The core file, if there is one.
    pub core_file: Option<PathBuf>,
}

/// The present state of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoreState {
    /// Stored whole.
    Stored,
    /// A part of it is stored.
    Truncated,
    /// No core was stored.
    None,
    /// Deleted to make room.
    Evicted,
    /// Deleted by somebody else while the daemon was not running.
    Missing,
    /// Deleted by its owner or an administrator, with `coreward rm` or otherwise.
    Removed,
}

impl CoreState {
    /// The state of a core that the catalog calls `recorded`. `file_exists` is asked only if that may have changed since.
    pub(super) fn current(recorded: RecordedCore, truncated: bool, file_exists: impl FnOnce() -> bool) -> Self {
        match recorded {
            RecordedCore::None => Self::None,
            RecordedCore::Evicted => Self::Evicted,
            RecordedCore::Missing => Self::Missing,
            RecordedCore::Removed => Self::Removed,
            RecordedCore::Stored if !file_exists() => Self::Missing,
            RecordedCore::Stored if truncated => Self::Truncated,
            RecordedCore::Stored => Self::Stored,
        }
    }

    /// Whether there is a core to open.
    #[must_use]
    pub fn is_present(self) -> bool {
        matches!(self, Self::Stored | Self::Truncated)
    }
}

impl Listed {
    /// A crash whose core the catalog calls `recorded`.
    pub(super) fn new(record: Record, recorded: RecordedCore, layout: &Layout) -> Self {
        let file = layout.cores.join(core_file_name(&record.id));
        // A file that this user may not see counts as existing.
        let file_exists = || file.try_exists().unwrap_or(true);
        let core_state = CoreState::current(recorded, record.core.truncated.is_some(), file_exists);
        let core_file = core_state.is_present().then_some(file);
        Self { record, core_state, core_file }
    }

    /// Whether the core is truncated on purpose: only the stacks were to be stored.
    #[must_use]
    pub fn stacks_only(&self) -> bool {
        self.core_state == CoreState::Truncated && self.record.decision.keep == Keep::Stacks
    }

    /// The id of the crash.
    #[must_use]
    pub fn id(&self) -> &CrashId {
        &self.record.id
    }
}
