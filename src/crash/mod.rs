//! The record of a crash and the process it came from: plain data, no I/O.

pub mod auxv;
pub mod cgroup;
mod key;
mod record;
pub mod signal;
pub mod text;

pub use key::{CrashId, CrashKey};
pub use record::{CoreOutcome, CoreReport, Cut, NoCore, Origin, Record};
