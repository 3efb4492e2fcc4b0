//! What the daemon reports about crashes and itself: journal entries, metrics and its log.

mod http;
mod in_flight;
mod journal;
mod labelled_crashes;
mod log;
mod metric_factory;
mod metrics;
#[cfg(test)]
mod reference;
mod snapshots;

pub use http::serve;
pub use in_flight::InFlight;
pub use journal::entry;
pub use log::{LogGuard, start as start_log};
pub use metrics::{ErrorKind, Metrics};
