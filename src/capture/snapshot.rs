//! Copies the core of a parked process, so that the process can be released.

use super::chunk::{self, CHUNK_LEN, CoreSource, SourceError};
use super::core_writer::{CoreWriter, chunks_within};
use super::engine;
use super::engine_job::{EngineJob, SpillTarget};
use super::error::{CaptureError, StopReason};
use super::headers::Headers;
use super::health::{Heartbeat, Supervision};
use super::parked::ParkedProcess;
use super::plan::CapturePlan;
use super::staging::StagingArea;
use super::{CaptureResources, MemoryBudget, MissingPages};
use crate::crash::Truncation;
use crate::elf::{self, CoreLayout, ProcessNotes};
use crate::store::QuotaHandle;
use coreward_sys::{pidfd, sparse_io, tmpfile};
use nix::sys::stat::Mode;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// A core with at most this many bytes that are not zero is copied into memory before it is compressed. However far its pages are
/// apart, that takes a fraction of the time that compressing takes.
const IN_MEMORY_MAX: u64 = 80 << 20;
/// Bytes of chunks that the disk may refuse before no more are spilled: one chunk for each thread that copies.
const REFUSED_MAX: u64 = 4 * CHUNK_LEN;

/// What to capture, and how.
pub struct SnapshotRequest<'a> {
    /// The headers of the core.
    pub headers: Headers,
    /// The process.
    pub parked: &'a dyn ParkedProcess,
    /// The file for the core.
    pub writer: CoreWriter,
    /// What disk space for staged data is charged to.
    pub quota: Arc<QuotaHandle>,
    /// What the pipe still has, where the kernel no longer writes into it, in bytes.
    pub left_in_pipe: Option<u64>,
    /// Capture only the priority ranges: notes, stacks, and what a debugger needs to find its way.
    pub stacks_only: bool,
    /// A pidfd of the process, to see whether it was killed during the copy.
    pub process: Option<OwnedFd>,
    /// When the process is to be released.
    pub deadline: Instant,
    /// Level of compression.
    pub level: i32,
    /// Heartbeat of this worker.
    pub heartbeat: &'a Heartbeat,
    /// Set when the capture is to be abandoned.
    pub cancelled: &'a CancellationToken,
}

/// A core that does not need its process any more.
pub struct Snapshot {
    pub(super) writer: CoreWriter,
    pub(super) staging: Arc<StagingArea>,
    pub(super) plan: Arc<CapturePlan>,
    /// The first chunk that is not in the file yet.
    pub(super) next_chunk: u64,
    /// The first chunk that is not to be stored.
    pub(super) chunks_end: u64,
    /// If the core is truncated, the chunks that the staging area has completely.
    pub(super) spilled: Vec<Range<u64>>,
    pub(super) truncation: Option<Truncation>,
    pub(super) notes: ProcessNotes,
    pub(super) level: i32,
    /// All of the core is in the staging area's memory.
    pub(super) in_memory: bool,
    /// Which pages are zeros, though they may have been something else.
    pub missing_pages: MissingPages,
}

/// Why there is no snapshot.
pub enum SnapshotError {
    /// The memory cannot be used, but the stream may have the core. The writer is returned for it.
    Unusable(Box<CoreWriter>),
    /// There is no core.
    Failed(CaptureError),
}

impl From<CaptureError> for SnapshotError {
    fn from(error: CaptureError) -> Self {
        Self::Failed(error)
    }
}

