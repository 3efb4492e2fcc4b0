//! Admission, storm, quota, access: pure functions of (state, event, now). No clock, no files.

pub mod access;
pub mod admission;
pub mod evict;
pub mod modules;
pub mod quota;
pub mod rate;
pub mod storm;
pub mod subordinate;
