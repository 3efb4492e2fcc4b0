//! The catalog as one user may see it, in pages: what coreward-query.service reads.
//!
//! A query lasts as long as one page. While it lasts SQLite cannot shorten the catalog's journal, so no reader waits for a client.

use super::connection::open;
use super::error::QueryError;
use super::filter::{Filter, Meaning, WhereClause};
use super::groups::{self, Group, Occurrence};
use super::listed::{CoreState, Listed};
use super::query::{list_catalog, meaning_of, too_many_begin_with};
use crate::crash::{Keep, SignatureKey};
use crate::policy::access::{LocalUsers, RecordedAccess};
use crate::store::Layout;
use crate::store::columns::{RecordedCore, get_unsigned};
use crate::store::core_dir::core_file_name;
use coreward_wire::paths::Root;
use nix::unistd::Uid;
use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, OptionalExtension, Row, Statement, params};
use serde::{Deserialize, Serialize};
use std::ffi::c_int;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Whose crashes are seen.
#[derive(Clone, Debug)]
pub enum Viewer {
    /// Root and the administrators see all of them.
    Administrator,
    /// A user sees those that [`RecordedAccess::is_own_of`] calls the user's own, among these users.
    User(Uid, Arc<LocalUsers>),
}

/// A crash in a few words. Its text comes from the crashed process and is untrusted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CrashSummary {
    /// The id of the crash.
    pub id: String,
    /// When the kernel began the dump, microseconds since 1970.
    pub time_us: u64,
    /// PID in the initial namespace.
    pub pid: i32,
    /// Real uid.
    pub uid: Option<u32>,
    /// Name of the signal, without `SIG`.
    pub signal: String,
    /// [`crate::crash::Record::program`].
    pub program: String,
    /// Name of the process.
    pub comm: String,
    /// The unit of the user's service manager if there is one, otherwise that of the system's.
    pub unit: Option<String>,
    /// Container.
    pub container: Option<String>,
    /// Host name.
    pub hostname: String,
    /// Its signature.
    pub signature: String,
    /// The present state of the core.
    pub core_state: CoreState,
    /// Only the stacks were to be stored: a core that is truncated is so on purpose.
    pub stacks_only: bool,
    /// Why no core was stored.
    pub no_core: Option<String>,
    /// Bytes of the core file; 0 if it is not present.
    pub stored_bytes: u64,
    /// The whole record, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Box<Listed>>,
}

/// Which crashes a list has. It stays the same from page to page.
#[derive(Clone, Debug)]
pub struct Selection {
    filter: Filter,
    meaning: Option<Meaning>,
    /// Crashes that are recorded later are not in the list: it would not end in a storm.
    last: i64,
    /// Where the first page begins.
    first: Option<Position>,
    with_records: bool,
}

/// A place in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    time_us: i64,
    seq: i64,
}

/// A part of a list, the oldest crash first.
#[derive(Debug, Default)]
pub struct Page {
    /// The crashes.
    pub crashes: Vec<CrashSummary>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<Position>,
}

/// The disk usage of the cores that have something in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageShare {
    /// What they have in common.
    pub name: String,
    /// The number of stored cores.
    pub cores: u64,
    /// What they take on disk, in bytes.
    pub bytes: u64,
}

/// What stored cores can have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsageBy {
    /// The unit of the user's or the system's service manager.
    Unit,
    /// The real uid.
    User,
    /// The program.
    Executable,
    /// The signature.
    Signature,
}

/// The most crashes of a page.
const PAGE_ROWS: usize = 200;
/// Bytes of text after which a page ends.
const PAGE_BYTES: usize = 256 << 10;
/// The most groups and shares that are read.
pub const MAX_GROUPS: usize = 10_000;
/// Steps of SQLite's virtual machine between two looks at the clock.
const STEPS: c_int = 10_000;

/// The catalog, open for one query.
pub struct CatalogView {
    db: Connection,
    layout: Layout,
}

