//! The catalog: one row a crash, written by one thread that puts what waits into one transaction.

use super::fold::{self, Retention};
use super::ledger::Ledger;
use super::recover::{self, Recovered};
use super::schema::{self, Count};
use crate::crash::{CrashId, Origin, Principal, Record, SignatureKey};
use coreward_sys::{no_space, tmpfile};
use nix::errno::Errno;
use nix::sys::stat::Mode;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use std::{io, thread};
use thiserror::Error;
use tokio::sync::oneshot;

/// Why the catalog could not be read or written.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// SQLite's word.
    #[error("catalog: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A record that can't be written as JSON.
    #[error("catalog: {0}")]
    Json(#[from] serde_json::Error),
    /// The directory of the cores can't be read.
    #[error("cores: {0}")]
    Io(#[from] io::Error),
    /// SQLite's own check failed.
    #[error("catalog is damaged: {0}")]
    Damaged(String),
    /// The file can be read but not written.
    #[error("catalog can't be written: read-only")]
    ReadOnly,
    /// Written by a newer Coreward.
    #[error("catalog has layout {0}, which a newer Coreward wrote; install that version again")]
    Version(i64),
    /// The writer has ended.
    #[error("catalog is closed")]
    Closed,
    /// The reason was said when the row was tried.
    #[error("{0}")]
    Refused(String),
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is new, and counted there.
    Counted(Count),
    /// The crash has its row already.
    Known,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// All counters.
    pub counts: Vec<Count>,
    /// Cores that were given a row again.
    pub restored: usize,
    /// Rows whose core is gone.
    pub missing: usize,
    /// Where a damaged catalog was put aside.
    pub put_aside: Option<PathBuf>,
    /// Cores that were kept lately, for the storm policy.
    pub recent: Vec<Recent>,
}

/// A core that was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recent {
    /// When it crashed.
    pub time_us: u64,
    /// [`Record::signature_key`].
    pub signature: SignatureKey,
    /// [`Record::principal`].
    pub principal: Principal,
    /// Real uid.
    pub uid: Option<u32>,
}

enum Order {
    Insert(Arc<Record>, oneshot::Sender<Result<Inserted, String>>),
    Find(CrashId, oneshot::Sender<Result<Option<Box<Record>>, String>>),
    Flush(oneshot::Sender<()>),
    Removed(CrashId),
    Keep(Retention),
}

/// The way to the writer. Dropping the last one ends it, after what waits is written.
#[derive(Clone, Debug)]
pub struct Catalog {
    orders: Sender<Order>,
    closed: Closed,
}

/// Why the file is not open, shared with the writer.
type Closed = Arc<Mutex<Option<String>>>;

/// How the writer tells that it lives: called at every turn, and while it waits.
pub type Beat = Box<dyn Fn() + Send>;

/// How long the writer waits for work before it says that it lives.
const IDLE: Duration = Duration::from_millis(500);
/// Rows in one transaction.
const BATCH: usize = 256;
/// Rows of processes that have gone wait until so long after the transaction before: those of a storm come together into one.
const APART: Duration = Duration::from_millis(10);
/// Pause before a catalog that could not be opened is tried again.
const REOPEN: Duration = Duration::from_secs(2);
/// How long the storm rule may look back at start-up.
const RECENT: Duration = Duration::from_secs(86400);
/// No rate lets more through in that time.
const MAX_RECENT: i64 = 20_000;

/// A row to be written, and who waits for it.
type Row = (Arc<Record>, oneshot::Sender<Result<Inserted, String>>);

struct Writer {
    path: PathBuf,
    ledger: Arc<Ledger>,
    db: Option<Connection>,
    retention: Retention,
    tried: Option<Instant>,
    /// When rows were written last.
    written: Option<Instant>,
    on_open: Box<dyn Fn(OpenReport) + Send>,
    closed: Closed,
}

impl Catalog {
    /// Starts the writer. `on_open` hears what each successful opening found, before the first row is written;
    /// `beat` is called at every turn. Returns after the first attempt at opening, with its error if it failed: the
    /// writer then keeps trying, and refuses rows meanwhile.
    pub fn start(
        path: PathBuf,
        ledger: Arc<Ledger>,
        on_open: Box<dyn Fn(OpenReport) + Send>,
        beat: Beat,
    ) -> io::Result<(Self, Option<String>)> {
        let (orders, queue) = channel();
        let closed = Closed::default();
        let retention = Retention { rows: u64::MAX, age: Duration::MAX };
        let mut writer = Writer {
            path,
            ledger,
            db: None,
            retention,
            tried: None,
            written: None,
            on_open,
            closed: Arc::clone(&closed),
        };
        let failed = writer.open().err().map(|error| error.to_string());
        thread::Builder::new().name("catalog".to_owned()).spawn(move || writer.run(&queue, &beat))?;
        Ok((Self { orders, closed }, failed))
    }

