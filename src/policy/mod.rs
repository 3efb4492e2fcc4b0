//! Storm, quota, access: pure functions of (state, event, now). No clock, no files.

pub mod access;
pub mod quota;
pub mod storm;
