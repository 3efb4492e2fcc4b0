//! From the memory of a crashed process to a core file.
//!
//! The kernel keeps a crashed process, its memory and its /proc entries until its dump is read; the process is *parked*.
//! [`snapshot()`] copies the memory while the process is parked, and [`finalize()`] completes the file when it has been released.
//! If the memory cannot be used, [`drain()`] reads the core from the kernel's pipe. All of it uses bounded memory, and releases the
//! process as soon as possible.

mod aligned_buffer;
mod checkpoint;
mod chunk;
mod chunk_copier;
mod compressor_pool;
mod core_stream;
mod core_writer;
mod drain;
mod engine;
mod engine_job;
mod error;
mod finalize;
mod frame_compressor;
mod headers;
mod health;
mod holes;
mod large_core_limiter;
mod memory_budget;
mod page_access;
mod parked;
mod peek;
mod plan;
mod priority;
mod process_image;
mod process_memory;
mod snapshot;
mod sparse;
mod spill_file;
mod staging;
mod staging_files;
mod truncate;
mod workers;
mod write_depth;

pub use aligned_buffer::AlignedBuffer;
pub use checkpoint::{CaptureCheckpoint, CheckpointFiles};
pub use chunk::{CHUNK_LEN, CoreSource, RangeData, SourceError};
pub use chunk_copier::ChunkCopier;
pub use compressor_pool::CompressorPool;
pub use core_stream::CoreStream;
pub use core_writer::{CoreLimits, CoreWriter};
pub use drain::{DrainRequest, drain};
pub use error::CaptureError;
pub use finalize::finalize;
pub use headers::{Headers, HeadersGrant};
pub use health::{HealthMonitor, Heartbeat};
pub use holes::Holes;
pub use large_core_limiter::LargeCoreLimiter;
pub use memory_budget::MemoryBudget;
pub use page_access::{MountLists, kernel_internal};
pub use parked::{ParkedImage, ParkedProcess};
pub use peek::{PeekedHeaders, peek_arrived_headers, peek_headers};
pub use plan::{CapturePlan, PlanSummary};
pub use process_image::ProcessImage;
pub use process_memory::{LiveFiles, LiveMemory, MissingPages};
pub use snapshot::{Snapshot, SnapshotError, SnapshotRequest, snapshot};
pub use staging::StagingArea;
pub use staging_files::{StagingFiles, StoredChunk};

use crate::crash::Truncation;
use crate::elf::ProcessNotes;
use std::sync::Arc;

/// What all captures share.
#[derive(Clone)]
pub struct CaptureResources {
    /// Compressors for parked processes, about one per processor. They may wait for memory that does not answer.
    pub compressors: CompressorPool,
    /// As many compressors for processes that have been released.
    pub finalizers: CompressorPool,
    /// Permits to copy without compressing, as many as keep a disk busy.
    pub copy_buffers: CompressorPool,
    /// Admits cores that are too large to be copied into memory.
    pub large_cores: LargeCoreLimiter,
    /// Memory for what is copied and not compressed yet.
    pub memory_budget: MemoryBudget,
}

/// A core in a file that has no name yet.
#[derive(Debug)]
pub struct CapturedCore {
    /// The file, and the disk space that is reserved for it.
    pub writer: CoreWriter,
    /// Length of the core according to its headers, in bytes; 0 if they could not be read.
    pub expected_len: u64,
    /// Why the core is not complete.
    pub truncation: Option<Truncation>,
    /// What the core was made from, to be freed when it is published.
    pub staging: Option<Arc<StagingArea>>,
    /// What the notes say about the process.
    pub notes: Option<ProcessNotes>,
}
