//! A directory tree as a machine with crashes has it.

use crate::{run, transcript};
use coreward::crash::Record;
use coreward::store::{Catalog, Layout, Ledger, core_file_name};
use coreward_wire::paths::Root;
use std::fs::{self, File};
use std::sync::Arc;

const RECORDS: &str = include_str!("records.json");
const CONFIGURATION: &str = "[Coreward]\nMaxUse=1G\nKeepFree=100M\nMaxModulesUse=256M\n";

/// The crashes of `records.json`, oldest first.
pub(crate) fn records() -> Vec<Record> {
    serde_json::from_str(RECORDS).unwrap()
}

pub(crate) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    /// A machine on which no crash was recorded.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/coreward")).unwrap();
        fs::write(dir.path().join("etc/coreward/coreward.conf"), CONFIGURATION).unwrap();
        Self { dir }
    }

    /// A machine with the crashes of `records.json`. Of those whose core was stored, the core of the last but one was
    /// evicted, and the file of the last is gone.
    pub(crate) fn with_crashes() -> Self {
        let machine = Self::new();
        let layout = Layout::new(&machine.root());
        fs::create_dir_all(&layout.cores).unwrap();
        machine.insert(&records());
        let stored: Vec<Record> = records().into_iter().filter(|record| record.core.is_stored()).collect();
        let (with_core, without) = stored.split_at(stored.len() - 2);
        for record in with_core {
            let file = File::create(layout.cores.join(core_file_name(&record.id))).unwrap();
            file.set_len(record.core.stored).unwrap();
        }
        let catalog = rusqlite::Connection::open(&layout.catalog).unwrap();
        let evict = "UPDATE crashes SET core = 'evicted' WHERE id = ?1";
        assert_eq!(catalog.execute(evict, [without[0].id.as_str()]).unwrap(), 1);
        machine
    }

    /// A machine on which only this process crashed.
    pub(crate) fn with_crash(record: &Record) -> Self {
        let machine = Self::new();
        fs::create_dir_all(Layout::new(&machine.root()).cores).unwrap();
        machine.insert(std::slice::from_ref(record));
        machine
    }

    fn insert(&self, records: &[Record]) {
        let layout = Layout::new(&self.root());
        let ledger = Arc::new(Ledger::new(layout.open_cores().unwrap()));
        let (catalog, failed) = Catalog::start(layout.catalog, ledger, Box::new(|_| {}), Box::new(|| {})).unwrap();
        assert_eq!(failed, None);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for record in records {
            runtime.block_on(catalog.insert(Arc::new(record.clone()))).unwrap();
        }
    }

    pub(crate) fn root(&self) -> Root {
        Root::new(self.dir.path())
    }

    /// What `coreward ARGUMENTS` shows here, without what differs from machine to machine and from day to day.
    pub(crate) fn coreward(&self, arguments: &[&str]) -> String {
        let root = self.dir.path().to_str().unwrap();
        let output = run(env!("CARGO_BIN_EXE_coreward"), &[&["--root", root], arguments].concat());
        let mut text = transcript(&output).replace(root, "ROOT");
        text = replace_between(&text, "UTC (", ")", "... ago");
        text = replace_between(&text, "pinned; ", " free on", "...");
        text = replace_between(&text, "\"free_bytes\":", ",", "...");
        text.replace("No crash. (root and group adm see the crashes of all users)", "No crash.")
    }
}

/// Replaces what stands between each `begin` and the next `end`.
fn replace_between(text: &str, begin: &str, end: &str, by: &str) -> String {
    let mut pieces = text.split(begin);
    let mut replaced = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (_, rest) = piece.split_once(end).unwrap();
        replaced.extend([begin, by, end, rest]);
    }
    replaced
}
