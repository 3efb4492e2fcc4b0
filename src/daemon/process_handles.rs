//! The descriptors that came with an offer, by what they are.

use crate::capture::{LiveFiles, TrustedFileSystems};
use coreward_wire::FdKind;
use std::fs::File;
use std::os::fd::OwnedFd;

/// Open files of a crashed process, opened by its shim. What the shim could not open is missing.
#[derive(Debug, Default)]
pub(super) struct ProcessHandles {
    /// The process itself.
    pub(super) pidfd: Option<OwnedFd>,
    /// `/proc/PID/mem`.
    pub(super) mem: Option<File>,
    /// `/proc/PID/auxv`.
    pub(super) auxv: Option<File>,
    /// `/proc/PID/cmdline`.
    pub(super) cmdline: Option<File>,
    /// `/proc/PID/maps`.
    pub(super) maps: Option<File>,
    /// `/proc/PID/pagemap`.
    pub(super) pagemap: Option<File>,
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
    /// Sorts the descriptors of a message.
    pub(super) fn new(descriptors: Vec<(FdKind, OwnedFd)>) -> Self {
        let mut handles = Self::default();
        handles.add(descriptors);
        handles
    }

    /// Adds the descriptors of a later message; one that was there already is replaced.
    pub(super) fn add(&mut self, descriptors: Vec<(FdKind, OwnedFd)>) {
        for (kind, fd) in descriptors {
            match kind {
                FdKind::Pidfd => self.pidfd = Some(fd),
                FdKind::Mem => self.mem = Some(fd.into()),
                FdKind::Auxv => self.auxv = Some(fd.into()),
                FdKind::Cmdline => self.cmdline = Some(fd.into()),
                FdKind::Maps => self.maps = Some(fd.into()),
                FdKind::Pagemap => self.pagemap = Some(fd.into()),
                FdKind::Head => self.prefix = Some(fd),
                FdKind::CheckpointFile => self.checkpoint.file = Some(fd),
                FdKind::CheckpointMemory => self.checkpoint.memory = Some(fd),
                FdKind::CheckpointSpill => self.checkpoint.spill = Some(fd),
            }
        }
    }

    /// Other descriptors of the files through which the memory is read. `None`: it cannot be.
    pub(super) fn share_memory(&self, trusted: TrustedFileSystems) -> Option<LiveFiles> {
        let share = |file: &Option<File>| file.as_ref().and_then(|file| file.try_clone().ok());
        let mem = share(&self.mem)?;
        Some(LiveFiles { mem, pagemap: share(&self.pagemap), maps: share(&self.maps), trusted })
    }
}
