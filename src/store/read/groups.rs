//! Crashes by signature.

use super::connection::{open, open_if_allowed};
use super::error::QueryError;
use super::filter::{Filter, Meaning, NAMED_BEFORE, WhereClause};
use super::listed::Listed;
use super::query::list_catalog;
use crate::crash::{Dump, Record, SignatureKey};
use crate::store::Layout;
use crate::store::columns::{RecordedCore, get_unsigned};
use coreward_wire::paths::Root;
use nix::unistd::Uid;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

/// The crashes of one signature.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// The signature.
    pub signature: SignatureKey,
    /// The number of crashes, including those that have been rolled up.
    pub count: u64,
    /// The number of stored cores.
    pub cores: u64,
    /// Time of the first crash, microseconds since 1970.
    pub first_us: u64,
    /// Time of the last crash, microseconds since 1970.
    pub last_us: u64,
    /// Name of the signal, without `SIG`.
    pub signal_name: String,
    /// [`crate::crash::Record::program`].
    pub program: String,
    /// The most informative crash: the newest that has a stack, of those with a core if there are any. A crash of a system user comes before one of a
    /// person, and one outside of containers before one inside: anybody can make a program that crashes with this signature and calls its functions
    /// what they like.
    #[serde(skip)]
    pub example: Option<Listed>,
}

/// The crashes of one signature on one host, in one unit and one container, within one hour.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Occurrence {
    /// Host name of the crashed processes. In this and the next two fields `*` stands for several that have been merged.
    pub hostname: String,
    /// Unit.
    pub unit: String,
    /// Container.
    pub container: String,
    /// Time of the first crash, microseconds since 1970.
    pub first_us: u64,
    /// Time of the last crash, microseconds since 1970.
    pub last_us: u64,
    /// The number of crashes.
    pub count: u64,
}

/// All signatures with an example each, the most frequent first.
///
/// # Errors
/// There is no catalog, or it cannot be read.
pub fn groups(root: &Root) -> Result<Vec<Group>, QueryError> {
    let layout = Layout::new(root);
    let db = open(&layout.catalog)?;
    let counted = count_by_signature(&db, usize::MAX);
    let mut groups = counted.map_err(|error| QueryError::sqlite(&layout.catalog, error))?;
    for group in &mut groups {
        group.example = example_in(&db, &layout, &group.signature)?;
    }
    Ok(groups)
}

/// Who a process ran as: a user, outside of containers (empty) or in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessOwner<'a> {
    /// Real uid.
    pub uid: Option<Uid>,
    /// Container.
    pub container: &'a str,
}

impl<'a> ProcessOwner<'a> {
    /// That of the crashed process.
    #[must_use]
    pub fn of(record: &'a Record) -> Self {
        Self { uid: record.uid, container: record.cgroup.container.as_deref().unwrap_or_default() }
    }
}

/// Looks up the most informative crash of one signature after the other, as in [`Group::example`], of those that one user had in one container.
pub struct Examples {
    db: Connection,
    layout: Layout,
}

impl Examples {
    /// Opens the catalog; `None` if this user may not read it.
    ///
    /// # Errors
    /// There is no catalog, or it cannot be read.
    pub fn open(root: &Root) -> Result<Option<Self>, QueryError> {
        let layout = Layout::new(root);
        Ok(open_if_allowed(&layout)?.map(|db| Self { db, layout }))
    }

    /// The example of a signature.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn of(&self, signature: &SignatureKey, owner: ProcessOwner<'_>) -> Result<Option<Listed>, QueryError> {
        self.first(signature, owner, "core = 'stored' DESC, time_us DESC")
    }

    /// The first crash of a signature that has a stack. In a storm it is found at once, while [`Self::of`] reads a row for each crash.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn first_of(&self, signature: &SignatureKey, owner: ProcessOwner<'_>) -> Result<Option<Listed>, QueryError> {
        self.first(signature, owner, "time_us")
    }

    fn first(
        &self,
        signature: &SignatureKey,
        owner: ProcessOwner<'_>,
        order: &str,
    ) -> Result<Option<Listed>, QueryError> {
        let read = |stacks: &str, order: &str| -> rusqlite::Result<Option<String>> {
            let mut query = self.db.prepare_cached(&format!(
                "SELECT id FROM crashes
                 WHERE signature = ?1 AND {stacks} AND uid IS ?2 AND coalesce(container, '') = ?3 ORDER BY {order} LIMIT 1"
            ))?;
            let values = params![signature, owner.uid.map(Uid::as_raw), owner.container];
            query.query_row(values, |row| row.get("id")).optional()
        };
        let first = || match read(WITH_CORE, order)? {
            Some(id) => Ok(Some(id)),
            None => read(WITHOUT_CORE, "time_us"),
        };
        let id = first().map_err(|error| QueryError::sqlite(&self.layout.catalog, error))?;
        id.map_or(Ok(None), |id| crash_in(&self.db, &self.layout, id))
    }
}

/// Crashes that have stacks, with their cores.
const WITH_CORE: &str = "keep != 'record'";
/// Crashes that have stacks though no core was kept. Of those that a rate limit refused, the first has one.
const WITHOUT_CORE: &str = "keep = 'record' AND reason NOT IN ('storm', 'gone')";

