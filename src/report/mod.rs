//! What the daemon reports about crashes and itself: journal entries, metrics and its log.

mod http;
mod journal;
mod log;
mod metrics;

pub use http::serve;
pub use journal::entry;
pub use log::{LogGuard, start as start_log};
pub use metrics::{ErrorKind, Metrics};
