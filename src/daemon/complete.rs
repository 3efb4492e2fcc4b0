//! Stage 5: completes the record of a crash that is no duplicate: texts, the other threads, and the handles that a capture needs.

use super::connection::ConnectionError;
use super::crash_source::{CrashSource, ProcessDetails};
use super::evidence::CoreInput;
use super::inspect::ask_reader;
use super::modules::missing_modules;
use super::naming::{add_compilers, files_without_names, name_from_hosts_files, name_from_memory};
use super::owners::UnownedFiles;
use super::process_handles::ProcessHandles;
use super::record_builder::RecordBuilder;
use super::runtime_report::open_report;
use super::shared::Shared;
use crate::crash::Warning;
use crate::policy::modules::ModulePolicy;
use crate::reader::Reader;
use coreward_wire::Offer;
use std::collections::HashSet;
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
    add_interpreter(shared, builder, handles, stream).await;
    add_other_threads(shared, builder, handles, stream).await;
    add_compilers(shared, source, offer, builder, handles).await?;
    open_report(shared, source, offer, builder, handles).await?;
    let missing = missing_modules(shared, modules, builder);
    add_names(shared, source, builder, handles, stream, missing).await
}

/// Adds the names of functions that memory has, and opens the files that may have the others, together with those that are `missing` in the
/// module store and those of which packages are looked up. They are read when the process has gone.
///
/// # Errors
/// The connection to the shim broke.
pub(super) async fn add_names(
    shared: &Arc<Shared>,
    source: &mut CrashSource,
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
    stream: Option<&CoreInput>,
    missing: Vec<u64>,
) -> Result<(), ConnectionError> {
    let headers = stream.and_then(|stream| stream.headers.clone()).filter(|_| handles.memory.is_saved());
    // Which names memory has is not known yet. While a reader finds out, the shim has nothing else to do, so it may as well open files that
    // turn out to be of no use.
    let mut wanted: Vec<u64> = builder.exe_start().into_iter().chain(files_without_names(builder)).collect();
    wanted.extend(&missing);
    let read = async {
        name_from_memory(shared, builder, handles, headers).await;
        name_from_hosts_files(shared, builder, handles).await;
    };
    let (opened, ()) = tokio::join!(source.request_modules(without_repeated(wanted)), read);
    let mut opened = opened?;
    handles.unowned = UnownedFiles::new(builder, &opened);
    let unnamed = files_without_names(builder);
    opened.retain(|(address, _)| unnamed.contains(address) || missing.contains(address));
    handles.modules = opened;
    Ok(())
}

/// The values in their order, each once.
fn without_repeated(mut addresses: Vec<u64>) -> Vec<u64> {
    let mut seen = HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    addresses
}

/// Adds the stack of the interpreted program, if the process runs one.
pub(super) async fn add_interpreter(
    shared: &Arc<Shared>,
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
    stream: Option<&CoreInput>,
) {
    let Some(headers) = stream.and_then(|stream| stream.headers.clone()).filter(|_| handles.memory.has_stacks()) else {
        return;
    };
    let (failed, code) = (builder.failed_thread(), builder.code_addresses());
    let ask = move |reader: &mut Reader| reader.interpreter(&headers, failed, code, Instant::now() + READ_TIMEOUT);
    match ask_reader(shared, handles, ask).await {
        Some(stack) => builder.set_interpreter(stack),
        None => builder.warn(Warning::InterpreterTimedOut),
    }
}

/// Adds the stacks of the threads that did not crash.
async fn add_other_threads(
    shared: &Arc<Shared>,
    builder: &mut RecordBuilder,
    handles: &mut ProcessHandles,
    stream: Option<&CoreInput>,
) {
    let Some(headers) = stream.and_then(|stream| stream.headers.clone()) else { return };
    let recorded: Vec<u64> = builder.modules().iter().map(|module| module.start).collect();
    let failed = builder.failed_thread();
    let ask =
        move |reader: &mut Reader| reader.other_threads(&headers, failed, recorded, Instant::now() + READ_TIMEOUT);
    let threads = if handles.memory.has_stacks() { ask_reader(shared, handles, ask).await } else { Some(None) };
    builder.set_other_threads(threads.map(Option::unwrap_or_default));
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
