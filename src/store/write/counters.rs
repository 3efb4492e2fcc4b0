//! The counters behind `coredump_process_count`. Crashed processes choose their host and program names, so the number of label
//! sets is bounded, each principal has a share of them, and what does not fit is counted as `other`. A set that leaves is added to
//! `other`: the sum of all counters never falls.

use super::error::CatalogError;
use crate::crash::{Record, text};
use crate::store::columns::{get_unsigned, to_signed};
use nix::sys::utsname::uname;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

/// One counter of `coredump_process_count`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrashCount {
    /// Host name of the crashed processes.
    pub hostname: String,
    /// [`Record::program`].
    pub program: String,
    /// Name of the signal, without `SIG`.
    pub signal: String,
    /// Whether a core was stored.
    pub core_exists: bool,
    /// The number of crashes.
    pub count: u64,
    /// When the newest of them happened, in microseconds since the epoch; 0 if it is unknown.
    pub last_us: u64,
}

/// How a crash changed the counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The counter that it was counted in, with the one crash.
    pub raised: CrashCount,
    /// A counter that left for it, with all of its crashes: they are counted as [`CrashCount::other`] from now on.
    pub left: Option<CrashCount>,
    /// It is the first crash of its signature.
    pub new_bug: bool,
}

impl CrashCount {
    /// The counter that these crashes are in when they have none of their own.
    #[must_use]
    pub fn other(&self) -> Self {
        Self { hostname: OTHER.to_owned(), program: OTHER.to_owned(), ..self.clone() }
    }

    fn is_other(&self) -> bool {
        self.hostname == OTHER && self.program == OTHER
    }
}

const OTHER: &str = "other";
/// The most bytes of a host or program name, which become labels of a metric.
const MAX_LABEL: usize = 256;
/// The most label sets in all.
const MAX_SETS: i64 = 2000;
/// Of those `other` may need two for each signal.
const MAX_NAMED: i64 = MAX_SETS - 2 * 64;
/// The most label sets of one principal.
const SHARE: i64 = MAX_NAMED / 4;
/// The most label sets with the name of another host: who has a UTS namespace chooses it.
const MAX_FOREIGN: i64 = MAX_NAMED / 2;
/// A set does not leave for another one of its own principal before it has not been raised for this long. So a flood of names
/// is counted as `other`, and not one set after the other.
const IDLE_US: i64 = 3_600_000_000;

/// Adds the columns that earlier versions did not have, and lets the sets leave that are too many.
pub(super) fn prepare(db: &Connection) -> Result<(), CatalogError> {
    let has_columns: bool =
        db.query_one("SELECT count(*) > 0 FROM pragma_table_info('counters') WHERE name = 'principal'", [], |row| {
            row.get(0)
        })?;
    if !has_columns {
        db.execute_batch(
            "ALTER TABLE counters ADD COLUMN principal TEXT NOT NULL DEFAULT '';
             ALTER TABLE counters ADD COLUMN foreign_host INTEGER NOT NULL DEFAULT 0;
             ALTER TABLE counters ADD COLUMN raised_us INTEGER NOT NULL DEFAULT 0;",
        )?;
    }
    for _ in MAX_NAMED..number_of(db, ALL)? {
        if let Some(victim) = least_recent(db, ALL, None, i64::MAX)? {
            leave(db, &victim)?;
        }
    }
    Ok(())
}

/// Adds one to the crash's counter.
pub(super) fn count(db: &Transaction<'_>, record: &Record) -> Result<Counted, CatalogError> {
    let label = |name: &str| text::cut(name, MAX_LABEL).to_owned();
    let mut raised = CrashCount {
        hostname: label(&record.hostname),
        program: label(&record.program()),
        signal: record.signal_name.clone(),
        core_exists: record.core.is_stored(),
        count: 1,
        last_us: record.time_us,
    };
    let now = to_signed(record.time_us);
    if raise(db, &raised, now)? {
        return Ok(Counted { raised, left: None, new_bug: false });
    }
    let principal = record.answering().0.to_string();
    let is_foreign = uname().is_ok_and(|host| *host.nodename() != *raised.hostname);
    let left = match make_room(db, &principal, is_foreign, now)? {
        Room::Free => None,
        Room::Left(left) => Some(left),
        Room::None => {
            raised = raised.other();
            None
        }
    };
    if !raised.is_other() || !raise(db, &raised, now)? {
        let principal = if raised.is_other() { "" } else { &principal };
        db.prepare_cached(
            "INSERT INTO counters (hostname, program, signal, core_exists, count, principal, foreign_host, raised_us)
             VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7)",
        )?
        .execute(params![
            raised.hostname,
            raised.program,
            raised.signal,
            raised.core_exists,
            principal,
            is_foreign && !raised.is_other(),
            now
        ])?;
    }
    Ok(Counted { raised, left, new_bug: false })
}

