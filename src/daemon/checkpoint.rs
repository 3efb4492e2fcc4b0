//! What a daemon leaves with the shim when it releases a process: all that its successor needs, should it end before the record
//! is durable.

use super::record_builder::RecordBuilder;
use crate::capture::CaptureCheckpoint;
use crate::crash::Record;
use crate::crash::ids;
use coreward_wire::MAX_CHECKPOINT;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A session at the moment of the release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint<'a> {
    /// The record so far.
    pub(super) record: Cow<'a, Record>,
    /// The user who may read the core.
    #[serde(with = "ids::optional")]
    pub(super) reader: Option<Uid>,
    /// How to go on with the core; `None`: the record says what became of it.
    pub(super) core: Option<CaptureCheckpoint>,
}

impl<'a> Checkpoint<'a> {
    /// A session whose core is not in its file yet.
    pub(super) fn of_capture(builder: &RecordBuilder, core: CaptureCheckpoint) -> Self {
        Self { record: Cow::Owned(builder.provisional()), reader: builder.reader(), core: Some(core) }
    }

    /// A session that only has to commit its record.
    pub(super) fn of_record(record: &'a Record) -> Self {
        Self { record: Cow::Borrowed(record), reader: None, core: None }
    }

    /// As bytes that a shim keeps. Empty where it would keep no record of this length.
    pub(super) fn encode(mut self) -> Vec<u8> {
        let whole = serde_json::to_vec(&self).unwrap_or_default();
        if whole.len() <= MAX_CHECKPOINT {
            return whole;
        }
        // The longest texts are missed least, and the core has all threads.
        let record = self.record.to_mut();
        record.shorten();
        record.warnings.truncate(4);
        serde_json::to_vec(&self).ok().filter(|bytes| bytes.len() <= MAX_CHECKPOINT).unwrap_or_default()
    }

    /// From a shim. `None`: there is none, or another version of the daemon wrote one that is not understood.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        let decoded = serde_json::from_slice(bytes);
        decoded.map_err(|error| tracing::warn!("the checkpoint that a shim kept cannot be parsed: {error}")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::{CoreReport, NoCore, fixtures};

    #[test]
    fn a_checkpoint_is_never_longer_than_a_shim_keeps() {
        let mut checkpoint =
            Checkpoint { record: Cow::Owned(fixtures::record(1)), reader: Some(Uid::from_raw(7)), core: None };
        checkpoint.record.to_mut().core = CoreReport::none(NoCore::Storm);
        assert_eq!(Checkpoint::decode(&checkpoint.clone().encode()), Some(checkpoint.clone()));
        checkpoint.record.to_mut().open_fds = "\u{1}".repeat(MAX_CHECKPOINT);
        let bytes = checkpoint.clone().encode();
        assert!(!bytes.is_empty() && bytes.len() <= MAX_CHECKPOINT);
        assert_eq!(Checkpoint::decode(&bytes).unwrap().record.id, checkpoint.record.id);
        assert_eq!(Checkpoint::decode(b"from the future"), None);
    }
}
