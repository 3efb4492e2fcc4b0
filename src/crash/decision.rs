//! What was decided on a crash before its memory was read, and why.

use serde::{Deserialize, Serialize};

/// A decision with its reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What is to be kept.
    pub keep: Keep,
    /// Why.
    pub reason: Reason,
}

/// How much of a crash is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The record alone.
    Record,
    /// Notes and stacks.
    Stacks,
    /// The whole core.
    #[default]
    Full,
}

/// Why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// `StormBurst=0`: nothing is limited. Also in records of format 1.
    #[default]
    Unlimited,
    /// No core of this signature was there.
    First,
    /// The first of this signature in a new window: the newest core is never much older than the newest crash.
    NewWindow,
    /// Within `StormBurst=` of this window.
    Burst,
    /// Within `StormStacks=` of this window.
    StacksBurst,
    /// Enough of this signature were kept in this window.
    Storm,
    /// The unit has had its `UnitBurst=`.
    UnitRate,
    /// The user has had their `UserBurst=`.
    UserRate,
    /// The machine has had its `TotalBurst=`.
    TotalRate,
    /// `Storage=` says so.
    Configured,
    /// The process' own RLIMIT_CORE is 0, and `EnforceCoreLimit=` is set.
    Limit,
    /// There was nothing to capture.
    Gone,
}

impl Keep {
    /// The word as it stands in records and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Stacks => "stacks",
            Self::Full => "full",
        }
    }
}

impl Reason {
    /// The word as it stands in records and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unlimited => "unlimited",
            Self::First => "first",
            Self::NewWindow => "new-window",
            Self::Burst => "burst",
            Self::StacksBurst => "stacks-burst",
            Self::Storm => "storm",
            Self::UnitRate => "unit-rate",
            Self::UserRate => "user-rate",
            Self::TotalRate => "total-rate",
            Self::Configured => "configured",
            Self::Limit => "limit",
            Self::Gone => "gone",
        }
    }

    /// The reason in a sentence.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Unlimited => "nothing is limited",
            Self::First => "no core of this signature was there",
            Self::NewWindow => "the first of its signature in this window (StormIntervalSec=)",
            Self::Burst => "within StormBurst= of this window",
            Self::StacksBurst => "StormBurst= was used up; within StormStacks= of this window",
            Self::Storm => "StormBurst= and StormStacks= of this window were used up",
            Self::UnitRate => "the unit had used up its UnitBurst=",
            Self::UserRate => "the user had used up their UserBurst=",
            Self::TotalRate => "the machine had used up its TotalBurst=",
            Self::Configured => "Storage= is configured so",
            Self::Limit => "the process' RLIMIT_CORE was 0, and EnforceCoreLimit= is set",
            Self::Gone => "there was nothing to capture",
        }
    }
}
