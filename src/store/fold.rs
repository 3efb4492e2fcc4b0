//! What keeps the catalog small: of a signature that crashes again and again the older rows become counts, by host, unit,
//! container and hour; and what is older or more than is asked for goes. The counters of the metrics are not touched by either.

use super::catalog::CatalogError;
use super::schema::signed;
use crate::crash::{CrashId, Record, SignatureKey};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::collections::HashSet;
use std::time::Duration;

/// `MaxRecords=` and `RecordMaxAge=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Rows; what is folded does not count.
    pub rows: u64,
    /// Age of rows and counts.
    pub age: Duration,
}

/// Rows of one signature that stay rows; those with a core do in any case.
const ROWS: i64 = 1000;
/// So many more are folded at once.
const SLACK: i64 = 250;
const HOUR_US: i64 = 3_600_000_000;
const DAY_US: i64 = 24 * HOUR_US;
/// Counts that are kept; where there are more, the older lose their container, then their unit and host, then their signature.
const FOLDED: i64 = 50_000;
/// A shim offers its crash again for minutes.
const SEEN_US: i64 = HOUR_US;
/// Ids of folded rows; at 16 bytes each.
const SEEN: i64 = 1_000_000;

/// Whether the row of this crash has been folded lately.
pub(super) fn is_seen(db: &Connection, id: &CrashId) -> Result<bool, CatalogError> {
    let mut query = db.prepare_cached("SELECT 1 FROM seen WHERE id = ?1")?;
    Ok(query.query_row([number(id)], |_| Ok(())).optional()?.is_some())
}

/// Folds what the signatures of `records` have too many of, and forgets what `retention` does not want any more. `now_us` is
/// the time of the wall clock, which may have jumped back: then less is forgotten.
pub(super) fn fold(
    db: &Transaction<'_>,
    records: &[&Record],
    retention: Retention,
    now_us: u64,
) -> Result<(), CatalogError> {
    let now = signed(now_us);
    let signatures: HashSet<SignatureKey> = records.iter().map(|record| record.signature_key()).collect();
    let mut any = false;
    for signature in signatures {
        any |= fold_signature(db, signature.as_str(), now)?;
    }
    if any {
        forget_seen(db, now)?;
        coarsen(db)?;
    }
    forget(db, retention, now)
}

fn forget_seen(db: &Transaction<'_>, now: i64) -> Result<(), CatalogError> {
    // A time in the future is that of a clock that was set back since.
    db.prepare_cached("DELETE FROM seen WHERE folded_us < ?1 - ?2 OR folded_us > ?1 + ?2")?.execute([now, SEEN_US])?;
    let surplus: Option<i64> = db
        .prepare_cached("SELECT folded_us FROM seen ORDER BY folded_us DESC LIMIT 1 OFFSET ?1")?
        .query_row([SEEN], |row| row.get(0))
        .optional()?;
    if let Some(time) = surplus {
        db.execute("DELETE FROM seen WHERE folded_us <= ?1", [time])?;
    }
    Ok(())
}

