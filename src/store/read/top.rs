//! Crashes counted by what they have in common. Those that were rolled up are counted as well.

use super::connection::open;
use super::crash_row::CrashRow;
use super::error::QueryError;
use crate::crash::Dump;
use crate::store::Layout;
use crate::store::columns::{RecordedCore, get_unsigned, to_signed};
use coreward_wire::paths::Root;
use rusqlite::params;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::HashMap;

/// What crashes can have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TallyBy {
    /// The system unit, or the container.
    Unit,
    /// [`crate::crash::Record::program`].
    Executable,
    /// The real uid.
    User,
    /// The signature.
    Signature,
}

/// The crashes that have something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// What they have in common, as the catalog has it. `None`: it is not known, or was dropped when they were rolled up.
    pub name: Option<String>,
    /// The number of crashes.
    pub count: u64,
    /// How many of them have a core.
    pub cores: u64,
    /// Time of the first, microseconds since 1970.
    pub first_us: u64,
    /// Time of the last, microseconds since 1970.
    pub last_us: u64,
}

impl TallyBy {
    /// What is in common, for a row of `crashes` and for one of `folded`, where an asterisk stands for several that were merged.
    fn columns(self) -> (&'static str, &'static str) {
        match self {
            Self::Unit => (
                "coalesce(unit, 'container ' || container)",
                "CASE WHEN '*' IN (unit, container) THEN NULL WHEN unit != '' THEN unit
                      WHEN container != '' THEN 'container ' || container END",
            ),
            Self::Executable => ("program", "CASE WHEN signature = '*' THEN NULL ELSE program END"),
            Self::User => ("CAST(uid AS TEXT)", "NULL"),
            Self::Signature => ("signature", "nullif(signature, '*')"),
        }
    }
}

/// The crashes from `since_us` to `until_us`, the most frequent first. Crashes that were rolled up are counted by the hour or the day: at both
/// ends of the time some may be of shortly before or after it.
///
/// # Errors
/// There is no catalog, or it cannot be read.
pub fn tally(root: &Root, by: TallyBy, since_us: u64, until_us: u64) -> Result<Vec<Tally>, QueryError> {
    let layout = Layout::new(root);
    let db = open(&layout.catalog)?;
    let (of_row, of_count) = by.columns();
    let read = || -> rusqlite::Result<Vec<Tally>> {
        let mut query = db.prepare(&format!(
            "SELECT name, sum(count) AS crashes, sum(has_core) AS cores, min(first_us) AS first_us, max(last_us) AS last_us FROM (
                 SELECT {of_row} AS name, 1 AS count, core = ?1 AS has_core, time_us AS first_us, time_us AS last_us FROM crashes
                 WHERE time_us BETWEEN ?2 AND ?3 AND signal_name != ?4
                 UNION ALL SELECT {of_count}, count, 0, first_us, last_us FROM folded WHERE last_us >= ?2 AND first_us <= ?3
             ) GROUP BY name ORDER BY 2 DESC, 5 DESC"
        ))?;
        let rows = query.query_map(
            params![RecordedCore::Stored, to_signed(since_us), to_signed(until_us), Dump::SIGNAL_NAME],
            |row| {
                Ok(Tally {
                    name: row.get("name")?,
                    count: get_unsigned(row, "crashes")?,
                    cores: get_unsigned(row, "cores")?,
                    first_us: get_unsigned(row, "first_us")?,
                    last_us: get_unsigned(row, "last_us")?,
                })
            },
        )?;
        rows.collect()
    };
    read().map_err(|error| QueryError::sqlite(&layout.catalog, error))
}

/// Counts rows as [`tally`] counts the catalog, for those who may not read it.
pub struct TallyCounter {
    by: TallyBy,
    tallies: HashMap<Option<String>, Tally>,
}

impl TallyCounter {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(by: TallyBy) -> Self {
        Self { by, tallies: HashMap::new() }
    }

    /// Counts a crash.
    pub fn count(&mut self, row: &CrashRow<'_>) {
        if row.signal_name == Dump::SIGNAL_NAME {
            return;
        }
        let known = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let name = match self.by {
            TallyBy::Unit => known(row.unit).or_else(|| Some(format!("container {}", known(row.container)?))),
            TallyBy::Executable => known(row.program),
            TallyBy::User => row.uid.map(|uid| uid.to_string()),
            TallyBy::Signature => known(row.signature),
        };
        let new = |name: &Option<String>| Tally {
            name: name.clone(),
            count: 0,
            cores: 0,
            first_us: row.time_us,
            last_us: row.time_us,
        };
        let tally = self.tallies.entry(name).or_insert_with_key(new);
        tally.count += 1;
        tally.cores += u64::from(row.core_state.is_present());
        tally.first_us = tally.first_us.min(row.time_us);
        tally.last_us = tally.last_us.max(row.time_us);
    }

    /// What was counted, the most frequent first.
    #[must_use]
    pub fn finish(self) -> Vec<Tally> {
        let mut tallies: Vec<Tally> = self.tallies.into_values().collect();
        tallies.sort_by_key(|tally| Reverse((tally.count, tally.last_us)));
        tallies
    }
}
