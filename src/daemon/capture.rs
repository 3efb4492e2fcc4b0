//! Stage 6: the core of one crash. It is copied while the process waits, and finished and published when the process is gone.

use super::blocking::run_blocking;
use super::checkpoint::Checkpoint;
use super::crash_source::CrashSource;
use super::error::SessionError;
use super::evidence::{CoreEvidence, CoreInput};
use super::identity::principal_of;
use super::inspect::{may_parse, program};
use super::local_users;
use super::naming::{UnnamedFrames, name_from_files};
use super::owners::find_owners;
use super::process_handles::{CheckpointHandles, ProcessHandles};
use super::process_memory::ProcessMemory;
use super::record_builder::RecordBuilder;
use super::runtime_report::read_report;
use super::shared::Shared;
use crate::capture::{
    self, CaptureCheckpoint, CaptureError, CapturedCore, CheckpointFiles, CoreLimits, CoreStream, CoreWriter,
    DrainRequest, Heartbeat, MissingPages, Snapshot, SnapshotError, SnapshotRequest,
};
use crate::config::CrashConfig;
use crate::crash::text::from_bytes;
use crate::crash::{CoreOutcome, CoreReport, NoCore, Principal, Record, Truncation, Warning, cgroup};
use crate::reader::{Place, Places};
use crate::report::ErrorKind;
use crate::store::{CoreFile, QuotaHandle};
use coreward_sys::{clock, pipe};
use coreward_wire::{FdKind, Offer};
use nix::sys::stat::fstat;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a crash waits for a place before it is recorded without its core.
const PLACE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long those behind it in the spool wait for one that gets no place.
const SPOOLED_PLACE_TIMEOUT: Duration = Duration::from_secs(5);

/// A crash whose core is to be kept.
pub(super) struct AdmittedCrash {
    /// The record so far.
    pub(super) builder: RecordBuilder,
    /// The configuration in force for it.
    pub(super) config: CrashConfig,
    /// Only notes, stacks and what a debugger needs to read them.
    pub(super) stacks_only: bool,
    /// Its core.
    pub(super) core: CoreEvidence,
    /// Its process.
    pub(super) handles: ProcessHandles,
    /// What is named when the process has gone.
    pub(super) unnamed: UnnamedFrames,
}

/// What a capture got out of the process.
enum CaptureOutcome {
    /// Everything that needs the process. The rest is done when the process is gone.
    Snapshot(Box<Snapshot>),
    /// The whole core, in its file.
    Captured(Box<CapturedCore>),
}

/// Everything that a capture needs in its own thread.
struct CaptureContext {
    shared: Arc<Shared>,
    heartbeat: Heartbeat,
    cancelled: CancellationToken,
    record: Record,
    /// Bytes that the record may get longer by what is found out when the process has gone.
    room: usize,
    limits: CoreLimits,
    level: i32,
    stacks_only: bool,
    quota: Arc<QuotaHandle>,
    deadline: Instant,
    may_parse: bool,
    resumed: bool,
}

impl CaptureContext {
    fn new(shared: &Arc<Shared>, source: &CrashSource, offer: &Offer, admitted: &AdmittedCrash) -> Self {
        let AdmittedCrash { builder, config, stacks_only, unnamed, handles, .. } = admitted;
        Self {
            shared: Arc::clone(shared),
            heartbeat: shared.health.register(&format!("the capture of process {}", builder.pid())),
            cancelled: shared.shutdown.abort_token(),
            record: builder.provisional(),
            room: unnamed.room() + handles.unowned.room(),
            limits: limits(config, builder),
            level: config.level(),
            stacks_only: *stacks_only,
            quota: quota(shared, builder),
            deadline: deadline(offer, source, config),
            may_parse: may_parse(offer),
            resumed: offer.attempt > 1,
        }
    }

    fn writer(&self) -> Result<CoreWriter, CaptureError> {
        let file = CoreFile::create(self.quota.dir().as_fd(), &self.record, self.room)?;
        CoreWriter::new(file, Arc::clone(&self.quota), self.limits)
    }

