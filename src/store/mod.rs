//! Core files and the catalog: `write` is the daemon's side, `read` the commands' side, and neither uses the other.

mod access_list;
mod bundle;
mod columns;
mod core_dir;
mod file_range;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod format;
mod import_dir;
mod layout;
mod memory;
mod module_dir;
mod pin;
mod read;
#[cfg(test)]
mod tests;
mod volume;
mod write;

pub use bundle::{Bundle, BundleError, BundleWriter};
pub use core_dir::{core_file_name, delete_core};
pub use file_range::FileRange;
pub use import_dir::{ImportDir, ImportError};
pub use layout::{Layout, is_journal_long};
pub use memory::{memory_of_the_unit, memory_of_this_process};
pub use module_dir::{
    MAX_MODULE, StoredModule, build_id_of_name, module_file_name, open_module, stored_modules, unpack_module,
};
pub use pin::{is_pinned, lock_for_reading, set_pinned};
pub use read::{
    CatalogView, CoreState, CrashRow, CrashSummary, Examples, Filter, Follower, Group, Listed, MATCH_FIELDS,
    MAX_GROUPS, Meaning, Occurrence, Page, Position, ProcessOwner, QueryError, Selection, StoredCore, Tally, TallyBy,
    TallyCounter, UsageBy, UsageShare, Viewer, all_named, count_crashes, field_of_match, find, find_all, for_each_row,
    groups, least_valuable, list, mark_removed, may_read_catalog, meaning_among, median_time, occurrences,
    signatures_named_before, stored_cores, tally,
};
pub use volume::{SHARE_OF_MEMORY, Volume};
pub use write::{
    Catalog, CatalogError, CatalogEvent, ClassUsage, CoreFile, Counted, CrashCount, Grant, Inserted, Ledger,
    ModuleStore, ModuleUser, NewBug, OpenReport, QuotaHandle, RecentCore,
};
