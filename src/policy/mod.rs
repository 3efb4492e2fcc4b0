//! Decisions on crashes and cores: pure functions of state, event and time. No clock, no files.

pub mod access;
pub mod evict;
pub mod quota;
pub mod rate;
pub mod storm;
