//! The record of a crash and of the process that crashed. Plain data, no I/O.

mod arguments;
pub mod auxv;
mod bounds;
pub mod cgroup;
mod decision;
mod demangle;
mod failure;
mod fault;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod ids;
mod interpreter;
mod key;
mod label;
mod maps;
mod plumbing;
mod principal;
mod record;
mod run_time_code;
mod runtime_report;
pub mod signal;
mod signature;
mod stack_trace;
pub mod text;
mod title;
mod warning;

pub use arguments::ArgumentList;
pub use bounds::{Cuts, MAX_RECORD};
pub use decision::{Decision, Keep, Reason};
pub use demangle::demangle;
pub use failure::Failure;
pub use fault::{Access, Audience, Fault, Mapping, Neighbour, Place};
pub use interpreter::{InterpreterFrame, InterpreterStack};
pub use key::{CrashId, CrashKey};
pub use label::CrashLabel;
pub use maps::MapsLine;
pub use principal::{AccountFacts, Party, Principal, PrincipalClass};
pub use record::{CoreOutcome, CoreReport, Dump, NoCore, Origin, PidPin, Record, Truncation, program_of};
pub use runtime_report::RuntimeReport;
pub use signature::{
    Frame, FrameTrust, Level, Module, Package, SigInfo, Signature, SignatureKey, Symbol, ThreadStacks,
};
pub use stack_trace::{StackOwner, StackTrace};
pub use title::title_of;
pub use warning::Warning;