    /// Takes a snapshot of the parked process, or drains the stream where memory cannot be used. Blocks.
    fn capture(self, stream: CoreInput, mut handles: ProcessHandles) -> Result<CaptureOutcome, CaptureError> {
        self.heartbeat.tick();
        let mut writer = self.writer()?;
        let CoreInput { source, prefix, headers, beginning: _ } = stream;
        let headers = headers.filter(|_| handles.memory.has_memory());
        let mut memory = std::mem::take(&mut handles.memory);
        let process = handles.pidfd.as_ref().map(AsFd::as_fd);
        let parked = headers.map(|headers| (memory.park(&self.shared.readers, &headers, process), headers));
        if let Some((Ok(parked), headers)) = parked {
            let request = SnapshotRequest {
                headers,
                parked: &parked,
                writer,
                quota: Arc::clone(&self.quota),
                left_in_pipe: left_in_pipe(&source, prefix.as_ref()),
                stacks_only: self.stacks_only,
                process: handles.pidfd.take(),
                deadline: self.deadline,
                level: self.level,
                heartbeat: &self.heartbeat,
                cancelled: &self.cancelled,
            };
            match capture::snapshot(request, &self.shared.resources) {
                Ok(snapshot) => return Ok(CaptureOutcome::Snapshot(Box::new(snapshot))),
                Err(SnapshotError::Failed(failure)) => return Err(failure),
                Err(SnapshotError::Unusable(unused)) => writer = *unused,
            }
        }
        // With the process, the kernel would wait in its own dump, and nobody could end it.
        if !memory.answers(&self.shared.readers) {
            return Err(CaptureError::MayNotAnswer);
        }
        let request = DrainRequest {
            source: CoreStream::new(source, prefix, self.cancelled.clone()),
            writer,
            heartbeat: &self.heartbeat,
            parse: self.may_parse,
            resumed: self.resumed,
            level: self.level,
            deadline: Some(self.deadline),
        };
        capture::drain(request, &self.shared.resources).map(|core| CaptureOutcome::Captured(Box::new(core)))
    }
}

/// Captures and publishes the core; returns the finished record.
///
/// # Errors
/// The record must not be committed by this daemon.
pub(super) async fn capture(
    shared: &Arc<Shared>,
    source: &mut CrashSource,
    offer: &Offer,
    admitted: AdmittedCrash,
) -> Result<Record, SessionError> {
    let begun = Instant::now();
    let context = CaptureContext::new(shared, source, offer, &admitted);
    let AdmittedCrash { mut builder, core, mut handles, unnamed, .. } = admitted;
    let readers = handles.memory.readers().cloned();
    if !source.holds_process() {
        // What the spool has is a core already: there is no process to copy.
        handles.memory = ProcessMemory::default();
    }
    let (place, report) = (handles.place.take(), handles.runtime_report.take());
    let unowned = std::mem::take(&mut handles.unowned);
    let outcome = match (core, &place) {
        (CoreEvidence::Ready(stream), Some(_)) => run_capture(source, context, stream, handles).await,
        (CoreEvidence::Unreadable(failure), _) => Err(failure),
        (CoreEvidence::Gone, _) => Err(CaptureError::Empty),
        (CoreEvidence::Ready(_), None) => {
            drop(handles);
            Err(CaptureError::Stalled)
        }
    };
    if matches!(outcome, Err(CaptureError::Cancelled)) {
        // The process stays parked, and its shim offers it to the next daemon.
        return Err(SessionError::Stopping);
    }
    // The process has waited long enough, whatever became of its core. Without the shim's consent nothing is published.
    builder.set_held(held(offer, source));
    if let Ok(CaptureOutcome::Snapshot(snapshot)) = &outcome {
        let MissingPages { unanswered, refused } = snapshot.missing_pages;
        let warnings = [(unanswered, Warning::PagesNotRead), (refused, Warning::PagesRefused)];
        warnings.into_iter().filter(|(holds, _)| *holds).for_each(|(_, warning)| builder.warn(warning));
    }
    let (checkpoint, files) = save_checkpoint(&builder, &outcome);
    source.release_and_confirm(checkpoint, files).await?;
    // The next one may be copied while this one is compressed: the place is given back when the names have been read.
    let report = read_report(shared, readers.clone(), place.clone(), report);
    let names = name_from_files(shared, readers, place, unnamed);
    let principal = builder.attribution().principal;
    let captured = async {
        match outcome {
            Ok(CaptureOutcome::Snapshot(snapshot)) => finalize(shared, source, &principal, *snapshot).await,
            Ok(CaptureOutcome::Captured(core)) => Ok(*core),
            Err(failure) => Err(failure),
        }
    };
    let owners = find_owners(shared, unowned);
    let (captured, names, owners, report) = tokio::join!(captured, names, owners, report);
    names.add_to(&mut builder);
    builder.set_owners(owners);
    publish_or_explain(shared, offer, builder, captured.map(|core| (core, report)), begun).await
}

