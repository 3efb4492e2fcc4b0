//! Inserting crashes into the catalog and counting them.

use super::counters::{self, Counted};
use super::error::CatalogError;
use super::{charges, new_bugs, rollup};
use crate::crash::{CoreOutcome, CrashId, NoCore, Origin, Record};
use crate::store::columns::{RecordedCore, to_signed};
use nix::unistd::Uid;
use rusqlite::{Connection, Transaction, named_params, params};

/// The result of inserting a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is new, and was counted.
    Counted(Counted),
    /// It is new, and was not counted: it happened on another machine.
    Imported,
    /// It is new, and was not counted: it is the dump of a process that went on.
    Dumped,
    /// It is in the catalog already.
    Known,
}

/// Inserts a crash and counts it, unless it is in the catalog already or its row was rolled up recently.
pub(super) fn insert(db: &Transaction<'_>, record: &Record) -> Result<Inserted, CatalogError> {
    let core = if record.core.is_stored() { RecordedCore::Stored } else { RecordedCore::None };
    if rollup::was_rolled_up(db, &record.id)? {
        return Ok(Inserted::Known);
    }
    let Some(seq) = add_row(db, record, core)? else { return Ok(Inserted::Known) };
    if record.origin == Origin::Import {
        return Ok(Inserted::Imported);
    }
    if record.dump.is_some() {
        return Ok(Inserted::Dumped);
    }
    let mut counted = counters::count(db, record)?;
    counted.new_bug = is_new_bug(db, record, seq)?;
    if counted.new_bug {
        new_bugs::remember(db, seq)?;
    }
    Ok(Inserted::Counted(counted))
}

/// Whether the crash in row `seq` is the first of its signature. In a storm that is not asked.
fn is_new_bug(db: &Transaction<'_>, record: &Record, seq: i64) -> Result<bool, CatalogError> {
    if record.core.outcome == CoreOutcome::None(NoCore::Storm) {
        return Ok(false);
    }
    let (principal, party) = record.answering();
    new_bugs::is_first(db, seq, &principal, &party, &record.signature_key())
}

/// Inserts the row of a crash without counting it. Returns its number; `None` if there is one already.
pub(super) fn add_row(db: &Transaction<'_>, record: &Record, core: RecordedCore) -> Result<Option<i64>, CatalogError> {
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
        return Ok(None);
    }
    let seq = db.last_insert_rowid();
    let json = serde_json::to_string(record)?;
    db.prepare_cached("INSERT INTO records (seq, record) VALUES (?1, ?2)")?.execute(params![seq, json])?;
    let (principal, party) = record.answering();
    charges::add(db, seq, &principal, &party, &record.signature_key(), json.len() as u64)?;
    Ok(Some(seq))
}

/// Updates the state of a core.
pub(super) fn set_core(db: &Connection, id: &CrashId, core: RecordedCore) -> Result<(), CatalogError> {
    db.prepare_cached("UPDATE crashes SET core = ?2 WHERE id = ?1")?.execute(params![id, core])?;
    Ok(())
}
