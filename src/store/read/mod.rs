//! The side of the command and of the query service: it reads the catalog, or the core files where the user may not read the catalog, and writes down which
//! cores it deleted.

mod connection;
mod crash_row;
mod error;
mod filter;
mod follow;
mod groups;
mod journal_match;
mod listed;
mod query;
mod removal;
mod stored_cores;
mod top;
mod view;

pub use crash_row::{CrashRow, for_each_row};
pub use error::QueryError;
pub use filter::{Filter, Meaning};
pub use follow::Follower;
pub use groups::{Examples, Group, Occurrence, ProcessOwner, groups, occurrences, signatures_named_before};
pub use journal_match::{MATCH_FIELDS, field_of_match};
pub use listed::{CoreState, Listed};
pub use query::{all_named, count_crashes, find, find_all, list, may_read_catalog, meaning_among, median_time};
pub use removal::mark_removed;
pub use stored_cores::{StoredCore, least_valuable, stored_cores};
pub use top::{Tally, TallyBy, TallyCounter, tally};
pub use view::{CatalogView, CrashSummary, MAX_GROUPS, Page, Position, Selection, UsageBy, UsageShare, Viewer};
