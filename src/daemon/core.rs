//! The core of one crash: taken while its process waits, sealed and published when it has gone.

use super::context::Context;
use super::details;
use super::fds;
use super::giver::{Giver, held_us};
use super::memo::Memo;
use super::opened::{Opened, may_parse};
use super::others;
use super::road::RoadError;
use super::triage::{self, Triaged};
use crate::capture::{
    self, CaptureCheckpoint, CaptureError, CapturedCore, CheckpointFiles, CoreLimits, CoreStream, CoreWriter,
    DrainRequest, Heartbeat, ProcessMemory, Snapshot, SnapshotError, SnapshotRequest,
};
use crate::config::Config;
use crate::crash::{CoreOutcome, CoreReport, Keep, NoCore, Record, Truncation};
use crate::report::ErrorKind;
use crate::store::{CoreFile, QuotaHandle};
use coreward_sys::clock;
use coreward_wire::{DaemonMessage, FdKind, Offer, Request};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;
use tokio::time::{interval, timeout};

/// How long a crash waits for its turn before it is recorded without its core.
const TURN_WITHIN: Duration = Duration::from_secs(60);
/// How often a shim hears that its crash is being worked on.
const BUSY: Duration = Duration::from_secs(2);
/// `/proc/PID/maps` of vm.max_map_count mappings is shorter.
const MAPS_MAX: usize = 16 << 20;

/// What the process left behind.
enum Got {
    /// It can be sealed when the process has gone.
    Snapshot(Box<Snapshot>),
    /// It is in its file already.
    CapturedCore(Box<CapturedCore>),
}

/// Everything that a capture in a thread of its own needs.
struct Call {
    context: Arc<Context>,
    heartbeat: Heartbeat,
    cancelled: Arc<AtomicBool>,
    record: Record,
    limits: CoreLimits,
    level: i32,
    stacks_only: bool,
    account: Arc<QuotaHandle>,
    deadline: Instant,
}

impl Call {
    fn new(context: &Arc<Context>, offer: &Offer, giver: &Giver, record: &Record, config: &Config) -> Self {
        Self {
            context: Arc::clone(context),
            heartbeat: context.health.register(&format!("the capture of process {}", record.key.pid)),
            cancelled: context.cancel_switch(),
            record: record.clone(),
            limits: limits(config, record),
            level: config.level(),
            stacks_only: record.decision.keep == Keep::Stacks,
            account: Arc::new(QuotaHandle::new(Arc::clone(&context.ledger), record)),
            deadline: deadline(offer, giver, config),
        }
    }

    fn writer(&self) -> Result<CoreWriter, CaptureError> {
        let file = CoreFile::create(self.account.dir().as_fd(), &self.record)?;
        CoreWriter::new(file, Arc::clone(&self.account), self.limits)
    }
}

fn limits(config: &Config, record: &Record) -> CoreLimits {
    CoreLimits {
        process_size_max: config.process_size_max,
        external_size_max: config.external_size_max,
        core_limit: config.enforce_core_limit.then_some(record.core_limit),
    }
}

/// Until when the process may be held; what the spool has holds nobody.
fn deadline(offer: &Offer, giver: &Giver, config: &Config) -> Instant {
    /// Longer than any machine runs.
    const NEVER: Duration = Duration::from_secs(1 << 30);
    let hold = if matches!(giver, Giver::Shim(_)) { config.max_hold.min(NEVER) } else { NEVER };
    let held = clock::since_boot().saturating_sub(offer.started);
    Instant::now() + hold.saturating_sub(held)
}

