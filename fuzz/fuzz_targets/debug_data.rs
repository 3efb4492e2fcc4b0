//! Names and lines from the files of a module: symbol tables, DWARF, and what these files refer to.
#![no_main]

use coreward::cli::names_in_debug_data;
use coreward_fuzz::parse_debug_data;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(data) = parse_debug_data(bytes) {
        let _ = names_in_debug_data(data.files, data.supplement, data.offsets);
    }
});
