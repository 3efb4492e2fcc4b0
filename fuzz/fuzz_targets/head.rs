//! Headers and notes of a core.
#![no_main]

use coreward::elf::{CoreLayout, head_length, inspect, process_notes};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(head) = inspect(bytes) {
        let _ = process_notes(bytes, &head);
    }
    let _ = head_length(bytes);
    if let Ok(layout) = CoreLayout::read(bytes) {
        for load in &layout.loads {
            let _ = (layout.find(load.address), layout.mapping(load.address), layout.is_code(load.address));
            assert!(load.offset.start <= load.offset.end && load.offset.end <= layout.total);
        }
        let _ = layout.find(u64::MAX);
    }
});
