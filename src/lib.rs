//! Coreward: a systemd-native crash collector. Two thin programs over these rooms; ARCHITECTURE.md is the map.
//!
//! Rooms are named for what they do to a crash; data moves in one direction, from intake to publish. What root runs, the
//! messages between root and the daemon, and the only unsafe code are crates of their own (crates/).
#![forbid(unsafe_code)]

pub mod capture;
pub mod cli;
pub mod config;
pub mod crash;
pub mod daemon;
pub mod elf;
pub mod policy;
pub mod report;
pub mod store;
pub mod unwind;
