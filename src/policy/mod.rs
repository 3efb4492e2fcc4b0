//! Storm, quota, access: pure functions of (state, event, now). No clock, no files.

pub mod access;
pub mod evict;
pub mod quota;
pub mod rate;
pub mod storm;
