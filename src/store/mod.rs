//! Core files and the catalog: `write` is the daemon's side, `read` the commands' side, and neither uses the other.

mod access_list;
mod columns;
mod core_dir;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod format;
mod layout;
mod memory;
mod pin;
mod read;
#[cfg(test)]
mod tests;
mod volume;
mod write;

pub use core_dir::{core_file_name, delete_core};
pub use layout::Layout;
pub use memory::{memory_of_the_unit, memory_of_this_process};
pub use pin::{is_pinned, lock_for_reading, set_pinned};
pub use read::{
    CoreState, CrashRow, Filter, Follower, Group, Listed, MATCH_FIELDS, Meaning, Occurrence, QueryError, StoredCore,
    Tally, TallyBy, count_crashes, field_of_match, find, find_all, for_each_row, groups, least_valuable, list,
    mark_removed, median_time, occurrences, stored_cores, tally,
};
pub use volume::{SHARE_OF_MEMORY, Volume};
pub use write::{
    Catalog, CatalogError, CatalogEvent, CoreFile, Counted, CrashCount, Grant, Inserted, Ledger, NewBug, OpenReport,
    QuotaHandle, RecentCore,
};
