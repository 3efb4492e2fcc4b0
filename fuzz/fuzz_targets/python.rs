//! The stack of a Python program, from symbols and pages of its memory.
#![no_main]

use coreward::runtime::Interpreter;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| coreward_fuzz::walk_interpreter(Interpreter::Python, bytes));
