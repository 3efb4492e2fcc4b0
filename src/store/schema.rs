//! The tables of `catalog.db`.

use super::catalog::CatalogError;
use super::fold;
use crate::crash::{CoreOutcome, CrashId, Record};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::path::Path;
use std::time::Duration;

/// Raised when a table changes its shape.
const VERSION: i64 = 2;
/// A program name in a counter is cut to this: it is a label of a metric.
const MAX_LABEL: usize = 256;
/// Label sets that are kept apart. Host and program names are the crashed processes' own text: what comes after this many
/// is counted under "other", so that a scrape stays bounded.
const MAX_COUNTERS: i64 = 2000;

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
    let mut db = Connection::open(path)?;
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
        0 => db.execute_batch(&format!("BEGIN; {CRASHES} {COUNTERS} PRAGMA user_version = {VERSION}; COMMIT;"))?,
        1 => from_version_1(&mut db)?,
        VERSION => {}
        newer => return Err(CatalogError::Version(newer)),
    }
    Ok(db)
}

/// A crash has a narrow row for lists and filters, and its record beside it. What is old of one signature is counted in
/// `folded`; the ids of what was folded lately stand in `seen`, so that a crash which is offered again is not counted again.
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

/// Version 1 had the record in the row and no signatures. A record that can't be read any more is lost; its count is not.
fn from_version_1(db: &mut Connection) -> Result<(), CatalogError> {
    let moving = db.transaction()?;
    moving.execute_batch(&format!(
        "ALTER TABLE crashes RENAME TO old; DROP INDEX IF EXISTS crashes_by_time; {CRASHES}"
    ))?;
    {
        let mut old = moving.prepare("SELECT record, core FROM old ORDER BY rowid")?;
        let mut rows = old.query([])?;
        while let Some(row) = rows.next()? {
            let (json, core): (String, String) = (row.get(0)?, row.get(1)?);
            match serde_json::from_str::<Record>(&json) {
                Ok(record) => {
                    add(&moving, &record, &core)?;
                }
                Err(error) => tracing::warn!("catalog: a record of the older layout can't be read: {error}"),
            }
        }
    }
    moving.execute_batch(&format!("DROP TABLE old; PRAGMA user_version = {VERSION};"))?;
    Ok(moving.commit()?)
}

/// Adds a row and counts it; `None` where the crash is there already, else the counter it was counted under.
pub(super) fn insert(db: &Transaction<'_>, record: &Record) -> Result<Option<Count>, CatalogError> {
    let core = if record.core.is_stored() { "stored" } else { "none" };
    if fold::is_seen(db, &record.id)? || !add(db, record, core)? {
        return Ok(None);
    }
    count(db, record, &record.program()).map(Some)
}

fn add(db: &Transaction<'_>, record: &Record, core: &str) -> Result<bool, CatalogError> {
    let no_core = match record.core.outcome {
        CoreOutcome::None(reason) => Some(reason.name()),
        CoreOutcome::Stored => None,
    };
    let added = db
        .prepare_cached(
            "INSERT OR IGNORE INTO crashes (id, time_us, pid, uid, signal, signal_name, program, comm, unit, user_unit, hostname,
                 container, pod, signature, keep, reason, core, no_core, truncated, stored, held_us)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
        )?
        .execute(params![
            record.id.as_str(),
            signed(record.time_us),
            record.key.pid,
            record.uid,
            record.signal,
            record.signal_name,
            record.program(),
            record.comm,
            record.cgroup.unit,
            record.cgroup.user_unit,
            record.hostname,
            record.cgroup.container,
            record.cgroup.pod,
            record.signature_key().as_str(),
            record.decision.keep.name(),
            record.decision.reason.name(),
            core,
            no_core,
            record.core.truncated.is_some(),
            signed(record.core.stored),
            signed(record.held_us),
        ])?;
    if added == 0 {
        return Ok(false);
    }
    db.prepare_cached("INSERT INTO records (seq, record) VALUES (?1, ?2)")?
        .execute(params![db.last_insert_rowid(), serde_json::to_string(record)?])?;
    Ok(true)
}

/// SQLite's integers have a sign; no time and no size needs the last bit.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
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

/// Says that the core of a crash is no longer there (`evicted`, `missing`, `removed`).
pub(super) fn mark(db: &Connection, id: &CrashId, core: &str) -> Result<(), CatalogError> {
    db.prepare_cached("UPDATE crashes SET core = ?2 WHERE id = ?1")?.execute(params![id.as_str(), core])?;
    Ok(())
}

#[cfg(test)]
mod tests;
