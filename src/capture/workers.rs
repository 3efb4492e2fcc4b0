//! The workers of the engine, and the state that they share.

use super::chunk::{self, CHUNK_LEN, RangeData, SourceError, frame_content};
use super::compressor_pool::CompressorPool;
use super::core_writer::CoreWriter;
use super::engine_job::{EngineJob, SpillTarget};
use super::error::{CaptureError, StopReason};
use super::frame_compressor::FrameCompressor;
use super::large_core_limiter::LargeCoreLimiter;
use crate::crash::Truncation;
use crate::store::format::HEADER_LEN;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many of `chunks` chunks are copied into memory at a time by `copiers` at most. Most of them may be holes, and each batch costs messages;
/// but all copiers are to have work until the end.
pub(super) fn batch_len(chunks: usize, copiers: usize) -> usize {
    /// Fewer are copied in less time than it takes to start another copier.
    const MIN: usize = 8;
    const MAX: usize = 64;
    (chunks / copiers.saturating_mul(2).max(1)).clamp(MIN, MAX)
}

/// One run of the engine.
pub(super) struct SharedEngine {
    pub job: EngineJob,
    /// Chunks that are copied into memory at a time.
    batch: usize,
    state: Mutex<EngineState>,
    /// Another frame may be appended, or none will be.
    pub frame_written: Condvar,
    pub worker_ended: Condvar,
    /// Compressed frames of zeros, by length: all frames of one length are the same.
    zero_frames: Mutex<HashMap<usize, Arc<Vec<u8>>>>,
}

/// The progress of a run.
pub(super) struct EngineState {
    pub writer: Option<CoreWriter>,
    /// The next chunk to compress.
    front: u64,
    /// The first chunk that was taken from the back.
    pub back: u64,
    /// The chunk whose frame is appended next.
    pub next_frame: u64,
    /// Chunks from the back whose copies are not complete.
    pub being_spilled: Vec<Range<u64>>,
    pub stop: Option<StopReason>,
    /// The run has ended without some of its workers, which hang.
    pub abandoned: bool,
    /// Workers that have not ended.
    pub active: usize,
    pub busy: BusyWorkers,
    pub last_progress: Instant,
}

/// How many workers have a chunk.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct BusyWorkers {
    pub compressing: usize,
    pub spilling: usize,
}

/// A compressed chunk.
enum CompressedFrame<'a> {
    Data(&'a [u8]),
    Zeros(Arc<Vec<u8>>),
}

impl CompressedFrame<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Data(bytes) => bytes,
            Self::Zeros(bytes) => bytes,
        }
    }
}

impl EngineState {
    fn has_ended(&self) -> bool {
        self.abandoned || self.stop.is_some()
    }
}