/// Goes on where an earlier daemon ended after it had released the process.
///
/// # Errors
/// The record must not be committed by this daemon.
pub(super) async fn resume(
    shared: &Arc<Shared>,
    source: &mut CrashSource,
    offer: &Offer,
    checkpoint: Checkpoint<'_>,
    files: CheckpointHandles,
) -> Result<Record, SessionError> {
    let begun = Instant::now();
    let Checkpoint { record, reader, core } = checkpoint;
    let report = record.core.clone();
    let builder = RecordBuilder::resume(record.into_owned(), reader, offer.attempt);
    let Some(core) = core else { return Ok(builder.finish(report)) };
    let CheckpointHandles { file: Some(file), memory: Some(memory), spill } = files else {
        // A shim that saved the crash alone cannot save these.
        return Ok(builder.finish(CoreReport::none(NoCore::Gone)));
    };
    let config = shared.config_for(builder.unit(), &builder.program());
    let (quota, limits) = (quota(shared, &builder), limits(&config, &builder));
    let resumed =
        run_fallible(move || core.resume(CheckpointFiles { file, memory, spill }, &quota, limits), CaptureError::Read);
    let captured = match keep_alive_during(source, resumed).await {
        Ok(snapshot) => finalize(shared, source, &builder.attribution().principal, snapshot).await,
        Err(failure) => Err(failure),
    };
    // The report of the runtime was not kept by the shim.
    publish_or_explain(shared, offer, builder, captured.map(|core| (core, Vec::new())), begun).await
}

fn limits(config: &CrashConfig, builder: &RecordBuilder) -> CoreLimits {
    CoreLimits {
        process_size_max: config.process_size_max,
        external_size_max: config.external_size_max,
        core_limit: config.enforce_core_limit.then_some(builder.core_limit()),
    }
}

fn quota(shared: &Shared, builder: &RecordBuilder) -> Arc<QuotaHandle> {
    Arc::new(QuotaHandle::new(Arc::clone(&shared.ledger), builder.attribution()))
}

/// All that is left of a core that the kernel no longer writes, in bytes: what was taken out of the pipe, and what is in it. `None`: it
/// goes on.
fn left_in_pipe(pipe: &OwnedFd, prefix: Option<&OwnedFd>) -> Option<u64> {
    let taken = prefix.and_then(|prefix| fstat(prefix).ok()).and_then(|stat| u64::try_from(stat.st_size).ok());
    let waiting = pipe::has_no_writer(pipe.as_fd()).then(|| pipe::bytes_waiting(pipe.as_fd()).ok()).flatten()?;
    Some(taken.unwrap_or(0) + waiting as u64)
}

/// Until when the process may be held. A crash from the spool holds nobody.
fn deadline(offer: &Offer, source: &CrashSource, config: &CrashConfig) -> Instant {
    /// Longer than any machine runs.
    const NEVER: Duration = Duration::from_secs(1 << 30);
    let limit = if source.holds_process() { config.max_hold.min(NEVER) } else { NEVER };
    let held = clock::since_boot().saturating_sub(offer.started);
    Instant::now() + limit.saturating_sub(held)
}

/// How long the process has been held by now.
pub(super) fn held(offer: &Offer, source: &CrashSource) -> Duration {
    if source.holds_process() { clock::since_boot().saturating_sub(offer.started) } else { Duration::ZERO }
}

/// Waits for a place to read and capture the crash. `None`: there was none in time.
///
/// # Errors
/// The daemon stops, or the shim has gone; a spooled crash is to be tried again later.
pub(super) async fn take_place(
    shared: &Shared,
    source: &mut CrashSource,
    offer: &Offer,
) -> Result<Option<Arc<Place>>, SessionError> {
    let principal = principal_of(offer, &shared.host);
    // Timers and keepalive only for those that wait: a storm pays for each ten thousand times.
    if let Some(place) = shared.places.try_take(&principal) {
        return Ok(Some(Arc::new(place)));
    }
    let cgroup = cgroup::parse(&from_bytes(&offer.cgroup));
    let config = shared.config_for(cgroup.unit.as_deref(), &program(offer));
    let limit = place_timeout(source, deadline(offer, source, &config));
    tokio::select! {
        biased;
        place = place_within(limit, &shared.places, &principal, source.holds_process()) => place,
        () = shared.shutdown.stopped() => Err(SessionError::Stopping),
        () = source.keep_alive() => Err(SessionError::Stopping),
    }
}

