//! What an inspection of a crash found. A read that timed out leaves a warning; what a process that is gone cannot tell is missing.

use crate::capture::{CaptureError, Headers};
use crate::crash::auxv::{self, Auxv};
use crate::crash::{ArgumentList, Warning};
use crate::reader::{CrashedStack, RawFacts};
use std::os::fd::OwnedFd;

/// Everything that is known of a crash before anything is decided.
pub(super) struct Evidence {
    /// What the process' memory says of it.
    pub(super) facts: ProcessFacts,
    /// The crashed thread's stack. `None`: the core's headers are missing or not understood, or memory did not answer.
    pub(super) stack: Option<CrashedStack>,
    /// What could not be learnt.
    pub(super) warnings: Vec<Warning>,
}

/// Whether there is a core.
pub(super) enum CoreEvidence {
    /// The process was released before, or the shim that saved the crash had no room for a core.
    Gone,
    /// There is one that cannot be read.
    Unreadable(CaptureError),
    /// It can be captured.
    Ready(CoreInput),
}

/// Where the bytes of a core come from.
pub(super) struct CoreInput {
    /// The core pipe, or the file in which a shim saved the core.
    pub(super) source: OwnedFd,
    /// Bytes that were taken out of the pipe before; the shim keeps them as well.
    pub(super) prefix: Option<OwnedFd>,
    /// ELF header, program headers and notes, whole. `None` where they are not understood or must not be parsed.
    pub(super) headers: Option<Headers>,
    /// The beginning of the headers, where all of them are too long.
    pub(super) beginning: Option<Headers>,
}

/// Facts that only the process' own memory has.
#[derive(Clone, Debug, Default)]
pub(super) struct ProcessFacts {
    /// Command line.
    pub(super) cmdline: ArgumentList,
    /// The auxiliary vector, which no reader has a say in: who may read the core depends on it.
    pub(super) auxv: Auxv,
    /// The same, as the kernel wrote it.
    pub(super) raw_auxv: Vec<u8>,
    /// Build-id of the executable as it is mapped.
    pub(super) exe_build_id: Option<String>,
}

impl ProcessFacts {
    /// The facts that a reader found, with the auxiliary vector.
    pub(super) fn new(found: RawFacts, raw_auxv: Vec<u8>) -> Self {
        let RawFacts { arguments, exe_build_id } = found;
        Self { cmdline: arguments, auxv: auxv::parse(&raw_auxv), raw_auxv, exe_build_id }
    }
}

impl CoreEvidence {
    /// Whether a core can be captured, or could have been.
    pub(super) fn exists(&self) -> bool {
        !matches!(self, Self::Gone)
    }
}
