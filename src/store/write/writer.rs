//! The thread that writes the catalog, one transaction for all the rows that are waiting.

use super::charges::{self, Charge};
use super::command::{Availability, Command, PendingRow};
use super::counters::{self, Counted, CrashCount};
use super::error::{CatalogError, is_busy, is_damage, is_full, needs_reopening};
use super::ledger::Ledger;
use super::lock_holder;
use super::new_bugs;
use super::quarantine::quarantine;
use super::recovery::{self, Recovered};
use super::rollup::{self, Retention};
use super::rows::{self, Inserted};
use super::schema;
use crate::crash::{CrashId, Dump, Origin, Principal, Record};
use crate::policy::evict::BugKey;
use crate::store::columns::{RecordedCore, to_signed};
use crate::store::layout::{catalog_journal, is_journal_long};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The result of opening the catalog: its content, and the repairs that were made.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// All counters.
    pub counts: Vec<CrashCount>,
    /// Core files that had no row and were given one.
    pub restored: usize,
    /// Rows whose core file is gone.
    pub missing: usize,
    /// Where a damaged catalog was moved.
    pub quarantined: Option<PathBuf>,
    /// Cores of the last day, for the storm policy.
    pub recent: Vec<RecentCore>,
}

/// What the writer has done, in the order in which it did it.
#[derive(Clone, Debug)]
pub enum CatalogEvent {
    /// It has opened the file.
    Opened(OpenReport),
    /// It has counted a crash.
    Counted(Counted),
}

/// A core that was stored recently, even if it is gone by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentCore {
    /// When it crashed, microseconds since 1970.
    pub time_us: u64,
    /// Its signature, and whose crash it was.
    pub bug: BugKey,
    /// Whose rate it counts towards.
    pub principal: Principal,
}

/// The longest time between two calls of `on_turn` while there is nothing to do.
const IDLE_TURN: Duration = Duration::from_millis(500);
/// The most rows in one transaction.
const MAX_ROWS: usize = 256;
/// The least time between two transactions, so that the rows of a storm share them. Nobody is delayed: these are rows of
/// processes that have been released.
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// Pause between attempts to open the catalog.
const REOPEN_INTERVAL: Duration = Duration::from_secs(2);
/// The most evictions for one transaction. A row needs only a few pages; if four cores do not free enough, more will not help.
const MAX_EVICTIONS: u32 = 4;
/// How far back the storm policy looks at start-up: a day, in microseconds.
const RECENT_US: i64 = 86_400_000_000;
/// More cores than any rate limit lets through in that time.
const MAX_RECENT: i64 = 20_000;

/// The writer's state. Dropped, it makes the catalog unavailable.
pub(super) struct CatalogWriter {
    path: PathBuf,
    ledger: Arc<Ledger>,
    /// `None` while the file cannot be opened.
    db: Option<Connection>,
    retention: Retention,
    last_open_attempt: Option<Instant>,
    last_write: Option<Instant>,
    last_shortening: Option<Instant>,
    on_event: Box<dyn Fn(CatalogEvent) + Send>,
    availability: Availability,
}

impl CatalogWriter {
    pub(super) fn new(
        path: PathBuf,
        ledger: Arc<Ledger>,
        on_event: Box<dyn Fn(CatalogEvent) + Send>,
        availability: Availability,
    ) -> Self {
        let retention = Retention { rows: u64::MAX, age: Duration::MAX, bytes: u64::MAX };
        Self {
            path,
            ledger,
            db: None,
            retention,
            last_open_attempt: None,
            last_write: None,
            last_shortening: None,
            on_event,
            availability,
        }
    }

