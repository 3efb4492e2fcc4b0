//! Stack and signature of a crash, from the headers of its core and pages of its memory.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((headers, memory)) = coreward_fuzz::parse_crash(bytes)
        && let Some((id, frames)) = coreward_fuzz::analyze(headers, &memory)
    {
        assert!(id.starts_with("s2-") && id.len() == 23 && frames.len() <= 256);
        // The same crash has the same signature.
        assert_eq!(coreward_fuzz::analyze(headers, &memory).map(|(id, _)| id), Some(id));
    }
});
