//! Bringing catalog, ledger and core files into agreement, however the last daemon ended.

use super::charges::{self, Charge};
use super::error::CatalogError;
use super::ledger::Ledger;
use super::rows;
use super::rows::Inserted;
use crate::crash::{CrashId, Party, Principal, Record, SignatureKey};
use crate::policy::evict::Attribution;
use crate::store::columns::RecordedCore;
use crate::store::core_dir::{core_file_name, crash_of_file, open_core};
use crate::store::format;
use nix::dir::Dir;
use rusqlite::Connection;
use std::collections::HashSet;
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
    let mut files: HashSet<CrashId> = core_ids(ledger.dir())?.into_iter().collect();
    for RowWithCore { id, charge } in rows_with_core(db)? {
        match open_core(ledger.dir(), &id).and_then(|file| file.metadata()) {
            Ok(file) if files.remove(&id) => {
                ledger.commit(charge.attribution, 0, id, charge.time_us, file.len());
            }
            _ => {
                rows::set_core(db, &id, RecordedCore::Missing)?;
                recovered.missing += 1;
            }
        }
    }
    let mut without_row = files.into_iter().peekable();
    while without_row.peek().is_some() {
        let transaction = db.transaction()?;
        for id in without_row.by_ref().take(STEP) {
            let Ok(mut file) = open_core(ledger.dir(), &id) else { continue };
            let (size, changed) = file.metadata().map(|data| (data.len(), data.mtime()))?;
            let (attribution, time_us) = match read_record_of(&id, &mut file) {
                Some(record) => {
                    recovered.restored += usize::from(rows::insert(&transaction, &record)? != Inserted::Known);
                    (Attribution::of_record(&record), record.time_us)
                }
                None => (unknown(&id), u64::try_from(changed).unwrap_or(0).saturating_mul(1_000_000)),
            };
            ledger.commit(attribution, 0, id, time_us, size);
        }
        transaction.commit()?;
    }
    Ok(recovered)
}

/// Core files without a row whose records are read in one transaction: those are in the journal until it ends.
const STEP: usize = 64;

/// A row of a stored core.
struct RowWithCore {
    id: CrashId,
    charge: Charge,
}

/// The rows of stored cores, which `MaxCores=` bounds. Their records are not read.
fn rows_with_core(db: &Connection) -> Result<Vec<RowWithCore>, CatalogError> {
    let mut query =
        db.prepare(&format!("SELECT id, {} FROM crashes JOIN charges USING (seq) WHERE core = ?1", charges::COLUMNS))?;
    let rows = query
        .query_map([RecordedCore::Stored], |row| Ok(RowWithCore { id: row.get("id")?, charge: Charge::read(row)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The record in the core file of crash `id`, if it has one and it is that of this crash.
fn read_record_of(id: &CrashId, file: &mut File) -> Option<Record> {
    match format::read_record(file) {
        Ok(mut record) if record.id == *id => {
            // An earlier version may have written it.
            record.bound();
            return Some(record);
        }
        Ok(record) => {
            tracing::warn!("{}: it contains the record of another crash, {}", core_file_name(id).display(), record.id);
        }
        Err(error) => tracing::warn!("{}: {error}", core_file_name(id).display()),
    }
    None
}

/// A file whose record cannot be read is accounted for nevertheless.
fn unknown(id: &CrashId) -> Attribution {
    Attribution {
        principal: Principal::Unknown,
        party: Party::Unknown,
        program: "unknown".to_owned(),
        signature: SignatureKey::new(id.to_string()),
    }
}

fn core_ids(dir: &OwnedFd) -> Result<Vec<CrashId>, CatalogError> {
    let mut listing = Dir::from_fd(dir.try_clone()?).map_err(std::io::Error::from)?;
    let names = listing.iter().filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()));
    Ok(names.filter_map(|name| crash_of_file(Path::new(&name))).collect())
}