impl CatalogView {
    /// Opens the catalog. Every query on it sees what `viewer` may see, and fails when `time_limit` is over.
    ///
    /// # Errors
    /// There is no catalog, or it cannot be read.
    pub fn open(root: &Root, viewer: &Viewer, time_limit: Duration) -> Result<Self, QueryError> {
        let layout = Layout::new(root);
        let mut db = open(&layout.catalog)?;
        restrict(&mut db, viewer, time_limit).map_err(|error| QueryError::sqlite(&layout.catalog, error))?;
        Ok(Self { db, layout })
    }

    /// The row that was inserted last, of whomever it is. Rows that are inserted later have greater numbers.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn last_row(&self) -> Result<i64, QueryError> {
        let read = || self.db.query_one("SELECT coalesce(max(seq), 0) FROM main.crashes", [], |row| row.get(0));
        read().map_err(|error| self.failed(error))
    }

    /// The crashes that `filter` selects now; of more than its limit, the newest.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn select(&self, filter: Filter, with_records: bool) -> Result<Selection, QueryError> {
        let last = self.last_row()?;
        let read = || -> rusqlite::Result<(Option<Meaning>, Option<Position>)> {
            let meaning = meaning_of(&self.db, &filter)?;
            let Some(limit) = filter.limit else { return Ok((meaning, None)) };
            let conditions = WhereClause::new(&filter, meaning);
            // With a plus, seq does not tempt SQLite away from the index of times, which ends the search early.
            let query = format!(
                "SELECT time_us, seq FROM crashes {} AND +seq <= {last} ORDER BY time_us DESC, seq DESC LIMIT 1 OFFSET {}",
                conditions.sql,
                i64::try_from(limit.saturating_sub(1)).unwrap_or(i64::MAX)
            );
            let mut query = self.db.prepare(&query)?;
            Ok((meaning, query.query_row(conditions.values().as_slice(), Position::read).optional()?))
        };
        let (meaning, first) = read().map_err(|error| self.failed(error))?;
        Ok(Selection { filter, meaning, last, first, with_records })
    }

    /// The page that begins at `from`, or the first one.
    ///
    /// # Errors
    /// The catalog or a record cannot be read.
    pub fn page(&self, selection: &Selection, from: Option<Position>) -> Result<Page, QueryError> {
        if selection.filter.limit == Some(0) {
            return Ok(Page::default());
        }
        let mut conditions = WhereClause::new(&selection.filter, selection.meaning);
        if let Some(Position { time_us, seq }) = from.or(selection.first) {
            // The first condition is for the index.
            conditions.sql.push_str(&format!(" AND time_us >= {time_us} AND (time_us > {time_us} OR seq >= {seq})"));
        }
        conditions.sql.push_str(&format!(" AND +seq <= {}", selection.last));
        let (crashes, next) = self.read_rows(&conditions, "time_us, seq", selection.with_records)?;
        Ok(Page { crashes, next })
    }

    /// The crashes that `filter` selects of those inserted after the row `after`, and the row after which to go on. Of
    /// [`Filter::matches`] every meaning counts: there may be no crash yet that decides.
    ///
    /// # Errors
    /// As of [`Self::page`].
    pub fn inserted_after(&self, after: i64, filter: &Filter) -> Result<(Vec<CrashSummary>, i64), QueryError> {
        let last = self.last_row()?;
        let mut conditions = WhereClause::new(&Filter { matches: None, ..filter.clone() }, None);
        if let Some(text) = &filter.matches {
            conditions.and(&Meaning::any_condition(), text.clone());
        }
        conditions.sql.push_str(&format!(" AND seq > {after} AND seq <= {last}"));
        let (crashes, next) = self.read_rows(&conditions, "seq", false)?;
        Ok((crashes, next.map_or(last, |next| next.seq - 1)))
    }

    /// The newest crash that `name` refers to, or the newest of all.
    ///
    /// # Errors
    /// No crash matches, or `name` is a prefix of several ids.
    pub fn find(&self, name: Option<&str>) -> Result<Listed, QueryError> {
        let filter = Filter { matches: name.map(str::to_owned), ..Filter::default() };
        let meaning = meaning_of(&self.db, &filter).map_err(|error| self.failed(error))?;
        let conditions = WhereClause::new(&filter, meaning);
        if let Some(name) = name.filter(|_| meaning == Some(Meaning::Prefix)) {
            let query = format!("SELECT count(*) FROM crashes {}", conditions.sql);
            let count = self.db.query_one(&query, conditions.values().as_slice(), |row| get_unsigned(row, 0));
            too_many_begin_with(
                name,
                usize::try_from(count.map_err(|error| self.failed(error))?).unwrap_or(usize::MAX),
            )?;
        }
        let found = list_catalog(&self.db, &self.layout, 1, &conditions)?.pop();
        found.ok_or_else(|| name.map_or(QueryError::Nothing, |name| QueryError::NoMatch(name.to_owned())))
    }

    /// The signatures, the most frequent first, without examples.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn groups(&self, limit: usize) -> Result<Vec<Group>, QueryError> {
        groups::count_by_signature(&self.db, limit.min(MAX_GROUPS)).map_err(|error| self.failed(error))
    }

    /// The most informative crash of a signature.
    ///
    /// # Errors
    /// The catalog or the record cannot be read.
    pub fn example(&self, signature: &SignatureKey) -> Result<Option<Listed>, QueryError> {
        groups::example_in(&self.db, &self.layout, signature)
    }

    /// The crashes of a signature by host, unit, container and hour, the newest first.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn occurrences(&self, signature: &SignatureKey) -> Result<Vec<Occurrence>, QueryError> {
        groups::count_occurrences(&self.db, signature, MAX_GROUPS).map_err(|error| self.failed(error))
    }

    /// What stored cores take on disk, the largest share first.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn usage(&self, by: UsageBy) -> Result<Vec<UsageShare>, QueryError> {
        let column = match by {
            UsageBy::Unit => "coalesce(user_unit, unit, '')",
            UsageBy::User => "coalesce(CAST(uid AS TEXT), '')",
            UsageBy::Executable => "program",
            UsageBy::Signature => "signature",
        };
        let read = || -> rusqlite::Result<Vec<UsageShare>> {
            let mut query = self.db.prepare(&format!(
                "SELECT {column} AS name, count(*) AS cores, sum(stored) AS bytes FROM crashes WHERE core = ?1
                 GROUP BY 1 ORDER BY 3 DESC LIMIT {MAX_GROUPS}"
            ))?;
            let rows = query.query_map([RecordedCore::Stored], |row| {
                Ok(UsageShare {
                    name: row.get("name")?,
                    cores: get_unsigned(row, "cores")?,
                    bytes: get_unsigned(row, "bytes")?,
                })
            })?;
            rows.collect()
        };
        read().map_err(|error| self.failed(error))
    }

    /// The rows under `conditions`, as many as fit in a page, and where the next page begins.
    fn read_rows(
        &self,
        conditions: &WhereClause,
        order: &str,
        with_records: bool,
    ) -> Result<(Vec<CrashSummary>, Option<Position>), QueryError> {
        let query = format!(
            "SELECT seq, id, time_us, pid, uid, signal_name, program, comm, coalesce(user_unit, unit) AS unit, container, hostname,
                    signature, keep, core, no_core, stored, truncated FROM crashes {} ORDER BY {order} LIMIT {}",
            conditions.sql,
            PAGE_ROWS + 1
        );
        let mut query = self.db.prepare(&query).map_err(|error| self.failed(error))?;
        let mut record =
            self.db.prepare("SELECT record FROM main.records WHERE seq = ?1").map_err(|error| self.failed(error))?;
        let mut page = Vec::new();
        let mut bytes = 0;
        let mut rows = query.query(conditions.values().as_slice()).map_err(|error| self.failed(error))?;
        while let Some(row) = rows.next().map_err(|error| self.failed(error))? {
            let position = Position::read(row).map_err(|error| self.failed(error))?;
            if page.len() >= PAGE_ROWS || bytes >= PAGE_BYTES {
                return Ok((page, Some(position)));
            }
            let (mut crash, recorded) = self.summary(row).map_err(|error| self.failed(error))?;
            bytes += crash.program.len() + crash.hostname.len() + size_of::<CrashSummary>();
            if with_records {
                let json = record_json(&mut record, position.seq).map_err(|error| self.failed(error))?;
                let Some(json) = json else { continue };
                bytes += json.len();
                let parsed = serde_json::from_str(&json);
                let parsed = parsed.map_err(|error| QueryError::Record { id: crash.id.clone(), error })?;
                crash.record = Some(Box::new(Listed::new(parsed, recorded, &self.layout)));
            }
            page.push(crash);
        }
        Ok((page, None))
    }

    fn summary(&self, row: &Row<'_>) -> rusqlite::Result<(CrashSummary, RecordedCore)> {
        let id: crate::crash::CrashId = row.get("id")?;
        let recorded: RecordedCore = row.get("core")?;
        // What this user may not see counts as existing, as in [`Listed`].
        let file_exists = || self.layout.cores.join(core_file_name(&id)).try_exists().unwrap_or(true);
        let core_state = CoreState::current(recorded, row.get("truncated")?, file_exists);
        let summary = CrashSummary {
            id: id.to_string(),
            time_us: get_unsigned(row, "time_us")?,
            pid: row.get("pid")?,
            uid: row.get("uid")?,
            signal: row.get("signal_name")?,
            program: row.get("program")?,
            comm: row.get("comm")?,
            unit: row.get("unit")?,
            container: row.get("container")?,
            hostname: row.get("hostname")?,
            signature: row.get("signature")?,
            core_state,
            stacks_only: core_state == CoreState::Truncated && row.get::<_, String>("keep")? == Keep::Stacks.name(),
            no_core: if core_state == CoreState::None { row.get("no_core")? } else { None },
            stored_bytes: if core_state.is_present() { get_unsigned(row, "stored")? } else { 0 },
            record: None,
        };
        Ok((summary, recorded))
    }

    fn failed(&self, error: rusqlite::Error) -> QueryError {
        QueryError::sqlite(&self.layout.catalog, error)
    }
}

