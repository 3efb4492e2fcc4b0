//! The commands' side: it reads the catalog, and the core files where the user may not read the catalog.

mod connection;
mod crash_row;
mod error;
mod filter;
mod groups;
mod listed;
mod query;
mod stored_cores;

pub use crash_row::{CrashRow, for_each_row};
pub use error::QueryError;
pub use filter::Filter;
pub use groups::{Group, Occurrence, groups, occurrences};
pub use listed::{CoreState, Listed};
pub use query::{count_crashes, find, list, median_time};
pub use stored_cores::{StoredCore, least_valuable, stored_cores};
