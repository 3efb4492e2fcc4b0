//! What the daemon and its readers give up before they look at hostile bytes: system calls (seccomp(2)), files, networks and
//! signals (landlock(7)), memory and descriptors (setrlimit(2)).
//!
//! The unit confines the daemon from outside. This is the part that a unit cannot do: systemd itself must execute the daemon, and
//! a reader needs far less than the daemon beside it.

mod daemon;
mod filter;
#[cfg(test)]
mod fixtures;
mod missing;
mod objects;
mod reader;

pub use daemon::{confine_daemon, daemon_filters};
pub use missing::Missing;
pub use reader::{ReaderLimits, confine_reader, prepared_filters, reader_filters};