    /// Writes a row; returns when it is durable.
    ///
    /// # Errors
    /// The row is not written: the disk is full with nothing left to evict, or the file can't be opened.
    pub async fn insert(&self, record: Arc<Record>) -> Result<Inserted, CatalogError> {
        self.order(|reply| Order::Insert(record, reply)).await
    }

    /// The record of a crash that has its row.
    ///
    /// # Errors
    /// The catalog can't be read.
    pub async fn find(&self, id: CrashId) -> Result<Option<Box<Record>>, CatalogError> {
        self.order(|reply| Order::Find(id, reply)).await
    }

    /// Whether rows can be written, as far as is known.
    pub fn is_open(&self) -> bool {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Why [`Self::is_open`] says no.
    pub fn closed_because(&self) -> CatalogError {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        closed.map_or(CatalogError::Closed, CatalogError::Refused)
    }

    /// Says that somebody else has deleted a core.
    pub fn removed(&self, id: CrashId) {
        let _ = self.orders.send(Order::Removed(id));
    }

    /// Puts `MaxRecords=` and `RecordMaxAge=` in force.
    pub fn keep(&self, rows: u64, age: Duration) {
        let _ = self.orders.send(Order::Keep(Retention { rows, age }));
    }

    /// Returns when everything ordered before is written.
    pub async fn flush(&self) {
        let (reply, done) = oneshot::channel();
        if self.orders.send(Order::Flush(reply)).is_ok() {
            let _ = done.await;
        }
    }

    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Order,
    ) -> Result<T, CatalogError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).map_err(|_| CatalogError::Closed)?;
        answer.await.map_err(|_| CatalogError::Closed)?.map_err(CatalogError::Refused)
    }
}

impl Writer {
    fn run(mut self, queue: &Receiver<Order>, beat: &Beat) {
        loop {
            beat();
            let first = match queue.recv_timeout(IDLE) {
                Ok(first) => first,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    // A catalog that could not be opened is tried again, also while nobody asks for it.
                    let _ = self.ready();
                    self.mark_evicted();
                    continue;
                }
            };
            if let Order::Insert(record, _) = &first
                && record.origin == Origin::Live
                && let Some(early) = self.written.and_then(|written| APART.checked_sub(written.elapsed()))
            {
                thread::sleep(early);
            }
            let mut rows = Vec::new();
            for order in std::iter::once(first).chain(queue.try_iter().take(BATCH)) {
                match order {
                    Order::Insert(record, reply) => rows.push((record, reply)),
                    Order::Find(id, reply) => {
                        self.write(std::mem::take(&mut rows));
                        let _ = reply.send(self.find(&id).map_err(|error| error.to_string()));
                    }
                    Order::Removed(id) => {
                        self.write(std::mem::take(&mut rows));
                        self.mark(&id, "removed");
                    }
                    Order::Keep(retention) => self.retention = retention,
                    Order::Flush(reply) => {
                        self.write(std::mem::take(&mut rows));
                        let _ = reply.send(());
                    }
                }
            }
            self.write(rows);
            self.mark_evicted();
        }
    }

    fn write(&mut self, rows: Vec<Row>) {
        if rows.is_empty() {
            return;
        }
        let records: Vec<&Record> = rows.iter().map(|(record, _)| record.as_ref()).collect();
        let outcome = self.insert_all(&records);
        self.written = Some(Instant::now());
        for (index, (_, reply)) in rows.into_iter().enumerate() {
            let answer = match &outcome {
                Ok(inserted) => Ok(inserted[index].clone().map_or(Inserted::Known, Inserted::Counted)),
                Err(error) => Err(error.to_string()),
            };
            let _ = reply.send(answer);
        }
    }

    /// All rows in one transaction; on a full disk the oldest core makes way, as often as there is one.
    fn insert_all(&mut self, records: &[&Record]) -> Result<Vec<Option<Count>>, CatalogError> {
        let mut evictions = 0;
        let (retention, path) = (self.retention, self.path.clone());
        loop {
            let db = self.ready()?;
            let attempt = (|| {
                let adding = db.transaction()?;
                let inserted =
                    records.iter().map(|record| schema::insert(&adding, record)).collect::<Result<_, _>>()?;
                fold::fold(&adding, records, retention, now_us())?;
                adding.commit()?;
                Ok(inserted)
            })();
            match attempt {
                Err(CatalogError::Sqlite(error)) if is_full(&error, &path) => {
                    // A row needs some pages, not the disk: where a few cores do not make the room, more won't.
                    evictions += 1;
                    if evictions > 4 || !self.ledger.evict_one() {
                        return Err(error.into());
                    }
                }
                Err(CatalogError::Sqlite(error)) if is_damage(&error) || is_broken(&error) => {
                    // Opened anew, damage is found and the catalog rebuilt from the cores; and a volume that has become
                    // read-only may be writable again.
                    self.db = None;
                    self.set_closed(Some(error.to_string()));
                    return Err(error.into());
                }
                outcome => return outcome,
            }
        }
    }

    fn find(&mut self, id: &CrashId) -> Result<Option<Box<Record>>, CatalogError> {
        let mut query =
            self.ready()?.prepare_cached("SELECT record FROM records JOIN crashes USING (seq) WHERE id = ?1")?;
        let json: Option<String> = query.query_row([id.as_str()], |row| row.get(0)).optional()?;
        Ok(json.map(|json| serde_json::from_str(&json)).transpose()?)
    }

    fn mark_evicted(&mut self) {
        for id in self.ledger.take_evicted() {
            self.mark(&id, "evicted");
        }
    }

    fn mark(&mut self, id: &CrashId, core: &str) {
        // What fails here is set right at the next start: the row says "stored", the file is missing.
        if let Some(db) = &self.db
            && let Err(error) = schema::mark(db, id, core)
        {
            tracing::warn!("{id}: {error}");
        }
    }

    fn ready(&mut self) -> Result<&mut Connection, CatalogError> {
        if self.db.is_none() && self.tried.is_none_or(|tried| tried.elapsed() >= REOPEN) {
            self.open()?;
        }
        let closed = Arc::clone(&self.closed);
        self.db.as_mut().ok_or_else(move || {
            let why = closed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            CatalogError::Refused(why.unwrap_or_default())
        })
    }

    fn open(&mut self) -> Result<(), CatalogError> {
        self.tried = Some(Instant::now());
        let opened = self.try_open().map_err(|error| format!("{}: {error}", self.path.display()));
        self.set_closed(opened.as_ref().err().cloned());
        opened.map_err(CatalogError::Refused)
    }

    fn set_closed(&self, why: Option<String>) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    fn try_open(&mut self) -> Result<(), CatalogError> {
        let mut put_aside = None;
        let mut db = match schema::open(&self.path) {
            Err(error) if error.is_damage() => {
                put_aside = Some(aside(&self.path)?);
                schema::open(&self.path)?
            }
            opened => opened?,
        };
        let Recovered { restored, missing } = recover::recover(&mut db, &self.ledger)?;
        let report = OpenReport { counts: schema::counts(&db)?, restored, missing, put_aside, recent: recent(&db)? };
        (self.on_open)(report);
        self.db = Some(db);
        Ok(())
    }
}

