//! Crashes by signature.

use super::Layout;
use super::query::{Filter, Listed, QueryError, list, open, sqlite};
use coreward_wire::paths::Root;
use rusqlite::{Connection, params};
use serde::Serialize;

/// The crashes of one signature.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// The signature.
    pub signature: String,
    /// How many crashes, those included that have no row any more.
    pub count: u64,
    /// Cores that are there now.
    pub cores: u64,
    /// When the first was, microseconds since 1970.
    pub first_us: u64,
    /// When the last was, microseconds since 1970.
    pub last_us: u64,
    /// Signal name without `SIG`.
    pub signal_name: String,
    /// Path of the program.
    pub program: String,
    /// The crash that tells most: the newest with a stack.
    #[serde(skip)]
    pub example: Option<Listed>,
}

/// Crashes of one signature that have a place and an hour in common.
#[derive(Clone, Debug, Serialize)]
pub struct Occurrence {
    /// Host name of the crashed processes; `*`: several that are not told apart any more, as in the other fields.
    pub hostname: String,
    /// Unit.
    pub unit: String,
    /// Container.
    pub container: String,
    /// When the first was, microseconds since 1970.
    pub first_us: u64,
    /// When the last was, microseconds since 1970.
    pub last_us: u64,
    /// How many.
    pub count: u64,
}

/// All signatures, the most frequent first, with an example each.
///
/// # Errors
/// No catalog, or one that can't be read.
pub fn groups(root: &Root) -> Result<Vec<Group>, QueryError> {
    let layout = Layout::of(root);
    let db = open(&layout.catalog)?;
    let mut groups = counted(&db).map_err(|error| sqlite(&layout.catalog, error))?;
    for group in &mut groups {
        let filter = Filter { signature: Some(group.signature.clone()), ..Filter::default() };
        group.example = example(root, &db, &group.signature, filter)?;
    }
    Ok(groups)
}

fn counted(db: &Connection) -> rusqlite::Result<Vec<Group>> {
    let mut query = db.prepare(
        "SELECT signature, sum(count), sum(cores), min(first_us), max(last_us), max(signal_name), max(program) FROM (
             SELECT signature, 1 AS count, core = 'stored' AS cores, time_us AS first_us, time_us AS last_us, signal_name, program FROM crashes
             UNION ALL SELECT signature, count, 0, first_us, last_us, signal_name, program FROM folded
         ) GROUP BY signature ORDER BY 2 DESC, 5 DESC",
    )?;
    let rows = query.query_map([], |row| {
        let number = |index: usize| row.get::<_, i64>(index).map(i64::unsigned_abs);
        Ok(Group {
            signature: row.get(0)?,
            count: number(1)?,
            cores: number(2)?,
            first_us: number(3)?,
            last_us: number(4)?,
            signal_name: row.get(5)?,
            program: row.get(6)?,
            example: None,
        })
    })?;
    rows.collect()
}

fn example(root: &Root, db: &Connection, signature: &str, filter: Filter) -> Result<Option<Listed>, QueryError> {
    let id: rusqlite::Result<String> = db.query_row(
        "SELECT id FROM crashes WHERE signature = ?1 AND keep != 'record' ORDER BY time_us DESC LIMIT 1",
        [signature],
        |row| row.get(0),
    );
    let Ok(id) = id else { return Ok(None) };
    Ok(list(root, &Filter { matches: Some(id), limit: Some(1), ..filter })?.pop())
}

/// Where and when the crashes of a signature were, by host, unit, container and hour, the newest first.
///
/// # Errors
/// No catalog, or one that can't be read.
pub fn occurrences(root: &Root, signature: &str) -> Result<Vec<Occurrence>, QueryError> {
    const HOUR_US: i64 = 3_600_000_000;
    let layout = Layout::of(root);
    let db = open(&layout.catalog)?;
    let read = || -> rusqlite::Result<Vec<Occurrence>> {
        let mut query = db.prepare(
            "SELECT hostname, unit, container, min(first_us), max(last_us), sum(count) FROM (
                 SELECT hostname, coalesce(unit, '') AS unit, coalesce(container, '') AS container, time_us - time_us % ?2 AS from_us,
                        ?2 AS span_us, time_us AS first_us, time_us AS last_us, 1 AS count FROM crashes WHERE signature = ?1
                 UNION ALL SELECT hostname, unit, container, from_us, span_us, first_us, last_us, count FROM folded WHERE signature = ?1
             ) GROUP BY hostname, unit, container, from_us, span_us ORDER BY 5 DESC",
        )?;
        let rows = query.query_map(params![signature, HOUR_US], |row| {
            let number = |index: usize| row.get::<_, i64>(index).map(i64::unsigned_abs);
            Ok(Occurrence {
                hostname: row.get(0)?,
                unit: row.get(1)?,
                container: row.get(2)?,
                first_us: number(3)?,
                last_us: number(4)?,
                count: number(5)?,
            })
        })?;
        rows.collect()
    };
    read().map_err(|error| sqlite(&layout.catalog, error))
}

impl Group {
    /// Whether the example's core is there.
    pub fn has_core(&self) -> bool {
        self.example.as_ref().is_some_and(|listed| listed.core_state.is_there())
    }
}
