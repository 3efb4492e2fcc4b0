//! Crashes by signature.

use super::connection::{open, open_if_allowed};
use super::error::QueryError;
use super::filter::{Filter, Meaning, NAMED_BEFORE, WhereClause};
use super::listed::Listed;
use super::query::list_catalog;
use crate::crash::{Dump, Origin, Record, SignatureKey};
use crate::store::Layout;
use crate::store::columns::{RecordedCore, get_unsigned};
use coreward_wire::paths::Root;
use nix::unistd::Uid;
use rusqlite::{Connection, params};
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

/// Who a process ran as: a user, outside of containers or in one. Which container does not count: it is another one after each restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessOwner {
    /// Real uid.
    pub uid: Option<Uid>,
    /// Whether it was in a container.
    pub in_container: bool,
}

impl ProcessOwner {
    /// That of the crashed process.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        Self { uid: record.uid, in_container: record.cgroup.container.is_some() }
    }
}

/// Looks up the most informative crash of one signature after the other, as in [`Group::example`], of those that one user had, in containers or outside.
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
    pub fn of(&self, signature: &SignatureKey, owner: ProcessOwner) -> Result<Option<Listed>, QueryError> {
        self.first(signature, owner, "keep = 'record', core = 'stored' DESC, time_us DESC")
    }

    /// A crash of a signature that has a stack, for long lists: mostly the first one.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn first_of(&self, signature: &SignatureKey, owner: ProcessOwner) -> Result<Option<Listed>, QueryError> {
        self.first(signature, owner, "time_us")
    }

    fn first(&self, signature: &SignatureKey, owner: ProcessOwner, order: &str) -> Result<Option<Listed>, QueryError> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let mut query = self.db.prepare_cached(&format!(
                "SELECT id FROM crashes
                 WHERE signature = ?1 AND {MAY_HAVE_STACK} AND uid IS ?2 AND (container IS NOT NULL) = ?3
                 ORDER BY {order} LIMIT {CANDIDATES}"
            ))?;
            let uid = owner.uid.map(Uid::as_raw);
            query.query_map(params![signature, uid, owner.in_container], |row| row.get("id"))?.collect()
        };
        let ids = read().map_err(|error| QueryError::sqlite(&self.layout.catalog, error))?;
        Ok(candidates(&self.db, &self.layout, ids)?.into_iter().find(is_example))
    }
}

/// Crashes whose records may have stacks. A core has one, and so has the record alone, but for duplicates in a storm and processes that are gone.
const MAY_HAVE_STACK: &str = "(keep != 'record' OR reason NOT IN ('storm', 'gone'))";
/// Crashes of a signature that are looked at: a stack may be missing all the same, where a rate limit refused the core, or nothing could be read.
const CANDIDATES: u32 = 8;

/// Whether a crash says something of its signature. What another machine's record says is anybody's.
fn is_example(listed: &Listed) -> bool {
    !listed.record.stack.is_empty() && listed.record.origin != Origin::Import
}

/// The crashes with these ids.
fn candidates(db: &Connection, layout: &Layout, ids: Vec<String>) -> Result<Vec<Listed>, QueryError> {
    let mut crashes = Vec::new();
    for id in ids {
        crashes.extend(crash_in(db, layout, id)?);
        if crashes.last().is_some_and(is_example) {
            break;
        }
    }
    Ok(crashes)
}

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
    let ids = example_ids(db, signature).map_err(|error| QueryError::sqlite(&layout.catalog, error))?;
    let mut crashes = candidates(db, layout, ids)?;
    let best = crashes.iter().position(is_example);
    let best = best.or_else(|| crashes.iter().position(|listed| !listed.record.stack.is_empty()));
    Ok((!crashes.is_empty()).then(|| crashes.swap_remove(best.unwrap_or(0))))
}

/// The crash with this id.
fn crash_in(db: &Connection, layout: &Layout, id: String) -> Result<Option<Listed>, QueryError> {
    let filter = Filter { matches: Some(id), ..Filter::default() };
    Ok(list_catalog(db, layout, 1, &WhereClause::new(&filter, Some(Meaning::Id)))?.pop())
}

/// The ids of crashes that may be [`Group::example`], the best first.
fn example_ids(db: &Connection, signature: &SignatureKey) -> rusqlite::Result<Vec<String>> {
    /// Uids of people begin here (login.defs(5), UID_MIN).
    const PEOPLE: u32 = 1000;
    let mut query = db.prepare_cached(&format!(
        "SELECT id FROM crashes WHERE signature = ?1 AND {MAY_HAVE_STACK}
         ORDER BY uid IS NULL OR uid >= ?3, container IS NOT NULL, uid != 0, keep = 'record', core = ?2 DESC,
             CASE keep WHEN 'record' THEN time_us ELSE -time_us END LIMIT {CANDIDATES}"
    ))?;
    query.query_map(params![signature, RecordedCore::Stored, PEOPLE], |row| row.get("id"))?.collect()
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
