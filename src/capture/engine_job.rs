//! What the engine is asked to do.

use super::chunk::CoreSource;
use super::large_core_limiter::LargeCoreLimiter;
use super::parked::ParkedImage;
use super::staging::StagingArea;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// What one run of the engine does.
pub(super) struct EngineJob {
    /// Where the bytes come from.
    pub source: Arc<dyn CoreSource>,
    /// Whether chunks are compressed, from the front.
    pub compress: bool,
    /// If other large cores wait here, nothing more is spilled to disk.
    pub limiter: Option<LargeCoreLimiter>,
    /// Where chunks from the back are copied; `None`: all are compressed.
    pub spill: Option<SpillTarget>,
    /// The staging area that frees a chunk when it is in the file.
    pub free_from: Option<Arc<StagingArea>>,
    /// The chunks, by number.
    pub chunks: Range<u64>,
    /// Length of the core, in bytes.
    pub total_len: u64,
    /// Level of compression.
    pub level: i32,
    /// When the process has to be released. `None`: it has been released.
    pub deadline: Option<Instant>,
}

/// What is spilled, and where to.
#[derive(Clone)]
pub(super) struct SpillTarget {
    /// The core of the process.
    pub image: Arc<dyn ParkedImage>,
    /// The files for it.
    pub staging: Arc<StagingArea>,
}