/// Takes, seals and publishes the core; what goes wrong with it is a reason in the report, not an end of the road.
pub(super) async fn store(
    context: &Arc<Context>,
    giver: &mut Giver,
    offer: &Offer,
    triaged: &mut Triaged,
    config: &Config,
    opened: Result<Opened, CaptureError>,
    mut fds: Vec<(FdKind, OwnedFd)>,
) -> Result<CoreReport, RoadError> {
    details::complete(giver, &mut triaged.record, &mut fds).await?;
    if let Giver::Shim(link) = giver
        && triaged.record.exe_build_id.is_none()
        && let Some(exe) = link.ask_for_fd(Request::Exe).await?
    {
        // Where memory can't be read (Yama's ptrace_scope=3), the file still tells which build it was.
        triaged.record.exe_build_id = triage::build_id_of(context, exe).await;
    }
    if let Ok(opened) = &opened {
        others::look(context, &mut triaged.record, opened, fds::copy(&fds, FdKind::Mem)).await;
    }
    let call = Call::new(context, offer, giver, &triaged.record, config);
    let place = match place(context, giver, call.deadline).await {
        Ok(place) => Ok(place),
        Err(CaptureError::Cancelled) => return Err(RoadError::Stopping),
        Err(failure) => Err(failure),
    };
    let got = match (opened, &place) {
        (Ok(opened), Ok(_)) => get(giver, offer, call, opened, fds).await,
        (Err(failure), _) => Err(failure),
        (Ok(_), Err(_)) => {
            drop(fds);
            Err(CaptureError::Stalled)
        }
    };
    if matches!(got, Err(CaptureError::Cancelled)) {
        // The process stays parked: its shim offers it to the next daemon.
        return Err(RoadError::Stopping);
    }
    // Whatever became of the core, the process has waited long enough; and nothing is published unless its shim agrees.
    triaged.record.held_us = held_us(offer, giver);
    let (kept, files) = keep(triaged, &got);
    giver.release(kept, files).await?;
    // The next one may be copied while this one is sealed.
    drop(place);
    let captured = match got {
        Ok(Got::Snapshot(taken)) => seal(context, giver, *taken).await,
        Ok(Got::CapturedCore(captured)) => Ok(*captured),
        Err(failure) => Err(failure),
    };
    match captured {
        Ok(captured) => Ok(publish(context, offer, triaged, captured).await),
        Err(CaptureError::Cancelled) => Err(RoadError::Stopping),
        Err(failure) => Ok(failed(context, &mut triaged.record, &failure)),
    }
}

/// Goes on where an earlier daemon was killed after it had let the process go.
pub(super) async fn go_on(
    context: &Arc<Context>,
    giver: &mut Giver,
    offer: &Offer,
    memo: Memo,
    fds: Vec<(FdKind, OwnedFd)>,
) -> Result<Record, RoadError> {
    let Memo { mut record, reader, core } = memo;
    record.attempt = offer.attempt;
    let Some(kept) = core else { return Ok(record) };
    let mut fds = fds;
    let mut take = |wanted| fds::take(&mut fds, wanted);
    let (file, memory, raw) =
        (take(FdKind::CheckpointFile), take(FdKind::CheckpointMemory), take(FdKind::CheckpointSpill));
    let (Some(file), Some(memory)) = (file, memory) else {
        // A shim that saved the crash alone could not save these.
        record.core = CoreReport::none(NoCore::Gone);
        return Ok(record);
    };
    let account = Arc::new(QuotaHandle::new(Arc::clone(&context.ledger), &record));
    let limits = limits(&context.config_for(&record), &record);
    let files = CheckpointFiles { file, memory, spill: raw };
    let resumed = in_touch(giver, spawn_blocking(move || kept.resume(files, &account, limits))).await;
    let captured = match resumed.unwrap_or_else(|error| Err(CaptureError::Read(io::Error::other(error)))) {
        Ok(taken) => seal(context, giver, taken).await,
        Err(failure) => Err(failure),
    };
    let mut triaged = Triaged { record, reader };
    triaged.record.core = match captured {
        Ok(captured) => publish(context, offer, &mut triaged, captured).await,
        Err(CaptureError::Cancelled) => return Err(RoadError::Stopping),
        Err(failure) => failed(context, &mut triaged.record, &failure),
    };
    Ok(triaged.record)
}

/// Waits for a place among the captures.
async fn place<'a>(
    context: &'a Context,
    giver: &mut Giver,
    deadline: Instant,
) -> Result<tokio::sync::SemaphorePermit<'a>, CaptureError> {
    let within = TURN_WITHIN.min(deadline.saturating_duration_since(Instant::now()));
    tokio::select! {
        place = timeout(within, context.captures.acquire()) => match place {
            Ok(place) => place.map_err(|_| CaptureError::Cancelled),
            Err(_) => Err(CaptureError::Stalled),
        },
        () = context.stopped() => Err(CaptureError::Cancelled),
        () = stay_in_touch(giver) => Err(CaptureError::Cancelled),
    }
}