async fn place_within(
    limit: Duration,
    places: &Arc<Places>,
    principal: &Principal,
    holds_process: bool,
) -> Result<Option<Arc<Place>>, SessionError> {
    match timeout(limit, places.take(principal)).await.ok().flatten() {
        None if !holds_process => Err(SessionError::NoPlace),
        place => Ok(place.map(Arc::new)),
    }
}

/// How long the crash may wait for its place. One from the spool holds no process, and is in the spool afterwards.
fn place_timeout(source: &CrashSource, deadline: Instant) -> Duration {
    let limit = if source.holds_process() { PLACE_TIMEOUT } else { SPOOLED_PLACE_TIMEOUT };
    limit.min(deadline.saturating_duration_since(Instant::now()))
}

/// Captures in a thread of its own, until the shim goes.
async fn run_capture(
    source: &mut CrashSource,
    context: CaptureContext,
    stream: CoreInput,
    handles: ProcessHandles,
) -> Result<CaptureOutcome, CaptureError> {
    let cancelled = context.cancelled.clone();
    let mut capture = pin!(run_fallible(move || context.capture(stream, handles), CaptureError::Read));
    tokio::select! {
        outcome = &mut capture => return outcome,
        () = source.keep_alive() => {}
    }
    // Either the shim offers the crash to another daemon, or it was killed and took the process with it.
    cancelled.cancel();
    let _ = capture.await;
    Err(CaptureError::Cancelled)
}

/// What the shim keeps while the core is finished.
fn save_checkpoint(
    builder: &RecordBuilder,
    outcome: &Result<CaptureOutcome, CaptureError>,
) -> (Vec<u8>, Vec<(FdKind, OwnedFd)>) {
    let Ok(CaptureOutcome::Snapshot(snapshot)) = outcome else { return Default::default() };
    let (core, files): (CaptureCheckpoint, CheckpointFiles) = match snapshot.save_checkpoint() {
        Ok(saved) => saved,
        Err(error) => {
            tracing::warn!("if this daemon ends, the core is lost, because its shim cannot keep it: {error}");
            return Default::default();
        }
    };
    let mut descriptors = vec![(FdKind::CheckpointFile, files.file), (FdKind::CheckpointMemory, files.memory)];
    descriptors.extend(files.spill.map(|spill| (FdKind::CheckpointSpill, spill)));
    (Checkpoint::of_capture(builder, core).encode(), descriptors)
}