/// Copies the core out of the process. The process can be released when this returns.
///
/// # Errors
/// The memory cannot be used, or no core can be stored.
pub fn snapshot(request: SnapshotRequest<'_>, resources: &CaptureResources) -> Result<Snapshot, SnapshotError> {
    let SnapshotRequest { headers, parked, writer, quota, heartbeat, cancelled, level, .. } = request;
    let unusable = |writer| SnapshotError::Unusable(Box::new(writer));
    // The reader of the process may hang in its memory, which is not the daemon's fault.
    heartbeat.idle();
    let planned = CoreLayout::read(&headers).ok().and_then(|layout| parked.plan(Arc::new(layout)));
    let Some(plan) = planned else { return Err(unusable(writer)) };
    if plan.needs_pipe
        && !request.stacks_only
        && request.left_in_pipe.is_none_or(|left| left >= plan.layout.total_len)
        && is_drained_by(request.deadline, plan.layout.total_len)
    {
        return Err(unusable(writer));
    }
    let plan = Arc::new(plan);
    let notes = process_notes(&headers);
    let total_len = plan.layout.total_len;
    let (chunks_end, mut truncation) =
        if request.stacks_only { (0, Some(Truncation::Stacks)) } else { chunks_within(total_len, &writer.limits()) };
    let created = create_staging(&plan, &headers, chunks_end, &quota, &resources.memory_budget);
    let Some((staging, in_memory)) = created.map_err(CaptureError::from_write)? else { return Err(unusable(writer)) };
    let staging = Arc::new(staging);
    // The memory that was reserved, and room for the chunks that the disk refuses.
    let memory_limit = if in_memory { plan.present_bytes } else { 0 } + plan.priority_len() + REFUSED_MAX;
    let files = staging.files(memory_limit).map_err(CaptureError::from_write)?;
    let Ok(image) = parked.open_image(files) else { return Err(unusable(writer)) };
    match image.store_priority() {
        Ok(()) => {}
        // The stream may have what cannot be read from memory.
        Err(SourceError::ProcessGone | SourceError::Read(_)) => return Err(unusable(writer)),
        Err(error) => return Err(CaptureError::from(error).into()),
    }
    let limiter = (!in_memory).then(|| resources.large_cores.clone());
    let _permit = match &limiter {
        Some(limiter) => limiter.acquire(quota.principal(), request.deadline, || {
            if cancelled.is_cancelled() { Err(CaptureError::Cancelled) } else { staging.check() }
        })?,
        None => None,
    };
    let spill = (in_memory || staging.spill_file().is_some())
        .then(|| SpillTarget { image: Arc::clone(&image), staging: Arc::clone(&staging) });
    let job = EngineJob {
        source: Arc::clone(&image) as Arc<dyn CoreSource>,
        compress: !in_memory,
        limiter,
        spill,
        free_from: None,
        chunks: 0..chunks_end,
        total_len,
        level,
        deadline: Some(request.deadline),
    };
    let outcome = engine::run(job, writer, resources, Supervision { heartbeat, cancelled });
    let missing_pages = image.missing_pages();
    image.stop();
    if staging.spill_file().is_some() {
        staging.set_spill_start(outcome.spilled_from * CHUNK_LEN);
    }
    let stop = outcome.stop.or_else(|| staging.check().err().map(StopReason::Failed));
    match stop {
        Some(StopReason::Failed(error)) => {
            staging.free();
            return Err(error.into());
        }
        Some(StopReason::Truncated(reason)) => truncation = Some(reason),
        None => {}
    }
    if request.process.is_some_and(|process| !pidfd::is_alive(process.as_fd())) {
        // Pages that were read while the process died looked like holes.
        truncation = Some(Truncation::EndedEarly);
    }
    let is_complete = outcome.missing.is_empty() && outcome.next_chunk >= outcome.spilled_from.min(chunks_end);
    let spilled = if is_complete && truncation.is_none() {
        Vec::new()
    } else {
        let is_spilled = |number: &u64| !outcome.missing.iter().any(|missing| missing.contains(number));
        let numbers = (outcome.spilled_from..chunks_end).filter(is_spilled);
        numbers.map(|number| chunk::range(number, total_len)).collect()
    };
    Ok(Snapshot {
        writer: outcome.writer,
        staging,
        plan,
        next_chunk: outcome.next_chunk,
        chunks_end,
        spilled,
        truncation,
        notes,
        level,
        in_memory,
        missing_pages,
    })
}

/// Whether the kernel can be expected to have written the core into its pipe by the deadline. If not, the memory is copied but for what cannot
/// be read: the pipe would be cut off anywhere.
fn is_drained_by(deadline: Instant, total_len: u64) -> bool {
    /// On a slow machine, and compressed meanwhile.
    const BYTES_PER_SECOND: u64 = 128 << 20;
    total_len / BYTES_PER_SECOND < deadline.saturating_duration_since(Instant::now()).as_secs()
}

/// Creates a staging area that has the headers and the trailer of the core. Also returns whether it takes all of the core in
/// memory. `None`: there is no place for one.
fn create_staging(
    plan: &CapturePlan,
    headers: &[u8],
    chunks_end: u64,
    quota: &Arc<QuotaHandle>,
    budget: &MemoryBudget,
) -> io::Result<Option<(StagingArea, bool)>> {
    let is_small = plan.present_bytes <= IN_MEMORY_MAX && chunks_end > 0;
    let grant = if is_small { budget.reserve_for(quota.principal(), plan.present_bytes) } else { None };
    let in_memory = grant.is_some();
    let grant = grant.or_else(|| budget.reserve_for(quota.principal(), plan.priority_len() + headers.len() as u64));
    let memory = match &grant {
        Some(_) => sparse_io::create_memfd("coreward-stage")?,
        // Many captures have used up the budget: a file on disk, in the page cache, takes the place of memory.
        // There a file would be memory as well, or have no holes.
        None if !quota.may_spill() => return Ok(None),
        None => tmpfile::create_scratch(quota.dir().as_fd(), Mode::from_bits_truncate(0o600))?.into(),
    };
    let mut staging = StagingArea::new(Arc::new(memory), grant);
    staging.memory.write_all_at(headers, 0)?;
    staging.memory.write_all_at(&plan.layout.trailer, plan.trailer_range().start)?;
    // The file is as long as the core, though most of it may be a hole.
    if staging.memory.metadata().is_ok_and(|metadata| metadata.len() < plan.layout.total_len) {
        staging.memory.set_len(plan.layout.total_len)?;
    }
    if !in_memory && chunks_end > 1 && quota.may_spill() {
        // Without a spill file, all of the core is compressed while the process waits.
        if let Err(error) = staging.add_spill_file(Arc::clone(quota)) {
            tracing::warn!("a core cannot be spilled to disk: {error}");
        }
    }
    Ok(Some((staging, in_memory)))
}

/// What the notes among the headers say about the process.
pub(super) fn process_notes(headers: &[u8]) -> ProcessNotes {
    elf::summarize(headers).map(|summary| elf::process_notes(headers, &summary)).unwrap_or_default()
}