/// Gets the core out of the process, or out of the stream where the process' memory can't be used.
async fn get(
    giver: &mut Giver,
    offer: &Offer,
    call: Call,
    opened: Opened,
    mut fds: Vec<(FdKind, OwnedFd)>,
) -> Result<Got, CaptureError> {
    let Opened { core, before, head, .. } = opened;
    let mut take = |wanted| fds::take(&mut fds, wanted);
    let (mem, pagemap, maps) = (take(FdKind::Mem), take(FdKind::Pagemap), take(FdKind::Maps));
    let process = take(FdKind::Pidfd);
    drop(fds);
    let parse = may_parse(offer);
    // What the spool has is a core already: there is no process to copy.
    let is_parked = matches!(giver, Giver::Shim(_));
    let cancelled = Arc::clone(&call.cancelled);
    let resumed = offer.attempt > 1;
    let mut work = spawn_blocking(move || {
        call.heartbeat.tick();
        let writer = call.writer()?;
        let writer = match (head, mem) {
            (Some(head), Some(mem)) if is_parked => {
                let memory = ProcessMemory::live(File::from(mem), pagemap.map(File::from));
                let maps = maps.and_then(|maps| read_maps(&File::from(maps))).unwrap_or_default();
                let order = SnapshotRequest {
                    headers: head,
                    memory,
                    maps,
                    writer,
                    account: Arc::clone(&call.account),
                    stacks_only: call.stacks_only,
                    process,
                    deadline: call.deadline,
                    level: call.level,
                    heartbeat: &call.heartbeat,
                    cancelled: &call.cancelled,
                };
                match capture::snapshot(order, &call.context.resources) {
                    Ok(taken) => return Ok(Got::Snapshot(Box::new(taken))),
                    Err(SnapshotError::Failed(failure)) => return Err(failure),
                    Err(SnapshotError::Unusable(writer)) => *writer,
                }
            }
            _ => writer,
        };
        let source = CoreStream::new(core, before, Arc::clone(&call.cancelled));
        let deadline = Some(call.deadline);
        let stream =
            DrainRequest { source, writer, heartbeat: &call.heartbeat, parse, resumed, level: call.level, deadline };
        capture::drain(stream, &call.context.resources).map(Box::new).map(Got::CapturedCore)
    });
    tokio::select! {
        done = &mut work => return done.unwrap_or_else(|error| Err(CaptureError::Read(io::Error::other(error)))),
        () = stay_in_touch(giver) => {}
    }
    // The shim has gone: either it offers the crash to another daemon, or it was killed and took the process with it.
    cancelled.store(true, Ordering::Relaxed);
    let _ = work.await;
    Err(CaptureError::Cancelled)
}

