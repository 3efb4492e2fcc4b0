//! The decision how much of a crash to keep, made before its memory is read, and the reason.

use serde::{Deserialize, Serialize};

/// A decision and its reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// How much is kept.
    pub keep: Keep,
    /// The reason.
    pub reason: Reason,
}

/// How much of a crash is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// The record only.
    Record,
    /// Notes and stacks.
    Stacks,
    /// The whole core.
    #[default]
    Full,
}

/// The reason for a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// `StormBurst=0`: there is no limit. Also the value for records of format 1.
    #[default]
    Unlimited,
    /// There was no core of this signature.
    First,
    /// The first crash of this signature in a new window. Keeping it bounds the age difference between the newest core and the
    /// newest crash.
    NewWindow,
    /// Within `StormBurst=` of this window.
    Burst,
    /// `StormBurst=` of this window is used up, but it may be another bug: code without a file hides what tells bugs apart.
    Variant,
    /// Within `StormStacks=` of this window.
    StacksBurst,
    /// `StormBurst=` and `StormStacks=` of this window are used up.
    Storm,
    /// The unit has used up its `UnitBurst=`.
    UnitRate,
    /// The user has used up their `UserBurst=`.
    UserRate,
    /// The machine has used up its `TotalBurst=`.
    TotalRate,
    /// `Storage=` is configured so.
    Configured,
    /// RLIMIT_CORE of the process is 0, and `EnforceCoreLimit=` is set.
    Limit,
    /// There was nothing to capture.
    Gone,
    /// Root asked for it (`coreward dump`): no limit on storms and rates applies.
    Requested,
}

impl Keep {
    /// The name used in records, tables and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Stacks => "stacks",
            Self::Full => "full",
        }
    }
}

impl Keep {
    /// The same for operators.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Record => "only the record",
            Self::Stacks => "only the stacks",
            Self::Full => "the whole core",
        }
    }
}

impl Reason {
    /// The name used in records, tables and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unlimited => "unlimited",
            Self::First => "first",
            Self::NewWindow => "new-window",
            Self::Burst => "burst",
            Self::Variant => "variant",
            Self::StacksBurst => "stacks-burst",
            Self::Storm => "storm",
            Self::UnitRate => "unit-rate",
            Self::UserRate => "user-rate",
            Self::TotalRate => "total-rate",
            Self::Configured => "configured",
            Self::Limit => "limit",
            Self::Gone => "gone",
            Self::Requested => "requested",
        }
    }

    /// The reason as a clause for operators.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Unlimited => "no limit applies",
            Self::First => "there was no core with this signature yet",
            Self::NewWindow => "the first of its signature in this window (StormIntervalSec=)",
            Self::Burst => "within StormBurst= in this window",
            Self::Variant => {
                "StormBurst= was used up in this window, but it may be another bug: code without a file hides which"
            }
            Self::StacksBurst => "StormBurst= was used up in this window; within StormStacks=",
            Self::Storm => "StormBurst= and StormStacks= were used up in this window",
            Self::UnitRate => "the unit had used up its UnitBurst=",
            Self::UserRate => "the user had used up their UserBurst=",
            Self::TotalRate => "the machine had used up its TotalBurst=",
            Self::Configured => "as set by Storage=",
            Self::Limit => "RLIMIT_CORE of the process was 0, and EnforceCoreLimit=yes is set",
            Self::Gone => "there was nothing to capture",
            Self::Requested => "root asked for it",
        }
    }
}
