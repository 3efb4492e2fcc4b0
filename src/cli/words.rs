//! Reasons in words, with the way out where there is one.

use crate::crash::text::push_printable;
use crate::crash::{CoreOutcome, NoCore, Truncation};
use crate::store::{CoreState, Listed};

/// Appends one word for a table: `stored`, `truncated`, `none:storm`, `evicted`, `removed`, `missing`.
pub(super) fn push_core(text: &mut String, state: CoreState, no_core: &str) {
    text.push_str(match state {
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

/// The word for a crash.
pub(super) fn core_state(listed: &Listed) -> String {
    let no_core = match listed.record.core.outcome {
        CoreOutcome::None(reason) => reason.name(),
        CoreOutcome::Stored => "",
    };
    let mut word = String::new();
    push_core(&mut word, listed.core_state, no_core);
    word
}

/// Why there is no core to open; `None`: there is one.
pub(super) fn why_no_core(listed: &Listed) -> Option<&'static str> {
    match (listed.core_state, listed.record.core.outcome) {
        (CoreState::Stored | CoreState::Truncated, _) => None,
        (CoreState::Evicted, _) => {
            Some("it was deleted to make room (coreward usage shows the limits and who holds what)")
        }
        (CoreState::Missing, _) => Some("its file is gone, and Coreward did not delete it"),
        (CoreState::Removed, _) => Some("it was removed by an administrator"),
        (CoreState::None, CoreOutcome::None(reason)) => Some(not_stored(reason)),
        (CoreState::None, CoreOutcome::Stored) => Some("it was not stored"),
    }
}

fn not_stored(reason: NoCore) -> &'static str {
    match reason {
        NoCore::Storm => {
            "crashes of the same signature were kept just before (StormBurst=, StormStacks=, StormIntervalSec=)"
        }
        NoCore::Rate => "the unit, the user or the machine had used up its share (UnitBurst=, UserBurst=, TotalBurst=)",
        NoCore::Configured => "Storage=none is configured",
        NoCore::Limit => "the process' own RLIMIT_CORE was 0 (EnforceCoreLimit=yes is configured)",
        NoCore::Empty => "the kernel wrote none; the kernel log may say why",
        NoCore::NotElf => "what the kernel wrote is no ELF core",
        NoCore::Quota => "there was no room for it within the quota (coreward usage shows the limits)",
        NoCore::DiskFull => "the disk was full",
        NoCore::WriteError => "it could not be written; the log of coreward.service says why",
        NoCore::Stalled => "the stream stood still, as it does on a dead mount, or too many others did",
        NoCore::Gone => "there was nothing left to store: the process was gone, or there was no room in the spool",
    }
}

/// Why a core is not whole.
pub(super) fn truncated(cut: Truncation) -> &'static str {
    match cut {
        Truncation::EndedEarly => "the process was killed while it was dumped",
        Truncation::Stalled => "the stream stood still, as it does on a dead mount",
        Truncation::ProcessSizeMax => "it was longer than ProcessSizeMax=",
        Truncation::ExternalSizeMax => "its file reached ExternalSizeMax=",
        Truncation::CoreLimit => "the process' own RLIMIT_CORE was reached (EnforceCoreLimit=yes is configured)",
        Truncation::Quota => "the quota was reached (coreward usage shows the limits)",
        Truncation::DiskFull => "the disk filled up",
        Truncation::MaxHold => "the process could not be held any longer (MaxHold=)",
        Truncation::Stacks => "only stacks were to be stored (Storage=stacks, or StormStacks= of a storm)",
        Truncation::Resumed => "the daemon ended while it took the core in, and the next one got the rest",
        Truncation::Spool => "no daemon was there, and it was longer than the spool takes",
    }
}