fn fold_signature(db: &Transaction<'_>, signature: &str, now: i64) -> Result<bool, CatalogError> {
    let rows: i64 = db
        .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM crashes WHERE signature = ?1 LIMIT ?2)")?
        .query_row(params![signature, ROWS + SLACK + 1], |row| row.get(0))?;
    if rows <= ROWS + SLACK {
        return Ok(false);
    }
    // The newest stay rows: by the order of arrival, which no clock can turn around.
    let last: Option<i64> = db
        .prepare_cached("SELECT seq FROM crashes WHERE signature = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2")?
        .query_row(params![signature, ROWS], |row| row.get(0))
        .optional()?;
    let Some(last) = last else { return Ok(false) };
    let old = "FROM crashes WHERE signature = ?1 AND seq <= ?2 AND core != 'stored'";
    let ids: Vec<String> = {
        let mut query = db.prepare_cached(&format!("SELECT id {old}"))?;
        query.query_map(params![signature, last], |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    let mut mark = db.prepare_cached("INSERT OR REPLACE INTO seen (id, folded_us) VALUES (?1, ?2)")?;
    for id in ids.iter().filter_map(|id| CrashId::parse(id)) {
        mark.execute([number(&id), now])?;
    }
    db.prepare_cached(&format!(
        "INSERT INTO folded (signature, hostname, unit, container, from_us, span_us, program, signal_name, count, first_us, last_us)
         SELECT signature, hostname, coalesce(unit, ''), coalesce(container, ''), time_us - time_us % {HOUR_US}, {HOUR_US},
                max(program), max(signal_name), count(*), min(time_us), max(time_us)
         {old} GROUP BY 1, 2, 3, 4, 5
         ON CONFLICT DO UPDATE SET count = count + excluded.count, first_us = min(first_us, excluded.first_us),
             last_us = max(last_us, excluded.last_us)"
    ))?
    .execute(params![signature, last])?;
    db.prepare_cached(&format!("DELETE FROM records WHERE seq IN (SELECT seq {old})"))?
        .execute(params![signature, last])?;
    db.prepare_cached(&format!("DELETE {old}"))?.execute(params![signature, last])?;
    Ok(true)
}

/// Tells fewer things apart where there are too many counts, the older ones first.
fn coarsen(db: &Transaction<'_>) -> Result<(), CatalogError> {
    // An asterisk stands for all that are not told apart any more.
    const STEPS: [&str; 3] = ["signature, hostname, unit, '*'", "signature, '*', '*', '*'", "'*', '*', '*', '*'"];
    for step in STEPS {
        let count: i64 = db.prepare_cached("SELECT count(*) FROM folded")?.query_row([], |row| row.get(0))?;
        if count <= FOLDED {
            return Ok(());
        }
        let half: i64 =
            db.query_row("SELECT last_us FROM folded ORDER BY last_us LIMIT 1 OFFSET ?1", [count / 2], |row| {
                row.get(0)
            })?;
        db.execute_batch("CREATE TEMP TABLE coarse AS SELECT * FROM folded LIMIT 0")?;
        db.execute(
            &format!(
                "INSERT INTO coarse SELECT {step}, from_us - from_us % {DAY_US}, {DAY_US}, max(program), max(signal_name), sum(count),
                     min(first_us), max(last_us) FROM folded WHERE last_us <= ?1 GROUP BY 1, 2, 3, 4, 5"
            ),
            [half],
        )?;
        db.execute("DELETE FROM folded WHERE last_us <= ?1", [half])?;
        db.execute_batch(
            "INSERT INTO folded SELECT * FROM coarse WHERE true ON CONFLICT DO UPDATE SET count = count + excluded.count,
                 first_us = min(first_us, excluded.first_us), last_us = max(last_us, excluded.last_us);
             DROP TABLE coarse;",
        )?;
    }
    Ok(())
}

/// Forgets rows and counts that are too old, and the oldest rows where there are too many; a crash whose core is there stays.
fn forget(db: &Transaction<'_>, retention: Retention, now: i64) -> Result<(), CatalogError> {
    let most = signed(retention.rows);
    let age = i64::try_from(retention.age.as_micros()).unwrap_or(i64::MAX);
    let before = now.saturating_sub(age);
    let by_age = "SELECT seq FROM crashes WHERE time_us < ?1 AND core != 'stored'";
    if before > 0 {
        db.prepare_cached(&format!("DELETE FROM records WHERE seq IN ({by_age})"))?.execute([before])?;
        db.prepare_cached(&format!("DELETE FROM crashes WHERE seq IN ({by_age})"))?.execute([before])?;
        db.prepare_cached("DELETE FROM folded WHERE last_us < ?1")?.execute([before])?;
    }
    // What is too many can't be more than the highest number says: the usual case costs nothing.
    let highest: i64 =
        db.prepare_cached("SELECT coalesce(max(seq), 0) FROM crashes")?.query_row([], |row| row.get(0))?;
    if highest <= most {
        return Ok(());
    }
    let rows: i64 = db.prepare_cached("SELECT count(*) FROM crashes")?.query_row([], |row| row.get(0))?;
    if rows > most {
        let by_count = "SELECT seq FROM crashes WHERE core != 'stored' ORDER BY seq LIMIT ?1";
        db.prepare_cached(&format!("DELETE FROM records WHERE seq IN ({by_count})"))?.execute([rows - most])?;
        db.prepare_cached(&format!("DELETE FROM crashes WHERE seq IN ({by_count})"))?.execute([rows - most])?;
    }
    Ok(())
}

/// An id is 64 bits in hexadecimal.
fn number(id: &CrashId) -> i64 {
    u64::from_str_radix(id.as_str(), 16).unwrap_or(0).cast_signed()
}

#[cfg(test)]
mod tests;
