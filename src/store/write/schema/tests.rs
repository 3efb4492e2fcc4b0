use super::*;
use crate::store::write::rows::Inserted;
use rusqlite::params;
use std::path::PathBuf;

fn crash(number: u32) -> Record {
    let mut record = crate::crash::fixtures::record(number);
    record.time_us += u64::from(number);
    record
}

fn add_rows(db: &mut Connection, numbers: std::ops::Range<u32>) {
    let adding = db.transaction().unwrap();
    for number in numbers {
        assert!(matches!(rows::insert(&adding, &crash(number)).unwrap(), Inserted::Counted(_)));
    }
    adding.commit().unwrap();
}

fn row_counts(db: &Connection) -> (i64, i64, i64) {
    db.query_row(
        "SELECT (SELECT count(*) FROM crashes), (SELECT count(*) FROM records), (SELECT coalesce(sum(count), 0) FROM counters)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
    .unwrap()
}

/// In memory if possible, because sixteen thousand catalogs are opened.
fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[test]
fn a_catalog_that_is_cut_at_any_byte_of_its_last_transaction_has_all_before_it_and_goes_on() {
    let at = dir();
    let path = at.path().join("catalog.db");
    let journal = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    let mut db = open(&path).unwrap();
    add_rows(&mut db, 0..5);
    let begun = std::fs::read(journal(&path)).unwrap().len();
    add_rows(&mut db, 5..8);
    let (main, whole) = (std::fs::read(&path).unwrap(), std::fs::read(journal(&path)).unwrap());
    assert!(whole.len() > begun, "the last transaction stands in the journal");
    let mut seen = std::collections::BTreeSet::new();
    for length in begun..=whole.len() {
        let cut = at.path().join("cut.db");
        std::fs::write(&cut, &main).unwrap();
        std::fs::write(journal(&cut), &whole[..length]).unwrap();
        let _ = std::fs::remove_file(format!("{}-shm", cut.display()));
        let mut db = open(&cut).unwrap_or_else(|error| panic!("cut at {length}: {error}"));
        let found = row_counts(&db);
        assert!(found == (5, 5, 5) || found == (8, 8, 8), "cut at {length}: {found:?}");
        seen.insert(found);
        if length % 997 == 0 || length == whole.len() {
            add_rows(&mut db, 100..101);
        }
    }
    assert_eq!(seen.len(), 2, "with the last byte the transaction is there, and not before");
}

#[test]
fn a_catalog_of_the_first_layout_keeps_its_crashes_and_counts() {
    let at = dir();
    let path = at.path().join("catalog.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(&format!(
        "CREATE TABLE crashes (
             id TEXT PRIMARY KEY, time_us INTEGER NOT NULL, pid INTEGER NOT NULL, uid INTEGER, signal INTEGER,
             program TEXT NOT NULL, comm TEXT NOT NULL, unit TEXT, core TEXT NOT NULL, record TEXT NOT NULL
         );
         CREATE INDEX crashes_by_time ON crashes (time_us);
         {COUNTERS}
         INSERT INTO counters VALUES ('h', '/p', 'SEGV', 1, 41);
         PRAGMA user_version = 1;"
    ))
    .unwrap();
    // A record of format 1 has none of the newer fields.
    let mut json = serde_json::to_value(crash(1)).unwrap();
    for field in ["signature", "stack", "modules", "siginfo", "decision"] {
        json.as_object_mut().unwrap().remove(field);
    }
    let add = |id: &str, core: &str, record: &str| {
        old.execute("INSERT INTO crashes VALUES (?1, 1, 1, 0, 11, 'p', 'c', NULL, ?2, ?3)", params![id, core, record])
            .unwrap();
    };
    add("0000000000000001", "evicted", &json.to_string());
    add("0000000000000002", "none", "no record");
    drop(old);
    let db = open(&path).unwrap();
    let found: (String, String, String) = db
        .query_row("SELECT id, core, signature FROM crashes", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap();
    assert_eq!(found, (crash(1).id.to_string(), "evicted".to_owned(), "SEGV:/usr/bin/segv".to_owned()));
    assert_eq!(counters::counts(&db).unwrap()[0].count, 41);
    drop(db);
    assert_eq!(row_counts(&open(&path).unwrap()).0, 1, "and once is enough");
}

#[test]
fn the_journal_is_emptied_as_soon_as_nobody_reads_it() {
    let at = dir();
    let path = at.path().join("catalog.db");
    let mut db = open(&path).unwrap();
    add_rows(&mut db, 0..5);
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM crashes").unwrap();
    let length = || std::fs::metadata(crate::store::layout::catalog_journal(&path)).unwrap().len();
    for number in 5..40 {
        add_rows(&mut db, number..number + 1);
    }
    let grown = length();
    shorten_journal(&db).unwrap();
    assert!(length() >= grown, "somebody reads it");
    reader.execute_batch("COMMIT").unwrap();
    shorten_journal(&db).unwrap();
    assert_eq!(length(), 0);
    assert_eq!(row_counts(&db), (40, 40, 40));
}
