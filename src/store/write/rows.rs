//! Inserting crashes into the catalog and counting them.

use super::error::CatalogError;
use super::rollup;
use crate::crash::{CoreOutcome, CrashId, Record, text};
use crate::store::columns::{RecordedCore, get_unsigned, to_signed};
use nix::unistd::Uid;
use rusqlite::{Connection, OptionalExtension, Transaction, named_params, params};

/// The most bytes of a host or program name in a counter, where they become labels of a metric.
const MAX_LABEL: usize = 256;
/// The most counters with labels of their own. Crashed processes choose their host and program names, so further ones are
/// counted under "other" to bound the size of a scrape.
const MAX_COUNTERS: i64 = 2000;

/// One counter of `coredump_process_count`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CrashCount {
    /// Host name of the crashed processes.
    pub hostname: String,
    /// [`Record::program`].
    pub program: String,
    /// Name of the signal, without `SIG`.
    pub signal: String,
    /// Whether a core was stored.
    pub core_exists: bool,
    /// The number of crashes.
    pub count: u64,
}

/// The result of inserting a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is new, and was counted in this counter.
    Counted(CrashCount),
    /// It is in the catalog already.
    Known,
}

/// Inserts a crash and counts it, unless it is in the catalog already or its row was rolled up recently.
pub(super) fn insert(db: &Transaction<'_>, record: &Record) -> Result<Inserted, CatalogError> {
    let core = if record.core.is_stored() { RecordedCore::Stored } else { RecordedCore::None };
    if rollup::was_rolled_up(db, &record.id)? || !add_row(db, record, core)? {
        return Ok(Inserted::Known);
    }
    count(db, record).map(Inserted::Counted)
}

/// Inserts the row of a crash without counting it; `false` if there is one already.
pub(super) fn add_row(db: &Transaction<'_>, record: &Record, core: RecordedCore) -> Result<bool, CatalogError> {
    let no_core = match record.core.outcome {
        CoreOutcome::None(reason) => Some(reason.name()),
        CoreOutcome::Stored => None,
    };
    let inserted = db
        .prepare_cached(
            "INSERT OR IGNORE INTO crashes (id, time_us, pid, uid, signal, signal_name, program, comm, unit, user_unit,
                 hostname, container, pod, signature, keep, reason, core, no_core, truncated, stored, held_us)
             VALUES (:id, :time_us, :pid, :uid, :signal, :signal_name, :program, :comm, :unit, :user_unit,
                 :hostname, :container, :pod, :signature, :keep, :reason, :core, :no_core, :truncated, :stored, :held_us)",
        )?
        .execute(named_params! {
            ":id": record.id,
            ":time_us": to_signed(record.time_us),
            ":pid": record.key.pid.as_raw(),
            ":uid": record.uid.map(Uid::as_raw),
            ":signal": record.signal,
            ":signal_name": record.signal_name,
            ":program": record.program(),
            ":comm": record.comm,
            ":unit": record.cgroup.unit,
            ":user_unit": record.cgroup.user_unit,
            ":hostname": record.hostname,
            ":container": record.cgroup.container,
            ":pod": record.cgroup.pod,
            ":signature": record.signature_key(),
            ":keep": record.decision.keep.name(),
            ":reason": record.decision.reason.name(),
            ":core": core,
            ":no_core": no_core,
            ":truncated": record.core.truncated.is_some(),
            ":stored": to_signed(record.core.stored),
            ":held_us": to_signed(record.held_us),
        })?;
    if inserted == 0 {
        return Ok(false);
    }
    db.prepare_cached("INSERT INTO records (seq, record) VALUES (?1, ?2)")?
        .execute(params![db.last_insert_rowid(), serde_json::to_string(record)?])?;
    Ok(true)
}

/// Adds one to the crash's counter, and returns the counter's labels with a count of one.
fn count(db: &Transaction<'_>, record: &Record) -> Result<CrashCount, CatalogError> {
    let label = |name: &str| text::cut(name, MAX_LABEL).to_owned();
    let mut counter = CrashCount {
        hostname: label(&record.hostname),
        program: label(&record.program()),
        signal: record.signal_name.clone(),
        core_exists: record.core.is_stored(),
        count: 1,
    };
    let known = db
        .prepare_cached("SELECT 1 FROM counters WHERE hostname=?1 AND program=?2 AND signal=?3 AND core_exists=?4")?
        .query_row(params![counter.hostname, counter.program, counter.signal, counter.core_exists], |_| Ok(()))
        .optional()?;
    if known.is_none() {
        let counters: i64 = db.prepare_cached("SELECT count(*) FROM counters")?.query_one([], |row| row.get(0))?;
        if counters >= MAX_COUNTERS {
            counter.hostname = "other".to_owned();
            counter.program = "other".to_owned();
        }
    }
    db.prepare_cached(
        "INSERT INTO counters (hostname, program, signal, core_exists, count) VALUES (?1, ?2, ?3, ?4, 1)
         ON CONFLICT DO UPDATE SET count = count + 1",
    )?
    .execute(params![counter.hostname, counter.program, counter.signal, counter.core_exists])?;
    Ok(counter)
}

/// All counters.
pub(super) fn counts(db: &Connection) -> Result<Vec<CrashCount>, CatalogError> {
    let mut query = db.prepare("SELECT hostname, program, signal, core_exists, count FROM counters")?;
    let counts = query.query_map([], |row| {
        Ok(CrashCount {
            hostname: row.get("hostname")?,
            program: row.get("program")?,
            signal: row.get("signal")?,
            core_exists: row.get("core_exists")?,
            count: get_unsigned(row, "count")?,
        })
    })?;
    Ok(counts.collect::<Result<_, _>>()?)
}

/// Updates the state of a core.
pub(super) fn set_core(db: &Connection, id: &CrashId, core: RecordedCore) -> Result<(), CatalogError> {
    db.prepare_cached("UPDATE crashes SET core = ?2 WHERE id = ?1")?.execute(params![id, core])?;
    Ok(())
}
