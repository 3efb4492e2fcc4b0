//! Listed crashes for tests.

use super::{CoreState, Listed};
use crate::crash::fixtures::record;

/// A crash of process `pid` whose core is present.
pub(crate) fn listed(pid: u32) -> Listed {
    Listed { record: record(pid), core_state: CoreState::Stored, core_file: Some("/cores/x".into()) }
}
