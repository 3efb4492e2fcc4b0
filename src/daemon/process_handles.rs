//! The descriptors that came with an offer, by what they are.

use super::owners::UnownedFiles;
use super::process_memory::ProcessMemory;
use crate::reader::{Place, ReaderPool};
use coreward_wire::{FdKind, Offer};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Open files of a crashed process, opened by its shim. What the shim could not open is missing.
#[derive(Debug, Default)]
pub(super) struct ProcessHandles {
    /// The process itself.
    pub(super) pidfd: Option<OwnedFd>,
    /// Its memory.
    pub(super) memory: ProcessMemory,
    /// Mapped files, each with the first address of its module.
    pub(super) modules: Vec<(u64, OwnedFd)>,
    /// Those of which packages are looked up.
    pub(super) unowned: UnownedFiles,
    /// The map of the code that the process compiled at run time.
    pub(super) perf_map: Option<OwnedFd>,
    /// The report that the runtime wrote itself.
    pub(super) runtime_report: Option<OwnedFd>,
    /// The place that the crash has among those that are read and captured.
    pub(super) place: Option<Arc<Place>>,
    /// The beginning of the core, which an earlier daemon had the shim take out of the pipe.
    pub(super) prefix: Option<OwnedFd>,
    /// What an earlier daemon had written of the core when it released the process.
    pub(super) checkpoint: CheckpointHandles,
}

/// The files of a checkpoint.
#[derive(Debug, Default)]
pub(super) struct CheckpointHandles {
    /// The core's file.
    pub(super) file: Option<OwnedFd>,
    /// What of the core is in memory.
    pub(super) memory: Option<OwnedFd>,
    /// What of the core is on disk, uncompressed.
    pub(super) spill: Option<OwnedFd>,
}

impl ProcessHandles {
    /// Sorts the descriptors that came with an offer.
    pub(super) fn new(offer: &Offer, descriptors: Vec<(FdKind, OwnedFd)>) -> Self {
        let mut handles = Self { memory: ProcessMemory::new(offer), ..Self::default() };
        handles.add(descriptors);
        handles
    }

    /// From now on the process may be read.
    pub(super) fn set_place(&mut self, place: Option<Arc<Place>>) {
        if let Some(place) = &place {
            self.memory.set_place(Arc::clone(place));
        }
        self.place = place;
    }

    /// Closes everything. The reader is used again.
    pub(super) fn close(self, readers: &ReaderPool) {
        self.memory.close(readers);
    }

    /// Adds the descriptors of a later message; one that was there already is replaced.
    pub(super) fn add(&mut self, descriptors: Vec<(FdKind, OwnedFd)>) {
        for (kind, fd) in descriptors {
            match kind {
                FdKind::Unknown => drop(fd),
                FdKind::Pidfd => self.pidfd = Some(fd),
                FdKind::Mem => self.memory.add(|files| &mut files.mem, fd),
                FdKind::Auxv => self.memory.set_auxv(fd),
                FdKind::Cmdline => self.memory.add(|files| &mut files.cmdline, fd),
                FdKind::Maps => self.memory.add(|files| &mut files.maps, fd),
                FdKind::Pagemap => self.memory.add(|files| &mut files.pagemap, fd),
                FdKind::Mountinfo => self.memory.add(|files| &mut files.mountinfo, fd),
                FdKind::HostMountinfo => self.memory.add(|files| &mut files.host_mountinfo, fd),
                FdKind::Holes => self.memory.set_holes(fd),
                FdKind::Head => self.prefix = Some(fd),
                FdKind::CheckpointFile => self.checkpoint.file = Some(fd),
                FdKind::CheckpointMemory => self.checkpoint.memory = Some(fd),
                FdKind::CheckpointSpill => self.checkpoint.spill = Some(fd),
            }
        }
    }
}
