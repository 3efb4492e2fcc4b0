//! The answer to a test crash of `coreward status` or `coreward register`: it is reported to the command, and neither recorded
//! nor counted as a crash.

use super::blocking::run_with_timeout;
use super::connection::{Connection, ConnectionError};
use super::crash_source::CrashSource;
use super::shared::Shared;
use crate::registration::{PASSED, report_socket};
use coreward_sys::datagram;
use coreward_wire::{DaemonMessage, Offer};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

/// How long the first bytes of the core, and the command, are waited for.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The first bytes of a core (elf(5)).
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// Takes the crash as far as its core, reports it and lets the process go.
///
/// # Errors
/// The shim is gone: the command notices that nothing was reported.
pub(super) async fn answer(shared: &Arc<Shared>, connection: Connection, offer: &Offer) -> Result<(), ConnectionError> {
    let mut source = CrashSource::Shim(connection, None);
    let core = source.accept(offer).await?;
    let begins_as_core = match core.map(File::from) {
        Some(mut core) => {
            let read = move || {
                let mut magic = [0; ELF_MAGIC.len()];
                core.read_exact(&mut magic).is_ok_and(|()| magic == ELF_MAGIC)
            };
            run_with_timeout(shared, TIMEOUT, read).await == Some(true)
        }
        None => false,
    };
    let report = match shared.catalog.unavailable() {
        Some(error) => error.to_string(),
        None if !begins_as_core => "the kernel wrote no core into the pipe".to_owned(),
        None => PASSED.to_owned(),
    };
    shared.metrics.test_crashes.inc();
    if let Some(pid) = offer.pid {
        let socket = report_socket(&shared.root, pid);
        let send = move || datagram::send_with_retry(&socket, report.as_bytes(), TIMEOUT);
        if let Some(Err(error)) = run_with_timeout(shared, 2 * TIMEOUT, send).await {
            tracing::info!("a test crash whose command does not wait for it: {error}");
        }
    }
    source.send(&DaemonMessage::Done { journal: Vec::new(), user: None }).await
}
