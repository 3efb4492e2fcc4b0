//! Reading the catalog from outside of the daemon, and the core files where the catalog may not be read.

use super::schema::signed;
use super::{Layout, file_name, format, recover};
use crate::crash::{CrashId, Record};
use coreward_sys::openat;
use coreward_wire::paths::Root;
use rusqlite::{Connection, ErrorCode, OpenFlags, ToSql};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// A crash as it is listed.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// The record.
    #[serde(flatten)]
    pub record: Record,
    /// What became of the core since.
    pub core_state: CoreState,
    /// The core file, where there is one.
    pub core_file: Option<PathBuf>,
}

/// Whether a core is there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoreState {
    /// Whole.
    Stored,
    /// A part of it.
    Truncated,
    /// There never was one.
    None,
    /// Deleted to make room.
    Evicted,
    /// Deleted by somebody else while the daemon was not there.
    Missing,
    /// Deleted by an administrator, with `coreward rm` or otherwise.
    Removed,
}

impl CoreState {
    /// Whether there is something to open.
    pub fn is_there(self) -> bool {
        matches!(self, Self::Stored | Self::Truncated)
    }
}

/// Which crashes.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// An id, a prefix of one, a signature, a PID, an executable's path, a unit, a process' name.
    pub matches: Option<String>,
    /// A unit, system's or user's; `.service` may be left out.
    pub unit: Option<String>,
    /// A container's id, its beginning, or its name.
    pub container: Option<String>,
    /// A pod's uid.
    pub pod: Option<String>,
    /// A host name.
    pub hostname: Option<String>,
    /// A uid.
    pub uid: Option<u32>,
    /// An executable's path.
    pub executable: Option<String>,
    /// A signal's name, without `SIG`.
    pub signal: Option<String>,
    /// A signature or its beginning.
    pub signature: Option<String>,
    /// Not older, microseconds since 1970.
    pub since_us: Option<u64>,
    /// Not newer, microseconds since 1970.
    pub until_us: Option<u64>,
    /// At most this many, the newest.
    pub limit: Option<usize>,
}

/// Why nothing can be listed.
#[derive(Debug, Error)]
pub enum QueryError {
    /// No catalog.
    #[error("{0}: there is no catalog: has coreward.service ever run? (systemctl status coreward.socket)")]
    NoCatalog(PathBuf),
    /// Something else lies where the catalog should be.
    #[error("{0}: not a regular file, not opened")]
    NotAFile(PathBuf),
    /// SQLite's word.
    #[error("{path}: {error}")]
    Sqlite {
        /// The catalog.
        path: PathBuf,
        /// What happened.
        error: rusqlite::Error,
    },
    /// A row that can't be understood.
    #[error("crash {id}: the record can't be understood: {error}")]
    Record {
        /// Whose.
        id: String,
        /// What happened.
        error: serde_json::Error,
    },
    /// Nothing matches.
    #[error("no crash matches \"{0}\": `coreward list` shows what there is")]
    NoMatch(String),
    /// There is nothing yet.
    #[error("no crash has been recorded")]
    Nothing,
    /// A prefix of several ids.
    #[error("\"{prefix}\" is the beginning of {count} ids: name more of it")]
    Ambiguous {
        /// The prefix.
        prefix: String,
        /// How many.
        count: usize,
    },
}

/// The crashes that match, oldest first.
///
/// # Errors
/// No catalog, or one that can't be read.
pub fn list(root: &Root, filter: &Filter) -> Result<Vec<Listed>, QueryError> {
    let layout = Layout::of(root);
    match open_if_allowed(&layout)? {
        Some(db) => rows(&db, &layout, filter),
        None => Ok(readable_cores(&layout, filter)),
    }
}

/// The crashes whose core should be there.
pub(super) fn list_stored(root: &Root, filter: &Filter) -> Result<Vec<Listed>, QueryError> {
    let layout = Layout::of(root);
    let listed = match open_if_allowed(&layout)? {
        Some(db) => rows_where(&db, &layout, filter, "core = 'stored'")?,
        None => readable_cores(&layout, filter),
    };
    Ok(listed)
}

