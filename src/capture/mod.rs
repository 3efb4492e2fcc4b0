//! Memory to file: look, plan, read, compress, seal. Bounded memory, and the process is let go as soon as it is not needed.

mod checkpoint;
mod chunk;
mod compressor_pool;
mod core_stream;
mod core_writer;
mod engine;
mod health;
mod large_core_limiter;
mod peek;
mod plan;
mod process_memory;
mod snapshot;
mod staging;
mod stream;
mod trim;

pub use checkpoint::{CaptureCheckpoint, CheckpointFiles};
pub use compressor_pool::CompressorPool;
pub use core_stream::StreamReader;
pub use core_writer::{CoreWriter, Failure, Limits};
pub use health::{HealthMonitor, Heartbeat};
pub use large_core_limiter::LargeCoreLimiter;
pub use peek::{Head, peek};
pub use process_memory::{LiveMemory, ProcessMemory};
pub use snapshot::{Snapshot, SnapshotError, SnapshotRequest, seal, snapshot};
pub use staging::{MemoryBudget, StagingArea};
pub use stream::{Stream, drain};

use crate::crash::Truncation;
use crate::elf::ProcessNotes;
use std::sync::Arc;

/// What all captures share.
#[derive(Clone)]
pub struct CaptureResources {
    /// For compressing: one a processor.
    pub compressors: CompressorPool,
    /// For copying without compressing: more than one keep a disk busy.
    pub copy_buffers: CompressorPool,
    /// For cores that are too large to be copied into memory.
    pub large_cores: LargeCoreLimiter,
    /// Memory for what was copied and is not compressed yet.
    pub memory_budget: MemoryBudget,
}

/// A core in a file that has no name yet.
#[derive(Debug)]
pub struct CapturedCore {
    /// The file, and what is reserved for it.
    pub writer: CoreWriter,
    /// Bytes that the core's headers announce, 0 where they could not be read.
    pub expected: u64,
    /// Why it is not whole.
    pub cut: Option<Truncation>,
    /// What it was made of, not needed any more when it is published.
    pub stage: Option<Arc<StagingArea>>,
    /// What the notes say of the process.
    pub notes: Option<ProcessNotes>,
}
