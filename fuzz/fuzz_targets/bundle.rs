//! A bundle, which anybody may have made: its members are ranges of the file, and each is bounded.
#![no_main]

use coreward::store::{Bundle, unpack_module};
use coreward_sys::sparse_io::create_memfd;
use std::io::Write;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut file = create_memfd("bundle").expect("a file in memory");
    file.write_all(bytes).expect("memory");
    let _ = Bundle::is_bundle(&file);
    let Ok(bundle) = Bundle::open(file) else { return };
    let _ = (bundle.record().signature_key(), bundle.record().program());
    if let Some((_, range)) = bundle.core() {
        assert!(range.start <= range.end && range.end <= bytes.len() as u64);
    }
    for build_id in bundle.build_ids() {
        let (module, length) = bundle.module(build_id).expect("it was listed");
        assert!(length <= bytes.len() as u64);
        let _ = unpack_module(module, &mut std::io::sink(), 1 << 20);
    }
});