/// Compresses what a snapshot has copied, whether or not its shim is still there: nothing of the core is missing.
async fn finalize(
    shared: &Arc<Shared>,
    source: &mut CrashSource,
    principal: &Principal,
    snapshot: Snapshot,
) -> Result<CapturedCore, CaptureError> {
    let _turn = loop {
        // Of those that are not finished yet each keeps files only, and no session of somebody else.
        if let Some(turn) = keep_alive_during(source, shared.finalizing.take(principal)).await {
            break turn;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let cancelled = shared.shutdown.abort_token();
    let (resources, heartbeat) = (shared.resources.clone(), shared.health.register("the compression of a core"));
    let finalize =
        run_fallible(move || capture::finalize(snapshot, &resources, &heartbeat, &cancelled), CaptureError::Write);
    keep_alive_during(source, finalize).await
}

/// Publishes a captured core, with the runtime's report, and finishes the record with it, or with the reason why there is none.
async fn publish_or_explain(
    shared: &Arc<Shared>,
    offer: &Offer,
    builder: RecordBuilder,
    captured: Result<(CapturedCore, Vec<u8>), CaptureError>,
    begun: Instant,
) -> Result<Record, SessionError> {
    match captured {
        Ok((core, report)) => {
            let record = publish(shared, offer, builder, core, report).await;
            if record.core.is_stored() && record.dump.is_none() {
                shared.metrics.capture.observe(begun.elapsed().as_secs_f64());
            }
            Ok(record)
        }
        Err(CaptureError::Cancelled) => Err(SessionError::Stopping),
        Err(failure) => Ok(finish_without_core(shared, builder, &failure)),
    }
}

/// The file may be on a volume that hangs: a thread of its own gives access to it, links it and accounts for it.
async fn publish(
    shared: &Arc<Shared>,
    offer: &Offer,
    mut builder: RecordBuilder,
    core: CapturedCore,
    report: Vec<u8>,
) -> Record {
    let CapturedCore { mut writer, expected_len, truncation, staging, notes } = core;
    if let Some(notes) = notes.filter(|_| offer.pid.is_none()) {
        builder.complete_from_notes(notes);
    }
    let truncated = truncation.or(offer.cut.then_some(Truncation::Spool));
    let unpublished = builder.clone();
    let heartbeat = shared.health.register(&format!("the file of process {}", builder.pid()));
    let (ledger, root, readers) = (Arc::clone(&shared.ledger), shared.root.clone(), Arc::clone(shared));
    let publish = move || {
        heartbeat.tick();
        if !report.is_empty() && writer.add_report(&report) {
            builder.set_report_kept(report.len() as u64);
        }
        let CoreWriter { file, reservation, .. } = writer;
        let (bytes, stored) = (file.content(), file.final_length());
        let report = CoreReport { outcome: CoreOutcome::Stored, bytes, expected: expected_len, stored, truncated };
        if let Some(uid) = builder.reader().filter(|uid| local_users::may_be_person(&root, *uid)) {
            let granted = local_users::check(&root, uid, builder.gid());
            let granted = granted.and_then(|()| file.grant_read(uid).map_err(|error| error.to_string()));
            if let Err(cause) = granted {
                // Root and the administrators can read it all the same.
                builder.warn(Warning::AccessNotGranted { uid, cause });
            }
        }
        let record = builder.finish(report);
        let published = file.publish(&record, ledger.dir().as_fd());
        if let Some(staging) = staging {
            staging.free();
        }
        published?;
        reservation.commit(record.id.clone(), record.time_us, stored);
        // That of this crash was killed. The next crash finds another one.
        readers.readers.refill();
        Ok(record)
    };
    match run_fallible(publish, CaptureError::Write).await {
        Ok(record) => {
            shared.metrics.captured_bytes.inc_by(record.core.bytes);
            shared.metrics.written_bytes.inc_by(record.core.stored);
            record
        }
        Err(failure) => finish_without_core(shared, unpublished, &failure),
    }
}

/// The record of a crash whose core could not be stored.
fn finish_without_core(shared: &Shared, mut builder: RecordBuilder, failure: &CaptureError) -> Record {
    let (reason, kind) = match failure {
        CaptureError::Empty => (NoCore::Empty, ErrorKind::NotACore),
        CaptureError::NotACore(_) => (NoCore::NotElf, ErrorKind::NotACore),
        CaptureError::Stalled | CaptureError::MayNotAnswer => (NoCore::Stalled, ErrorKind::Capture),
        CaptureError::Quota => (NoCore::Quota, ErrorKind::Quota),
        CaptureError::DiskFull(_) => (NoCore::DiskFull, ErrorKind::DiskFull),
        CaptureError::Cancelled | CaptureError::Write(_) | CaptureError::Read(_) | CaptureError::Overfilled => {
            (NoCore::WriteError, ErrorKind::Capture)
        }
    };
    tracing::error!("no core of process {} ({}): {failure}", builder.pid(), builder.comm());
    if !builder.is_dump() {
        // Whoever asked for a dump is told.
        shared.metrics.error(kind);
    }
    builder.warn(Warning::CoreNotStored(failure.to_string()));
    builder.finish(CoreReport::none(reason))
}

/// Runs a part of a capture in a thread of its own. `on_panic` makes the error of a part that panics.
async fn run_fallible<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CaptureError> + Send + 'static,
    on_panic: impl FnOnce(io::Error) -> CaptureError,
) -> Result<T, CaptureError> {
    run_blocking(work).await.map_err(on_panic)?
}

/// Waits for `work` while the shim hears that it goes on; a shim that goes does not end it.
async fn keep_alive_during<T>(source: &mut CrashSource, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    tokio::select! {
        done = &mut work => done,
        () = source.keep_alive() => work.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn without_a_place_a_process_is_let_go_and_a_spooled_crash_gives_way() {
        let (places, principal) = (Arc::new(Places::new(1, 1)), Principal::Unknown);
        let limit = place_timeout(&CrashSource::Spool(None), Instant::now() + Duration::from_secs(86_400));
        assert_eq!(limit, SPOOLED_PLACE_TIMEOUT);
        let taken = place_within(limit, &places, &principal, false).await.unwrap();
        assert!(matches!(place_within(limit, &places, &principal, true).await, Ok(None)));
        assert!(matches!(place_within(limit, &places, &principal, false).await, Err(SessionError::NoPlace)));
        drop(taken);
        assert!(place_within(limit, &places, &principal, true).await.unwrap().is_some());
    }
}
