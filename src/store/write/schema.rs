//! The tables of `catalog.db`: creating them, and converting those of an older version.

use super::error::{CatalogError, needs_reopening};
use super::{charges, counters, new_bugs, rows};
use crate::crash::Record;
use crate::store::columns::RecordedCore;
use rusqlite::Connection;
use std::path::Path;
use std::time::Duration;

/// Stored in the file as SQLite's `user_version`, and increased whenever a table changes.
const VERSION: i64 = 2;

/// Statements that stay prepared.
const STATEMENTS: usize = 64;

/// Bytes of the journal that stay when it has been written to the file.
const MAX_JOURNAL: i64 = 8 << 20;

/// How long [`shorten_journal`] waits for readers. The query service pauses for longer.
const SHORTEN_TIMEOUT: Duration = Duration::from_millis(200);
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes the journal to the file and empties it, unless somebody reads for too long. SQLite begins the journal anew only when nobody
/// reads it, so queries that overlap would let it grow for ever.
pub(super) fn shorten_journal(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(SHORTEN_TIMEOUT)?;
    let shortened = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    db.busy_timeout(BUSY_TIMEOUT)?;
    shortened
}

/// Opens the catalog for writing; a file or tables that are missing are created.
pub(super) fn open(path: &Path) -> Result<Connection, CatalogError> {
    let mut db = match open_with_wal(path) {
        // Its index is shared memory, in a file that is mapped. Not every file system can do that (9p, FUSE with direct I/O).
        Err(CatalogError::Sqlite(error)) if needs_reopening(&error) => open_without_wal(path)?,
        opened => opened?,
    };
    // More than there are: with fewer, each row of a storm has some of them parsed again.
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    // With FULL a committed row survives a power failure.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "journal_size_limit", MAX_JOURNAL)?;
    check(&db, path)?;
    let version: i64 = db.query_one("PRAGMA user_version", [], |row| row.get(0))?;
    match version {
        0 => db.execute_batch(&format!("BEGIN; {CRASHES} {COUNTERS} PRAGMA user_version = {VERSION}; COMMIT;"))?,
        1 => convert_version_1(&mut db)?,
        VERSION => {}
        newer => return Err(CatalogError::Version(newer)),
    }
    charges::prepare(&mut db)?;
    counters::prepare(&db)?;
    db.execute_batch(new_bugs::TABLE)?;
    Ok(db)
}

fn open_to_write(path: &Path) -> Result<Connection, CatalogError> {
    let db = Connection::open(path)?;
    // SQLite silently opens a file that it cannot write for reading, and would never try to write again.
    if db.is_readonly("main")? {
        return Err(CatalogError::ReadOnly);
    }
    db.busy_timeout(BUSY_TIMEOUT)?;
    Ok(db)
}

