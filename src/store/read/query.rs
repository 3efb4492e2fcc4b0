//! Listing crashes with their records.

use super::connection::{open, open_if_allowed};
use super::error::QueryError;
use super::filter::{Filter, Meaning, WhereClause};
use super::listed::Listed;
use crate::crash::{Dump, Record};
use crate::store::Layout;
use crate::store::columns::{RecordedCore, get_unsigned, to_signed};
use crate::store::core_dir::{crash_of_file, open_core};
use crate::store::format;
use coreward_wire::paths::Root;
use rusqlite::{Connection, OptionalExtension};
use std::convert::Infallible;

/// The crashes that `filter` selects, the oldest first.
///
/// # Errors
/// There is no catalog, or it cannot be read.
pub fn list(root: &Root, filter: &Filter) -> Result<Vec<Listed>, QueryError> {
    Ok(select(root, filter)?.0)
}

/// The crashes that `filter` selects, the oldest first, and the meaning of its `matches`.
fn select(root: &Root, filter: &Filter) -> Result<(Vec<Listed>, Option<Meaning>), QueryError> {
    let layout = Layout::new(root);
    let Some(db) = open_if_allowed(&layout)? else { return Ok(list_readable_cores(&layout, filter)) };
    let meaning = meaning_of(&db, filter).map_err(|error| QueryError::sqlite(&layout.catalog, error))?;
    let found = list_catalog(&db, &layout, filter.sql_limit(), &WhereClause::new(filter, meaning))?;
    Ok((found, meaning))
}

/// The crashes whose core should be present.
pub(super) fn list_stored(root: &Root) -> Result<Vec<Listed>, QueryError> {
    let filter = Filter::default();
    let layout = Layout::new(root);
    let Some(db) = open_if_allowed(&layout)? else { return Ok(list_readable_cores(&layout, &filter).0) };
    let mut conditions = WhereClause::new(&filter, None);
    conditions.and("core = ?", RecordedCore::Stored);
    list_catalog(&db, &layout, filter.sql_limit(), &conditions)
}

/// The meaning of [`Filter::matches`] in a catalog. The other conditions do not change it.
pub(super) fn meaning_of(db: &Connection, filter: &Filter) -> rusqlite::Result<Option<Meaning>> {
    let Some(text) = &filter.matches else { return Ok(None) };
    Meaning::resolve(text, |meaning| {
        let mut conditions = WhereClause::new(&Filter::default(), None);
        conditions.and(meaning.condition(), text.clone());
        let query = format!("SELECT EXISTS (SELECT 1 FROM crashes {})", conditions.sql);
        db.query_row(&query, conditions.values().as_slice(), |row| row.get(0))
    })
}

/// Whether this user may read the catalog; also if there is none, or if it cannot be read for another reason.
#[must_use]
pub fn may_read_catalog(root: &Root) -> bool {
    !matches!(open_if_allowed(&Layout::new(root)), Ok(None))
}

/// The number of crashes in the catalog, without dumps of living processes.
///
/// # Errors
/// As [`list`].
pub fn count_crashes(root: &Root) -> Result<u64, QueryError> {
    let layout = Layout::new(root);
    let db = open(&layout.catalog)?;
    let query = "SELECT count(*) FROM crashes WHERE signal_name != ?1";
    db.query_one(query, [Dump::SIGNAL_NAME], |row| get_unsigned(row, 0))
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
    let Some(name) = name else {
        let newest = list(root, &Filter { limit: Some(1), ..Filter::default() })?.pop();
        return newest.ok_or(QueryError::Nothing);
    };
    let mut found = find_all(root, name)?.0;
    found.pop().ok_or_else(|| QueryError::NoMatch(name.to_owned()))
}

/// All crashes that `name` refers to, the oldest first, and how it was understood.
///
/// # Errors
/// No crash matches, or `name` is a prefix of several ids.
pub fn find_all(root: &Root, name: &str) -> Result<(Vec<Listed>, Meaning), QueryError> {
    let (found, meaning) = select(root, &Filter { matches: Some(name.to_owned()), ..Filter::default() })?;
    all_named(name, found, meaning)
}

/// The crashes that `name` in this meaning refers to.
///
/// # Errors
/// There are none, or `name` is a prefix of several ids.
pub fn all_named(
    name: &str,
    found: Vec<Listed>,
    meaning: Option<Meaning>,
) -> Result<(Vec<Listed>, Meaning), QueryError> {
    let found = Some(found).filter(|found| !found.is_empty());
    let (found, meaning) = found.zip(meaning).ok_or_else(|| QueryError::NoMatch(name.to_owned()))?;
    if meaning == Meaning::Prefix {
        too_many_begin_with(name, found.len())?;
    }
    Ok((found, meaning))
}

/// The meaning of `name` if these are all crashes.
#[must_use]
pub fn meaning_among(crashes: &[Listed], name: &str) -> Option<Meaning> {
    resolve_among(&crashes.iter().map(|listed| &listed.record), name)
}

fn resolve_among<'a>(records: &(impl Iterator<Item = &'a Record> + Clone), name: &str) -> Option<Meaning> {
    let fits = |meaning: Meaning| records.clone().any(|record| meaning.fits(name, record));
    let Ok(meaning) = Meaning::resolve(name, |meaning| Ok::<_, Infallible>(fits(meaning)));
    meaning
}

/// Fails where `prefix` is that of several ids.
pub(super) fn too_many_begin_with(prefix: &str, count: usize) -> Result<(), QueryError> {
    if count > 1 { Err(QueryError::Ambiguous { prefix: prefix.to_owned(), count }) } else { Ok(()) }
}

/// The crashes under `conditions`, the oldest first; of more than `limit`, the newest. A negative limit is none.
pub(super) fn list_catalog(
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

/// Those of the crashes whose core files this user can read that `filter` selects, the oldest first, and the meaning of its
/// `matches`.
pub(super) fn list_readable_cores(layout: &Layout, filter: &Filter) -> (Vec<Listed>, Option<Meaning>) {
    let Ok(dir) = layout.open_cores() else { return (Vec::new(), None) };
    let entries = std::fs::read_dir(&layout.cores).into_iter().flatten().flatten();
    let readable: Vec<Record> = entries
        .filter_map(|entry| crash_of_file(&entry.path()))
        .filter_map(|id| open_core(&dir, &id).ok())
        .filter(|file| file.metadata().is_ok_and(|found| found.is_file()))
        .filter_map(|mut file| format::read_record(&mut file).ok())
        .collect();
    let meaning = filter.matches.as_deref().and_then(|text| resolve_among(&readable.iter(), text));
    let mut found: Vec<Listed> = readable
        .into_iter()
        .filter(|record| filter.accepts(meaning, record))
        .map(|record| Listed::new(record, RecordedCore::Stored, layout))
        .collect();
    found.sort_by_key(|listed| listed.record.time_us);
    let surplus = filter.limit.map_or(0, |limit| found.len().saturating_sub(limit));
    (found.split_off(surplus), meaning)
}