impl CatalogError {
    fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sqlite(error) => is_damage(error),
            _ => false,
        }
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether a write failed for lack of room. SQLite reports ENOSPC as a full disk, but EDQUOT (a kernel quota) as an I/O error
/// like any other: only a trial write tells them apart.
fn is_full(error: &rusqlite::Error, catalog: &Path) -> bool {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => true,
        Some(ErrorCode::SystemIoFailure) => volume_is_full(catalog),
        _ => false,
    }
}

/// Writes a few pages to a nameless file beside `catalog`.
fn volume_is_full(catalog: &Path) -> bool {
    const TRIAL: [u8; 64 << 10] = [0; 64 << 10];
    let write = || -> io::Result<()> {
        let dir = File::open(catalog.parent().unwrap_or(catalog))?;
        File::from(tmpfile::create(dir.as_fd(), Mode::from_bits_truncate(0o600))?).write_all(&TRIAL)
    };
    write().err().and_then(|error| error.raw_os_error()).is_some_and(|errno| no_space::is_full(Errno::from_raw(errno)))
}

fn is_broken(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen))
}

/// Moves a damaged catalog out of the way, its journal with it: somebody may want to look.
fn aside(path: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
    let with = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let aside = with(&format!(".damaged-{now}"));
    std::fs::rename(path, &aside)?;
    for journal in ["-wal", "-shm"] {
        match std::fs::rename(with(journal), format!("{}{journal}", aside.display())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

fn recent(db: &Connection) -> Result<Vec<Recent>, CatalogError> {
    let since = schema::signed(now_us()).saturating_sub(schema::signed(RECENT.as_micros() as u64));
    let mut query = db.prepare(
        "SELECT record FROM records JOIN crashes USING (seq)
         WHERE time_us >= ?1 AND core != 'none' ORDER BY time_us LIMIT ?2",
    )?;
    let mut rows = query.query(params![since, MAX_RECENT])?;
    let mut recent = Vec::new();
    while let Some(row) = rows.next()? {
        let json: String = row.get(0)?;
        if let Ok(record) = serde_json::from_str::<Record>(&json) {
            let (signature, principal) = (record.signature_key(), record.principal());
            recent.push(Recent { time_us: record.time_us, signature, principal, uid: record.uid });
        }
    }
    Ok(recent)
}

fn now_us() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