/// Adds to a counter; `false` if there is none with these labels.
fn raise(db: &Connection, counter: &CrashCount, now: i64) -> Result<bool, CatalogError> {
    let raised = db
        .prepare_cached(
            "UPDATE counters SET count = count + ?5, raised_us = max(raised_us, ?6)
             WHERE hostname = ?1 AND program = ?2 AND signal = ?3 AND core_exists = ?4",
        )?
        .execute(params![
            counter.hostname,
            counter.program,
            counter.signal,
            counter.core_exists,
            to_signed(counter.count),
            now
        ])?;
    Ok(raised > 0)
}

enum Room {
    /// There is room for one more label set.
    Free,
    /// Since this one left.
    Left(CrashCount),
    /// There is none.
    None,
}

const ALL: &str = "NOT (hostname = 'other' AND program = 'other')";
const FOREIGN: &str = "foreign_host AND NOT (hostname = 'other' AND program = 'other')";

/// Makes room for a set of `principal`'s. It takes it from whoever has most of what is full.
fn make_room(db: &Connection, principal: &str, is_foreign: bool, now: i64) -> Result<Room, CatalogError> {
    let own: i64 = db
        .prepare_cached("SELECT count(*) FROM counters WHERE principal = ?1")?
        .query_one([principal], |row| row.get(0))?;
    let full = if own >= SHARE {
        Some((ALL, Some(principal.to_owned())))
    } else if is_foreign && number_of(db, FOREIGN)? >= MAX_FOREIGN {
        Some((FOREIGN, largest(db, FOREIGN)?))
    } else if number_of(db, ALL)? >= MAX_NAMED {
        Some((ALL, largest(db, ALL)?))
    } else {
        None
    };
    let Some((sets, payer)) = full else { return Ok(Room::Free) };
    let raised_before = if payer.as_deref() == Some(principal) { now.saturating_sub(IDLE_US) } else { i64::MAX };
    let Some(victim) = least_recent(db, sets, payer.as_deref(), raised_before)? else { return Ok(Room::None) };
    leave(db, &victim)?;
    Ok(Room::Left(victim))
}

fn number_of(db: &Connection, sets: &str) -> Result<i64, CatalogError> {
    Ok(db.prepare_cached(&format!("SELECT count(*) FROM counters WHERE {sets}"))?.query_one([], |row| row.get(0))?)
}

/// The principal with most of these sets.
fn largest(db: &Connection, sets: &str) -> Result<Option<String>, CatalogError> {
    let query = format!(
        "SELECT principal FROM counters WHERE {sets} GROUP BY principal ORDER BY count(*) DESC, principal LIMIT 1"
    );
    Ok(db.prepare_cached(&query)?.query_row([], |row| row.get("principal")).optional()?)
}

/// The set that was not raised for the longest time; of `principal`'s, if there is one.
fn least_recent(
    db: &Connection,
    sets: &str,
    principal: Option<&str>,
    raised_before: i64,
) -> Result<Option<CrashCount>, CatalogError> {
    let query = format!(
        "SELECT hostname, program, signal, core_exists, count, raised_us FROM counters
         WHERE {sets} AND (?1 IS NULL OR principal = ?1) AND raised_us <= ?2
         ORDER BY raised_us, hostname, program LIMIT 1"
    );
    Ok(db.prepare_cached(&query)?.query_row(params![principal, raised_before], read).optional()?)
}

/// Moves the crashes of a set to `other`.
fn leave(db: &Connection, set: &CrashCount) -> Result<(), CatalogError> {
    db.prepare_cached(
        "DELETE FROM counters WHERE hostname = ?1 AND program = ?2 AND signal = ?3 AND core_exists = ?4",
    )?
    .execute(params![set.hostname, set.program, set.signal, set.core_exists])?;
    let other = set.other();
    db.prepare_cached(
        "INSERT INTO counters (hostname, program, signal, core_exists, count, raised_us) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET count = count + excluded.count, raised_us = max(raised_us, excluded.raised_us)",
    )?
    .execute(params![
        other.hostname,
        other.program,
        other.signal,
        other.core_exists,
        to_signed(other.count),
        to_signed(other.last_us)
    ])?;
    Ok(())
}

fn read(row: &Row<'_>) -> rusqlite::Result<CrashCount> {
    Ok(CrashCount {
        hostname: row.get("hostname")?,
        program: row.get("program")?,
        signal: row.get("signal")?,
        core_exists: row.get("core_exists")?,
        count: get_unsigned(row, "count")?,
        last_us: get_unsigned(row, "raised_us")?,
    })
}

/// All counters.
pub(super) fn counts(db: &Connection) -> Result<Vec<CrashCount>, CatalogError> {
    let mut query = db.prepare("SELECT hostname, program, signal, core_exists, count, raised_us FROM counters")?;
    let counts = query.query_map([], read)?;
    Ok(counts.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests;
