//! What anybody can send to the query service: calls, and their filters; and what the service sends to the daemon.
#![no_main]

use coreward::query::{Call, DeletionRequest, MAX_CALL, filter_of};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for call in bytes.split(|byte| *byte == 0) {
        let Ok(call) = Call::parse(call) else { continue };
        let (interface, method) = call.split();
        assert!(interface.is_empty() || call.method == format!("{interface}.{method}"));
        let _ = (call.accepts_more(), filter_of(&call));
    }
    assert!(bytes.len() <= MAX_CALL || Call::parse(bytes).is_err());
    if let Some(request) = DeletionRequest::decode(bytes) {
        assert_eq!(request.encode(), bytes);
    }
});
