//! Reasons in words, with the way out where there is one.

use crate::crash::{CoreOutcome, Cut, NoCore};
use crate::store::{CoreState, Listed};

/// One word for a table: `stored`, `truncated`, `none:storm`, `evicted`, `missing`.
pub(super) fn core_state(listed: &Listed) -> String {
    match (listed.core_state, listed.record.core.outcome) {
        (CoreState::Stored, _) => "stored".to_owned(),
        (CoreState::Truncated, _) => "truncated".to_owned(),
        (CoreState::Evicted, _) => "evicted".to_owned(),
        (CoreState::Missing, _) => "missing".to_owned(),
        (CoreState::None, CoreOutcome::None(reason)) => format!("none:{}", reason.name()),
        (CoreState::None, CoreOutcome::Stored) => "none".to_owned(),
    }
}

/// Why there is no core to open; `None`: there is one.
pub(super) fn why_no_core(listed: &Listed) -> Option<&'static str> {
    match (listed.core_state, listed.record.core.outcome) {
        (CoreState::Stored | CoreState::Truncated, _) => None,
        (CoreState::Evicted, _) => Some("it was deleted to make room (MaxUse=, KeepFree=)"),
        (CoreState::Missing, _) => Some("its file is gone, and Coreward did not delete it"),
        (CoreState::None, CoreOutcome::None(reason)) => Some(not_stored(reason)),
        (CoreState::None, CoreOutcome::Stored) => Some("it was not stored"),
    }
}

fn not_stored(reason: NoCore) -> &'static str {
    match reason {
        NoCore::Storm => {
            "this program had crashed with the same signal just before, and those cores were stored (StormBurst=, StormIntervalSec=)"
        }
        NoCore::Configured => "Storage=none is configured",
        NoCore::Limit => "the process' own RLIMIT_CORE was 0 (EnforceCoreLimit=yes is configured)",
        NoCore::Empty => "the kernel wrote none; the kernel log may say why",
        NoCore::NotElf => "what the kernel wrote is no ELF core",
        NoCore::Quota => "there was no room for it within the quota (MaxUse=, KeepFree=)",
        NoCore::DiskFull => "the disk was full",
        NoCore::WriteError => "it could not be written; the log of coreward.service says why",
        NoCore::Stalled => "the stream stood still, as it does on a dead mount, or too many others did",
        NoCore::Gone => "there was nothing left to store: the process was gone, or there was no room in the spool",
    }
}

/// Why a core is not whole.
pub(super) fn truncated(cut: Cut) -> &'static str {
    match cut {
        Cut::EndedEarly => "the process was killed while it was dumped",
        Cut::Stalled => "the stream stood still, as it does on a dead mount",
        Cut::ProcessSizeMax => "it was longer than ProcessSizeMax=",
        Cut::ExternalSizeMax => "its file reached ExternalSizeMax=",
        Cut::CoreLimit => "the process' own RLIMIT_CORE was reached (EnforceCoreLimit=yes is configured)",
        Cut::Quota => "the quota was reached (MaxUse=, KeepFree=)",
        Cut::DiskFull => "the disk filled up",
        Cut::MaxHold => "the process could not be held any longer (MaxHold=)",
        Cut::Stacks => "only stacks were to be stored (Storage=stacks)",
        Cut::Resumed => "the daemon ended while it took the core in, and the next one got the rest",
        Cut::Spool => "no daemon was there, and it was longer than the spool takes",
    }
}