impl SharedEngine {
    pub(super) fn new(job: EngineJob, writer: CoreWriter, batch: usize) -> Self {
        let state = EngineState {
            writer: Some(writer),
            front: job.chunks.start,
            back: job.chunks.end,
            next_frame: job.chunks.start,
            being_spilled: Vec::new(),
            stop: None,
            abandoned: false,
            active: 0,
            busy: BusyWorkers::default(),
            last_progress: Instant::now(),
        };
        Self {
            job,
            batch,
            state: Mutex::new(state),
            frame_written: Condvar::new(),
            worker_ended: Condvar::new(),
            zero_frames: Mutex::new(HashMap::new()),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, EngineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is nothing left for another worker.
    pub(super) fn is_done(&self) -> bool {
        let state = self.lock();
        state.has_ended() || state.front >= state.back
    }

    fn end_worker(&self) {
        self.lock().active -= 1;
        self.worker_ended.notify_all();
    }

    /// Compresses chunks from the front until there are none left.
    pub(super) fn compress_chunks(&self, compressors: &CompressorPool) {
        loop {
            // A worker acquires a compressor before it claims a chunk, so a claimed chunk can always be finished.
            let mut compressor = compressors.acquire();
            let Some(number) = self.claim_front_chunk() else { break };
            let range = chunk::range(number, self.job.total_len);
            let frame = self.compress_chunk(number, &range, &mut compressor);
            let mut state = self.lock();
            while !state.has_ended() && state.next_frame != number {
                state = self.frame_written.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.busy.compressing -= 1;
            if state.abandoned {
                compressors.remove_stuck(1);
            }
            if state.has_ended() {
                break;
            }
            let content = frame_content(chunk::framed_part(&range).len());
            let appended = match (frame, &mut state.writer) {
                (Ok(frame), Some(writer)) => writer.append(frame.bytes(), content),
                (Err(stop), _) => Err(stop),
                (_, None) => break,
            };
            let is_appended = appended.is_ok();
            match appended {
                Ok(()) => {
                    state.next_frame += 1;
                    state.last_progress = Instant::now();
                }
                Err(stop) => state.stop = Some(stop),
            }
            self.frame_written.notify_all();
            drop(state);
            if let Some(staging) = self.job.free_from.as_ref().filter(|_| is_appended) {
                staging.free_chunk(range, self.job.total_len);
            }
        }
        self.end_worker();
    }

    fn claim_front_chunk(&self) -> Option<u64> {
        let mut state = self.lock();
        if state.has_ended() || state.front >= state.back {
            return None;
        }
        state.busy.compressing += 1;
        state.front += 1;
        Some(state.front - 1)
    }

    fn compress_chunk<'c>(
        &self,
        number: u64,
        range: &Range<u64>,
        compressor: &'c mut FrameCompressor,
    ) -> Result<CompressedFrame<'c>, StopReason> {
        let failed = |error| StopReason::Failed(CaptureError::from_write(error));
        let part = chunk::framed_part(range);
        match self.job.source.read_range(range.clone(), compressor.buffer()).map_err(stop_for)? {
            RangeData::Zeros => self.zero_frame(part.len(), compressor).map(CompressedFrame::Zeros).map_err(failed),
            RangeData::Bytes => {
                if number == 0 {
                    let header = compressor.buffer()[..HEADER_LEN.min(chunk::buffer_len(range))].to_vec();
                    if let Some(writer) = &mut self.lock().writer {
                        writer.file.set_header(header);
                    }
                }
                compressor.compress(part, self.job.level).map(CompressedFrame::Data).map_err(failed)
            }
        }
    }

    /// The frame of `length` zeros.
    fn zero_frame(&self, length: usize, compressor: &mut FrameCompressor) -> std::io::Result<Arc<Vec<u8>>> {
        let mut known = self.zero_frames.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = known.get(&length) {
            return Ok(Arc::clone(frame));
        }
        let frame = Arc::new(compressor.compress_zeros(length, self.job.level)?.to_vec());
        known.insert(length, Arc::clone(&frame));
        Ok(frame)
    }

    /// Spills chunks from the back until there are none left, or no room for them.
    pub(super) fn spill_chunks(&self, copy_buffers: &CompressorPool) {
        if let Some(target) = &self.job.spill {
            // Spilled chunks are written twice. If other large cores wait, that would cost them the disk's time.
            while !self.job.limiter.as_ref().is_some_and(LargeCoreLimiter::has_waiters) {
                let _permit = copy_buffers.acquire();
                let Some(chunks) = self.claim_back_chunks(target) else { break };
                let range = chunks.start * CHUNK_LEN..self.job.total_len.min(chunks.end * CHUNK_LEN);
                let stored = target.staging.store(&*target.image, range);
                let mut state = self.lock();
                state.busy.spilling -= 1;
                if state.abandoned {
                    copy_buffers.remove_stuck(1);
                }
                match stored {
                    Ok(()) => {
                        state.last_progress = Instant::now();
                        state.being_spilled.retain(|other| *other != chunks);
                    }
                    Err(_) if state.has_ended() => break,
                    Err(error) => state.stop = Some(stop_for(error)),
                }
            }
            self.frame_written.notify_all();
        }
        self.end_worker();
    }

    fn claim_back_chunks(&self, target: &SpillTarget) -> Option<Range<u64>> {
        let mut state = self.lock();
        if state.has_ended() || state.front >= state.back {
            return None;
        }
        let batch = match target.staging.spill_file() {
            Some(spill) => {
                let uncompressed = (state.back - state.next_frame) * CHUNK_LEN;
                if !spill.reserve_chunk((state.back - 1) * CHUNK_LEN, uncompressed) {
                    return None;
                }
                1
            }
            None => self.batch as u64,
        };
        let end = state.back;
        state.back -= batch.min(end - state.front);
        let chunks = state.back..end;
        state.busy.spilling += 1;
        state.being_spilled.push(chunks.clone());
        Some(chunks)
    }
}

/// What a failed copy means for the run. The core is truncated if its source fails: what was read before is worth keeping.
fn stop_for(error: SourceError) -> StopReason {
    match error {
        SourceError::ProcessGone => {}
        SourceError::Read(error) => tracing::warn!("a core is truncated where it cannot be read: {error}"),
        // The process got more pages than memory was reserved for.
        SourceError::Write(error) if error.kind() == std::io::ErrorKind::OutOfMemory => {}
        SourceError::Write(error) => return StopReason::Failed(CaptureError::from_write(error)),
    }
    StopReason::Truncated(Truncation::EndedEarly)
}
