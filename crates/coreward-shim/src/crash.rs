//! One crash, from the start of the shim until the daemon has recorded it or the spool has it.

use super::process::CrashedProcess;
use super::warning::ShimWarning;
use coreward_sys::exit_trace::ExitTrace;
use coreward_wire::{FdKind, Offer};
use std::os::fd::OwnedFd;

/// A crash and everything that the shim holds of it.
pub(super) struct Crash {
    /// The offer. Its `warnings` are filled in from [`Self::warnings`] when it is encoded.
    pub(super) offer: Offer,
    pub(super) warnings: Vec<ShimWarning>,
    pub(super) process: CrashedProcess,
    /// The read end of the core pipe. `None` once the process is released.
    pub(super) core: Option<OwnedFd>,
    /// Keeps the process if the kernel stops writing the core before it is released. `None` where that is impossible.
    pub(super) exit_trace: Option<ExitTrace>,
    /// Lets a process go on that was stopped to be dumped.
    pub(super) on_release: Option<Box<dyn FnOnce()>>,
}

impl Crash {
    /// Encodes the offer, for descriptors of these kinds.
    pub(super) fn encode_offer(&mut self, fds: &[FdKind]) -> Vec<u8> {
        self.offer.warnings = self.warnings.iter().map(ShimWarning::to_string).collect();
        self.offer.encode(fds)
    }

    /// Releases the process: the kernel keeps it until every reader has closed the core pipe (`wait_for_dump_helpers`,
    /// fs/coredump.c).
    pub(super) fn release(&mut self) {
        self.core = None;
        self.offer.released = true;
        if let Some(trace) = &self.exit_trace {
            trace.release();
        }
        if let Some(on_release) = self.on_release.take() {
            on_release();
        }
    }

    /// Saves what the daemon captured, for the next daemon: after the release nothing else is left of the process. Replaces the
    /// descriptors of the offer.
    pub(super) fn save_checkpoint(&mut self, checkpoint: Vec<u8>, kinds: Vec<FdKind>, fds: Vec<OwnedFd>) {
        if kinds.len() == fds.len() {
            self.offer.checkpoint = checkpoint;
            self.process.fds = kinds.into_iter().zip(fds).collect();
        }
    }
}
