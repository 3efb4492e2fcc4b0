//! Coreward: a systemd-native crash collector. Three thin programs over these rooms; ARCHITECTURE.md is the map.
//!
//! Rooms are named for what they do to a crash; data moves in one direction, from intake to publish.

#[expect(unsafe_code, reason = "the one room for it: every block says why it is sound")]
pub mod sys;

pub mod shim;
pub mod wire;

// What the shim does not use is not in its build.
#[cfg(feature = "full")]
pub mod capture;
#[cfg(feature = "full")]
pub mod cli;
#[cfg(feature = "full")]
pub mod config;
#[cfg(feature = "full")]
pub mod crash;
#[cfg(feature = "full")]
pub mod daemon;
#[cfg(feature = "full")]
pub mod elf;
#[cfg(feature = "full")]
pub mod policy;
#[cfg(feature = "full")]
pub mod report;
#[cfg(feature = "full")]
pub mod store;
#[cfg(feature = "full")]
pub mod unwind;
