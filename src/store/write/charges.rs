//! Whom the catalog's rows are charged to, beside the rows of `crashes`: what the ledger and the storm policy need at a start
//! without reading a record, and who gives up rows when there are too many. Triggers keep the sums, whoever deletes a row.

use super::error::CatalogError;
use crate::crash::{AccountFacts, Party, Principal, SignatureKey};
use crate::policy::evict::Attribution;
use crate::store::columns::{RecordedCore, to_signed};
use nix::unistd::Uid;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

/// The tables, with the triggers that keep them.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS charges (
        seq INTEGER PRIMARY KEY, principal TEXT NOT NULL, uid INTEGER, signature TEXT NOT NULL, bytes INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS charges_by_principal ON charges (principal, seq);
    CREATE INDEX IF NOT EXISTS charges_by_signature ON charges (signature, principal, seq);
    CREATE TABLE IF NOT EXISTS principals (
        principal TEXT PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TRIGGER IF NOT EXISTS row_deleted AFTER DELETE ON crashes BEGIN
        DELETE FROM records WHERE seq = old.seq;
        DELETE FROM charges WHERE seq = old.seq;
    END;
    CREATE TRIGGER IF NOT EXISTS charge_added AFTER INSERT ON charges BEGIN
        INSERT INTO principals VALUES (new.principal, 1, new.bytes)
            ON CONFLICT DO UPDATE SET rows = rows + 1, bytes = bytes + excluded.bytes;
    END;
    CREATE TRIGGER IF NOT EXISTS charge_deleted AFTER DELETE ON charges BEGIN
        UPDATE principals SET rows = rows - 1, bytes = bytes - old.bytes WHERE principal = old.principal;
        DELETE FROM principals WHERE principal = old.principal AND rows <= 0;
    END;";
/// Rows that are charged in one step.
const STEP: usize = 1000;
/// Bytes of a row in tables and indexes beside its record.
const ROW: u64 = 500;

/// What a row is charged with, as selected with [`COLUMNS`].
pub(super) struct Charge {
    pub(super) attribution: Attribution,
    pub(super) time_us: u64,
}

/// The columns of a [`Charge`], in `crashes JOIN charges USING (seq)`.
pub(super) const COLUMNS: &str = "charges.principal, charges.uid AS party, charges.signature, program, time_us";

impl Charge {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let principal = Principal::parse(&row.get::<_, String>("principal")?).unwrap_or(Principal::Unknown);
        let user = row.get::<_, Option<u32>>("party")?.map(Uid::from_raw);
        let party = Party::of_row(&principal, user);
        let attribution =
            Attribution { principal, party, program: row.get("program")?, signature: row.get("signature")? };
        Ok(Self { attribution, time_us: row.get::<_, i64>("time_us")?.unsigned_abs() })
    }
}

/// Creates the tables, and charges the rows that an earlier version inserted.
pub(super) fn prepare(db: &mut Connection) -> Result<(), CatalogError> {
    db.execute_batch(TABLES)?;
    let mut last = 0;
    loop {
        let rows = uncharged(db, last)?;
        let Some((seq, ..)) = rows.last() else { return Ok(()) };
        last = *seq;
        let transaction = db.transaction()?;
        for (seq, principal, party, signature, bytes) in rows {
            add(&transaction, seq, &principal, &party, &signature, bytes)?;
        }
        transaction.commit()?;
    }
}

type Uncharged = (i64, Principal, Party, SignatureKey, u64);

/// The next rows after `last` without a charge. Their records are not read: unit, container and uid are in the row.
fn uncharged(db: &Connection, last: i64) -> Result<Vec<Uncharged>, CatalogError> {
    let mut query = db.prepare_cached(
        "SELECT seq, unit, container, uid, signature, coalesce((SELECT octet_length(record) FROM records WHERE seq = crashes.seq), 0) AS bytes
         FROM crashes WHERE seq > ?1 AND NOT EXISTS (SELECT 1 FROM charges WHERE seq = crashes.seq) ORDER BY seq LIMIT ?2",
    )?;
    let rows = query.query_map(params![last, to_signed(STEP as u64)], |row| {
        let unit: Option<String> = row.get("unit")?;
        let (principal, party) = Principal::answering(&AccountFacts {
            unit: unit.as_deref(),
            in_container: row.get::<_, Option<String>>("container")?.is_some(),
            uid: row.get::<_, Option<u32>>("uid")?.map(Uid::from_raw),
            ..AccountFacts::default()
        });
        let bytes = row.get::<_, i64>("bytes")?.unsigned_abs();
        Ok((row.get("seq")?, principal, party, row.get("signature")?, bytes))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Charges a row whose record has this many bytes.
pub(super) fn add(
    db: &Transaction<'_>,
    seq: i64,
    principal: &Principal,
    party: &Party,
    signature: &SignatureKey,
    bytes: u64,
) -> Result<(), CatalogError> {
    db.prepare_cached("INSERT INTO charges (seq, principal, uid, signature, bytes) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            seq,
            principal.to_string(),
            party.user().map(Uid::as_raw),
            signature,
            to_signed(bytes + ROW)
        ])?;
    Ok(())
}

/// The number of rows.
pub(super) fn rows(db: &Connection) -> Result<u64, CatalogError> {
    let rows: i64 =
        db.prepare_cached("SELECT coalesce(sum(rows), 0) FROM principals")?.query_one([], |row| row.get(0))?;
    Ok(rows.unsigned_abs())
}

/// What there is too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surplus {
    Rows,
    Bytes,
}

/// Deletes up to `count` of the oldest rows of the principal that has most of what there is too much of, so that nobody's flood
/// pushes out the rows of others. Rows of stored cores stay. Returns how many were deleted: 0 if only such rows are left.
pub(super) fn delete_oldest(db: &Transaction<'_>, surplus: Surplus, count: u64) -> Result<u64, CatalogError> {
    let order = match surplus {
        Surplus::Rows => "rows",
        Surplus::Bytes => "bytes",
    };
    let mut skipped = 0;
    loop {
        let largest: Option<String> = db
            .prepare_cached(&format!(
                "SELECT principal FROM principals ORDER BY {order} DESC, principal LIMIT 1 OFFSET ?1"
            ))?
            .query_row([skipped], |row| row.get("principal"))
            .optional()?;
        let Some(principal) = largest else { return Ok(0) };
        let deleted = db
            .prepare_cached(
                "DELETE FROM crashes WHERE seq IN (
                     SELECT crashes.seq FROM charges JOIN crashes USING (seq)
                     WHERE charges.principal = ?1 AND core != ?2 ORDER BY charges.seq LIMIT ?3)",
            )?
            .execute(params![principal, RecordedCore::Stored, to_signed(count)])?;
        if deleted > 0 {
            return Ok(deleted as u64);
        }
        skipped += 1;
    }
}
