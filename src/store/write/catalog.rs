//! Handles to the catalog's writer.

use super::command::{Availability, Command, ReplySender};
use super::error::CatalogError;
use super::ledger::Ledger;
use super::new_bugs::NewBug;
use super::rows::Inserted;
use super::writer::{CatalogEvent, CatalogWriter};
use crate::crash::{CrashId, Record};
use coreward_sys::essential;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// A handle to the writer's thread. Dropping the last handle ends the thread after all commands have been carried out; if the
/// thread panics, the process aborts.
#[derive(Clone, Debug)]
pub struct Catalog {
    commands: Sender<Command>,
    availability: Availability,
}

impl Catalog {
    /// Opens the catalog at `path` and starts its writer. The writer calls `on_event` with a report every time it has opened
    /// the file, before it inserts anything, and with each crash that it has counted; and `on_turn` at least every half second.
    /// Also returns the reason if the file could not be
    /// opened: the writer then refuses rows and keeps trying to open it.
    ///
    /// # Errors
    /// The thread cannot be created.
    pub fn start(
        path: PathBuf,
        ledger: Arc<Ledger>,
        on_event: Box<dyn Fn(CatalogEvent) + Send>,
        on_turn: Box<dyn Fn() + Send>,
    ) -> io::Result<(Self, Option<String>)> {
        let (catalog, queue, mut writer) = Self::new(path, ledger, on_event);
        let failure = writer.open().err().map(|error| error.to_string());
        essential::spawn("catalog", move || writer.run(&queue, &*on_turn))?;
        Ok((catalog, failure))
    }

    fn new(
        path: PathBuf,
        ledger: Arc<Ledger>,
        on_event: Box<dyn Fn(CatalogEvent) + Send>,
    ) -> (Self, Receiver<Command>, CatalogWriter) {
        let (commands, queue) = channel();
        let availability = Availability::new();
        let writer = CatalogWriter::new(path, ledger, on_event, availability.clone());
        (Self { commands, availability }, queue, writer)
    }

    /// Inserts a crash; returns once it is durable.
    ///
    /// # Errors
    /// The crash is not in the catalog: the disk is full and nothing is left to evict, or the file cannot be opened.
    pub async fn insert(&self, record: Arc<Record>) -> Result<Inserted, CatalogError> {
        self.request(|reply| Command::Insert(record, reply)).await
    }

    /// The record of a crash, if the catalog has it.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub async fn find(&self, id: CrashId) -> Result<Option<Box<Record>>, CatalogError> {
        self.request(|reply| Command::Find(id, reply)).await
    }

    /// The oldest crashes that are the first of their signature and that nobody has been told about, at most `limit`.
    ///
    /// # Errors
    /// The catalog cannot be read.
    pub async fn new_bugs(&self, limit: usize) -> Result<Vec<NewBug>, CatalogError> {
        self.request(|reply| Command::NewBugs(limit, reply)).await
    }

    /// Forgets new bugs that have been told about.
    pub fn forget_new_bugs(&self, told: &[NewBug]) {
        self.send_or_log(Command::ForgetNewBugs(told.iter().map(|bug| bug.seq).collect()));
    }

    /// Whether crashes can be inserted, as far as is known.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.availability.obstacle().is_none()
    }

    /// Why crashes cannot be inserted; `None` if they can, as far as is known.
    pub fn unavailable(&self) -> Option<CatalogError> {
        self.availability.obstacle().map(CatalogError::Refused)
    }

    /// Records that somebody else has deleted the core of a crash.
    pub fn mark_removed(&self, id: CrashId) {
        self.send_or_log(Command::MarkRemoved(id));
    }

    /// Applies `MaxRecords=` and `RecordMaxAge=`.
    pub fn set_retention(&self, rows: u64, age: Duration) {
        self.send_or_log(Command::SetRetention(rows, age));
    }

    /// Returns once all earlier commands have been carried out.
    pub async fn flush(&self) {
        let (reply, done) = oneshot::channel();
        self.send_or_log(Command::Flush(reply));
        if done.await.is_err() {
            tracing::error!("{}", CatalogError::WriterEnded);
        }
    }

    async fn request<T>(&self, command: impl FnOnce(ReplySender<T>) -> Command) -> Result<T, CatalogError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        answer.await.map_err(|_| CatalogError::WriterEnded)?.map_err(CatalogError::Refused)
    }

    fn send(&self, command: Command) -> Result<(), CatalogError> {
        self.commands.send(command).map_err(|_| CatalogError::WriterEnded)
    }

    fn send_or_log(&self, command: Command) {
        if let Err(error) = self.send(command) {
            tracing::error!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::Command as Process;

    fn ledger(dir: &Path) -> Arc<Ledger> {
        Arc::new(Ledger::new(std::fs::File::open(dir).unwrap().into()))
    }

    #[test]
    fn a_panic_in_the_writer_ends_the_process() {
        const TEST: &str = "store::write::catalog::tests::a_panic_in_the_writer_ends_the_process";
        const IN_CHILD: &str = "COREWARD_TEST_WRITER_PANIC";
        if std::env::var_os(IN_CHILD).is_some() {
            // This crash is not one for the machine's crash handler.
            nix::sys::prctl::set_dumpable(false).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let on_turn = Box::new(|| panic!("out of luck"));
            let (catalog, _) =
                Catalog::start(dir.path().join("catalog.db"), ledger(dir.path()), Box::new(|_| ()), on_turn).unwrap();
            std::thread::sleep(Duration::from_secs(10));
            eprintln!("ten seconds later the process is alive, and is_open() is {}", catalog.is_open());
            return;
        }
        let child = Process::new(std::env::current_exe().unwrap())
            .args([TEST, "--exact", "--nocapture"])
            .env(IN_CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(nix::libc::SIGABRT), "{child:?}");
    }

    #[tokio::test]
    async fn a_catalog_whose_writer_has_ended_is_not_open_and_refuses_crashes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        let (catalog, queue, mut writer) = Catalog::new(path, ledger(dir.path()), Box::new(|_| ()));
        assert!(!catalog.is_open(), "not before the file is");
        writer.open().unwrap();
        assert!(catalog.is_open() && catalog.unavailable().is_none());
        drop((queue, writer));
        assert!(!catalog.is_open());
        assert_eq!(catalog.unavailable().unwrap().to_string(), CatalogError::WriterEnded.to_string());
        let refused = catalog.insert(Arc::new(crate::crash::fixtures::record(1))).await;
        assert!(matches!(refused, Err(CatalogError::WriterEnded)), "{refused:?}");
    }
}
