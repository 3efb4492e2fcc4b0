//! Registers, modules, unwind tables, stack: from a head and pages to a signature.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((head, pages)) = coreward_fuzz::parse(bytes)
        && let Some((id, frames)) = coreward_fuzz::look(head, &pages)
    {
        assert!(id.starts_with("s1-") && id.len() == 23 && frames.len() <= 256);
        // The same crash has the same signature.
        assert_eq!(coreward_fuzz::look(head, &pages).map(|(id, _)| id), Some(id));
    }
});
