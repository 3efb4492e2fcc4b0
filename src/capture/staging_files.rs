//! The files of a staging area, as whoever copies a process into them sees them.

use std::fs::File;

/// Descriptors of a staging area's files.
#[derive(Debug)]
pub struct StagingFiles {
    /// The file in memory.
    pub memory: File,
    /// Bytes that may be copied to the file in memory. A process that somebody else writes to can have more pages by then than were
    /// there when memory was reserved for them.
    pub memory_limit: u64,
    /// The file on disk, twice: bypassing the page cache, and using it.
    pub spill: Option<[File; 2]>,
}

/// What became of a chunk that was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredChunk {
    /// Bytes that it takes on disk.
    pub on_disk: u64,
    /// The disk has refused some of it, which is in memory now.
    pub refused: bool,
}
