use super::*;
use crate::crash::{CoreReport, CrashKey, NoCore};
use crate::store::write::rows::Inserted;
use crate::store::write::{rows, schema};
use nix::unistd::Pid;
use proptest::prelude::*;

const ALL: Retention = Retention { rows: u64::MAX, age: Duration::MAX, bytes: u64::MAX };

fn crash(number: u32, signature: u8, container: u8, time_us: u64, stored: bool) -> Record {
    let mut record = crate::crash::fixtures::record(number);
    record.key = CrashKey { boot_id: "0".repeat(32), pid: Pid::from_raw(number.cast_signed()), start_time: 1 };
    record.id = record.key.id();
    record.signal_name = format!("S{signature}");
    record.cgroup.container = Some(container.to_string());
    record.time_us = time_us;
    if !stored {
        record.core = CoreReport::none(NoCore::Storm);
    }
    record
}

fn catalog() -> (tempfile::TempDir, Connection) {
    let dir = tempfile::tempdir().unwrap();
    let db = schema::open(&dir.path().join("catalog.db")).unwrap();
    (dir, db)
}

fn insert(db: &mut Connection, records: &[Record], retention: Retention, now_us: u64) -> usize {
    let adding = db.transaction().unwrap();
    let is_new = |record: &&Record| matches!(rows::insert(&adding, record).unwrap(), Inserted::Counted(_));
    let counted = records.iter().filter(is_new).count();
    enforce(&adding, &records.iter().collect::<Vec<_>>(), retention, now_us).unwrap();
    adding.commit().unwrap();
    counted
}

fn number_of(db: &Connection, query: &str) -> i64 {
    db.query_row(query, [], |row| row.get::<_, Option<i64>>(0)).unwrap().unwrap_or(0)
}

#[test]
fn ten_thousand_duplicates_are_ten_thousand_occurrences_in_a_bounded_number_of_rows() {
    let (_dir, mut db) = catalog();
    let hour = HOUR_US as u64;
    for batch in 0..40 {
        let records: Vec<Record> = (0..250)
            .map(|number| {
                crash(batch * 250 + number, 1, (number % 3) as u8, hour * 1000 + u64::from(batch) * hour / 10, false)
            })
            .collect();
        insert(&mut db, &records, ALL, hour * 1000);
    }
    assert_eq!(number_of(&db, "SELECT (SELECT count(*) FROM crashes) + (SELECT sum(count) FROM folded)"), 10_000);
    assert!(number_of(&db, "SELECT count(*) FROM crashes") <= MAX_ROWS + SLACK);
    assert_eq!(number_of(&db, "SELECT count(*) FROM records"), number_of(&db, "SELECT count(*) FROM crashes"));
    assert_eq!(number_of(&db, "SELECT count(DISTINCT container) FROM folded"), 3);
    assert_eq!(number_of(&db, "SELECT sum(count) FROM counters"), 10_000);
    // A crash whose row was rolled up is still known.
    let again = crash(7, 1, 1, hour * 1000, false);
    assert_eq!(insert(&mut db, std::slice::from_ref(&again), ALL, hour * 1000), 0);
    assert_eq!(number_of(&db, "SELECT sum(count) FROM counters"), 10_000);
}

#[test]
fn a_crash_with_a_core_keeps_its_row() {
    let (_dir, mut db) = catalog();
    let first = crash(1, 1, 1, 1, true);
    insert(&mut db, std::slice::from_ref(&first), ALL, 1);
    let others: Vec<Record> = (2..3000).map(|number| crash(number, 1, 1, u64::from(number), false)).collect();
    insert(&mut db, &others, Retention { rows: 10, age: Duration::MAX, bytes: u64::MAX }, 3000);
    assert_eq!(number_of(&db, "SELECT count(*) FROM crashes WHERE core = 'stored'"), 1);
    assert_eq!(number_of(&db, "SELECT count(*) FROM crashes"), 10);
}

/// A crash of a user's with a signature of its own, whose record has about `length` bytes.
fn crash_of(uid: u32, number: u32, length: usize) -> Record {
    let mut record = crash(number, 0, 1, u64::from(number), false);
    record.cgroup = crate::crash::cgroup::CgroupInfo::default();
    record.uid = Some(nix::unistd::Uid::from_raw(uid));
    record.signal_name = format!("S{number}");
    record.cmdline = "x".repeat(length);
    record
}

fn rows_of(db: &Connection, uid: u32) -> i64 {
    number_of(db, &format!("SELECT count(*) FROM crashes JOIN records USING (seq) WHERE uid = {uid}"))
}