/// The catalog; `None` for who may not read it: only root and the administrators may. A user sees the cores that are theirs.
pub(super) fn open_if_allowed(layout: &Layout) -> Result<Option<Connection>, QueryError> {
    match open(&layout.catalog) {
        Err(QueryError::Sqlite { error, .. })
            if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) && layout.catalog.exists() =>
        {
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// How many crashes the catalog has.
///
/// # Errors
/// As [`list`].
pub fn listed_count(root: &Root) -> Result<u64, QueryError> {
    let layout = Layout::of(root);
    let db = open(&layout.catalog)?;
    let count: i64 = db
        .query_row("SELECT count(*) FROM crashes", [], |row| row.get(0))
        .map_err(|error| sqlite(&layout.catalog, error))?;
    Ok(count.unsigned_abs())
}

/// The one crash that `name` means; the newest where several do, or where there is no name.
///
/// # Errors
/// None, or a prefix of several ids.
pub fn find(root: &Root, name: Option<&str>) -> Result<Listed, QueryError> {
    // Without a name only the newest is read; a name may be the beginning of several ids.
    let filter = Filter { matches: name.map(str::to_owned), limit: name.is_none().then_some(1), ..Filter::default() };
    let found = list(root, &filter)?;
    if let Some(name) = name {
        let is_prefix = found.iter().all(|listed| listed.record.id.as_str().starts_with(name));
        if is_prefix && found.len() > 1 {
            return Err(QueryError::Ambiguous { prefix: name.to_owned(), count: found.len() });
        }
    }
    found
        .into_iter()
        .next_back()
        .ok_or_else(|| name.map_or(QueryError::Nothing, |name| QueryError::NoMatch(name.to_owned())))
}

pub(super) fn open(path: &Path) -> Result<Connection, QueryError> {
    if path.try_exists().is_ok_and(|exists| !exists) {
        return Err(QueryError::NoCatalog(path.to_owned()));
    }
    // The directory is the daemon's: what it could put there in place of the file is not opened by root.
    if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return Err(QueryError::NotAFile(path.to_owned()));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let probe = |db: &Connection| db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
    let opened = Connection::open_with_flags(path, flags).and_then(|db| {
        db.busy_timeout(Duration::from_secs(5))?;
        probe(&db).map(|()| db)
    });
    let journal = PathBuf::from(format!("{}-wal", path.display()));
    match opened {
        // Without a journal nobody writes, and a reader who may not create one can do without it.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) && !journal.exists() => {
            let uri = format!("file:{}?immutable=1", path.display());
            let db = Connection::open_with_flags(uri, flags).map_err(|error| sqlite(path, error))?;
            probe(&db).map_err(|error| sqlite(path, error))?;
            Ok(db)
        }
        opened => opened.map_err(|error| sqlite(path, error)),
    }
}

pub(super) fn sqlite(path: &Path, error: rusqlite::Error) -> QueryError {
    QueryError::Sqlite { path: path.to_owned(), error }
}

/// What a filter asks for, in SQL: conditions, and their values.
pub(super) struct Asked {
    pub(super) condition: String,
    values: Vec<Box<dyn ToSql>>,
}

impl Asked {
    pub(super) fn by(filter: &Filter) -> Self {
        let mut conditions = Vec::new();
        let mut values: Vec<Box<dyn ToSql>> = Vec::new();
        let mut ask = |condition: &'static str, value: Option<&String>| {
            if let Some(text) = value {
                conditions.push(condition);
                values.extend((0..condition.matches('?').count()).map(|_| Box::new(text.clone()) as Box<dyn ToSql>));
            }
        };
        ask(
            "(substr(id, 1, length(?)) = ? OR CAST(pid AS TEXT) = ? OR program = ? OR comm = ? OR unit = ? OR unit = ? || '.service'
              OR signature = ?)",
            filter.matches.as_ref(),
        );
        ask(
            "? IN (unit, user_unit, replace(unit, '.service', ''), replace(user_unit, '.service', ''))",
            filter.unit.as_ref(),
        );
        ask("substr(container, 1, length(?)) = ?", filter.container.as_ref());
        ask("pod = ?", filter.pod.as_ref());
        ask("hostname = ?", filter.hostname.as_ref());
        ask("program = ?", filter.executable.as_ref());
        ask("signal_name = ?", filter.signal.as_ref());
        ask("substr(signature, 1, length(?)) = ?", filter.signature.as_ref());
        let numbers = [
            ("uid = ?", filter.uid.map(u64::from)),
            ("time_us >= ?", filter.since_us),
            ("time_us <= ?", filter.until_us),
        ];
        for (condition, number) in numbers {
            if let Some(number) = number {
                conditions.push(condition);
                values.push(Box::new(signed(number)));
            }
        }
        conditions.push("true");
        let condition = format!("WHERE {}", conditions.join(" AND "));
        Self { condition, values }
    }

    pub(super) fn values(&self) -> Vec<&dyn ToSql> {
        self.values.iter().map(AsRef::as_ref).collect()
    }
}

