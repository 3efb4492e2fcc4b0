//! A parked process, as a capture sees it. Whoever implements this reads its memory: a reader process (module `reader`).

use super::MissingPages;
use super::chunk::{CoreSource, SourceError};
use super::plan::CapturePlan;
use super::staging_files::{StagingFiles, StoredChunk};
use crate::elf::CoreLayout;
use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// A parked process.
pub trait ParkedProcess: Debug + Send + Sync {
    /// Plans the capture of its core, whose layout is `layout`. `None`: its memory cannot be read.
    fn plan(&self, layout: Arc<CoreLayout>) -> Option<CapturePlan>;

    /// The core as [`Self::plan`] planned it. What is copied out of it goes to `files`.
    ///
    /// # Errors
    /// Nobody can read the process.
    fn open_image(&self, files: StagingFiles) -> io::Result<Arc<dyn ParkedImage>>;
}

/// The core of a parked process, put together when it is read.
pub trait ParkedImage: CoreSource {
    /// Copies all priority ranges of the plan to the staging area's memory.
    ///
    /// # Errors
    /// The process has ended, does not answer, or there is no memory.
    fn store_priority(&self) -> Result<(), SourceError>;

    /// Copies `range`, whole chunks of the core, to the staging area: to its file on disk if it has one, else to its memory.
    ///
    /// # Errors
    /// The process has ended, or there is no room.
    fn store(&self, range: Range<u64>) -> Result<StoredChunk, SourceError>;

    /// Which pages were left out so far.
    fn missing_pages(&self) -> MissingPages;

    /// Nothing is read after this. What hangs in a read returns with an error.
    fn stop(&self);
}
