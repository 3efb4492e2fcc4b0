//! The record at the beginning of a core file, which may come from another machine.
#![no_main]

use coreward::store::format::read_record;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = read_record(&mut std::io::Cursor::new(bytes)) {
        let _ = (record.signature_key(), record.program());
    }
});
