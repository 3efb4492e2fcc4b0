//! Setting catalog and files right with each other after any kind of end.

use super::catalog::CatalogError;
use super::core_file::file_name;
use super::ledger::Ledger;
use super::{format, schema};
use crate::crash::{CrashId, Record};
use crate::crash::{Principal, SignatureKey};
use crate::policy::evict::Attribution;
use coreward_sys::openat;
use nix::dir::Dir;
use rusqlite::Connection;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What was set right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Recovered {
    /// Cores without a row: they have one again.
    pub(super) restored: usize,
    /// Rows whose core is gone.
    pub(super) missing: usize,
}

/// Enters every core file in the ledger, gives a row to those that have none, and marks rows whose file is gone.
pub(super) fn recover(db: &mut Connection, ledger: &Ledger) -> Result<Recovered, CatalogError> {
    let mut recovered = Recovered::default();
    let mut known: HashMap<String, String> = {
        let mut query = db.prepare("SELECT id, record FROM crashes JOIN records USING (seq) WHERE core = 'stored'")?;
        query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?
    };
    let adding = db.transaction()?;
    for id in core_ids(ledger.dir())? {
        let Ok(file) = openat::open_file_below(ledger.dir().as_fd(), &file_name(&id)) else { continue };
        let mut file = File::from(file);
        let (size, changed) = file.metadata().map(|data| (data.len(), data.mtime()))?;
        let from_row = known.remove(id.as_str()).and_then(|json| serde_json::from_str::<Record>(&json).ok());
        let has_row = from_row.is_some();
        let record = match from_row.map_or_else(|| format::read_record(&mut file), Ok) {
            Ok(record) if record.id == id => Some(record),
            Ok(record) => {
                tracing::warn!("{}: its record is that of crash {}", file_name(&id).display(), record.id);
                None
            }
            Err(error) => {
                tracing::warn!("{}: {error}", file_name(&id).display());
                None
            }
        };
        if let Some(record) = record.as_ref().filter(|_| !has_row) {
            recovered.restored += usize::from(schema::insert(&adding, record)?.is_some());
        }
        let time_us = u64::try_from(changed).unwrap_or(0) * 1_000_000;
        let (owner, time_us) =
            record.map_or_else(|| (nobody(&id), time_us), |record| (Attribution::of(&record), record.time_us));
        ledger.settle(owner, 0, id, time_us, size);
    }
    for id in known.keys().filter_map(|id| CrashId::parse(id)) {
        schema::mark(&adding, &id, "missing")?;
        recovered.missing += 1;
    }
    adding.commit()?;
    Ok(recovered)
}

/// A file whose record can't be read takes room all the same.
fn nobody(id: &CrashId) -> Attribution {
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
    Ok(names.filter_map(|name| id_of(Path::new(&name))).collect())
}

/// The crash whose core has this file name.
pub(super) fn id_of(path: &Path) -> Option<CrashId> {
    path.file_name()?.to_str()?.strip_suffix(".core.zst").and_then(CrashId::parse)
}
