//! What a daemon leaves with the shim when it lets a process go: all that its successor needs, should it be killed before the
//! record is durable.

use crate::capture::CaptureCheckpoint;
use crate::crash::Record;
use coreward_wire::MAX_CHECKPOINT;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memo {
    pub(super) record: Record,
    /// The user who may read the core.
    pub(super) reader: Option<u32>,
    /// How to go on with the core; `None`: the record says what became of it.
    pub(super) core: Option<CaptureCheckpoint>,
}

impl Memo {
    /// As bytes that a shim takes.
    pub(super) fn write(mut self) -> Vec<u8> {
        let whole = serde_json::to_vec(&self).unwrap_or_default();
        if whole.len() <= MAX_CHECKPOINT {
            return whole;
        }
        // The longest texts are the least that is missed, and the core tells of all threads.
        self.record.shorten();
        self.record.warnings.truncate(4);
        serde_json::to_vec(&self).ok().filter(|bytes| bytes.len() <= MAX_CHECKPOINT).unwrap_or_default()
    }

    /// From a shim. What is not understood is nothing: another version of the daemon may have written it.
    pub(super) fn read(kept: &[u8]) -> Option<Self> {
        if kept.is_empty() {
            return None;
        }
        serde_json::from_slice(kept).map_err(|error| tracing::warn!("what a shim kept is not understood: {error}")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::{CoreReport, NoCore};

    #[test]
    fn a_memo_is_never_longer_than_a_shim_takes() {
        let record = crate::crash::fixtures::record(1);
        let mut memo = Memo { record, reader: Some(7), core: None };
        memo.record.core = CoreReport::none(NoCore::Storm);
        assert_eq!(Memo::read(&memo.clone().write()), Some(memo.clone()));
        memo.record.open_fds = "\u{1}".repeat(MAX_CHECKPOINT);
        let bytes = memo.clone().write();
        assert!(!bytes.is_empty() && bytes.len() <= MAX_CHECKPOINT);
        assert_eq!(Memo::read(&bytes).unwrap().record.id, memo.record.id);
        assert_eq!(Memo::read(b"from the future"), None);
    }
}
