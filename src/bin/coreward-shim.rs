//! The program that the kernel starts for every crash.
#![no_main]
#![expect(unsafe_code, reason = "C's main, so that nothing is done for a crash that it does not need")]

use coreward::sys::arena::Arena;
use coreward::sys::start;
use std::ffi::{c_char, c_int};

#[global_allocator]
static MEMORY: Arena = Arena::new();

/// Returns the exit status.
// SAFETY: no other symbol of this program has the name.
#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: the C runtime calls this first, alone and once, with the arguments of the program.
    let arguments = unsafe {
        start::prepare();
        start::arguments(argc, argv)
    };
    c_int::from(coreward::shim::run(arguments.into_iter()))
}
