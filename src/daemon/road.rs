//! The road of one crash through the daemon: triage, verdict, capture, release, publish, "done".

use super::context::Context;
use super::link::{Link, LinkError};
use super::triage::{self, Triaged};
use crate::capture::{self, Captured, Failure, Limits, Order, Source};
use crate::config::{Config, Storage};
use crate::crash::text::from_bytes;
use crate::crash::{CoreOutcome, CoreReport, Cut, NoCore, Origin, Record};
use crate::policy::storm::{Kind, Verdict};
use crate::report::{self, ErrorKind};
use crate::store::{CoreFile, Inserted, file_name};
use crate::sys::clock;
use crate::wire::{Answer, FdKind, Offer, Wanted};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio::time::{interval, timeout};

/// From this attempt on the bytes of the core are not looked at: something in them may have killed the daemons before.
const UNPARSED_FROM: u32 = 3;
/// How long a crash waits for a worker before it is recorded without its core.
const WORKER_WITHIN: Duration = Duration::from_secs(60);
/// How often a shim hears that its crash is being worked on.
const BUSY: Duration = Duration::from_secs(2);

/// Why a crash was not recorded. The shim keeps it, and offers it again or saves it alone.
#[derive(Debug, Error)]
pub(super) enum RoadError {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("{0}")]
    Catalog(#[from] crate::store::CatalogError),
    #[error("the daemon stops")]
    Stopping,
}

/// Who gives the crash.
pub(super) enum Giver {
    /// A shim that holds the process.
    Shim(Link),
    /// A file of the spool, at the first byte of its core, if there is one.
    Spool(Option<OwnedFd>),
}

impl Giver {
    fn origin(&self) -> Origin {
        match self {
            Self::Shim(_) => Origin::Live,
            Self::Spool(_) => Origin::Spool,
        }
    }

    async fn tell(&mut self, answer: &Answer) -> Result<(), LinkError> {
        match self {
            Self::Shim(link) => link.send(answer).await,
            Self::Spool(_) => Ok(()),
        }
    }

    /// Whether there may be a core.
    fn has_core(&self, offer: &Offer) -> bool {
        match self {
            Self::Shim(_) => !offer.released,
            Self::Spool(core) => core.is_some(),
        }
    }

    /// The core, once.
    async fn core(&mut self) -> Result<Option<OwnedFd>, LinkError> {
        match self {
            Self::Shim(link) => Ok(link.ask(Wanted::Core).await?.and_then(|(_, core)| core)),
            Self::Spool(core) => Ok(core.take()),
        }
    }

    /// Lets the process go; fails where this daemon is no longer the one that the crash belongs to.
    async fn release(&mut self) -> Result<(), LinkError> {
        match self {
            Self::Shim(link) => link.release().await,
            Self::Spool(_) => Ok(()),
        }
    }
}

/// A live crash, from its offer to "done".
pub(super) async fn travel(context: &Arc<Context>, mut link: Link, offer: Offer, fds: Vec<(FdKind, OwnedFd)>) {
    if offer.attempt > 1 {
        context.metrics.repeated_offers.inc();
    }
    if !offer.trouble.is_empty() && offer.pid.is_none() {
        context.metrics.error(ErrorKind::ShimArguments);
    }
    if let Err(error) = link.send(&Answer::Taken).await {
        tracing::warn!("intake: {error}");
        return context.metrics.error(ErrorKind::Connection);
    }
    let pid = offer.pid.unwrap_or(0);
    let mut giver = Giver::Shim(link);
    match record(context, &mut giver, offer, fds).await {
        Ok(entry) => {
            // The record is durable: a shim that misses this word asks again and is told the same.
            let _ = giver.tell(&Answer::Done { journal: entry }).await;
        }
        Err(RoadError::Catalog(error)) => {
            tracing::error!("crash of process {pid}: {error}: its shim saves it in the spool");
            context.metrics.error(ErrorKind::Catalog);
            let _ = giver.tell(&Answer::Rejected { reason: error.to_string() }).await;
        }
        Err(RoadError::Stopping) => {}
        Err(RoadError::Link(error)) => {
            tracing::warn!("crash of process {pid}: {error}");
            context.metrics.error(ErrorKind::Connection);
        }
    }
}

