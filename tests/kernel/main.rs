//! Tests of the whole path of a crash: the running kernel hands crashes of real programs to the built shim and daemon, which
//! work below a temporary `--root`.
//!
//! They need root. kernel.core_pattern belongs to the whole machine: each test sets it for its own duration, under a lock,
//! and restores it. Run without root, every test fails.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test, as intended")]

mod testbed;

mod access;
mod cli;
mod config;
mod confinement;
mod daemon_failure;
mod debug_symbols;
mod disk;
mod doctor;
mod dump;
mod events;
mod faults;
mod fidelity;
mod file_systems;
mod gdb_names;
mod handled;
mod hostile_files;
mod hostile_text;
mod interpreters;
mod interrupted;
mod misuse;
mod modules;
mod monitoring;
mod names;
mod no_file;
mod pid_reuse;
mod query;
mod registration;
mod runtimes;
mod scrapers;
mod session;
mod signature;
mod spool;
mod storm;
mod story;
mod titles;
mod truncation;
mod unanswered;
mod watch;
