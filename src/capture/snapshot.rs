//! A core out of a parked process: taken while it waits, sealed when it has gone.

use super::chunk;
use super::core_writer::{CoreWriter, Failure, Stop, whole_chunks};
use super::engine::{self, Aside, Job};
use super::health::Heartbeat;
use super::plan::Plan;
use super::process_memory::{LiveMemory, ProcessImage};
use super::staging::StagingArea;
use super::trim::{Watch, trim};
use super::{CaptureResources, CapturedCore};
use crate::crash::Truncation;
use crate::elf::{self, CoreLayout, ProcessNotes};
use crate::store::QuotaHandle;
use coreward_sys::{pidfd, sparse_io, tmpfile};
use nix::sys::stat::Mode;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A core of at most so many bytes that are not zero is copied into memory, which takes a fraction of the time that compressing
/// takes, however far its pages lie apart.
const IN_MEMORY: u64 = 80 << 20;
/// The list of libraries is some hundred small reads.
const LIBRARIES_WITHIN: Duration = Duration::from_millis(500);
/// What comes first is read in this time, or not at all.
const FIRST_WITHIN: Duration = Duration::from_secs(5);

/// What to take, and under what circumstances.
pub struct SnapshotRequest<'a> {
    /// Headers and notes of the core.
    pub head: Vec<u8>,
    /// The process' memory.
    pub memory: LiveMemory,
    /// Its `/proc/PID/maps`.
    pub maps: String,
    /// Where to.
    pub writer: CoreWriter,
    /// Who grants room for what is put aside.
    pub quota: Arc<QuotaHandle>,
    /// Notes, stacks and what a debugger needs, and no more.
    pub stacks_only: bool,
    /// The process, to see whether it was killed meanwhile.
    pub process: Option<OwnedFd>,
    /// Until when the process may be held.
    pub deadline: Instant,
    /// Level of compression.
    pub level: i32,
    /// Pulse of this worker.
    pub heartbeat: &'a Heartbeat,
    /// Whether it was called off.
    pub cancelled: &'a CancellationToken,
}

/// A core that needs its process no more.
pub struct Snapshot {
    pub(super) writer: CoreWriter,
    pub(super) stage: Arc<StagingArea>,
    pub(super) plan: Arc<Plan>,
    /// The first chunk that is not in the file yet.
    pub(super) turn: u64,
    /// Behind the last chunk to be stored.
    pub(super) end: u64,
    /// Chunks that were put aside whole, where it was cut.
    pub(super) aside: Vec<Range<u64>>,
    pub(super) cut: Option<Truncation>,
    pub(super) notes: ProcessNotes,
    pub(super) level: i32,
    /// All of it is in the stage's memory.
    pub(super) in_memory: bool,
}

/// Why the memory can't be taken this way.
pub enum SnapshotError {
    /// The pipe may still have it: the writer is given back.
    Unusable(Box<CoreWriter>),
    /// Nothing can be kept.
    Failed(Failure),
}

/// Copies the core out of the process; when this returns, the process may go.
///
/// # Errors
/// The memory can't be used, or nothing can be kept.
pub fn snapshot(request: SnapshotRequest<'_>, resources: &CaptureResources) -> Result<Snapshot, SnapshotError> {
    let SnapshotRequest { head, maps, writer, quota, .. } = request;
    let memory = Arc::new(request.memory);
    let Ok(layout) = CoreLayout::read(&head) else { return Err(SnapshotError::Unusable(Box::new(writer))) };
    let useful = layout.dump.program.map_or_else(Vec::new, |(at, count)| {
        let memory = Arc::clone(&memory);
        let read = move |address, length| memory.piece(address, length);
        guarded("libraries", LIBRARIES_WITHIN, request.heartbeat, move || elf::link_map(at, count, read))
            .unwrap_or_default()
    });
    let planned = Plan::new(layout, &maps, &useful, |range, found| memory.runs(range, found));
    let Ok(plan) = planned.map(Arc::new) else { return Err(SnapshotError::Unusable(Box::new(writer))) };
    let notes = process_notes(&head);
    let (end, mut cut) = if request.stacks_only {
        (0, Some(Truncation::Stacks))
    } else {
        whole_chunks(plan.layout.total, &writer.limits())
    };
    let small = plan.present <= IN_MEMORY && end > 0;
    let first: u64 = plan.first.iter().map(|range| range.end - range.start).sum();
    let allowed = if small { resources.memory_budget.take(plan.present) } else { None };
    let small = allowed.is_some();
    let stage = match allowed.or_else(|| resources.memory_budget.take(first + head.len() as u64)) {
        Some(allowed) => sparse_io::in_memory("coreward-stage")
            .map(|memory| StagingArea::new(Arc::new(memory), Arc::clone(&quota), Some(allowed))),
        // So many at once that memory is short: on disk then, through the cache.
        None => tmpfile::create(quota.dir().as_fd(), Mode::from_bits_truncate(0o600))
            .map(|file| StagingArea::new(Arc::new(File::from(file)), Arc::clone(&quota), None)),
    };
    let failed = |error| SnapshotError::Failed(Failure::write(error));
    let mut stage = stage.map_err(failed)?;
    stage.memory.write_all_at(&head, 0).map_err(failed)?;
    let tail = plan.tail_range();
    stage.memory.write_all_at(&plan.layout.tail, tail.start).map_err(failed)?;
    // The file is as long as the core, though most of it may be a hole.
    if stage.memory.metadata().is_ok_and(|data| data.len() < plan.layout.total) {
        stage.memory.set_len(plan.layout.total).map_err(failed)?;
    }
    if !small && end > 1 {
        // Without it all is compressed while the process waits.
        if let Err(error) = stage.add_raw() {
            tracing::warn!("nothing can be put aside on disk: {error}");
        }
    }
    let (parked, stage) =
        (Arc::new(ProcessImage { plan: Arc::clone(&plan), memory, head: Arc::clone(&stage.memory) }), Arc::new(stage));
    match take_first(&parked, &stage, resources, request.heartbeat) {
        Ok(()) => {}
        // The pipe may still have what can't be read here.
        Err(Failure::Empty | Failure::Read(_)) => return Err(SnapshotError::Unusable(Box::new(writer))),
        Err(failure) => return Err(SnapshotError::Failed(failure)),
    }
    request.heartbeat.idle();
    let passed = if small { Ok(None) } else { resources.large_cores.pass(request.deadline, request.cancelled) };
    let _passed = passed.map_err(SnapshotError::Failed)?;
    let job = Job {
        source: Arc::clone(&parked) as Arc<dyn chunk::Fill>,
        compress: !small,
        large_cores: (!small).then(|| resources.large_cores.clone()),
        aside: (small || stage.has_raw()).then(|| Aside { parked: Arc::clone(&parked), stage: Arc::clone(&stage) }),
        done_with: None,
        chunks: 0..end,
        total: plan.layout.total,
        level: request.level,
        deadline: Some(request.deadline),
    };
    let ended = engine::run(job, writer, resources, request.heartbeat, request.cancelled);
    if stage.has_raw() {
        stage.set_raw_from(ended.back * chunk::CHUNK);
    }
    match ended.stop {
        Some(Stop::Failed(failure)) => {
            stage.clear();
            return Err(SnapshotError::Failed(failure));
        }
        Some(Stop::Truncation(why)) => cut = Some(why),
        None => {}
    }
    if request.process.is_some_and(|process| !pidfd::is_alive(process.as_fd())) {
        // Pages that were taken from it while it died looked like holes.
        cut = Some(Truncation::EndedEarly);
    }
    let whole = |number: &u64| !ended.lost.iter().any(|lost| lost.contains(number));
    let aside = if ended.lost.is_empty() && ended.turn >= ended.back.min(end) && cut.is_none() {
        Vec::new()
    } else {
        (ended.back..end).filter(whole).map(|number| chunk::range(number, plan.layout.total)).collect()
    };
    Ok(Snapshot {
        writer: ended.writer,
        stage,
        plan,
        turn: ended.turn,
        end,
        aside,
        cut,
        notes,
        level: request.level,
        in_memory: small,
    })
}

