//! Chunks through many hands: from the front they are compressed into the file, in order; from the back they are put aside
//! uncompressed, until both meet.
//!
//! Compressing keeps the processors busy and putting aside keeps the disk busy, so the process is held for less time than either
//! alone would take, and no more is put aside than compressing could not do meanwhile.

use super::chunk::{self, CHUNK, Fill, Filled, SourceError};
use super::compressor_pool::{CompressorPool, FrameCompressor};
use super::core_writer::{CoreWriter, Failure, Stop};
use super::health::Heartbeat;
use super::large_core_limiter::LargeCoreLimiter;
use super::process_memory::ProcessImage;
use super::staging::StagingArea;
use crate::crash::Truncation;
use crate::store::format::HEADER_LEN;
use coreward_sys::nice;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What a run of the engine is to do.
pub struct Job {
    /// Where the bytes are.
    pub source: Arc<dyn Fill>,
    /// Whether chunks are compressed from the front.
    pub compress: bool,
    /// Where others wait; then nothing more is put aside on disk.
    pub large_cores: Option<LargeCoreLimiter>,
    /// Where chunks from the back go; `None`: all are compressed.
    pub aside: Option<Aside>,
    /// What is to be told when a chunk is in the file.
    pub done_with: Option<Arc<StagingArea>>,
    /// The chunks.
    pub chunks: Range<u64>,
    /// Bytes of the whole core.
    pub total: u64,
    /// Level of compression.
    pub level: i32,
    /// When to stop at the latest, and what that means.
    pub deadline: Option<Instant>,
}

/// Putting aside.
#[derive(Clone)]
pub struct Aside {
    /// Out of this process,
    pub parked: Arc<ProcessImage>,
    /// to here.
    pub stage: Arc<StagingArea>,
}

/// What the workers share.
struct Run {
    job: Job,
    state: Mutex<State>,
    /// The next frame may be written, or no more will be.
    turned: Condvar,
    /// A worker has ended, or has seen that all must.
    ended: Condvar,
    /// The same for every chunk of zeros of one length.
    zeros: Mutex<HashMap<usize, Arc<Vec<u8>>>>,
}

struct State {
    writer: Option<CoreWriter>,
    /// The next chunk to be compressed, and the first that was taken from the back.
    front: u64,
    back: u64,
    /// The next to be written to the file.
    turn: u64,
    /// Those from the back that have not arrived.
    under_way: Vec<Range<u64>>,
    stop: Option<Stop>,
    /// Nobody waits for the workers any more; those that still hang give their compressors' places back when they return.
    over: bool,
    active: usize,
    /// Workers at a chunk, by kind: compressing, putting aside.
    busy: [usize; 2],
    moved: Instant,
}

impl State {
    fn is_over(&self) -> bool {
        self.over || self.stop.is_some()
    }
}

/// How it ended.
pub struct Ended {
    /// The file.
    pub writer: CoreWriter,
    /// The first chunk that is not in the file.
    pub turn: u64,
    /// The first chunk of those put aside.
    pub back: u64,
    /// Chunks behind `back` that did not arrive.
    pub lost: Vec<Range<u64>>,
    /// Why it ended before the chunks did.
    pub stop: Option<Stop>,
}

/// No byte for so long: a page of a mount that is dead, or that somebody keeps waiting.
const STALL: Duration = Duration::from_secs(20);
/// After so long without a byte the workers' compressors are lent to others.
const SLOW: Duration = Duration::from_secs(2);
/// So many chunks are copied into memory at once: most of them may be holes.
const BATCH: u64 = 64;
/// How often the run is looked after.
const LOOK: Duration = Duration::from_millis(250);
/// How long workers may take to notice that it is over.
const END_WITHIN: Duration = Duration::from_secs(1);

