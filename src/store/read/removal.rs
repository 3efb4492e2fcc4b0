//! Writing down that the command deleted cores. A running daemon does so as well when it notices; without one nobody else would,
//! and the next daemon would find files that are gone for no known reason.

use super::connection::open_for_update;
use super::error::QueryError;
use crate::crash::CrashId;
use crate::store::Layout;
use crate::store::columns::RecordedCore;
use coreward_wire::paths::Root;
use rusqlite::params;

/// Records that the cores of these crashes, whose files are gone, were deleted on request.
///
/// # Errors
/// There is no catalog, or it cannot be written.
pub fn mark_removed(root: &Root, ids: &[CrashId]) -> Result<(), QueryError> {
    let path = Layout::new(root).catalog;
    let mut db = open_for_update(&path)?;
    let mut update = || -> rusqlite::Result<()> {
        let transaction = db.transaction()?;
        for id in ids {
            let mut update = transaction.prepare_cached("UPDATE crashes SET core = ?2 WHERE id = ?1 AND core = ?3")?;
            update.execute(params![id, RecordedCore::Removed, RecordedCore::Stored])?;
        }
        transaction.commit()
    };
    update().map_err(|error| QueryError::sqlite(&path, error))
}
