//! Listing crashes with their records.

use super::connection::{open, open_if_allowed};
use super::error::QueryError;
use super::filter::{Filter, WhereClause};
use super::listed::Listed;
use crate::crash::Record;
use crate::store::Layout;
use crate::store::columns::{RecordedCore, get_unsigned, to_signed};
use crate::store::core_dir::{crash_of_file, open_core};
use crate::store::format;
use coreward_wire::paths::Root;
use rusqlite::{Connection, OptionalExtension};

/// The crashes that `filter` selects, the oldest first.
///
/// # Errors
/// There is no catalog, or it cannot be read.
pub fn list(root: &Root, filter: &Filter) -> Result<Vec<Listed>, QueryError> {
    list_where(root, filter, &WhereClause::new(filter))
}

/// The crashes whose core should be present.
pub(super) fn list_stored(root: &Root) -> Result<Vec<Listed>, QueryError> {
    let filter = Filter::default();
    let mut conditions = WhereClause::new(&filter);
    conditions.and("core = ?", RecordedCore::Stored);
    list_where(root, &filter, &conditions)
}

fn list_where(root: &Root, filter: &Filter, conditions: &WhereClause) -> Result<Vec<Listed>, QueryError> {
    let layout = Layout::new(root);
    match open_if_allowed(&layout)? {
        Some(db) => list_catalog(&db, &layout, filter.sql_limit(), conditions),
        None => Ok(list_readable_cores(&layout, filter)),
    }
}

/// The number of crashes in the catalog.
///
/// # Errors
/// As [`list`].
pub fn count_crashes(root: &Root) -> Result<u64, QueryError> {
    let layout = Layout::new(root);
    let db = open(&layout.catalog)?;
    db.query_one("SELECT count(*) FROM crashes", [], |row| get_unsigned(row, 0))
        .map_err(|error| QueryError::sqlite(&layout.catalog, error))
}

/// The time of the crash in the middle of the catalog, microseconds since 1970; `None` if it has fewer than `min_crashes` or
/// this user may not read it.
///
/// # Errors
/// As [`list`].
pub fn median_time(root: &Root, min_crashes: u64) -> Result<Option<u64>, QueryError> {
    let layout = Layout::new(root);
    let Some(db) = open_if_allowed(&layout)? else { return Ok(None) };
    let read = || -> rusqlite::Result<Option<u64>> {
        let count = db.query_one("SELECT count(*) FROM crashes", [], |row| get_unsigned(row, 0))?;
        if count < min_crashes {
            return Ok(None);
        }
        let query = "SELECT time_us FROM crashes ORDER BY time_us LIMIT 1 OFFSET ?1";
        db.query_row(query, [to_signed(count / 2)], |row| get_unsigned(row, "time_us")).optional()
    };
    read().map_err(|error| QueryError::sqlite(&layout.catalog, error))
}

/// The crash that `name` refers to: the newest if several match or there is no name.
///
/// # Errors
/// No crash matches, or `name` is a prefix of several ids.
pub fn find(root: &Root, name: Option<&str>) -> Result<Listed, QueryError> {
    // With a name all matches are needed, to tell whether it is a prefix of several ids.
    let filter = Filter { matches: name.map(str::to_owned), limit: name.is_none().then_some(1), ..Filter::default() };
    let mut found = list(root, &filter)?;
    if let Some(name) = name {
        let is_prefix = found.iter().all(|listed| listed.id().as_str().starts_with(name));
        if is_prefix && found.len() > 1 {
            return Err(QueryError::Ambiguous { prefix: name.to_owned(), count: found.len() });
        }
    }
    found.pop().ok_or_else(|| name.map_or(QueryError::Nothing, |name| QueryError::NoMatch(name.to_owned())))
}

fn list_catalog(
    db: &Connection,
    layout: &Layout,
    limit: i64,
    conditions: &WhereClause,
) -> Result<Vec<Listed>, QueryError> {
    let query = format!(
        "SELECT id, core, record FROM crashes JOIN records USING (seq) {} ORDER BY time_us DESC, seq DESC LIMIT {limit}",
        conditions.sql
    );
    let read = || -> rusqlite::Result<Vec<(String, RecordedCore, String)>> {
        let mut query = db.prepare(&query)?;
        let rows = query.query_map(conditions.values().as_slice(), |row| {
            Ok((row.get("id")?, row.get("core")?, row.get("record")?))
        })?;
        rows.collect()
    };
    let rows = read().map_err(|error| QueryError::sqlite(&layout.catalog, error))?;
    let listed = rows.into_iter().rev().map(|(id, core, json)| {
        let record: Record = serde_json::from_str(&json).map_err(|error| QueryError::Record { id, error })?;
        Ok(Listed::new(record, core, layout))
    });
    listed.collect()
}

/// The crashes whose core files this user can read, the oldest first.
pub(super) fn list_readable_cores(layout: &Layout, filter: &Filter) -> Vec<Listed> {
    let Ok(dir) = layout.open_cores() else { return Vec::new() };
    let entries = std::fs::read_dir(&layout.cores).into_iter().flatten().flatten();
    let mut found: Vec<Listed> = entries
        .filter_map(|entry| crash_of_file(&entry.path()))
        .filter_map(|id| open_core(&dir, &id).ok())
        .filter(|file| file.metadata().is_ok_and(|found| found.is_file()))
        .filter_map(|mut file| format::read_record(&mut file).ok())
        .filter(|record| filter.accepts(record))
        .map(|record| Listed::new(record, RecordedCore::Stored, layout))
        .collect();
    found.sort_by_key(|listed| listed.record.time_us);
    let surplus = filter.limit.map_or(0, |limit| found.len().saturating_sub(limit));
    found.split_off(surplus)
}
