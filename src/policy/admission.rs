//! What is kept of a crash: decided from its record so far, before a byte of its memory is copied.

use super::storm::{StormEvent, StormPolicy, StormRules};
use crate::crash::{Decision, Keep, NoCore, Reason};
use std::time::Duration;

/// `Storage=`: the most that is kept of a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Records only.
    None,
    /// Notes and stacks.
    Stacks,
    /// Whole cores, in files of their own.
    External,
}

/// The configuration that admission depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// `Storage=`.
    pub storage: Storage,
    /// `EnforceCoreLimit=`: a process whose RLIMIT_CORE is 0 leaves no core.
    pub enforce_core_limit: bool,
    /// The limits on storms and rates.
    pub rules: StormRules,
}

/// What the decision on a crash rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionFacts {
    /// There is a core, or a process that one can be taken of.
    pub has_core: bool,
    /// RLIMIT_CORE of the process, in bytes.
    pub core_limit: u64,
    /// What the limiter counts.
    pub event: StormEvent,
    /// Root asked for it: it is no part of a storm, and neither limited nor counted.
    pub is_dump: bool,
}

/// The outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A core is captured: the whole of it or the stacks, as the decision says.
    Core(Decision),
    /// Only the record is kept.
    RecordOnly {
        /// What was decided.
        decision: Decision,
        /// Why there is no core.
        no_core: NoCore,
        /// The record says nothing that others of the same signature do not say as well.
        is_repeated: bool,
    },
}

impl Admission {
    /// What was decided, and why, as the record has it.
    #[must_use]
    pub fn decision(self) -> Decision {
        match self {
            Self::Core(decision) | Self::RecordOnly { decision, .. } => decision,
        }
    }

    fn record_only(reason: Reason, no_core: NoCore) -> Self {
        Self::RecordOnly { decision: Decision { keep: Keep::Record, reason }, no_core, is_repeated: false }
    }
}

/// Decides on a crash at `now`, the time since boot. The limiter only counts crashes that no rule before it has turned away.
pub fn admit(config: &AdmissionConfig, crash: &AdmissionFacts, limiter: &mut StormPolicy, now: Duration) -> Admission {
    if !crash.has_core {
        return Admission::record_only(Reason::Gone, NoCore::Gone);
    }
    if config.storage == Storage::None {
        return Admission::record_only(Reason::Configured, NoCore::Configured);
    }
    if config.enforce_core_limit && crash.core_limit == 0 {
        return Admission::record_only(Reason::Limit, NoCore::Limit);
    }
    let decision = if crash.is_dump {
        Decision { keep: Keep::Full, reason: Reason::Requested }
    } else {
        limiter.decide(&config.rules, &crash.event, now)
    };
    match decision.keep {
        Keep::Record => {
            let no_core = turned_away_by(decision.reason);
            let is_told = no_core == NoCore::Rate && limiter.tells_stack(&config.rules, &crash.event, now);
            Admission::RecordOnly { decision, no_core, is_repeated: !is_told }
        }
        Keep::Full if config.storage == Storage::Stacks => {
            Admission::Core(Decision { keep: Keep::Stacks, reason: Reason::Configured })
        }
        Keep::Full | Keep::Stacks => Admission::Core(decision),
    }
}

/// Why the limiter left a crash without a core.
fn turned_away_by(reason: Reason) -> NoCore {
    match reason {
        Reason::UnitRate | Reason::UserRate | Reason::TotalRate => NoCore::Rate,
        _ => NoCore::Storm,
    }
}

#[cfg(test)]
mod tests;
