//! Bounding the catalog. The older rows of a signature with many crashes are rolled up into counts per host, unit, container
//! and hour; rows beyond the configured age and number are deleted. The counters behind the metrics are unaffected.

use super::error::CatalogError;
use crate::crash::{CrashId, Record, SignatureKey};
use crate::store::columns::{RecordedCore, to_signed};
use rusqlite::{Connection, OptionalExtension, Transaction, named_params, params};
use std::collections::HashSet;
use std::time::Duration;

/// `MaxRecords=` and `RecordMaxAge=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retention {
    /// The most rows; those rolled up do not count.
    pub rows: u64,
    /// The age at which rows and counts are deleted.
    pub age: Duration,
}

/// The newest rows of a signature that are not rolled up. Rows of stored cores never are.
const MAX_ROWS: i64 = 1000;
/// Rows above that before a roll-up is worthwhile.
const SLACK: i64 = 250;
const HOUR_US: i64 = 3_600_000_000;
const DAY_US: i64 = 24 * HOUR_US;
/// The most counts. Beyond that the older ones are merged across containers, then units and hosts, then signatures.
const MAX_COUNTS: i64 = 50_000;
/// How long the ids of rolled-up rows are remembered: a shim may offer a crash again within minutes.
const REMEMBERED_US: i64 = HOUR_US;
/// The most ids that are remembered, 16 bytes each.
const MAX_REMEMBERED: i64 = 1_000_000;

/// Whether the row of this crash was rolled up recently.
pub(super) fn was_rolled_up(db: &Connection, id: &CrashId) -> Result<bool, CatalogError> {
    let mut query = db.prepare_cached("SELECT 1 FROM seen WHERE id = ?1")?;
    Ok(query.query_row([id_number(id)], |_| Ok(())).optional()?.is_some())
}

/// Rolls up surplus rows of the signatures in `records`, and deletes what `retention` no longer allows. `now_us` is the wall
/// clock (microseconds since 1970); if it was set back, less is deleted.
pub(super) fn enforce(
    db: &Transaction<'_>,
    records: &[&Record],
    retention: Retention,
    now_us: u64,
) -> Result<(), CatalogError> {
    let now = to_signed(now_us);
    let signatures: HashSet<SignatureKey> = records.iter().map(|record| record.signature_key()).collect();
    let mut any_rolled_up = false;
    for signature in signatures {
        any_rolled_up |= roll_up(db, &signature, now)?;
    }
    if any_rolled_up {
        forget_old_ids(db, now)?;
        downsample(db)?;
    }
    delete_expired(db, retention, now)
}

/// Deletes remembered ids that are too old or too many.
fn forget_old_ids(db: &Transaction<'_>, now: i64) -> Result<(), CatalogError> {
    // A time in the future means that the clock has been set back since.
    db.prepare_cached("DELETE FROM seen WHERE folded_us < ?1 - ?2 OR folded_us > ?1 + ?2")?
        .execute([now, REMEMBERED_US])?;
    let surplus: Option<i64> = db
        .prepare_cached("SELECT folded_us FROM seen ORDER BY folded_us DESC LIMIT 1 OFFSET ?1")?
        .query_row([MAX_REMEMBERED], |row| row.get("folded_us"))
        .optional()?;
    if let Some(time) = surplus {
        db.execute("DELETE FROM seen WHERE folded_us <= ?1", [time])?;
    }
    Ok(())
}

/// Rolls up the older rows of a signature if it has too many; `false` if it has not.
fn roll_up(db: &Transaction<'_>, signature: &SignatureKey, now: i64) -> Result<bool, CatalogError> {
    let rows: i64 = db
        .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM crashes WHERE signature = ?1 LIMIT ?2)")?
        .query_row(params![signature, MAX_ROWS + SLACK + 1], |row| row.get(0))?;
    if rows <= MAX_ROWS + SLACK {
        return Ok(false);
    }
    // The newest are those inserted last: unlike their times, that order does not depend on a clock.
    let last: Option<i64> = db
        .prepare_cached("SELECT seq FROM crashes WHERE signature = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2")?
        .query_row(params![signature, MAX_ROWS], |row| row.get("seq"))
        .optional()?;
    let Some(last) = last else { return Ok(false) };
    let surplus = "FROM crashes WHERE signature = :signature AND seq <= :last AND core != :stored";
    let values = named_params! { ":signature": signature, ":last": last, ":stored": RecordedCore::Stored };
    let ids: Vec<CrashId> = {
        let mut query = db.prepare_cached(&format!("SELECT id {surplus}"))?;
        query.query_map(values, |row| row.get("id"))?.collect::<Result<_, _>>()?
    };
    let mut remember = db.prepare_cached("INSERT OR REPLACE INTO seen (id, folded_us) VALUES (?1, ?2)")?;
    for id in &ids {
        remember.execute([id_number(id), now])?;
    }
    db.prepare_cached(&format!(
        "INSERT INTO folded (signature, hostname, unit, container, from_us, span_us, program, signal_name, count, first_us, last_us)
         SELECT signature, hostname, coalesce(unit, ''), coalesce(container, ''), time_us - time_us % {HOUR_US}, {HOUR_US},
                max(program), max(signal_name), count(*), min(time_us), max(time_us)
         {surplus} GROUP BY 1, 2, 3, 4, 5
         ON CONFLICT DO UPDATE SET count = count + excluded.count, first_us = min(first_us, excluded.first_us),
             last_us = max(last_us, excluded.last_us)"
    ))?
    .execute(values)?;
    db.prepare_cached(&format!("DELETE FROM records WHERE seq IN (SELECT seq {surplus})"))?.execute(values)?;
    db.prepare_cached(&format!("DELETE {surplus}"))?.execute(values)?;
    Ok(true)
}