/// The signatures of crashes that had a name which begins with `prefix` by the rules of the version before. Those that have been rolled up are not
/// known.
///
/// # Errors
/// There is no catalog, or it cannot be read.
pub fn signatures_named_before(root: &Root, prefix: &str) -> Result<Vec<SignatureKey>, QueryError> {
    let layout = Layout::new(root);
    let db = open(&layout.catalog)?;
    let read = || -> rusqlite::Result<Vec<SignatureKey>> {
        let query = format!("SELECT DISTINCT signature FROM crashes WHERE {NAMED_BEFORE} ORDER BY signature");
        let mut query = db.prepare(&query)?;
        let rows = query.query_map([prefix], |row| row.get("signature"))?;
        rows.collect()
    };
    read().map_err(|error| QueryError::sqlite(&layout.catalog, error))
}

/// The signatures without examples, the `limit` most frequent.
pub(super) fn count_by_signature(db: &Connection, limit: usize) -> rusqlite::Result<Vec<Group>> {
    let mut query = db.prepare(&format!(
        "SELECT signature, sum(count) AS crashes, sum(has_core) AS cores, min(first_us) AS first_us, max(last_us) AS last_us,
             max(signal_name) AS signal_name, max(program) AS program
         FROM (
             SELECT signature, 1 AS count, core = ?1 AS has_core, time_us AS first_us, time_us AS last_us, signal_name, program
             FROM crashes WHERE signal_name != ?2
             UNION ALL SELECT signature, count, 0, first_us, last_us, signal_name, program FROM folded
         ) GROUP BY signature ORDER BY 2 DESC, 5 DESC LIMIT {}",
        i64::try_from(limit).unwrap_or(i64::MAX)
    ))?;
    let rows = query.query_map(params![RecordedCore::Stored, Dump::SIGNAL_NAME], |row| {
        Ok(Group {
            signature: row.get("signature")?,
            count: get_unsigned(row, "crashes")?,
            cores: get_unsigned(row, "cores")?,
            first_us: get_unsigned(row, "first_us")?,
            last_us: get_unsigned(row, "last_us")?,
            signal_name: row.get("signal_name")?,
            program: row.get("program")?,
            example: None,
        })
    })?;
    rows.collect()
}

/// The most informative crash of a signature: [`Group::example`].
pub(super) fn example_in(
    db: &Connection,
    layout: &Layout,
    signature: &SignatureKey,
) -> Result<Option<Listed>, QueryError> {
    let id = example_id(db, signature).map_err(|error| QueryError::sqlite(&layout.catalog, error))?;
    id.map_or(Ok(None), |id| crash_in(db, layout, id))
}

/// The crash with this id.
fn crash_in(db: &Connection, layout: &Layout, id: String) -> Result<Option<Listed>, QueryError> {
    let filter = Filter { matches: Some(id), ..Filter::default() };
    Ok(list_catalog(db, layout, 1, &WhereClause::new(&filter, Some(Meaning::Id)))?.pop())
}

/// The id of [`Group::example`].
fn example_id(db: &Connection, signature: &SignatureKey) -> rusqlite::Result<Option<String>> {
    /// Uids of people begin here (login.defs(5), UID_MIN).
    const PEOPLE: u32 = 1000;
    const TRUST: &str = "uid IS NULL OR uid >= ?3, container IS NOT NULL, uid != 0";
    let read = |stacks: &str, order: &str| {
        let mut query = db.prepare_cached(&format!(
            "SELECT id FROM crashes WHERE signature = ?1 AND {stacks} ORDER BY {TRUST}, core = ?2 DESC, {order} LIMIT 1"
        ))?;
        query.query_row(params![signature, RecordedCore::Stored, PEOPLE], |row| row.get("id")).optional()
    };
    match read(WITH_CORE, "time_us DESC")? {
        Some(id) => Ok(Some(id)),
        None => read(WITHOUT_CORE, "time_us"),
    }
}

/// The crashes of a signature by host, unit, container and hour, the newest first.
///
/// # Errors
/// There is no catalog, or it cannot be read.
pub fn occurrences(root: &Root, signature: &SignatureKey) -> Result<Vec<Occurrence>, QueryError> {
    let layout = Layout::new(root);
    let db = open(&layout.catalog)?;
    count_occurrences(&db, signature, usize::MAX).map_err(|error| QueryError::sqlite(&layout.catalog, error))
}

/// The `limit` newest of them.
pub(super) fn count_occurrences(
    db: &Connection,
    signature: &SignatureKey,
    limit: usize,
) -> rusqlite::Result<Vec<Occurrence>> {
    const HOUR_US: i64 = 3_600_000_000;
    let mut query = db.prepare(&format!(
        "SELECT hostname, unit, container, min(first_us) AS first_us, max(last_us) AS last_us, sum(count) AS crashes FROM (
             SELECT hostname, coalesce(unit, '') AS unit, coalesce(container, '') AS container, time_us - time_us % ?2 AS from_us,
                    ?2 AS span_us, time_us AS first_us, time_us AS last_us, 1 AS count FROM crashes WHERE signature = ?1
             UNION ALL SELECT hostname, unit, container, from_us, span_us, first_us, last_us, count FROM folded WHERE signature = ?1
         ) GROUP BY hostname, unit, container, from_us, span_us ORDER BY 5 DESC LIMIT {}",
        i64::try_from(limit).unwrap_or(i64::MAX)
    ))?;
    let rows = query.query_map(params![signature, HOUR_US], |row| {
        Ok(Occurrence {
            hostname: row.get("hostname")?,
            unit: row.get("unit")?,
            container: row.get("container")?,
            first_us: get_unsigned(row, "first_us")?,
            last_us: get_unsigned(row, "last_us")?,
            count: get_unsigned(row, "crashes")?,
        })
    })?;
    rows.collect()
}

impl Group {
    /// The example, if its core is present.
    #[must_use]
    pub fn example_with_core(&self) -> Option<&Listed> {
        self.example.as_ref().filter(|listed| listed.core_state.is_present())
    }
}
