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
    /// Nothing says otherwise.
    #[default]
    Default,
    /// Enough of the same signature were kept in this window.
    Storm,
    /// The configuration says so.
    Configured,
    /// The process' own RLIMIT_CORE is 0, and `EnforceCoreLimit=` is set.
    Limit,
    /// There was nothing to capture.
    Gone,
}
