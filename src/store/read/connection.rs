//! Opening the catalog for a command.

use super::error::QueryError;
use crate::store::Layout;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pages that a reader keeps. A list reads each page once: more pages would be allocated only to be freed at the end, and the two
/// threads of a long list would wait for each other's allocations.
const CACHE_PAGES: i64 = 64;

/// How long to wait for the daemon's transactions, which take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the catalog read-only.
pub(super) fn open(path: &Path) -> Result<Connection, QueryError> {
    check_is_file(path)?;
    let journal = PathBuf::from(format!("{}-wal", path.display()));
    let opened = match open_and_probe(path) {
        // Without a journal nobody is writing, and a user who may not create one can read without it.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) && !journal.exists() => {
            open_and_probe(format!("file:{}?immutable=1", path.display()))
        }
        opened => opened,
    };
    opened.map_err(|error| QueryError::sqlite(path, error))
}

/// Opens an existing catalog for writing, beside a daemon that may be writing it too.
pub(super) fn open_for_update(path: &Path) -> Result<Connection, QueryError> {
    check_is_file(path)?;
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(BUSY_TIMEOUT)?;
        Ok(db)
    };
    open().map_err(|error| QueryError::sqlite(path, error))
}

fn check_is_file(path: &Path) -> Result<(), QueryError> {
    if path.try_exists().is_ok_and(|exists| !exists) {
        return Err(QueryError::NoCatalog(path.to_owned()));
    }
    // The daemon's user owns the directory and could put something else there for root to open.
    if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return Err(QueryError::NotAFile(path.to_owned()));
    }
    Ok(())
}

/// SQLite opens a file only when it first reads from it.
fn open_and_probe(path: impl AsRef<Path>) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.pragma_update(None, "cache_size", CACHE_PAGES)?;
    db.query_one("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(db)
}

/// Opens the catalog; `None` if this user may not read it. Only root and members of adm may; other users see the crashes
/// whose core files they can read.
pub(super) fn open_if_allowed(layout: &Layout) -> Result<Option<Connection>, QueryError> {
    match open(&layout.catalog) {
        Err(QueryError::Sqlite { error, .. })
            if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) && layout.catalog.exists() =>
        {
            Ok(None)
        }
        opened => opened.map(Some),
    }
}
