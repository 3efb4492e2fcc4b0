//! Bringing catalog, ledger and core files into agreement, however the last daemon ended.

use super::error::CatalogError;
use super::ledger::Ledger;
use super::rows;
use super::rows::Inserted;
use crate::crash::{CrashId, Principal, Record, SignatureKey};
use crate::policy::evict::Attribution;
use crate::store::columns::RecordedCore;
use crate::store::core_dir::{core_file_name, crash_of_file, open_core};
use crate::store::format;
use nix::dir::Dir;
use rusqlite::Connection;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The repairs that were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Recovered {
    /// Core files that had no row and were given one.
    pub(super) restored: usize,
    /// Rows whose core file is gone.
    pub(super) missing: usize,
}

/// Enters every core file in the ledger, inserts a row for those that have none, and marks rows whose file is gone.
pub(super) fn recover(db: &mut Connection, ledger: &Ledger) -> Result<Recovered, CatalogError> {
    let mut recovered = Recovered::default();
    let mut rows_with_core: HashMap<CrashId, String> = {
        let mut query = db.prepare("SELECT id, record FROM crashes JOIN records USING (seq) WHERE core = ?1")?;
        let rows = query.query_map([RecordedCore::Stored], |row| Ok((row.get("id")?, row.get("record")?)))?;
        rows.collect::<Result<_, _>>()?
    };
    let transaction = db.transaction()?;
    for id in core_ids(ledger.dir())? {
        let Ok(mut file) = open_core(ledger.dir(), &id) else { continue };
        let (size, changed) = file.metadata().map(|data| (data.len(), data.mtime()))?;
        let from_row = rows_with_core.remove(&id).and_then(|json| serde_json::from_str::<Record>(&json).ok());
        let has_row = from_row.is_some();
        let record = from_row.or_else(|| read_record_of(&id, &mut file));
        if let Some(record) = record.as_ref().filter(|_| !has_row) {
            recovered.restored += usize::from(rows::insert(&transaction, record)? != Inserted::Known);
        }
        let (attribution, time_us) = match record {
            Some(record) => (Attribution::of_record(&record), record.time_us),
            None => (unknown(&id), u64::try_from(changed).unwrap_or(0).saturating_mul(1_000_000)),
        };
        ledger.commit(attribution, 0, id, time_us, size);
    }
    for id in rows_with_core.keys() {
        rows::set_core(&transaction, id, RecordedCore::Missing)?;
        recovered.missing += 1;
    }
    transaction.commit()?;
    Ok(recovered)
}

/// The record in the core file of crash `id`, if it has one and it is that of this crash.
fn read_record_of(id: &CrashId, file: &mut File) -> Option<Record> {
    match format::read_record(file) {
        Ok(record) if record.id == *id => return Some(record),
        Ok(record) => {
            tracing::warn!("{}: its record is that of crash {}", core_file_name(id).display(), record.id);
        }
        Err(error) => tracing::warn!("{}: {error}", core_file_name(id).display()),
    }
    None
}

/// A file whose record cannot be read is accounted for nevertheless.
fn unknown(id: &CrashId) -> Attribution {
    Attribution {
        principal: Principal::Unknown,
        uid: None,
        program: "unknown".to_owned(),
        signature: SignatureKey::new(id.to_string()),
    }
}

fn core_ids(dir: &OwnedFd) -> Result<Vec<CrashId>, CatalogError> {
    let mut listing = Dir::from_fd(dir.try_clone()?).map_err(std::io::Error::from)?;
    let names = listing.iter().filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()));
    Ok(names.filter_map(|name| crash_of_file(Path::new(&name))).collect())
}