#[test]
fn a_flood_of_rows_or_bytes_takes_the_rows_of_nobody_who_has_less() {
    let few = || (0..40).map(|number| crash_of(1001, number, 100)).collect::<Vec<_>>();
    for (length, retention) in [
        (100, Retention { rows: 100, ..ALL }),
        (60_000, Retention { bytes: 4 << 20, ..ALL }),
        (60_000, Retention { rows: 100, bytes: 4 << 20, ..ALL }),
    ] {
        let (_dir, mut db) = catalog();
        insert(&mut db, &few(), retention, 1);
        for batch in 1..20 {
            let flood: Vec<Record> = (0..50).map(|number| crash_of(1000, batch * 1000 + number, length)).collect();
            insert(&mut db, &flood, retention, 1);
        }
        assert_eq!(rows_of(&db, 1001), 40, "{retention:?}");
        assert!(rows_of(&db, 1000) > 10);
        assert!(rows_of(&db, 1000) <= 70);
        assert!(used_bytes(&db).unwrap() <= retention.bytes);
        let sums = "SELECT (SELECT count(*) FROM charges) - (SELECT sum(rows) FROM principals)";
        assert_eq!(number_of(&db, sums), 0);
        assert_eq!(number_of(&db, "SELECT (SELECT count(*) FROM charges) - (SELECT count(*) FROM crashes)"), 0);
        assert_eq!(number_of(&db, "SELECT (SELECT count(*) FROM records) - (SELECT count(*) FROM crashes)"), 0);
        assert_eq!(number_of(&db, "SELECT sum(count) FROM counters"), 40 + 19 * 50, "the counters stay");
    }
}

#[test]
fn duplicates_of_a_user_do_not_roll_up_the_crash_of_another() {
    let (_dir, mut db) = catalog();
    let same = |uid, number| Record { signal_name: "SEGV".to_owned(), ..crash_of(uid, number, 1) };
    insert(&mut db, &[same(0, 0)], ALL, 1);
    insert(&mut db, &(1..3000).map(|number| same(1000, number)).collect::<Vec<_>>(), ALL, 1);
    assert_eq!((rows_of(&db, 0), rows_of(&db, 1000)), (1, MAX_ROWS));
}

#[test]
fn age_forgets_rows_and_counts_but_no_counter() {
    let (_dir, mut db) = catalog();
    let day = DAY_US as u64;
    let old: Vec<Record> = (0..2000).map(|number| crash(number, 1, 1, day, false)).collect();
    insert(&mut db, &old, ALL, day);
    let retention = Retention { rows: u64::MAX, age: Duration::from_secs(7 * 86400), bytes: u64::MAX };
    insert(&mut db, &[crash(5000, 2, 1, 3 * day, false)], retention, 3 * day);
    assert_eq!(number_of(&db, "SELECT count(*) FROM crashes"), MAX_ROWS + 1);
    insert(&mut db, &[crash(5001, 2, 1, 9 * day, false)], retention, 9 * day);
    assert_eq!(number_of(&db, "SELECT count(*) FROM crashes"), 2);
    assert_eq!(number_of(&db, "SELECT count(*) FROM folded"), 0);
    assert_eq!(number_of(&db, "SELECT sum(count) FROM counters"), 2002);
    // A clock that is set back deletes nothing, and new crashes are still inserted.
    insert(&mut db, &[crash(5002, 2, 1, day / 2, false)], retention, day);
    assert_eq!(number_of(&db, "SELECT count(*) FROM crashes"), 3);
}

#[test]
fn too_many_counts_are_merged_and_none_is_lost() {
    let (_dir, mut db) = catalog();
    let adding = db.transaction().unwrap();
    {
        let mut insert =
            adding.prepare("INSERT INTO folded VALUES (?1, 'h', ?2, ?3, ?4, ?5, 'p', 'SEGV', 2, ?4, ?4)").unwrap();
        for number in 0..MAX_COUNTS + 10_000 {
            let signature = format!("s{}", number % 100);
            insert
                .execute(params![
                    signature,
                    format!("u{}", number % 7),
                    format!("c{number}"),
                    number * HOUR_US / 100,
                    HOUR_US
                ])
                .unwrap();
        }
    }
    downsample(&adding).unwrap();
    adding.commit().unwrap();
    assert!(number_of(&db, "SELECT count(*) FROM folded") <= MAX_COUNTS);
    assert_eq!(number_of(&db, "SELECT sum(count) FROM folded"), 2 * (MAX_COUNTS + 10_000));
    assert!(number_of(&db, "SELECT count(*) FROM folded WHERE container != '*'") > 10_000, "the newer are unchanged");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn no_crash_is_lost_or_counted_twice(
        batches in prop::collection::vec(prop::collection::vec((0..4000_u32, 0..2_u8, 0..3_u8, 0..20_u64), 1..400), 1..20)
    ) {
        let (_dir, mut db) = catalog();
        let mut ids = HashSet::new();
        for batch in batches {
            let records: Vec<Record> = batch
                .into_iter()
                .map(|(number, signature, container, hours)| crash(number, signature, container, hours * HOUR_US as u64, number % 97 == 0))
                .collect();
            let new: HashSet<_> = records.iter().map(|record| record.id.clone()).filter(|id| !ids.contains(id)).collect();
            prop_assert_eq!(insert(&mut db, &records, ALL, 1), new.len());
            ids.extend(new);
            let all = number_of(&db, "SELECT (SELECT count(*) FROM crashes) + (SELECT coalesce(sum(count), 0) FROM folded)");
            prop_assert_eq!(usize::try_from(all), Ok(ids.len()));
        }
    }
}
