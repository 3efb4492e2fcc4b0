//! Coreward, a crash collector for Linux servers with systemd. The programs in src/bin are thin wrappers over these modules.
//!
//! ARCHITECTURE.md describes the modules. A crash passes through them in one direction, from intake to publish. Separate crates
//! (crates/) contain the code that runs as root, the protocol between that code and the daemon, and the only unsafe code.
#![forbid(unsafe_code)]

pub mod capture;
pub mod cli;
pub mod config;
pub mod confine;
pub mod crash;
pub mod daemon;
pub mod dump;
pub mod elf;
pub mod packages;
pub mod policy;
pub mod query;
pub mod reader;
pub mod registration;
pub mod report;
pub mod runtime;
pub mod store;
pub mod unwind;