impl Position {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { time_us: row.get("time_us")?, seq: row.get("seq")? })
    }
}

fn record_json(query: &mut Statement<'_>, seq: i64) -> rusqlite::Result<Option<String>> {
    query.query_row(params![seq], |row| row.get("record")).optional()
}

/// Hides what the viewer may not see behind views with the names of the tables: a name without a schema means the temporary one first
/// (SQLite, "Database Object Name Resolution"), so no query can forget it.
fn restrict(db: &mut Connection, viewer: &Viewer, time_limit: Duration) -> rusqlite::Result<()> {
    let deadline = Instant::now() + time_limit;
    db.progress_handler(STEPS, Some(move || Instant::now() > deadline))?;
    let Viewer::User(uid, users) = viewer else { return Ok(()) };
    let (uid, users) = (*uid, Arc::clone(users));
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    db.create_scalar_function("is_own", 1, flags, move |context| {
        let record = context.get_raw(0).as_str().ok();
        let access = record.and_then(|json| serde_json::from_str::<RecordedAccess>(json).ok());
        Ok(access.is_some_and(|access| access.is_own_of(uid, &users)))
    })?;
    // Crashes that were rolled up into counts have no user any more.
    db.execute_batch(&format!(
        "PRAGMA temp_store = MEMORY;
         CREATE TEMP VIEW crashes AS SELECT * FROM main.crashes AS crash WHERE CASE WHEN uid IS {uid}
             THEN is_own((SELECT record FROM main.records AS whole WHERE whole.seq = crash.seq)) ELSE false END;
         CREATE TEMP VIEW folded AS SELECT * FROM main.folded WHERE false;"
    ))
}