/// Merges counts if there are too many: in each step the older half loses a distinction.
fn downsample(db: &Transaction<'_>) -> Result<(), CatalogError> {
    // An asterisk stands for values that have been merged.
    const STEPS: [&str; 3] = ["signature, hostname, unit, '*'", "signature, '*', '*', '*'", "'*', '*', '*', '*'"];
    for step in STEPS {
        let count: i64 = db.prepare_cached("SELECT count(*) FROM folded")?.query_row([], |row| row.get(0))?;
        if count <= MAX_COUNTS {
            return Ok(());
        }
        let median: i64 =
            db.query_one("SELECT last_us FROM folded ORDER BY last_us LIMIT 1 OFFSET ?1", [count / 2], |row| {
                row.get("last_us")
            })?;
        db.execute_batch("CREATE TEMP TABLE downsampled AS SELECT * FROM folded LIMIT 0")?;
        db.execute(
            &format!(
                "INSERT INTO downsampled SELECT {step}, from_us - from_us % {DAY_US}, {DAY_US}, max(program), max(signal_name), sum(count),
                     min(first_us), max(last_us) FROM folded WHERE last_us <= ?1 GROUP BY 1, 2, 3, 4, 5"
            ),
            [median],
        )?;
        db.execute("DELETE FROM folded WHERE last_us <= ?1", [median])?;
        db.execute_batch(
            "INSERT INTO folded SELECT * FROM downsampled WHERE true ON CONFLICT DO UPDATE SET count = count + excluded.count,
                 first_us = min(first_us, excluded.first_us), last_us = max(last_us, excluded.last_us);
             DROP TABLE downsampled;",
        )?;
    }
    Ok(())
}

/// Deletes rows and counts that are too old, and the oldest rows if there are too many. Rows of stored cores stay.
fn delete_expired(db: &Transaction<'_>, retention: Retention, now: i64) -> Result<(), CatalogError> {
    let max_rows = to_signed(retention.rows);
    let age = i64::try_from(retention.age.as_micros()).unwrap_or(i64::MAX);
    let before = now.saturating_sub(age);
    if before > 0 {
        let too_old = "SELECT seq FROM crashes WHERE time_us < ?1 AND core != ?2";
        for table in ["records", "crashes"] {
            db.prepare_cached(&format!("DELETE FROM {table} WHERE seq IN ({too_old})"))?
                .execute(params![before, RecordedCore::Stored])?;
        }
        db.prepare_cached("DELETE FROM folded WHERE last_us < ?1")?.execute([before])?;
    }
    // There cannot be more rows than the highest number, which is cheaper to look up.
    let highest: i64 =
        db.prepare_cached("SELECT coalesce(max(seq), 0) FROM crashes")?.query_row([], |row| row.get(0))?;
    if highest <= max_rows {
        return Ok(());
    }
    let rows: i64 = db.prepare_cached("SELECT count(*) FROM crashes")?.query_row([], |row| row.get(0))?;
    if rows > max_rows {
        let oldest = "SELECT seq FROM crashes WHERE core != ?2 ORDER BY seq LIMIT ?1";
        for table in ["records", "crashes"] {
            db.prepare_cached(&format!("DELETE FROM {table} WHERE seq IN ({oldest})"))?
                .execute(params![rows - max_rows, RecordedCore::Stored])?;
        }
    }
    Ok(())
}

/// An id as the number that its 16 hexadecimal digits stand for.
fn id_number(id: &CrashId) -> i64 {
    u64::from_str_radix(id.as_str(), 16).unwrap_or(0).cast_signed()
}

#[cfg(test)]
mod tests;