/// Records a crash, whoever gives it; returns its entry for the journal. When this returns, the row is durable.
pub(super) async fn record(
    context: &Arc<Context>,
    giver: &mut Giver,
    offer: Offer,
    fds: Vec<(FdKind, OwnedFd)>,
) -> Result<Vec<u8>, RoadError> {
    let id = triage::key(&offer).id();
    let turn = context.turn(&id);
    let _turn = turn.lock().await;
    let again = offer.attempt > 1 || giver.origin() == Origin::Spool;
    if let Some(known) = if again { context.catalog.find(id).await? } else { None } {
        return Ok(report::entry(&known, core_path(context, &known).as_deref()));
    }
    if !context.catalog.is_open() {
        return Err(context.catalog.closed_because().into());
    }
    let mut triaged = triage::triage(context, &offer, &fds, giver.origin()).await;
    let config = context.config();
    // What was opened of the process for triage is not needed any more, and must not outlive it here.
    drop(fds);
    triaged.record.core = match verdict(context, &config, &triaged.record, giver.has_core(&offer)) {
        Some(reason) => {
            giver.tell(&Answer::Release).await?;
            triaged.record.held_us = held_us(&offer, giver);
            if reason == NoCore::Storm {
                // The first of the kind have them; ten thousand times the same would only fill the catalog.
                triaged.record.status.clear();
                triaged.record.limits.clear();
            }
            CoreReport::none(reason)
        }
        None => store(context, giver, &offer, &mut triaged, &config).await?,
    };
    finish(context, giver, triaged.record).await
}

/// Why no core is kept, if so.
fn verdict(context: &Context, config: &Config, record: &Record, has_core: bool) -> Option<NoCore> {
    if !has_core {
        return Some(NoCore::Gone);
    }
    if config.storage == Storage::None {
        return Some(NoCore::Configured);
    }
    if config.enforce_core_limit && record.core_limit == 0 {
        return Some(NoCore::Limit);
    }
    let kind = Kind { program: record.program(), signal: record.signal };
    (context.storm(config.storm, &kind) == Verdict::RecordOnly).then_some(NoCore::Storm)
}

/// Captures and publishes the core; what goes wrong with it is a reason in the report, not an end of the road.
async fn store(
    context: &Arc<Context>,
    giver: &mut Giver,
    offer: &Offer,
    triaged: &mut Triaged,
    config: &Config,
) -> Result<CoreReport, RoadError> {
    if let Giver::Shim(link) = giver {
        if let Some((reply, _)) = link.ask(Wanted::OpenFds).await? {
            triaged.record.open_fds = from_bytes(&reply.data);
        }
        // Where memory can't be read (Yama's ptrace_scope=3), the file still tells which build it was.
        if triaged.record.exe_build_id.is_none()
            && let Some((_, Some(exe))) = link.ask(Wanted::Exe).await?
        {
            triaged.record.exe_build_id = triage::build_id_of(context, exe).await;
        }
    }
    let Some(core) = giver.core().await? else { return Ok(CoreReport::none(NoCore::Gone)) };
    let captured = match captured(context, giver, offer, &triaged.record, core, config).await {
        // The process stays parked: its shim offers what is left to the next daemon.
        Err(Failure::Cancelled) => return Err(RoadError::Stopping),
        captured => captured,
    };
    // Whatever became of the core, the process has waited long enough; and nothing is published unless its shim agrees.
    let released = giver.release().await;
    triaged.record.held_us = held_us(offer, giver);
    match (captured, released) {
        (Ok(captured), Ok(())) => Ok(publish(context, offer, triaged, captured).await),
        (Err(failure), Ok(())) => Ok(failed(context, &mut triaged.record, &failure)),
        (captured, Err(error)) => {
            context.ledger.cancel(captured.map_or(0, |captured| captured.reserved));
            Err(error.into())
        }
    }
}