/// Puts the chunks through. Workers that hang in a read are left behind.
pub fn run(
    job: Job,
    writer: CoreWriter,
    resources: &super::CaptureResources,
    heartbeat: &Heartbeat,
    cancelled: &CancellationToken,
) -> Ended {
    let (front, back) = (job.chunks.start, job.chunks.end);
    let chunks = usize::try_from(back - front).unwrap_or(usize::MAX);
    let asides = match &job.aside {
        Some(aside) if aside.stage.has_raw() => resources.copy_buffers.count().min(chunks),
        Some(_) => resources.copy_buffers.count().min(chunks.div_ceil(BATCH as usize)),
        None => 0,
    };
    let compressors = if job.compress { resources.compressors.count().min(chunks) } else { 0 };
    let state = State {
        writer: Some(writer),
        front,
        back,
        turn: front,
        under_way: Vec::new(),
        stop: None,
        over: false,
        active: 0,
        busy: [0; 2],
        moved: Instant::now(),
    };
    let run = Arc::new(Run {
        job,
        state: Mutex::new(state),
        turned: Condvar::new(),
        ended: Condvar::new(),
        zeros: Mutex::new(HashMap::new()),
    });
    if chunks == 1 && run.job.deadline.is_none() && run.job.compress {
        // The smallest cores are the most frequent ones, and a thread costs as much as they do.
        run.lock().active = 1;
        compress(&run, &resources.compressors);
    }
    for worker in 0..compressors + asides {
        if run.is_over() {
            break;
        }
        run.lock().active += 1;
        let (kept, pool, copy_buffers) =
            (Arc::clone(&run), resources.compressors.clone(), resources.copy_buffers.clone());
        let work = move || if worker < compressors { compress(&kept, &pool) } else { put_aside(&kept, &copy_buffers) };
        if std::thread::Builder::new().name("capture".to_owned()).spawn(work).is_err() {
            let mut state = run.lock();
            state.active -= 1;
            // One is enough to go on.
            if state.active == 0 {
                state.stop = Some(Stop::Failed(Failure::Read(std::io::Error::other("no thread can be started"))));
            }
        }
    }
    let replaced = wait(&run, resources, heartbeat, cancelled);
    let mut state = run.lock();
    state.over = true;
    let hanging = state.busy;
    for (compressors, (before, now)) in
        [&resources.compressors, &resources.copy_buffers].into_iter().zip(replaced.into_iter().zip(hanging))
    {
        compressors.take_back(before);
        compressors.replace(now);
    }
    run.turned.notify_all();
    let writer = state.writer.take().expect("only this function takes the writer, once");
    let lost = std::mem::take(&mut state.under_way);
    Ended { writer, turn: state.turn, back: state.back, lost, stop: state.stop.take() }
}

/// Waits for the workers; returns how many compressors were replaced because their workers were slow.
fn wait(
    run: &Run,
    resources: &super::CaptureResources,
    heartbeat: &Heartbeat,
    cancelled: &CancellationToken,
) -> [usize; 2] {
    let mut state = run.lock();
    let mut stopped_at = None;
    let (mut replaced, mut seen) = ([0; 2], state.turn);
    while state.active > 0 {
        // What takes long in here is the disk's fault, unless the source is the process: then it may be a page's.
        if run.job.deadline.is_some() {
            heartbeat.idle();
        } else if seen != state.turn {
            seen = state.turn;
            heartbeat.tick();
        }
        state = run.ended.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        if state.stop.is_none() {
            state.stop = if cancelled.is_cancelled() {
                Some(Stop::Failed(Failure::Cancelled))
            } else if run.job.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                Some(Stop::Truncation(Truncation::MaxHold))
            } else if state.moved.elapsed() >= STALL {
                Some(Stop::Truncation(Truncation::Stalled))
            } else {
                None
            };
        }
        if replaced == [0; 2] && run.job.deadline.is_some() && state.moved.elapsed() >= SLOW {
            replaced = state.busy;
            resources.compressors.replace(replaced[0]);
            resources.copy_buffers.replace(replaced[1]);
        }
        if state.stop.is_some() {
            run.turned.notify_all();
            if stopped_at.get_or_insert_with(Instant::now).elapsed() > END_WITHIN {
                break;
            }
        }
    }
    heartbeat.tick();
    replaced
}

impl Run {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        let state = self.lock();
        state.is_over() || state.front >= state.back
    }

    fn leave(&self) {
        self.lock().active -= 1;
        self.ended.notify_all();
    }

    /// A worker of this kind is done with its chunk.
    fn done(&self, state: &mut State, kind: usize, compressors: &CompressorPool) {
        state.busy[kind] -= 1;
        if state.over {
            compressors.take_back(1);
        }
    }

    /// The frame of so many zeros.
    fn zeros(&self, length: usize, bench: &mut FrameCompressor) -> std::io::Result<Arc<Vec<u8>>> {
        let mut known = self.zeros.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = known.get(&length) {
            return Ok(Arc::clone(frame));
        }
        let frame = Arc::new(bench.zeros(length, self.job.level)?.to_vec());
        known.insert(length, Arc::clone(&frame));
        Ok(frame)
    }
}