fn rows(db: &Connection, layout: &Layout, filter: &Filter) -> Result<Vec<Listed>, QueryError> {
    rows_where(db, layout, filter, "true")
}

fn rows_where(db: &Connection, layout: &Layout, filter: &Filter, besides: &str) -> Result<Vec<Listed>, QueryError> {
    let asked = Asked::by(filter);
    let limit = filter.limit.map_or(-1, |limit| signed(limit as u64));
    let query = format!(
        "SELECT id, core, record FROM crashes JOIN records USING (seq) {} AND {besides} ORDER BY time_us DESC, seq DESC LIMIT {limit}",
        asked.condition
    );
    let read = || -> rusqlite::Result<Vec<(String, String, String)>> {
        let mut query = db.prepare(&query)?;
        query.query_map(asked.values().as_slice(), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    };
    let rows = read().map_err(|error| sqlite(&layout.catalog, error))?;
    let listed = rows.into_iter().rev().map(|(id, core, record)| {
        let record: Record = serde_json::from_str(&record).map_err(|error| QueryError::Record { id, error })?;
        Ok(listed(record, &core, layout))
    });
    listed.collect()
}

fn listed(record: Record, core: &str, layout: &Layout) -> Listed {
    let file = layout.cores.join(file_name(&record.id));
    let core_state = match core {
        "evicted" => CoreState::Evicted,
        "missing" => CoreState::Missing,
        "removed" => CoreState::Removed,
        "none" => CoreState::None,
        // A file may be gone since the row was written; it may also be one that this user must not see.
        _ if file.try_exists().is_ok_and(|exists| !exists) => CoreState::Missing,
        _ if record.core.truncated.is_some() => CoreState::Truncated,
        _ => CoreState::Stored,
    };
    let core_file = core_state.is_there().then_some(file);
    Listed { record, core_state, core_file }
}

pub(super) fn readable_cores(layout: &Layout, filter: &Filter) -> Vec<Listed> {
    let Ok(dir) = layout.open_cores() else { return Vec::new() };
    let entries = std::fs::read_dir(&layout.cores).into_iter().flatten().flatten();
    let mut found: Vec<Listed> = entries
        .filter_map(|entry| recover::id_of(&entry.path()))
        .filter_map(|id| openat::open_file_below(dir.as_fd(), &file_name(&id)).ok().map(File::from))
        .filter(|file| file.metadata().is_ok_and(|found| found.is_file()))
        .filter_map(|mut file| format::read_record(&mut file).ok())
        .filter(|record| matches(record, filter))
        .map(|record| listed(record, "stored", layout))
        .collect();
    found.sort_by_key(|listed| listed.record.time_us);
    let surplus = filter.limit.map_or(0, |limit| found.len().saturating_sub(limit));
    found.split_off(surplus)
}

fn matches(record: &Record, filter: &Filter) -> bool {
    let cgroup = &record.cgroup;
    let is_unit = |unit: &Option<String>, text: &String| {
        unit.as_ref().is_some_and(|unit| unit == text || unit.strip_suffix(".service") == Some(text.as_str()))
    };
    let is = |wanted: &Option<String>, is: &dyn Fn(&String) -> bool| wanted.as_ref().is_none_or(is);
    is(&filter.matches, &|text| {
        record.id.as_str().starts_with(text.as_str())
            || record.key.pid.to_string() == *text
            || record.program() == *text
            || record.comm == *text
            || record.signature_key().as_str() == text
            || is_unit(&cgroup.unit, text)
    }) && is(&filter.unit, &|text| is_unit(&cgroup.unit, text) || is_unit(&cgroup.user_unit, text))
        && is(&filter.container, &|text| cgroup.container.as_ref().is_some_and(|name| name.starts_with(text.as_str())))
        && is(&filter.pod, &|text| cgroup.pod.as_ref() == Some(text))
        && is(&filter.hostname, &|text| record.hostname == *text)
        && is(&filter.executable, &|text| record.program() == *text)
        && is(&filter.signal, &|text| record.signal_name == *text)
        && is(&filter.signature, &|text| record.signature_key().as_str().starts_with(text.as_str()))
        && filter.uid.is_none_or(|uid| record.uid == Some(uid))
        && filter.since_us.is_none_or(|since| record.time_us >= since)
        && filter.until_us.is_none_or(|until| record.time_us <= until)
}

impl Listed {
    /// The crash's id.
    pub fn id(&self) -> &CrashId {
        &self.record.id
    }
}
