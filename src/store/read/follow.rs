//! Crashes as they are recorded.

use super::connection::open_if_allowed;
use super::error::QueryError;
use super::filter::{Filter, WhereClause};
use super::listed::Listed;
use super::query::{list_catalog, list_readable_cores, meaning_of};
use crate::crash::CrashId;
use crate::store::Layout;
use coreward_wire::paths::Root;
use rusqlite::Connection;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;

/// Finds crashes that were recorded since it was asked last.
pub struct Follower {
    layout: Layout,
    filter: Filter,
    state: State,
}

enum State {
    /// There is no catalog yet: all that it will have is new.
    NoCatalog,
    Catalog(Opened),
    /// This user may not read the catalog. The crashes are known whose cores the user can read.
    Cores(HashSet<CrashId>),
}

struct Opened {
    db: Connection,
    /// The file, to notice when another takes its place.
    inode: u64,
    /// The number of the newest row that was looked at.
    last: i64,
}

impl Follower {
    /// Follows crashes that `filter` selects, from now on. The filter's limit does not count.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn start(root: &Root, filter: Filter) -> Result<Self, QueryError> {
        let layout = Layout::new(root);
        let filter = Filter { limit: None, ..filter };
        let state = match open(&layout) {
            Ok(Some(opened)) => State::Catalog(opened),
            Ok(None) => {
                let known = list_readable_cores(&layout, &filter).0;
                State::Cores(known.into_iter().map(|listed| listed.record.id).collect())
            }
            Err(QueryError::NoCatalog(_)) => State::NoCatalog,
            Err(error) => return Err(error),
        };
        Ok(Self { layout, filter, state })
    }

    /// The crashes that are new since the start or the last call, in the order of their times.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub fn poll(&mut self) -> Result<Vec<Listed>, QueryError> {
        match &mut self.state {
            State::NoCatalog => {
                match open(&self.layout) {
                    Ok(Some(opened)) => self.state = State::Catalog(Opened { last: 0, ..opened }),
                    Ok(None) => self.state = State::Cores(HashSet::new()),
                    Err(QueryError::NoCatalog(_)) => return Ok(Vec::new()),
                    Err(error) => return Err(error),
                }
                self.poll()
            }
            State::Cores(known) => {
                let mut found = list_readable_cores(&self.layout, &self.filter).0;
                found.retain(|listed| known.insert(listed.record.id.clone()));
                Ok(found)
            }
            State::Catalog(opened) => {
                // The daemon sets a damaged catalog aside. What the next one has was there before, as far as it is known.
                let inode = std::fs::metadata(&self.layout.catalog).map(|file| file.ino());
                if inode.is_ok_and(|inode| inode != opened.inode) {
                    match open(&self.layout) {
                        Ok(Some(again)) => *opened = again,
                        Ok(None) | Err(QueryError::NoCatalog(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                rows_after(opened, &self.layout, &self.filter)
            }
        }
    }
}

/// Opens the catalog; `None` if this user may not read it.
fn open(layout: &Layout) -> Result<Option<Opened>, QueryError> {
    let Some(db) = open_if_allowed(layout)? else { return Ok(None) };
    let last = newest_row(&db).map_err(|error| QueryError::sqlite(&layout.catalog, error))?;
    let inode = std::fs::metadata(&layout.catalog).map_or(0, |file| file.ino());
    Ok(Some(Opened { db, inode, last }))
}

fn newest_row(db: &Connection) -> rusqlite::Result<i64> {
    db.query_one("SELECT coalesce(max(seq), 0) FROM crashes", [], |row| row.get(0))
}

fn rows_after(opened: &mut Opened, layout: &Layout, filter: &Filter) -> Result<Vec<Listed>, QueryError> {
    let failed = |error| QueryError::sqlite(&layout.catalog, error);
    let newest = newest_row(&opened.db).map_err(failed)?;
    let after = std::mem::replace(&mut opened.last, newest);
    // The newest rows were deleted, or there is none.
    if newest <= after {
        return Ok(Vec::new());
    }
    let meaning = meaning_of(&opened.db, filter).map_err(failed)?;
    let mut conditions = WhereClause::new(filter, meaning);
    conditions.and("seq > ?", after);
    conditions.and("seq <= ?", newest);
    list_catalog(&opened.db, layout, filter.sql_limit(), &conditions)
}
