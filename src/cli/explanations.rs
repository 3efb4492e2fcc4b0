//! Sentences that explain why there is no core, or only a part of one, and which setting or command changes that.

use crate::crash::text::push_printable;
use crate::crash::{CoreOutcome, NoCore, Truncation};
use crate::store::{CoreState, Listed};

/// Appends one word for a table: `stored`, `stacks`, `truncated`, `none:storm`, `evicted`, `removed`, `missing`.
pub(super) fn push_core_state(text: &mut String, state: CoreState, stacks_only: bool, no_core: &str) {
    text.push_str(match state {
        CoreState::Truncated if stacks_only => "stacks",
        CoreState::Stored => "stored",
        CoreState::Truncated => "truncated",
        CoreState::Evicted => "evicted",
        CoreState::Missing => "missing",
        CoreState::Removed => "removed",
        CoreState::None => "none",
    });
    if state == CoreState::None && !no_core.is_empty() {
        text.push(':');
        push_printable(text, no_core);
    }
}

/// The same word for one crash.
pub(super) fn core_state(listed: &Listed) -> String {
    let no_core = match listed.record.core.outcome {
        CoreOutcome::None(reason) => reason.name(),
        CoreOutcome::Stored => "",
    };
    let mut word = String::new();
    push_core_state(&mut word, listed.core_state, listed.stacks_only(), no_core);
    word
}

/// Why there is no core to open; `None` if there is one.
pub(super) fn why_no_core(listed: &Listed) -> Option<&'static str> {
    match (listed.core_state, listed.record.core.outcome) {
        (CoreState::Stored | CoreState::Truncated, _) => None,
        (CoreState::Evicted, _) => {
            Some("it was deleted to make room (coreward usage shows the limits and who uses how much)")
        }
        (CoreState::Missing, _) => Some("its file is gone, and Coreward did not delete it"),
        (CoreState::Removed, _) => {
            Some("it was deleted by its owner or an administrator (coreward rm, coreward vacuum, or by hand)")
        }
        (CoreState::None, CoreOutcome::None(reason)) => Some(not_stored(reason)),
        (CoreState::None, CoreOutcome::Stored) => Some("it was not stored"),
    }
}

/// Whether there is no core because of a limit that the decision names.
pub(super) fn is_decided(listed: &Listed) -> bool {
    listed.core_state == CoreState::None
        && matches!(listed.record.core.outcome, CoreOutcome::None(NoCore::Storm | NoCore::Rate))
}

fn not_stored(reason: NoCore) -> &'static str {
    match reason {
        NoCore::Storm => {
            "enough cores of the same signature were stored shortly before (StormBurst=, StormStacks=, StormIntervalSec=)"
        }
        NoCore::Rate => {
            "the unit, the user or the machine had reached its rate limit (UnitBurst=, UserBurst=, TotalBurst=)"
        }
        NoCore::Configured => "Storage=none is configured",
        NoCore::Limit => "RLIMIT_CORE of the process was 0 (EnforceCoreLimit=yes is configured)",
        NoCore::Empty => "the kernel wrote none; the kernel log may say why",
        NoCore::NotElf => "the kernel did not write an ELF core",
        NoCore::Quota => "there was no room for it within the quota (coreward usage shows the limits)",
        NoCore::DiskFull => "the disk was full",
        NoCore::WriteError => "it could not be written; the log of coreward.service says why",
        NoCore::Stalled => "reading the core blocked, as on a dead mount, or too many other cores blocked",
        NoCore::Gone => "there was nothing left to store: the process was gone, or the spool had no room",
    }
}

/// Why a core is not complete.
pub(super) fn why_truncated(cut: Truncation) -> &'static str {
    match cut {
        Truncation::EndedEarly => {
            "the process ended while its core was being written: it was killed, or something interrupted the kernel"
        }
        Truncation::Stalled => "reading the core blocked, as on a dead mount",
        Truncation::ProcessSizeMax => "the core was larger than ProcessSizeMax=",
        Truncation::ExternalSizeMax => "the file reached ExternalSizeMax=",
        Truncation::CoreLimit => "RLIMIT_CORE of the process was reached (EnforceCoreLimit=yes is configured)",
        Truncation::Quota => "the quota was reached (coreward usage shows the limits)",
        Truncation::DiskFull => "the disk filled up",
        Truncation::MaxHold => "the process had been held for MaxHold=",
        Truncation::Stacks => "only the stacks were stored, as configured (Storage=stacks, or StormStacks= in a storm)",
        Truncation::Resumed => "the daemon ended while it read the core, and the next one got only the rest",
        Truncation::Spool => "no daemon was running, and the core was larger than the spool allows",
    }
}
