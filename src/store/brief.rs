//! Crashes as lines of a list: nothing but the narrow rows is read, and no text is copied on the way.

use super::query::{Asked, CoreState, Filter, Listed, QueryError, open, open_if_allowed, readable_cores, sqlite};
use super::schema::signed;
use super::{Layout, recover};
use crate::crash::CoreOutcome;
use crate::wire::paths::Root;
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
    /// Bytes that the core takes.
    pub stored: u64,
}

/// Who takes the crashes of a list.
pub trait Take: Send {
    /// Takes the next.
    fn take(&mut self, brief: &Brief<'_>);
}

/// Gives the crashes that match to `first` and then to `second`, in the order in which they were recorded: nearly that of their
/// times. Of a long list each gets about a half, both at the same time.
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
    let middle = if filter.limit.is_some() { None } else { middle(&db).map_err(failed)? };
    let Some(middle) = middle else { return each(&db, filter, "true", &files, first).map_err(failed) };
    let other = open(&layout.catalog)?;
    std::thread::scope(|scope| {
        let rest = format!("seq > {middle}");
        let files = &files;
        let second = scope.spawn(move || each(&other, filter, &rest, files, second));
        let first = each(&db, filter, &format!("seq <= {middle}"), files, first);
        // A panic in there is a mistake in here.
        first.and(second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
    .map_err(failed)
}

/// The row in the middle, where there are enough for two.
fn middle(db: &Connection) -> rusqlite::Result<Option<i64>> {
    const ENOUGH: i64 = 10_000;
    let (first, last) =
        db.query_row("SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM crashes", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })?;
    Ok((last - first > ENOUGH).then_some(first + (last - first) / 2))
}

fn each(
    db: &Connection,
    filter: &Filter,
    besides: &str,
    files: &HashSet<String>,
    found: &mut dyn Take,
) -> rusqlite::Result<()> {
    const COLUMNS: &str = "id, time_us, pid, uid, signal_name, program, user_unit, unit, container, hostname, core, no_core, stored, truncated";
    let asked = Asked::by(filter);
    let condition = &asked.condition;
    let query = match filter.limit {
        None => format!("SELECT {COLUMNS} FROM crashes {condition} AND {besides} ORDER BY seq"),
        Some(limit) => format!(
            "SELECT {COLUMNS} FROM crashes JOIN (SELECT seq FROM crashes {condition} ORDER BY time_us DESC, seq DESC LIMIT {})
             USING (seq) ORDER BY seq",
            signed(limit as u64)
        ),
    };
    // Without this every page is copied once more.
    db.pragma_update(None, "mmap_size", 1_i64 << 30)?;
    let mut query = db.prepare(&query)?;
    let mut rows = query.query(asked.values().as_slice())?;
    while let Some(row) = rows.next()? {
        let (id, user_unit) = (text(row, 0)?, text(row, 6)?);
        let core_state = match text(row, 10)? {
            "evicted" => CoreState::Evicted,
            "missing" => CoreState::Missing,
            "removed" => CoreState::Removed,
            "none" => CoreState::None,
            _ if !files.contains(id) => CoreState::Missing,
            _ if row.get(13)? => CoreState::Truncated,
            _ => CoreState::Stored,
        };
        found.take(&Brief {
            id,
            time_us: row.get::<_, i64>(1)?.unsigned_abs(),
            pid: row.get(2)?,
            uid: row.get(3)?,
            signal_name: text(row, 4)?,
            program: text(row, 5)?,
            unit: if user_unit.is_empty() { text(row, 7)? } else { user_unit },
            container: text(row, 8)?,
            hostname: text(row, 9)?,
            core_state,
            no_core: text(row, 11)?,
            stored: row.get::<_, i64>(12)?.unsigned_abs(),
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
        let place = &record.place;
        Self {
            id: record.id.as_str(),
            time_us: record.time_us,
            pid: record.key.pid,
            uid: record.uid,
            signal_name: &record.signal_name,
            program,
            unit: place.user_unit.as_deref().or(place.unit.as_deref()).unwrap_or_default(),
            container: place.container.as_deref().unwrap_or_default(),
            hostname: &record.hostname,
            core_state: listed.core_state,
            no_core: match record.core.outcome {
                CoreOutcome::None(reason) => reason.name(),
                CoreOutcome::Stored => "",
            },
            stored: record.core.stored,
        }
    }
}