/// Compresses chunks from the front until there are none left.
fn compress(run: &Run, compressors: &CompressorPool) {
    if run.job.aside.is_some() {
        // The disk must not wait for a processor: what goes aside goes faster than what is compressed.
        nice::give_way();
    }
    loop {
        // First the bench and then the chunk: who has a chunk can always finish it, whoever else is waiting.
        let mut bench = compressors.take();
        let number = {
            let mut state = run.lock();
            if state.is_over() || state.front >= state.back {
                break;
            }
            state.busy[0] += 1;
            state.front += 1;
            state.front - 1
        };
        let range = chunk::range(number, run.job.total);
        let part = chunk::framed(&range);
        let length = (part.end - part.start) as u32;
        let unpacked = |error| Stop::Failed(Failure::write(error));
        let zeros;
        let packed = match run.job.source.fill(range.clone(), bench.buffer()) {
            Ok(Filled::Zeros) => match run.zeros(part.end - part.start, &mut bench) {
                Ok(frame) => {
                    zeros = frame;
                    Ok(zeros.as_slice())
                }
                Err(error) => Err(unpacked(error)),
            },
            Ok(Filled::Data) => {
                if number == 0 {
                    let header = bench.buffer()[..HEADER_LEN.min(range.end as usize)].to_vec();
                    if let Some(writer) = &mut run.lock().writer {
                        writer.file.set_header(header);
                    }
                }
                bench.compress(part, run.job.level).map_err(unpacked)
            }
            Err(error) => Err(stop_of(error)),
        };
        let mut state = run.lock();
        while !state.is_over() && state.turn != number {
            state = run.turned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        run.done(&mut state, 0, compressors);
        if state.is_over() {
            break;
        }
        let appended = match (packed, &mut state.writer) {
            (Ok(frame), Some(writer)) => writer.append(frame, length),
            (Err(stop), _) => Err(stop),
            (_, None) => break,
        };
        let is_in = appended.is_ok();
        match appended {
            Ok(()) => {
                state.turn += 1;
                state.moved = Instant::now();
            }
            Err(stop) => state.stop = Some(stop),
        }
        run.turned.notify_all();
        drop(state);
        if let Some(stage) = run.job.done_with.as_ref().filter(|_| is_in) {
            stage.done_with(range, run.job.total);
        }
    }
    run.leave();
}

/// Puts chunks from the back aside until there are none left, or no room.
fn put_aside(run: &Run, copy_buffers: &CompressorPool) {
    let Some(Aside { parked, stage }) = &run.job.aside else { return run.leave() };
    let batch = if stage.has_raw() { 1 } else { BATCH };
    loop {
        if run.job.large_cores.as_ref().is_some_and(LargeCoreLimiter::is_crowded) {
            // Twice written is twice the disk's time, and theirs as well.
            break;
        }
        let mut bench = copy_buffers.take();
        let chunks = {
            let mut state = run.lock();
            if state.is_over() || state.front >= state.back {
                break;
            }
            if stage.has_raw() && !stage.reserve((state.back - 1) * CHUNK, (state.back - state.turn) * CHUNK) {
                break;
            }
            let behind = state.back;
            state.back -= batch.min(behind - state.front);
            let chunks = state.back..behind;
            state.busy[1] += 1;
            state.under_way.push(chunks.clone());
            chunks
        };
        let range = chunks.start * CHUNK..run.job.total.min(chunks.end * CHUNK);
        let put = stage.put(parked, range, bench.buffer());
        let mut state = run.lock();
        run.done(&mut state, 1, copy_buffers);
        match put {
            Ok(()) => {
                state.moved = Instant::now();
                state.under_way.retain(|other| *other != chunks);
            }
            Err(_) if state.is_over() => break,
            Err(error) => state.stop = Some(stop_of(error)),
        }
    }
    run.turned.notify_all();
    run.leave();
}

/// What a read that failed means: what was read before is worth keeping.
fn stop_of(error: SourceError) -> Stop {
    match error {
        SourceError::Gone => {}
        SourceError::Io(error) => tracing::warn!("a core ends where it can't be read: {error}"),
        SourceError::Write(error) => return Stop::Failed(Failure::write(error)),
    }
    Stop::Truncation(Truncation::EndedEarly)
}
