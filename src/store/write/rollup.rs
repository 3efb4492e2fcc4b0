//! Bounding the catalog. The older rows of a signature with many crashes are rolled up into counts per host, unit, container
//! and hour; rows beyond the configured age and number, and beyond the catalog's share of the disk, are deleted, from whoever
//! has most. The counters behind the metrics are unaffected.

use super::charges::{self, Surplus};
use super::error::CatalogError;
use crate::crash::{CrashId, Dump, Record, SignatureKey};
use crate::store::columns::{RecordedCore, to_signed};
use rusqlite::{Connection, OptionalExtension, Transaction, named_params, params};
use std::collections::HashSet;
use std::time::Duration;

/// `MaxRecords=`, `RecordMaxAge=`, and the catalog's share of `MaxUse=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retention {
    /// The most rows; those rolled up do not count.
    pub rows: u64,
    /// The age at which rows and counts are deleted.
    pub age: Duration,
    /// The most bytes of the catalog.
    pub bytes: u64,
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
    let bugs: HashSet<(SignatureKey, String)> =
        records.iter().map(|record| (record.signature_key(), record.answering().0.to_string())).collect();
    let mut any_rolled_up = false;
    for (signature, principal) in bugs {
        any_rolled_up |= roll_up(db, &signature, &principal, now)?;
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

/// Rolls up the older rows that a principal has of a signature if they are too many; `false` if they are not. The rows of others
/// stay, however many crashes of the same signature this principal has.
fn roll_up(db: &Transaction<'_>, signature: &SignatureKey, principal: &str, now: i64) -> Result<bool, CatalogError> {
    let rows: i64 = db
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM charges WHERE signature = ?1 AND principal = ?2 LIMIT ?3)",
        )?
        .query_row(params![signature, principal, MAX_ROWS + SLACK + 1], |row| row.get(0))?;
    if rows <= MAX_ROWS + SLACK {
        return Ok(false);
    }
    // The newest are those inserted last: unlike their times, that order does not depend on a clock.
    let last: Option<i64> = db
        .prepare_cached(
            "SELECT seq FROM charges WHERE signature = ?1 AND principal = ?2 ORDER BY seq DESC LIMIT 1 OFFSET ?3",
        )?
        .query_row(params![signature, principal, MAX_ROWS], |row| row.get("seq"))
        .optional()?;
    let Some(last) = last else { return Ok(false) };
    let surplus = "FROM crashes WHERE core != :stored AND seq IN (
         SELECT seq FROM charges WHERE signature = :signature AND principal = :principal AND seq <= :last)";
    let values = named_params! {
        ":signature": signature, ":principal": principal, ":last": last, ":stored": RecordedCore::Stored
    };
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
         {surplus} AND signal_name != '{}' GROUP BY 1, 2, 3, 4, 5
         ON CONFLICT DO UPDATE SET count = count + excluded.count, first_us = min(first_us, excluded.first_us),
             last_us = max(last_us, excluded.last_us)",
        // Dumps are no crashes.
        Dump::SIGNAL_NAME
    ))?
    .execute(values)?;
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
        db.prepare_cached("DELETE FROM crashes WHERE time_us < ?1 AND core != ?2")?
            .execute(params![before, RecordedCore::Stored])?;
        db.prepare_cached("DELETE FROM folded WHERE last_us < ?1")?.execute([before])?;
    }
    // There cannot be more rows than the highest number, which is cheaper to look up.
    let highest: i64 =
        db.prepare_cached("SELECT coalesce(max(seq), 0) FROM crashes")?.query_row([], |row| row.get(0))?;
    let mut surplus = if highest > max_rows { charges::rows(db)?.saturating_sub(retention.rows) } else { 0 };
    while surplus > 0 {
        match charges::delete_oldest(db, Surplus::Rows, surplus)? {
            0 => break,
            deleted => surplus = surplus.saturating_sub(deleted),
        }
    }
    delete_what_does_not_fit(db, retention.bytes)
}

/// Deletes rows until the catalog has at most `max_bytes`, and then counts.
pub(super) fn delete_what_does_not_fit(db: &Transaction<'_>, max_bytes: u64) -> Result<(), CatalogError> {
    /// Rows that are deleted before the size is looked at again.
    const STEP: u64 = 64;
    if used_bytes(db)? <= max_bytes {
        return Ok(());
    }
    // A little more, so that the next row does not delete another.
    let target = max_bytes / 16 * 15;
    while used_bytes(db)? > target {
        if charges::delete_oldest(db, Surplus::Bytes, STEP)? > 0 {
            continue;
        }
        let counts = "SELECT last_us FROM folded ORDER BY last_us LIMIT 1 OFFSET (SELECT count(*) / 2 FROM folded)";
        if db.prepare_cached(&format!("DELETE FROM folded WHERE last_us <= ({counts})"))?.execute([])? == 0 {
            break;
        }
    }
    Ok(())
}

/// Bytes of the pages that are in use.
fn used_bytes(db: &Connection) -> Result<u64, CatalogError> {
    let pages: i64 = db
        .prepare_cached(
            "SELECT (SELECT page_count FROM pragma_page_count) - (SELECT freelist_count FROM pragma_freelist_count)",
        )?
        .query_one([], |row| row.get(0))?;
    let page: i64 = db.prepare_cached("SELECT page_size FROM pragma_page_size")?.query_one([], |row| row.get(0))?;
    Ok(pages.unsigned_abs().saturating_mul(page.unsigned_abs()))
}

/// An id as the number that its 16 hexadecimal digits stand for.
fn id_number(id: &CrashId) -> i64 {
    u64::from_str_radix(id.as_str(), 16).unwrap_or(0).cast_signed()
}

#[cfg(test)]
mod tests;
