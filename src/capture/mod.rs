//! Memory to file: read, compress, seal. One pass, bounded memory.

mod progress;
mod source;
mod stream;

pub use progress::{Beat, Progress};
pub use source::Source;
pub use stream::{Captured, Failure, Limits, Order, capture};