    /// Carries out commands until all senders of `queue` are gone.
    pub(super) fn run(mut self, queue: &Receiver<Command>, on_turn: &dyn Fn()) {
        loop {
            on_turn();
            match queue.recv_timeout(IDLE_TURN) {
                Ok(command) => self.carry_out(command, queue),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    // Keeps trying to open the catalog even if nobody needs it. The error is in `availability`.
                    let _ = self.connection();
                }
            }
            self.mark_evicted();
            self.shorten_journal();
        }
    }

    /// Carries out `first` and the commands waiting behind it.
    fn carry_out(&mut self, first: Command, queue: &Receiver<Command>) {
        if let Command::Insert(record, _) = &first
            && record.origin == Origin::Live
            && let Some(early) = self.last_write.and_then(|last| MIN_INTERVAL.checked_sub(last.elapsed()))
        {
            thread::sleep(early);
        }
        let mut pending: Vec<PendingRow> = Vec::new();
        for command in std::iter::once(first).chain(queue.try_iter()).take(MAX_ROWS) {
            match command {
                Command::Insert(record, reply) => pending.push((record, reply)),
                Command::Find(id, reply) => {
                    self.insert(std::mem::take(&mut pending));
                    let _ = reply.send(self.find(&id).map_err(|error| error.to_string()));
                }
                Command::NewBugs(limit, reply) => {
                    let found = self.connection().and_then(|db| new_bugs::waiting(db, limit));
                    let _ = reply.send(found.map_err(|error| error.to_string()));
                }
                Command::ForgetNewBugs(told) => {
                    // What is not forgotten is told once more.
                    if let Err(error) = self.connection().and_then(|db| new_bugs::forget(db, &told)) {
                        tracing::warn!("events: {error}");
                    }
                }
                Command::MarkRemoved(id) => {
                    self.insert(std::mem::take(&mut pending));
                    self.mark(&id, RecordedCore::Removed);
                }
                Command::SetRetention(rows, age) => self.retention = Retention { rows, age, ..self.retention },
                Command::Flush(reply) => {
                    self.insert(std::mem::take(&mut pending));
                    let _ = reply.send(());
                }
            }
        }
        self.insert(pending);
    }

    /// Inserts rows and sends the results.
    fn insert(&mut self, pending: Vec<PendingRow>) {
        if pending.is_empty() {
            return;
        }
        let records: Vec<&Record> = pending.iter().map(|(record, _)| record.as_ref()).collect();
        let outcome = self.insert_all(&records).map_err(|error| error.to_string());
        self.last_write = Some(Instant::now());
        match outcome {
            Ok(inserted) => {
                for ((_, reply), inserted) in pending.into_iter().zip(inserted) {
                    if let Inserted::Counted(counted) = &inserted {
                        (self.on_event)(CatalogEvent::Counted(counted.clone()));
                    }
                    let _ = reply.send(Ok(inserted));
                }
            }
            Err(error) => {
                for (_, reply) in pending {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// Inserts all rows in one transaction, evicting cores if the disk is full.
    fn insert_all(&mut self, records: &[&Record]) -> Result<Vec<Inserted>, CatalogError> {
        let mut evictions = 0;
        loop {
            let error = match self.try_insert_all(records) {
                Err(CatalogError::Sqlite(error)) => error,
                outcome => return outcome,
            };
            if is_full(&error, &self.path) {
                evictions += 1;
                if evictions > MAX_EVICTIONS || !self.ledger.evict_one() {
                    return Err(error.into());
                }
                continue;
            }
            if is_busy(&error)
                && let Some(pid) = lock_holder::of(&self.path)
            {
                // Readers hold no such lock: somebody who may read the catalog keeps everybody from writing it (fcntl(2)).
                let why = format!("process {pid} holds a lock on the catalog: {error}");
                tracing::error!("{why}");
                return Err(CatalogError::Refused(why));
            }
            if is_damage(&error) || needs_reopening(&error) {
                // Reopening finds the damage and rebuilds the catalog, or finds a volume that is writable again.
                self.db = None;
                self.availability.set_obstacle(Some(error.to_string()));
            }
            return Err(error.into());
        }
    }

    fn try_insert_all(&mut self, records: &[&Record]) -> Result<Vec<Inserted>, CatalogError> {
        self.retention.bytes = self.ledger.limits().catalog();
        let retention = self.retention;
        let transaction = self.connection()?.transaction()?;
        let inserted = records.iter().map(|record| rows::insert(&transaction, record)).collect::<Result<_, _>>()?;
        rollup::enforce(&transaction, records, retention, now_us())?;
        transaction.commit()?;
        self.account();
        Ok(inserted)
    }

    /// Tells the ledger what the catalog takes of `MaxUse=`.
    fn account(&self) {
        let length = |path: &Path| path.metadata().map_or(0, |file| file.len());
        self.ledger.set_catalog(length(&self.path).saturating_add(length(&catalog_journal(&self.path))));
    }

    /// Empties the journal if it is long, but does not try that more often than every [`IDLE_TURN`].
    fn shorten_journal(&mut self) {
        let is_due = self.last_shortening.is_none_or(|last| last.elapsed() >= IDLE_TURN);
        let Some(db) = self.db.as_ref().filter(|_| is_due && is_journal_long(&self.path)) else { return };
        self.last_shortening = Some(Instant::now());
        if let Err(error) = schema::shorten_journal(db) {
            tracing::warn!("the journal of the catalog stays long: {error}");
        }
        self.account();
    }

    /// Makes a catalog that is larger than its share smaller, as an earlier version may have left it.
    fn shrink(&self, db: &mut Connection) -> Result<(), CatalogError> {
        let limit = self.ledger.limits().catalog();
        let transaction = db.transaction()?;
        rollup::delete_what_does_not_fit(&transaction, limit)?;
        transaction.commit()?;
        if self.path.metadata().is_ok_and(|file| file.len() > limit.saturating_mul(2)) {
            db.execute_batch("VACUUM")?;
        }
        Ok(())
    }

    fn find(&mut self, id: &CrashId) -> Result<Option<Box<Record>>, CatalogError> {
        let db = self.connection()?;
        let mut query = db.prepare_cached("SELECT record FROM records JOIN crashes USING (seq) WHERE id = ?1")?;
        let json: Option<String> = query.query_row([id], |row| row.get("record")).optional()?;
        let found: Option<Box<Record>> = json.map(|json| serde_json::from_str(&json)).transpose()?;
        // An earlier version may have written it.
        Ok(found.map(|mut record| {
            record.bound();
            record
        }))
    }

    fn mark_evicted(&mut self) {
        for id in self.ledger.drain_evicted() {
            self.mark(&id, RecordedCore::Evicted);
        }
    }

    fn mark(&mut self, id: &CrashId, core: RecordedCore) {
        // A failure is repaired at the next start: the row says "stored", but the file is missing.
        if let Some(db) = &self.db
            && let Err(error) = rows::set_core(db, id, core)
        {
            tracing::warn!("{id}: {error}");
        }
    }

    /// The open catalog; it is opened if necessary, but not more often than every [`REOPEN_INTERVAL`].
    fn connection(&mut self) -> Result<&mut Connection, CatalogError> {
        let is_due = self.last_open_attempt.is_none_or(|last| last.elapsed() >= REOPEN_INTERVAL);
        if self.db.is_none() && is_due {
            self.open()?;
        }
        let availability = &self.availability;
        self.db.as_mut().ok_or_else(|| CatalogError::Refused(availability.obstacle().unwrap_or_default()))
    }

    /// Opens the catalog, repairs it and reports the result to `on_event` and to the handles.
    ///
    /// # Errors
    /// [`CatalogError::Refused`] with the path and the reason.
    pub(super) fn open(&mut self) -> Result<(), CatalogError> {
        self.last_open_attempt = Some(Instant::now());
        let opened = self.try_open().map_err(|error| format!("{}: {error}", self.path.display()));
        self.availability.set_obstacle(opened.as_ref().err().cloned());
        opened.map_err(CatalogError::Refused)
    }

    fn try_open(&mut self) -> Result<(), CatalogError> {
        let mut quarantined = None;
        let mut db = match schema::open(&self.path) {
            Err(error) if error.is_damage() => {
                quarantined = Some(quarantine(&self.path)?);
                schema::open(&self.path)?
            }
            opened => opened?,
        };
        let Recovered { restored, missing } = recovery::recover(&mut db, &self.ledger)?;
        self.shrink(&mut db)?;
        let (counts, recent) = (counters::counts(&db)?, recent_cores(&db)?);
        (self.on_event)(CatalogEvent::Opened(OpenReport { counts, restored, missing, quarantined, recent }));
        self.db = Some(db);
        self.account();
        Ok(())
    }
}

impl Drop for CatalogWriter {
    fn drop(&mut self) {
        self.availability.set_obstacle(Some(CatalogError::WriterEnded.to_string()));
    }
}

fn recent_cores(db: &Connection) -> Result<Vec<RecentCore>, CatalogError> {
    let since_us = to_signed(now_us()).saturating_sub(RECENT_US);
    let mut query = db.prepare(&format!(
        "SELECT {} FROM crashes JOIN charges USING (seq)
         WHERE time_us >= ?1 AND core != ?2 AND signal_name != ?4 ORDER BY time_us LIMIT ?3",
        charges::COLUMNS
    ))?;
    let recent = query.query_map(params![since_us, RecordedCore::None, MAX_RECENT, Dump::SIGNAL_NAME], |row| {
        let Charge { attribution, time_us } = Charge::read(row)?;
        Ok(RecentCore { time_us, bug: attribution.bug(), principal: attribution.principal })
    })?;
    Ok(recent.collect::<Result<_, _>>()?)
}

/// The wall clock, microseconds since 1970.
fn now_us() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
