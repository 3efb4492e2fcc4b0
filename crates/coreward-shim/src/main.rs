//! The program that the kernel starts for each crash.
//!
//! Rust's runtime ignores SIGPIPE, so that a broken connection is an error, and opens /dev/null as descriptors 1 and 2, which
//! the kernel leaves closed (`umh_coredump_setup`, fs/coredump.c).

#![forbid(unsafe_code)]

use coreward_sys::arena::Arena;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: Arena = Arena::new();

fn main() -> ExitCode {
    ExitCode::from(coreward_shim::run(std::env::args_os()))
}