async fn captured(
    context: &Arc<Context>,
    giver: &mut Giver,
    offer: &Offer,
    record: &Record,
    core: OwnedFd,
    config: &Config,
) -> Result<Captured, Failure> {
    let _place = tokio::select! {
        place = timeout(WORKER_WITHIN, context.workers.acquire()) => match place {
            Ok(place) => place.map_err(|_| Failure::Cancelled)?,
            Err(_) => return Err(Failure::Stalled),
        },
        () = context.stopped() => return Err(Failure::Cancelled),
        () = stay_in_touch(giver) => return Err(Failure::Cancelled),
    };
    let cancelled = context.cancel_switch();
    let source = Source::new(core, Arc::clone(&cancelled));
    let limits = Limits {
        process_size_max: config.process_size_max,
        external_size_max: config.external_size_max,
        core_limit: config.enforce_core_limit.then_some(record.core_limit),
    };
    let parse = offer.attempt < UNPARSED_FROM;
    let resumed = offer.attempt > 1;
    let ledger = Arc::clone(&context.ledger);
    let beat = context.progress.join(&format!("the capture of process {}", record.key.pid));
    let empty = record.clone();
    let mut capture = spawn_blocking(move || {
        beat.work();
        let file = CoreFile::create(ledger.dir().as_fd(), &empty)?;
        capture::capture(Order { source, file, ledger: &ledger, limits, beat: &beat, parse, resumed })
    });
    tokio::select! {
        done = &mut capture => return done.unwrap_or_else(|error| Err(Failure::Read(std::io::Error::other(error)))),
        () = stay_in_touch(giver) => {}
    }
    // The shim has gone: either it offers the crash to another daemon, or it was killed and took the process with it.
    cancelled.store(true, Ordering::Relaxed);
    if let Ok(Ok(captured)) = capture.await {
        context.ledger.cancel(captured.reserved);
    }
    Err(Failure::Cancelled)
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
                if link.send(&Answer::Busy).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What a failed capture means for the record, and for the metrics.
fn failed(context: &Context, record: &mut Record, failure: &Failure) -> CoreReport {
    let (reason, kind) = match failure {
        Failure::Empty => (NoCore::Empty, ErrorKind::NotACore),
        Failure::NotACore(_) => (NoCore::NotElf, ErrorKind::NotACore),
        Failure::Stalled => (NoCore::Stalled, ErrorKind::Capture),
        Failure::Quota => (NoCore::Quota, ErrorKind::Quota),
        Failure::DiskFull(_) => (NoCore::DiskFull, ErrorKind::DiskFull),
        Failure::Cancelled | Failure::Write(_) | Failure::Read(_) => (NoCore::WriteError, ErrorKind::Capture),
    };
    tracing::error!("crash {} of process {} ({}): no core: {failure}", record.id, record.key.pid, record.comm);
    context.metrics.error(kind);
    record.trouble.push(failure.to_string());
    CoreReport::none(reason)
}

async fn publish(context: &Arc<Context>, offer: &Offer, triaged: &mut Triaged, captured: Captured) -> CoreReport {
    let Captured { file, reserved, expected, cut, notes } = captured;
    if let Some(notes) = notes.filter(|_| offer.pid.is_none()) {
        triaged.record.complete_from_notes(notes.signal, notes.uid, notes.gid, notes.comm);
    }
    let truncated = cut.or(offer.cut.then_some(Cut::Spool));
    let content = file.content();
    triaged.record.core = CoreReport { outcome: CoreOutcome::Stored, bytes: content, expected, stored: 0, truncated };
    let (mut record, reader, ledger) = (triaged.record.clone(), triaged.reader, Arc::clone(&context.ledger));
    let beat = context.progress.join(&format!("the file of process {}", record.key.pid));
    let published = spawn_blocking(move || {
        beat.work();
        let published = file.publish(&mut record, ledger.dir().as_fd(), reader);
        (published, record)
    });
    match published.await {
        Ok((Ok(stored), record)) => {
            context.ledger.settle(reserved, record.id.clone(), record.time_us, stored);
            context.metrics.captured_bytes.inc_by(content);
            context.metrics.written_bytes.inc_by(stored);
            triaged.record = record;
            triaged.record.core.clone()
        }
        Ok((Err(error), _)) => {
            context.ledger.cancel(reserved);
            failed(context, &mut triaged.record, &Failure::from(error))
        }
        Err(error) => {
            context.ledger.cancel(reserved);
            failed(context, &mut triaged.record, &Failure::Write(std::io::Error::other(error)))
        }
    }
}

async fn finish(context: &Arc<Context>, giver: &mut Giver, record: Record) -> Result<Vec<u8>, RoadError> {
    let entry = report::entry(&record, core_path(context, &record).as_deref());
    if let Inserted::Counted(count) = context.catalog.insert(record.clone()).await? {
        context.metrics.crash(&record, &count);
        context.recorded_one();
        if record.core.outcome == CoreOutcome::None(NoCore::Storm) {
            context.metrics.storm_suppressed.inc();
        }
        if giver.origin() == Origin::Live {
            context.metrics.held.observe(Duration::from_micros(record.held_us).as_secs_f64());
        }
    }
    Ok(entry)
}

fn core_path(context: &Context, record: &Record) -> Option<PathBuf> {
    record.core.is_stored().then(|| context.root.state_dir().join("cores").join(file_name(&record.id)))
}

fn held_us(offer: &Offer, giver: &Giver) -> u64 {
    match giver.origin() {
        Origin::Live => {
            u64::try_from(clock::since_boot().saturating_sub(offer.started).as_micros()).unwrap_or(u64::MAX)
        }
        Origin::Spool => 0,
    }
}
