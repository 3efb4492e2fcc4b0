//! The record of a crash and the process it came from: plain data, no I/O.

pub mod auxv;
pub mod cgroup;
mod decision;
mod key;
mod record;
pub mod signal;
mod signature;
pub mod text;

pub use decision::{Decision, Keep, Reason};
pub use key::{CrashId, CrashKey};
pub use record::{CoreOutcome, CoreReport, Cut, NoCore, Origin, Record, program_of};
pub use signature::{Found, Frame, Level, Module, SigInfo, Signature, ThreadStacks};
