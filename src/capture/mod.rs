//! Memory to file: look, plan, read, compress, seal. Bounded memory, and the process is let go as soon as it is not needed.

mod bench;
mod chunk;
mod direct;
mod engine;
mod gate;
mod kept;
mod memory;
mod peek;
mod plan;
mod progress;
mod sink;
mod source;
mod stage;
mod stream;
mod trim;

pub use bench::Benches;
pub use direct::{Order, Refused, Taken, seal, take};
pub use gate::Gate;
pub use kept::{Kept, KeptFiles};
pub use memory::Memory;
pub use peek::{Head, peek};
pub use progress::{Beat, Progress};
pub use sink::{Failure, Limits, Sink};
pub use source::Source;
pub use stage::{Allowance, Stage};
pub use stream::{Stream, drain};

use crate::crash::Cut;
use crate::elf::ProcessNotes;
use std::sync::Arc;

/// What all captures share.
#[derive(Clone)]
pub struct Tools {
    /// For compressing: one a processor.
    pub benches: Benches,
    /// For copying without compressing: more than one keep a disk busy.
    pub carriers: Benches,
    /// For cores that are too large to be copied into memory.
    pub gate: Gate,
    /// Memory for what was copied and is not compressed yet.
    pub allowance: Allowance,
}

/// A core in a file that has no name yet.
#[derive(Debug)]
pub struct Captured {
    /// The file, and what is reserved for it.
    pub sink: Sink,
    /// Bytes that the core's headers announce, 0 where they could not be read.
    pub expected: u64,
    /// Why it is not whole.
    pub cut: Option<Cut>,
    /// What it was made of, not needed any more when it is published.
    pub stage: Option<Arc<Stage>>,
    /// What the notes say of the process.
    pub notes: Option<ProcessNotes>,
}
