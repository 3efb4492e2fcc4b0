//! Crashes as they are listed, for tests.

use super::{CoreState, Listed};
use crate::crash::fixtures::record;

/// A crash of process `pid` whose core is there.
pub(crate) fn listed(pid: u32) -> Listed {
    Listed { record: record(pid), core_state: CoreState::Stored, core_file: Some("/cores/x".into()) }
}
