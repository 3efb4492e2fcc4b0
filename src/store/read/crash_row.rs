//! Crashes as rows of a table. Lists can be long: only the narrow rows of the catalog are read, and no text is copied.

use super::connection::open_if_allowed;
use super::error::QueryError;
use super::filter::{Filter, WhereClause};
use super::listed::{CoreState, Listed};
use super::query::{list_readable_cores, meaning_of};
use crate::crash::{CoreOutcome, Keep};
use crate::store::Layout;
use crate::store::columns::{RecordedCore, get_unsigned};
use crate::store::core_dir::crash_of_file;
use coreward_wire::paths::Root;
use nix::unistd::{Pid, Uid};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, Statement};
use std::collections::HashSet;

/// A crash as a row of a table; absent text is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashRow<'a> {
    /// The id of the crash.
    pub id: &'a str,
    /// When the kernel began the dump, microseconds since 1970.
    pub time_us: u64,
    /// PID in the initial namespace.
    pub pid: Pid,
    /// Real uid.
    pub uid: Option<Uid>,
    /// Name of the signal, without `SIG`.
    pub signal_name: &'a str,
    /// [`crate::crash::Record::program`].
    pub program: &'a str,
    /// The unit of the user's service manager if there is one, otherwise that of the system's.
    pub unit: &'a str,
    /// Container.
    pub container: &'a str,
    /// Host name.
    pub hostname: &'a str,
    /// The signature, or what stands for it in the catalog; empty if there is neither.
    pub signature: &'a str,
    /// The present state of the core.
    pub core_state: CoreState,
    /// Only the stacks were to be stored: a core that is truncated is so on purpose.
    pub stacks_only: bool,
    /// Why no core was stored ([`crate::crash::NoCore::name`]).
    pub no_core: &'a str,
    /// Bytes of the core file; 0 if it is not present.
    pub stored: u64,
}

/// Calls `visit` for each crash that `filter` selects, the oldest first.
///
/// # Errors
/// There is no catalog, or it cannot be read.
pub fn for_each_row(root: &Root, filter: &Filter, visit: &mut dyn FnMut(&CrashRow<'_>)) -> Result<(), QueryError> {
    let layout = Layout::new(root);
    let Some(db) = open_if_allowed(&layout)? else {
        for listed in list_readable_cores(&layout, filter).0 {
            visit(&CrashRow::of_listed(&listed, &listed.record.program()));
        }
        return Ok(());
    };
    visit_catalog(&db, filter, &existing_cores(&layout), visit)
        .map_err(|error| QueryError::sqlite(&layout.catalog, error))
}

fn visit_catalog(
    db: &Connection,
    filter: &Filter,
    existing_cores: &HashSet<String>,
    visit: &mut dyn FnMut(&CrashRow<'_>),
) -> rusqlite::Result<()> {
    const SELECT: &str = "SELECT id, time_us, pid, uid, signal_name, program, coalesce(user_unit, unit) AS unit,
            container, hostname, signature, core, no_core, stored, truncated, keep, seq FROM crashes";
    let conditions = WhereClause::new(filter, meaning_of(db, filter)?);
    let query = match filter.limit {
        None => format!("{SELECT} {} ORDER BY time_us, seq", conditions.sql),
        Some(_) => format!(
            "SELECT * FROM ({SELECT} {} ORDER BY time_us DESC, seq DESC LIMIT {}) ORDER BY time_us, seq",
            conditions.sql,
            filter.sql_limit()
        ),
    };
    let mut query = db.prepare(&query)?;
    let columns = RowColumns::resolve(&query)?;
    let mut rows = query.query(conditions.values().as_slice())?;
    while let Some(row) = rows.next()? {
        visit(&columns.read(row, existing_cores)?);
    }
    Ok(())
}

/// The ids of all core files: listing the directory once is cheaper than a look-up for each crash.
fn existing_cores(layout: &Layout) -> HashSet<String> {
    let entries = std::fs::read_dir(&layout.cores).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(crash_of_file(&entry.path())?.to_string())).collect()
}

/// The numbers of the columns: looking each up by name in every row would take longer than reading it.
struct RowColumns {
    id: usize,
    time_us: usize,
    pid: usize,
    uid: usize,
    signal_name: usize,
    program: usize,
    unit: usize,
    container: usize,
    hostname: usize,
    signature: usize,
    core: usize,
    no_core: usize,
    stored: usize,
    truncated: usize,
    keep: usize,
}

impl RowColumns {
    fn resolve(query: &Statement<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: query.column_index("id")?,
            time_us: query.column_index("time_us")?,
            pid: query.column_index("pid")?,
            uid: query.column_index("uid")?,
            signal_name: query.column_index("signal_name")?,
            program: query.column_index("program")?,
            unit: query.column_index("unit")?,
            container: query.column_index("container")?,
            hostname: query.column_index("hostname")?,
            signature: query.column_index("signature")?,
            core: query.column_index("core")?,
            no_core: query.column_index("no_core")?,
            stored: query.column_index("stored")?,
            truncated: query.column_index("truncated")?,
            keep: query.column_index("keep")?,
        })
    }

    /// Reads a row. Columns that its state makes meaningless are not read.
    fn read<'row>(&self, row: &'row Row<'_>, existing_cores: &HashSet<String>) -> rusqlite::Result<CrashRow<'row>> {
        let id = text(row, self.id)?;
        let recorded: RecordedCore = row.get(self.core)?;
        let truncated = recorded == RecordedCore::Stored && row.get(self.truncated)?;
        let core_state = CoreState::current(recorded, truncated, || existing_cores.contains(id));
        Ok(CrashRow {
            id,
            time_us: get_unsigned(row, self.time_us)?,
            pid: Pid::from_raw(row.get(self.pid)?),
            uid: row.get::<_, Option<u32>>(self.uid)?.map(Uid::from_raw),
            signal_name: text(row, self.signal_name)?,
            program: text(row, self.program)?,
            unit: text(row, self.unit)?,
            container: text(row, self.container)?,
            hostname: text(row, self.hostname)?,
            signature: text(row, self.signature)?,
            core_state,
            stacks_only: core_state == CoreState::Truncated && text(row, self.keep)? == Keep::Stacks.name(),
            no_core: if core_state == CoreState::None { text(row, self.no_core)? } else { "" },
            stored: if core_state.is_present() { get_unsigned(row, self.stored)? } else { 0 },
        })
    }
}

/// The text in a column, empty for NULL.
fn text<'row>(row: &'row Row<'_>, column: usize) -> rusqlite::Result<&'row str> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => "",
        value => value.as_str()?,
    })
}

impl<'a> CrashRow<'a> {
    /// The row of a crash whose [`crate::crash::Record::program`] is `program`.
    #[must_use]
    pub fn of_listed(listed: &'a Listed, program: &'a str) -> Self {
        let record = &listed.record;
        let cgroup = &record.cgroup;
        Self {
            id: record.id.as_str(),
            time_us: record.time_us,
            pid: record.key.pid,
            uid: record.uid,
            signal_name: &record.signal_name,
            program,
            unit: cgroup.user_unit.as_deref().or(cgroup.unit.as_deref()).unwrap_or_default(),
            container: cgroup.container.as_deref().unwrap_or_default(),
            hostname: &record.hostname,
            signature: record.signature.as_ref().map_or("", |signature| &signature.id),
            core_state: listed.core_state,
            stacks_only: listed.stacks_only(),
            no_core: match record.core.outcome {
                CoreOutcome::None(reason) => reason.name(),
                CoreOutcome::Stored => "",
            },
            stored: if listed.core_state.is_present() { record.core.stored } else { 0 },
        }
    }
}
