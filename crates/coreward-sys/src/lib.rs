//! Typed wrappers over Linux system calls: the only crate in the workspace with `unsafe` code. It depends on no other crate of
//! the workspace.
//!
//! Calls that `nix` wraps safely are made directly where they are needed. This crate has those that `nix` lacks, and sequences
//! of calls that only make sense together.

pub mod arena;
pub mod clock;
pub mod datagram;
pub mod entry;
pub mod essential;
pub mod exit_trace;
pub mod fdpass;
pub mod file_system;
pub mod fork;
pub mod mounts;
pub mod no_space;
pub mod openat;
pub mod pagemap;
pub mod peer;
pub mod pidfd;
pub mod pipe;
pub mod procmap;
pub mod ptrace;
pub mod rename;
pub mod sparse_io;
pub mod tmpfile;
pub mod xattr;
