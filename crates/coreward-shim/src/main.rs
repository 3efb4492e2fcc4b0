//! The program that the kernel starts for every crash. It has C's main, so that nothing is done that a crash does not need.
#![no_main]

use coreward_sys::arena::Arena;

#[global_allocator]
static MEMORY: Arena = Arena::new();

coreward_sys::c_main!(coreward_shim::run);