/// With a write-ahead log readers do not block the writer.
fn open_with_wal(path: &Path) -> Result<Connection, CatalogError> {
    let db = open_to_write(path)?;
    // Pages that deleted rows leave can be given back. It must be set before anything is written.
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    // Only an access shows whether that works.
    db.query_one("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(db)
}

/// With a rollback journal. A file that was left with a write-ahead log is converted under an exclusive lock, which needs no shared
/// memory.
fn open_without_wal(path: &Path) -> Result<Connection, CatalogError> {
    let db = open_to_write(path)?;
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    db.pragma_update(None, "journal_mode", "TRUNCATE")?;
    db.pragma_update(None, "locking_mode", "NORMAL")?;
    // The lock is given up at the next access.
    db.query_one("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    tracing::info!(
        "{}: its file system has no shared memory: readers and the daemon wait for each other",
        path.display()
    );
    Ok(db)
}

/// Looks for damage. Of a large file all but the records is checked, which takes a fraction of the time; damage in those is
/// noticed when they are read.
fn check(db: &Connection, path: &Path) -> Result<(), CatalogError> {
    const CHECKED_WHOLE: u64 = 32 << 20;
    let is_large = path.metadata().is_ok_and(|file| file.len() > CHECKED_WHOLE);
    let checks: &[&str] = if is_large { &["sqlite_schema", "crashes", "counters"] } else { &["1"] };
    for table in checks {
        let problem: String = db.query_row(&format!("PRAGMA quick_check({table})"), [], |row| row.get(0))?;
        if problem != "ok" {
            return Err(CatalogError::Damaged(problem));
        }
    }
    Ok(())
}

/// Each crash has a narrow row for lists and filters, and its record in a table of its own. Old crashes of a frequent signature
/// are rolled up into counts in `folded`; `seen` has the ids of those rolled up recently, so that a crash which is offered
/// again is not counted twice.
const CRASHES: &str = "
    CREATE TABLE crashes (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, time_us INTEGER NOT NULL, pid INTEGER NOT NULL, uid INTEGER,
        signal INTEGER, signal_name TEXT NOT NULL, program TEXT NOT NULL, comm TEXT NOT NULL, unit TEXT, user_unit TEXT,
        hostname TEXT NOT NULL, container TEXT, pod TEXT, signature TEXT NOT NULL, keep TEXT NOT NULL, reason TEXT NOT NULL,
        core TEXT NOT NULL, no_core TEXT, truncated INTEGER NOT NULL, stored INTEGER NOT NULL, held_us INTEGER NOT NULL
    );
    CREATE INDEX crashes_by_time ON crashes (time_us);
    CREATE INDEX crashes_by_signature ON crashes (signature, time_us);
    CREATE TABLE records (seq INTEGER PRIMARY KEY, record TEXT NOT NULL);
    CREATE TABLE folded (
        signature TEXT NOT NULL, hostname TEXT NOT NULL, unit TEXT NOT NULL, container TEXT NOT NULL, from_us INTEGER NOT NULL,
        span_us INTEGER NOT NULL, program TEXT NOT NULL, signal_name TEXT NOT NULL, count INTEGER NOT NULL,
        first_us INTEGER NOT NULL, last_us INTEGER NOT NULL,
        PRIMARY KEY (signature, hostname, unit, container, from_us, span_us)
    ) WITHOUT ROWID;
    CREATE INDEX folded_by_time ON folded (last_us);
    CREATE TABLE seen (id INTEGER PRIMARY KEY, folded_us INTEGER NOT NULL);";
const COUNTERS: &str = "
    CREATE TABLE counters (
        hostname TEXT NOT NULL, program TEXT NOT NULL, signal TEXT NOT NULL, core_exists INTEGER NOT NULL,
        count INTEGER NOT NULL, PRIMARY KEY (hostname, program, signal, core_exists)
    ) WITHOUT ROWID;";

/// Version 1 had the record in the crash's row, and no signatures. A record that cannot be parsed is lost, but remains counted.
fn convert_version_1(db: &mut Connection) -> Result<(), CatalogError> {
    let transaction = db.transaction()?;
    transaction.execute_batch(&format!(
        "ALTER TABLE crashes RENAME TO old; DROP INDEX IF EXISTS crashes_by_time; {CRASHES} {}",
        charges::TABLES
    ))?;
    {
        let mut query = transaction.prepare("SELECT record, core FROM old ORDER BY rowid")?;
        let mut old_rows = query.query([])?;
        while let Some(row) = old_rows.next()? {
            let (json, core): (String, RecordedCore) = (row.get("record")?, row.get("core")?);
            match serde_json::from_str::<Record>(&json) {
                Ok(record) => {
                    rows::add_row(&transaction, &record, core)?;
                }
                Err(error) => tracing::warn!("catalog: a record of layout 1 cannot be parsed and is dropped: {error}"),
            }
        }
    }
    transaction.execute_batch(&format!("DROP TABLE old; PRAGMA user_version = {VERSION};"))?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests;
