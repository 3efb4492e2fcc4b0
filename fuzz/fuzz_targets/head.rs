//! The headers of a core.
#![no_main]

use coreward::elf::{CoreLayout, headers_len, process_notes, summarize};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(summary) = summarize(bytes) {
        let _ = process_notes(bytes, &summary);
    }
    let _ = headers_len(bytes);
    if let Ok(layout) = CoreLayout::read(bytes) {
        for load in &layout.loads {
            let _ = (layout.file_range(load.address), layout.segment_at(load.address), layout.is_code(load.address));
            assert!(load.offset.start <= load.offset.end && load.offset.end <= layout.total_len);
        }
        let _ = layout.file_range(u64::MAX);
    }
});
