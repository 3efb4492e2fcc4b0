//! The daemon's side: it writes core files and the catalog, and accounts for their disk space.

mod catalog;
mod charges;
mod command;
mod core_file;
mod counters;
mod error;
mod ledger;
mod lock_holder;
mod module_store;
mod new_bugs;
mod quarantine;
mod quota_handle;
mod recovery;
mod rollup;
mod rows;
mod schema;
mod usage_table;
mod writer;

pub use catalog::Catalog;
pub use core_file::CoreFile;
pub use counters::{Counted, CrashCount};
pub use error::CatalogError;
pub use ledger::{Grant, Ledger};
pub use module_store::{ModuleStore, ModuleUser};
pub use new_bugs::NewBug;
pub use quota_handle::QuotaHandle;
pub use rows::Inserted;
pub use usage_table::ClassUsage;
pub use writer::{CatalogEvent, OpenReport, RecentCore};