/// Copies what comes first.
fn take_first(
    parked: &Arc<ProcessImage>,
    stage: &Arc<StagingArea>,
    resources: &CaptureResources,
    heartbeat: &Heartbeat,
) -> Result<(), Failure> {
    let (parked, stage, copy_buffers) = (Arc::clone(parked), Arc::clone(stage), resources.copy_buffers.clone());
    let copy = move || {
        let mut bench = copy_buffers.take();
        let ranges = parked.plan.first.iter();
        ranges.clone().try_for_each(|range| stage.put_in_memory(&parked, range.clone(), bench.buffer()))
    };
    match guarded("stacks", FIRST_WITHIN, heartbeat, copy) {
        Some(copied) => Ok(copied?),
        // A stack on a dead mount. Others may be there already, and the rest is tried all the same.
        None => {
            resources.copy_buffers.replace(1);
            Ok(())
        }
    }
}

/// Does what may hang in a thread of its own, which is left behind if it does.
fn guarded<T: Send + 'static>(
    name: &str,
    within: Duration,
    heartbeat: &Heartbeat,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    heartbeat.idle();
    let thread = std::thread::Builder::new().name(name.to_owned());
    let started = thread.spawn(move || {
        // Nobody may be waiting any more.
        let _ = sender.send(work());
    });
    let done = started.ok().and_then(|_| receiver.recv_timeout(within).ok());
    heartbeat.tick();
    done
}

pub(super) fn process_notes(head: &[u8]) -> ProcessNotes {
    elf::inspect(head).map(|found| elf::process_notes(head, &found)).unwrap_or_default()
}

/// Makes the file out of what was taken.
///
/// # Errors
/// Nothing can be kept.
pub fn seal(
    taken: Snapshot,
    resources: &CaptureResources,
    heartbeat: &Heartbeat,
    cancelled: &CancellationToken,
) -> Result<CapturedCore, Failure> {
    let Snapshot { mut writer, stage, plan, turn, end, mut aside, mut cut, notes, level, .. } = taken;
    if turn < end && cut.is_none_or(Truncation::is_a_size) {
        let job = Job {
            source: Arc::clone(&stage) as Arc<dyn chunk::Fill>,
            compress: true,
            large_cores: None,
            aside: None,
            done_with: Some(Arc::clone(&stage)),
            chunks: turn..end,
            total: plan.layout.total,
            level,
            deadline: None,
        };
        let ended = engine::run(job, writer, resources, heartbeat, cancelled);
        writer = ended.writer;
        match ended.stop {
            Some(Stop::Failed(failure)) => return Err(failure),
            Some(Stop::Truncation(why)) => {
                cut = Some(why);
                aside = (ended.turn..end).map(|number| chunk::range(number, plan.layout.total)).collect();
            }
            None => {}
        }
    }
    heartbeat.tick();
    if let Some(why) = cut {
        trim(&mut writer, &plan, &stage, &aside, why, resources, level, &Watch { heartbeat, cancelled })?;
    }
    Ok(CapturedCore { writer, expected: plan.layout.total, cut, notes: Some(notes), stage: Some(stage) })
}
