//! Crashes as lines of a list: nothing but the narrow rows is read, and no text is copied on the way.

use super::meeting::{Meeting, Way};
use super::query::{Asked, CoreState, Filter, Listed, QueryError, open, open_if_allowed, readable_cores, sqlite};
use super::schema::signed;
use super::{Layout, recover};
use crate::crash::CoreOutcome;
use coreward_wire::paths::Root;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use std::collections::HashSet;

/// A crash as a line of a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brief<'a> {
    /// Its id.
    pub id: &'a str,
    /// When the kernel began the dump, microseconds since 1970.
    pub time_us: u64,
    /// PID.
    pub pid: u32,
    /// Real uid.
    pub uid: Option<u32>,
    /// Signal name without `SIG`.
    pub signal_name: &'a str,
    /// [`crate::crash::Record::program`].
    pub program: &'a str,
    /// The unit that the user would look at: their own manager's before the system's.
    pub unit: &'a str,
    /// Container.
    pub container: &'a str,
    /// Host name.
    pub hostname: &'a str,
    /// What became of the core since.
    pub core_state: CoreState,
    /// Why there never was one.
    pub no_core: &'a str,
    /// Bytes that the core takes; 0 where it is not there.
    pub stored: u64,
}

/// Who takes the crashes of a list.
pub trait Take: Send {
    /// Takes the next.
    fn take(&mut self, brief: &Brief<'_>);
}

/// Gives the crashes that match to `first`, in the order in which they were recorded: nearly that of their times. Of a long list
/// `second` gets about a half at the same time, from the newest backwards, until the two meet.
///
/// # Errors
/// No catalog, or one that can't be read.
pub fn brief(root: &Root, filter: &Filter, first: &mut dyn Take, second: &mut dyn Take) -> Result<(), QueryError> {
    let layout = Layout::of(root);
    let Some(db) = open_if_allowed(&layout)? else {
        for listed in readable_cores(&layout, filter) {
            let program = listed.record.program();
            first.take(&Brief::of(&listed, &program));
        }
        return Ok(());
    };
    let files = core_names(&layout);
    let failed = |error| sqlite(&layout.catalog, error);
    let meeting = Meeting::default();
    let upwards = Way::Up(&meeting);
    if filter.limit.is_some() || is_short(&db).map_err(failed)? {
        return each(&db, filter, upwards, &files, first).map_err(failed);
    }
    let other = open(&layout.catalog)?;
    std::thread::scope(|scope| {
        let (files, downwards) = (&files, Way::Down(&meeting));
        let second = scope.spawn(move || each(&other, filter, downwards, files, second));
        let first = each(&db, filter, upwards, files, first);
        // A panic in there is a mistake in here.
        first.and(second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
    .map_err(failed)
}

/// Whether two threads are not worth the while.
fn is_short(db: &Connection) -> rusqlite::Result<bool> {
    const ENOUGH: i64 = 10_000;
    let last: Option<i64> = db.query_row("SELECT max(seq) FROM crashes", [], |row| row.get(0))?;
    Ok(last.unwrap_or(0) < ENOUGH)
}

fn each(
    db: &Connection,
    filter: &Filter,
    way: Way<'_>,
    files: &HashSet<String>,
    found: &mut dyn Take,
) -> rusqlite::Result<()> {
    const COLUMNS: &str = "id, time_us, pid, uid, signal_name, program, coalesce(user_unit, unit), container, hostname, core, no_core, stored, truncated, seq";
    let asked = Asked::by(filter);
    let condition = &asked.condition;
    let order = if matches!(way, Way::Up(_)) { "ASC" } else { "DESC" };
    let query = match filter.limit {
        None => format!("SELECT {COLUMNS} FROM crashes {condition} ORDER BY seq {order}"),
        Some(limit) => format!(
            "SELECT {COLUMNS} FROM crashes JOIN (SELECT seq FROM crashes {condition} ORDER BY time_us DESC, seq DESC LIMIT {})
             USING (seq) ORDER BY seq",
            signed(limit as u64)
        ),
    };
    // Each page is wanted once: few are kept, so that they stay in the processor's cache. A mapping costs more where records
    // lie between the rows: the kernel maps those as well.
    db.pragma_update(None, "cache_size", 64)?;
    let mut query = db.prepare(&query)?;
    let mut rows = query.query(asked.values().as_slice())?;
    let mut mine: Option<i64> = None;
    while let Some(row) = rows.next()? {
        let seq: i64 = row.get(13)?;
        let is_mine = mine.is_some_and(|last| if matches!(way, Way::Up(_)) { seq <= last } else { seq >= last });
        if !is_mine {
            mine = way.claim(seq);
            if mine.is_none() {
                break;
            }
        }
        let id = text(row, 0)?;
        let core_state = match text(row, 9)? {
            "evicted" => CoreState::Evicted,
            "missing" => CoreState::Missing,
            "removed" => CoreState::Removed,
            "none" => CoreState::None,
            _ if !files.contains(id) => CoreState::Missing,
            _ if row.get(12)? => CoreState::Truncated,
            _ => CoreState::Stored,
        };
        found.take(&Brief {
            id,
            time_us: row.get::<_, i64>(1)?.unsigned_abs(),
            pid: row.get(2)?,
            uid: row.get(3)?,
            signal_name: text(row, 4)?,
            program: text(row, 5)?,
            unit: text(row, 6)?,
            container: text(row, 7)?,
            hostname: text(row, 8)?,
            core_state,
            // A column costs as much as what is done with it: two are read only where they are shown.
            no_core: if core_state == CoreState::None { text(row, 10)? } else { "" },
            stored: if core_state.is_there() { row.get::<_, i64>(11)?.unsigned_abs() } else { 0 },
        });
    }
    Ok(())
}

/// The text in a column, empty where there is none.
fn text<'row>(row: &'row Row<'_>, column: usize) -> rusqlite::Result<&'row str> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => "",
        value => value.as_str()?,
    })
}

/// The ids of the cores that are there: one look at the directory instead of one at each file.
fn core_names(layout: &Layout) -> HashSet<String> {
    let entries = std::fs::read_dir(&layout.cores).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(recover::id_of(&entry.path())?.to_string())).collect()
}

impl<'a> Brief<'a> {
    /// The line of a crash; `program` is the record's.
    pub fn of(listed: &'a Listed, program: &'a str) -> Self {
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
            core_state: listed.core_state,
            no_core: match record.core.outcome {
                CoreOutcome::None(reason) => reason.name(),
                CoreOutcome::Stored => "",
            },
            stored: if listed.core_state.is_there() { record.core.stored } else { 0 },
        }
    }
}
