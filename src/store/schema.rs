//! The tables of `catalog.db`.

use super::catalog::CatalogError;
use crate::crash::{CrashId, Record};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::path::Path;
use std::time::Duration;

/// Raised when a table changes its shape.
const VERSION: i64 = 1;
/// A program name in a counter is cut to this: it is a label of a metric.
const MAX_LABEL: usize = 256;
/// Label sets that are kept apart. Host and program names are the crashed processes' own text: what comes after this many
/// is counted under "other", so that a scrape stays bounded.
const MAX_COUNTERS: i64 = 2000;

/// Rows that are kept. A row takes one to ten KiB.
const MAX_ROWS: i64 = 500_000;

/// One counter of `coredump_process_count`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count {
    /// Host name of the crashed process.
    pub hostname: String,
    /// Path of the program.
    pub program: String,
    /// Signal, without `SIG`.
    pub signal: String,
    /// Whether a core was stored.
    pub core_exists: bool,
    /// How many.
    pub count: u64,
}

/// Opens the file, making it and its tables where they are missing.
pub(super) fn open(path: &Path) -> Result<Connection, CatalogError> {
    let db = Connection::open(path)?;
    // SQLite falls back to reading where it may not write, and would never try again.
    if db.is_readonly("main")? {
        return Err(CatalogError::ReadOnly);
    }
    db.busy_timeout(Duration::from_secs(5))?;
    // Readers never stop the writer (WAL), and an answer "done" survives a power cut (FULL).
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    let sound: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(CatalogError::Damaged(sound));
    }
    let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match version {
        0 => create(&db)?,
        VERSION => {}
        newer => return Err(CatalogError::Version(newer)),
    }
    Ok(db)
}

fn create(db: &Connection) -> Result<(), CatalogError> {
    db.execute_batch(&format!(
        "BEGIN;
         CREATE TABLE crashes (
             id TEXT PRIMARY KEY, time_us INTEGER NOT NULL, pid INTEGER NOT NULL, uid INTEGER, signal INTEGER,
             program TEXT NOT NULL, comm TEXT NOT NULL, unit TEXT, core TEXT NOT NULL, record TEXT NOT NULL
         );
         CREATE INDEX crashes_by_time ON crashes (time_us);
         CREATE TABLE counters (
             hostname TEXT NOT NULL, program TEXT NOT NULL, signal TEXT NOT NULL, core_exists INTEGER NOT NULL,
             count INTEGER NOT NULL, PRIMARY KEY (hostname, program, signal, core_exists)
         ) WITHOUT ROWID;
         PRAGMA user_version = {VERSION};
         COMMIT;"
    ))?;
    Ok(())
}

/// Adds a row and counts it; `None` where the crash is there already, else the counter it was counted under.
pub(super) fn insert(db: &Transaction<'_>, record: &Record) -> Result<Option<Count>, CatalogError> {
    let core = if record.core.is_stored() { "stored" } else { "none" };
    let program = record.program();
    let added = db
        .prepare_cached(
            "INSERT OR IGNORE INTO crashes (id, time_us, pid, uid, signal, program, comm, unit, core, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            record.id.as_str(),
            i64::try_from(record.time_us).unwrap_or(i64::MAX),
            record.key.pid,
            record.uid,
            record.signal,
            program,
            record.comm,
            record.place.unit,
            core,
            serde_json::to_string(record)?,
        ])?;
    if added == 0 {
        return Ok(None);
    }
    count(db, record, &program).map(Some)
}

fn count(db: &Transaction<'_>, record: &Record, program: &str) -> Result<Count, CatalogError> {
    let label = |text: &str| crate::crash::text::cut(text, MAX_LABEL).to_owned();
    let mut counted = Count {
        hostname: label(&record.hostname),
        program: label(program),
        signal: record.signal_name.clone(),
        core_exists: record.core.is_stored(),
        count: 1,
    };
    let known = db
        .prepare_cached("SELECT 1 FROM counters WHERE hostname=?1 AND program=?2 AND signal=?3 AND core_exists=?4")?
        .query_row(params![counted.hostname, counted.program, counted.signal, counted.core_exists], |_| Ok(()))
        .optional()?;
    if known.is_none() {
        let sets: i64 = db.prepare_cached("SELECT count(*) FROM counters")?.query_row([], |row| row.get(0))?;
        if sets >= MAX_COUNTERS {
            counted.hostname = "other".to_owned();
            counted.program = "other".to_owned();
        }
    }
    db.prepare_cached(
        "INSERT INTO counters (hostname, program, signal, core_exists, count) VALUES (?1, ?2, ?3, ?4, 1)
         ON CONFLICT DO UPDATE SET count = count + 1",
    )?
    .execute(params![counted.hostname, counted.program, counted.signal, counted.core_exists])?;
    Ok(counted)
}

/// Keeps the number of rows bounded: the oldest go, those whose core is still there apart. The counters stay.
pub(super) fn forget_oldest(db: &Transaction<'_>) -> Result<(), CatalogError> {
    db.prepare_cached("DELETE FROM crashes WHERE core != 'stored' AND rowid <= (SELECT max(rowid) FROM crashes) - ?1")?
        .execute([MAX_ROWS])?;
    Ok(())
}

/// All counters.
pub(super) fn counts(db: &Connection) -> Result<Vec<Count>, CatalogError> {
    let mut query = db.prepare("SELECT hostname, program, signal, core_exists, count FROM counters")?;
    let counts = query.query_map([], |row| {
        Ok(Count {
            hostname: row.get(0)?,
            program: row.get(1)?,
            signal: row.get(2)?,
            core_exists: row.get(3)?,
            count: row.get::<_, i64>(4)?.unsigned_abs(),
        })
    })?;
    Ok(counts.collect::<Result<_, _>>()?)
}

/// Says that the core of a crash is no longer there (`evicted`, `missing`).
pub(super) fn mark(db: &Connection, id: &CrashId, core: &str) -> Result<(), CatalogError> {
    db.prepare_cached("UPDATE crashes SET core = ?2 WHERE id = ?1")?.execute(params![id.as_str(), core])?;
    Ok(())
}