/// The text of `maps`, from its beginning: the descriptor shares its position with that of the shim, and of daemons before.
fn read_maps(maps: &File) -> Option<String> {
    let mut text = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while text.len() < MAPS_MAX {
        match maps.read_at(&mut buffer, text.len() as u64) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// What the shim is to keep while the core is sealed.
fn keep(triaged: &Triaged, got: &Result<Got, CaptureError>) -> (Vec<u8>, Vec<(FdKind, OwnedFd)>) {
    let Ok(Got::Snapshot(taken)) = got else { return Default::default() };
    let (kept, files): (CaptureCheckpoint, CheckpointFiles) = match taken.save_checkpoint() {
        Ok(both) => both,
        Err(error) => {
            tracing::warn!("crash {}: its shim can't keep the core: {error}", triaged.record.id);
            return Default::default();
        }
    };
    let memo = Memo { record: triaged.record.clone(), reader: triaged.reader, core: Some(kept) };
    let mut fds = vec![(FdKind::CheckpointFile, files.file), (FdKind::CheckpointMemory, files.memory)];
    fds.extend(files.spill.map(|raw| (FdKind::CheckpointSpill, raw)));
    (memo.write(), fds)
}

/// Seals what was taken, whether or not its shim is still there: the core is all here.
async fn seal(context: &Arc<Context>, giver: &mut Giver, taken: Snapshot) -> Result<CapturedCore, CaptureError> {
    let _turn = in_touch(giver, context.sealing.acquire()).await.map_err(|_| CaptureError::Cancelled)?;
    let cancelled = context.cancel_switch();
    let (resources, heartbeat) = (context.resources.clone(), context.health.register("the sealing of a core"));
    let done =
        in_touch(giver, spawn_blocking(move || capture::finalize(taken, &resources, &heartbeat, &cancelled))).await;
    done.unwrap_or_else(|error| Err(CaptureError::Write(io::Error::other(error))))
}

/// What `work` yields, the shim told meanwhile that it goes on; a shim that goes does not end it.
async fn in_touch<T>(giver: &mut Giver, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    tokio::select! {
        done = &mut work => done,
        () = stay_in_touch(giver) => work.await,
    }
}

/// Says "busy" now and then; returns when the shim has gone.
async fn stay_in_touch(giver: &mut Giver) {
    let Giver::Shim(link) = giver else { return std::future::pending().await };
    let mut busy = interval(BUSY);
    loop {
        tokio::select! {
            // A shim has nothing to say now: a word is as good as an end.
            _ = link.receive() => return,
            _ = busy.tick() => {
                if link.send(&DaemonMessage::Busy).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What a failed capture means for the record, and for the metrics.
fn failed(context: &Context, record: &mut Record, failure: &CaptureError) -> CoreReport {
    let (reason, kind) = match failure {
        CaptureError::Empty => (NoCore::Empty, ErrorKind::NotACore),
        CaptureError::NotACore(_) => (NoCore::NotElf, ErrorKind::NotACore),
        CaptureError::Stalled => (NoCore::Stalled, ErrorKind::Capture),
        CaptureError::Quota => (NoCore::Quota, ErrorKind::Quota),
        CaptureError::DiskFull(_) => (NoCore::DiskFull, ErrorKind::DiskFull),
        CaptureError::Cancelled | CaptureError::Write(_) | CaptureError::Read(_) => {
            (NoCore::WriteError, ErrorKind::Capture)
        }
    };
    tracing::error!("crash {} of process {} ({}): no core: {failure}", record.id, record.key.pid, record.comm);
    context.metrics.error(kind);
    record.warnings.push(failure.to_string());
    CoreReport::none(reason)
}

async fn publish(context: &Arc<Context>, offer: &Offer, triaged: &mut Triaged, captured: CapturedCore) -> CoreReport {
    let CapturedCore { writer, expected_len: expected, truncation: cut, staging: stage, notes } = captured;
    let CoreWriter { file, reservation, .. } = writer;
    if let Some(notes) = notes.filter(|_| offer.pid.is_none()) {
        triaged.record.complete_from_notes(notes.signal, notes.uid, notes.gid, notes.comm);
    }
    let truncated = cut.or(offer.cut.then_some(Truncation::Spool));
    let content = file.content();
    triaged.record.core = CoreReport { outcome: CoreOutcome::Stored, bytes: content, expected, stored: 0, truncated };
    let (mut record, reader, ledger) = (triaged.record.clone(), triaged.reader, Arc::clone(&context.ledger));
    let heartbeat = context.health.register(&format!("the file of process {}", record.key.pid));
    let published = spawn_blocking(move || {
        heartbeat.tick();
        let published = file.publish(&mut record, ledger.dir().as_fd(), reader);
        (published, record)
    });
    let published = published.await;
    if let Some(stage) = stage {
        let _ = spawn_blocking(move || stage.free()).await;
    }
    match published {
        Ok((Ok(stored), record)) => {
            reservation.commit(record.id.clone(), record.time_us, stored);
            context.metrics.captured_bytes.inc_by(content);
            context.metrics.written_bytes.inc_by(stored);
            triaged.record = record;
            triaged.record.core.clone()
        }
        Ok((Err(error), _)) => failed(context, &mut triaged.record, &CaptureError::from(error)),
        Err(error) => failed(context, &mut triaged.record, &CaptureError::Write(io::Error::other(error))),
    }
}
