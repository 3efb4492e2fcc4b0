//! Stage 5: completes the record of a crash that is no duplicate: texts, the other threads, and the handles that a capture needs.

use super::connection::ConnectionError;
use super::crash_source::{CrashSource, ProcessDetails};
use super::evidence::CoreInput;
use super::inspect::ask_reader;
use super::modules::missing_modules;
use super::process_handles::ProcessHandles;
use super::record_builder::RecordBuilder;
use super::shared::Shared;
use crate::crash::Warning;
use crate::policy::modules::ModulePolicy;
use crate::reader::Reader;
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
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
    stream: Option<&CoreInput>,
    modules: ModulePolicy,
) -> Result<(), ConnectionError> {
    add_details(source, builder, handles, stream.is_some()).await?;
    let variables = shared.environment();
    if !variables.is_empty() && handles.memory.has_memory() {
        let ask = move |reader: &mut Reader| reader.environment(variables, Instant::now() + READ_TIMEOUT);
        builder.set_environ(ask_reader(shared, handles, ask).await);
    }
    if !builder.has_exe_build_id() {
        // Where memory cannot be read (Yama's ptrace_scope=3), the file still has the build-id. It may be on a file system that does
        // not answer.
        match source.request_executable().await? {
            Ok(Some(executable)) => {
                let ask = move |reader: &mut Reader| reader.build_id(&executable, Instant::now() + READ_TIMEOUT);
                builder.set_exe_build_id(ask_reader(shared, handles, ask).await.flatten());
            }
            Ok(None) => {}
            Err(errno) => builder.warn(Warning::ExecutableNotOpened(errno)),
        }
    }
    if let Some(headers) = stream.and_then(|stream| stream.headers.clone()) {
        let recorded: Vec<u64> = builder.modules().iter().map(|module| module.start).collect();
        let failed = builder.failed_thread();
        let threads = if handles.memory.has_stacks() {
            let ask = move |reader: &mut Reader| {
                reader.other_threads(&headers, failed, recorded, Instant::now() + READ_TIMEOUT)
            };
            ask_reader(shared, handles, ask).await
        } else {
            Some(None)
        };
        builder.set_other_threads(threads.map(Option::unwrap_or_default));
    }
    // They are read when the process has gone.
    let missing = missing_modules(shared, modules, builder);
    if !missing.is_empty() {
        handles.modules = source.request_modules(missing).await?;
    }
    Ok(())
}

/// Adds what only the shim can still look up, with the holes of a core that is going to be copied. What the spool has is complete.
///
/// # Errors
/// The connection to the shim broke.
pub(super) async fn add_details(
    source: &mut CrashSource,
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
    holes: bool,
) -> Result<(), ConnectionError> {
    let thread = builder.failed_thread();
    if let Some(ProcessDetails { details, warnings, descriptors }) = source.request_details(holes, thread).await? {
        builder.add_details(&details, warnings);
        handles.add(descriptors);
    }
    Ok(())
}
