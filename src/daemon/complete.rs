//! Stage 5: completes the record of a crash that is no duplicate: texts, the other threads, and the handles that a capture needs.

use super::blocking::run_with_timeout;
use super::connection::ConnectionError;
use super::crash_source::{CrashSource, ProcessDetails};
use super::evidence::CoreInput;
use super::inspect::memory_of;
use super::process_handles::ProcessHandles;
use super::record_builder::RecordBuilder;
use super::shared::Shared;
use super::stack::{OtherThreads, unwind_other_threads};
use crate::elf::{self, CoreLayout};
use coreward_wire::Offer;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// A local read takes microseconds.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// Completes the record of a crash whose core is captured.
///
/// # Errors
/// The connection to the shim broke.
pub(super) async fn complete(
    shared: &Shared,
    source: &mut CrashSource,
    offer: &Offer,
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
    stream: Option<&CoreInput>,
) -> Result<(), ConnectionError> {
    add_details(source, builder, handles).await?;
    if !builder.has_exe_build_id()
        && let Some(executable) = source.request_executable().await?
    {
        // Where memory cannot be read (Yama's ptrace_scope=3), the file still has the build-id.
        let read = move || read_build_id(executable);
        builder.set_exe_build_id(run_with_timeout(shared, READ_TIMEOUT, read).await.flatten());
    }
    if let Some((headers, stream)) = stream.and_then(|stream| Some((stream.headers.clone()?, stream))) {
        let open_memory = memory_of(offer, handles, stream);
        let recorded = builder.modules().to_vec();
        let unwind = move || match CoreLayout::read(&headers).map(Arc::new) {
            Ok(layout) => unwind_other_threads(&layout, &open_memory(&layout), &recorded),
            Err(_) => OtherThreads { stacks: Vec::new(), omitted: 0, total: 0 },
        };
        builder.set_other_threads(run_with_timeout(shared, READ_TIMEOUT, unwind).await);
    }
    Ok(())
}

/// Adds what only the shim can still look up. What the spool has is complete.
///
/// # Errors
/// The connection to the shim broke.
pub(super) async fn add_details(
    source: &mut CrashSource,
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
) -> Result<(), ConnectionError> {
    if let Some(ProcessDetails { details, warnings, descriptors }) = source.request_details().await? {
        builder.add_details(&details, warnings);
        handles.add(descriptors);
    }
    Ok(())
}

/// The build-id in an executable's file.
fn read_build_id(executable: OwnedFd) -> Option<String> {
    /// Linkers put the notes into the first page.
    const BEGINNING: u64 = 64 << 10;
    let mut bytes = Vec::new();
    File::from(executable).take(BEGINNING).read_to_end(&mut bytes).ok()?;
    elf::build_id_of_file(&bytes)
}
