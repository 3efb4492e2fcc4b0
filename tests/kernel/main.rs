//! The whole road: the real kernel hands real crashes of real programs to the built shim and daemon, below a `--root`.
//!
//! They need root, and core_pattern is the whole machine's: every test takes it for itself and puts it back. Without root
//! each says that it is skipped.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod testbed;

mod access;
mod budget;
mod cli;
mod config;
mod disk;
mod faults;
mod hostile;
mod identity;
mod road;
mod signature;
mod spool;
mod storm;
mod survive;
