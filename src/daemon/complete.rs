//! Stage 5: completes the record of a crash that is no duplicate: texts, the other threads, and the handles that a capture needs.

use super::blocking::run_with_timeout;
use super::connection::ConnectionError;
use super::crash_source::{CrashSource, ProcessDetails};
use super::evidence::CoreInput;
use super::inspect::{ask_reader, saved_memory};
use super::process_handles::ProcessHandles;
use super::record_builder::RecordBuilder;
use super::shared::Shared;
use crate::elf::CoreLayout;
use crate::reader::{Reader, unwind_other_threads};
use coreward_wire::Offer;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A local read takes microseconds.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

/// Completes the record of a crash whose core is captured.
///
/// # Errors
/// The connection to the shim broke.
pub(super) async fn complete(
    shared: &Arc<Shared>,
    source: &mut CrashSource,
    offer: &Offer,
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
    stream: Option<&CoreInput>,
) -> Result<(), ConnectionError> {
    add_details(source, builder, handles).await?;
    let variables = shared.environment();
    if !variables.is_empty() && handles.memory.has_memory() {
        let ask = move |reader: &mut Reader| reader.environment(variables, Instant::now() + READ_TIMEOUT);
        builder.set_environ(ask_reader(shared, handles, ask).await);
    }
    if !builder.has_exe_build_id()
        && let Some(executable) = source.request_executable().await?
    {
        // Where memory cannot be read (Yama's ptrace_scope=3), the file still has the build-id. It may be on a file system that does
        // not answer.
        let ask = move |reader: &mut Reader| reader.build_id(&executable, Instant::now() + READ_TIMEOUT);
        builder.set_exe_build_id(ask_reader(shared, handles, ask).await.flatten());
    }
    if let Some((headers, stream)) = stream.and_then(|stream| Some((stream.headers.clone()?, stream))) {
        let recorded: Vec<u64> = builder.modules().iter().map(|module| module.start).collect();
        let threads = match saved_memory(offer, stream) {
            Some(open_saved) => {
                let unwind = move || {
                    let layout = Arc::new(CoreLayout::read(&headers).ok()?);
                    Some(unwind_other_threads(&layout, &open_saved(&layout), &recorded))
                };
                run_with_timeout(shared, READ_TIMEOUT, unwind).await
            }
            None if !handles.memory.has_memory() => Some(None),
            None => {
                let ask =
                    move |reader: &mut Reader| reader.other_threads(&headers, recorded, Instant::now() + READ_TIMEOUT);
                ask_reader(shared, handles, ask).await
            }
        };
        builder.set_other_threads(threads.map(Option::unwrap_or_default));
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
