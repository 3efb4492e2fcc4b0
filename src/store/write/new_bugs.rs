//! Which crashes are the first of their signature, and which of those nobody has been told about yet. They are remembered in the
//! catalog, in the transaction that counts the crash, so a daemon that ends in between tells of none of them too little.

use super::error::CatalogError;
use crate::crash::{CrashId, Party, Principal, SignatureKey};
use crate::store::columns::to_signed;
use nix::unistd::Uid;
use rusqlite::{Connection, Transaction, params};

/// The table of crashes to tell about.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY);";
/// More than this wait only if nobody takes them. Further ones are left out.
const MAX_WAITING: i64 = 1000;

/// The first crash of a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBug {
    /// Its row.
    pub(crate) seq: i64,
    /// The crash.
    pub id: CrashId,
    /// Who answers for it.
    pub principal: Principal,
    /// Its record, as JSON.
    pub record: String,
}

/// Whether the crash in row `seq` is the first of its signature that this party has in the catalog. Crashes of others do not count: a
/// user who knows a bug of root's could otherwise see to it that nobody hears of root's crash.
pub(super) fn is_first(
    db: &Transaction<'_>,
    seq: i64,
    principal: &Principal,
    party: &Party,
    signature: &SignatureKey,
) -> Result<bool, CatalogError> {
    let user = party.user().map(Uid::as_raw);
    let known = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM charges WHERE signature = ?1 AND uid IS ?2 AND (?2 IS NOT NULL OR principal = ?3) AND seq != ?4)",
        )?
        .query_one(params![signature, user, principal.to_string(), seq], |row| row.get::<_, bool>(0))?;
    Ok(!known)
}

/// Remembers the crash in row `seq` until [`forget`].
pub(super) fn remember(db: &Transaction<'_>, seq: i64) -> Result<(), CatalogError> {
    db.prepare_cached("INSERT INTO events (seq) SELECT ?1 WHERE (SELECT count(*) FROM events) < ?2")?
        .execute([seq, MAX_WAITING])?;
    Ok(())
}

/// The oldest crashes to tell about, at most `limit`.
pub(super) fn waiting(db: &Connection, limit: usize) -> Result<Vec<NewBug>, CatalogError> {
    let mut query = db.prepare_cached(
        "SELECT seq, id, principal, record FROM events JOIN crashes USING (seq) JOIN charges USING (seq) JOIN records USING (seq)
         ORDER BY seq LIMIT ?1",
    )?;
    let rows = query.query_map([to_signed(limit as u64)], |row| {
        let principal = Principal::parse(&row.get::<_, String>("principal")?).unwrap_or(Principal::Unknown);
        Ok(NewBug { seq: row.get("seq")?, id: row.get("id")?, principal, record: row.get("record")? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Forgets crashes that have been told about, and those whose rows are gone.
pub(super) fn forget(db: &Connection, told: &[i64]) -> Result<(), CatalogError> {
    let mut delete = db.prepare_cached("DELETE FROM events WHERE seq = ?1")?;
    for seq in told {
        delete.execute([seq])?;
    }
    db.prepare_cached("DELETE FROM events WHERE seq NOT IN (SELECT seq FROM crashes)")?.execute([])?;
    Ok(())
}
