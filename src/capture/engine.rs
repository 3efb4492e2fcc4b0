//! Moves the chunks of a core into its file, with several workers. Some compress chunks from the front, in order; while the
//! process waits, others spill chunks from the back without compressing them, until both meet.
//!
//! Compressing keeps the processors busy and spilling keeps the disk busy, so the process is released sooner than either alone
//! would allow, and no more is spilled than could not be compressed in the same time.

use super::CaptureResources;
use super::compressor_pool::CompressorPool;
use super::core_writer::CoreWriter;
use super::engine_job::EngineJob;
use super::error::{CaptureError, StopReason};
use super::health::Supervision;
use super::workers::{BusyWorkers, SharedEngine, batch_len};
use crate::crash::Truncation;
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How a run ended.
pub(super) struct EngineOutcome {
    /// The file.
    pub writer: CoreWriter,
    /// The first chunk that is not in the file.
    pub next_chunk: u64,
    /// The first chunk that was spilled.
    pub spilled_from: u64,
    /// Chunks after `spilled_from` whose copies were not completed.
    pub missing: Vec<Range<u64>>,
    /// Why the run ended early.
    pub stop: Option<StopReason>,
}

/// Without progress for this long, a run ends: a page is on a dead mount, or somebody keeps it from being read.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Without progress for this long, other captures get compressors in place of the workers' own.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// How often the run is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How long workers may take to notice that a run has ended; those that hang in a read are then abandoned.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// How many workers compress beside `copiers`. A processor is left to each copier: copying is faster than compressing, and the process
/// is held until all is either copied or compressed.
fn compressors_beside(copiers: usize, compressors: &CompressorPool) -> usize {
    if copiers == 0 {
        return compressors.limit();
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    compressors.limit().min(processors.saturating_sub(copiers).max(1))
}

/// Runs a job to its end.
pub(super) fn run(
    job: EngineJob,
    writer: CoreWriter,
    resources: &CaptureResources,
    supervision: Supervision<'_>,
) -> EngineOutcome {
    let chunks = usize::try_from(job.chunks.end - job.chunks.start).unwrap_or(usize::MAX);
    let batch = batch_len(chunks, resources.copy_buffers.limit());
    let copiers = match &job.spill {
        Some(spill) if spill.staging.spill_file().is_some() => resources.copy_buffers.limit().min(chunks),
        Some(_) => resources.copy_buffers.limit().min(chunks.div_ceil(batch)),
        None => 0,
    };
    let compressing = if job.compress { compressors_beside(copiers, &resources.compressors).min(chunks) } else { 0 };
    let engine = Arc::new(SharedEngine::new(job, writer, batch));
    if chunks == 1 && engine.job.deadline.is_none() && engine.job.compress {
        // Most cores are small, and starting a thread takes as long as compressing one of them.
        engine.lock().active = 1;
        engine.compress_chunks(&resources.compressors);
    }
    for worker in 0..compressing + copiers {
        if engine.is_done() {
            break;
        }
        engine.lock().active += 1;
        let (shared, resources) = (Arc::clone(&engine), resources.clone());
        // A worker's log lines are those of the session.
        let span = tracing::Span::current();
        let work = move || {
            let _session = span.entered();
            if worker < compressing {
                shared.compress_chunks(&resources.compressors);
            } else {
                shared.spill_chunks(&resources.copy_buffers);
            }
        };
        if std::thread::Builder::new().name("capture".to_owned()).spawn(work).is_err() {
            let mut state = engine.lock();
            state.active -= 1;
            // One worker is enough.
            if state.active == 0 {
                let error = std::io::Error::other("no thread can be started");
                state.stop = Some(StopReason::Failed(CaptureError::Read(error)));
            }
        }
    }
    let compensated = supervise(&engine, resources, supervision);
    let mut state = engine.lock();
    state.abandoned = true;
    let hanging = state.busy;
    // From now on a worker that continues corrects these numbers itself.
    resources.compressors.remove_stuck(compensated.compressing);
    resources.compressors.add_stuck(hanging.compressing);
    resources.copy_buffers.remove_stuck(compensated.spilling);
    resources.copy_buffers.add_stuck(hanging.spilling);
    engine.frame_written.notify_all();
    EngineOutcome {
        writer: state.writer.take().expect("nothing else takes the writer"),
        next_chunk: state.next_frame,
        spilled_from: state.back,
        missing: std::mem::take(&mut state.being_spilled),
        stop: state.stop.take(),
    }
}

/// Waits for the workers, and ends the run at its deadline or without progress. Returns the workers for which others got
/// compressors.
fn supervise(engine: &SharedEngine, resources: &CaptureResources, supervision: Supervision<'_>) -> BusyWorkers {
    let Supervision { heartbeat, cancelled } = supervision;
    let deadline = engine.job.deadline;
    let mut state = engine.lock();
    let mut stopped_at = None;
    let (mut compensated, mut last_frame) = (BusyWorkers::default(), state.next_frame);
    while state.active > 0 {
        // While the process waits, a worker may hang in reading its memory, which is not the daemon's fault.
        if deadline.is_some() {
            heartbeat.idle();
        } else if last_frame != state.next_frame {
            last_frame = state.next_frame;
            heartbeat.tick();
        }
        let waited = engine.worker_ended.wait_timeout(state, CHECK_INTERVAL);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        let without_progress = state.last_progress.elapsed();
        if state.stop.is_none() {
            state.stop = if cancelled.is_cancelled() {
                Some(StopReason::Failed(CaptureError::Cancelled))
            } else if let Some(Err(error)) = engine.job.spill.as_ref().map(|spill| spill.staging.check()) {
                Some(StopReason::Failed(error))
            } else if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                Some(StopReason::Truncated(Truncation::MaxHold))
            } else if without_progress >= STALL_TIMEOUT {
                Some(StopReason::Truncated(Truncation::Stalled))
            } else {
                None
            };
        }
        if compensated == BusyWorkers::default() && deadline.is_some() && without_progress >= STUCK_AFTER {
            compensated = state.busy;
            resources.compressors.add_stuck(compensated.compressing);
            resources.copy_buffers.add_stuck(compensated.spilling);
        }
        if state.stop.is_some() {
            engine.frame_written.notify_all();
            if stopped_at.get_or_insert_with(Instant::now).elapsed() > END_TIMEOUT {
                break;
            }
        }
    }
    heartbeat.tick();
    compensated
}
