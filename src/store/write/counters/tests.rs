use super::*;
use crate::crash::cgroup::CgroupInfo;
use crate::store::write::schema;
use nix::unistd::Uid;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn catalog() -> (tempfile::TempDir, Connection) {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let db = schema::open(&dir.path().join("catalog.db")).unwrap();
    (dir, db)
}

fn crash(uid: u32, hostname: &str, program: &str, second: u64) -> Record {
    let mut record = crate::crash::fixtures::record(1);
    record.uid = Some(Uid::from_raw(uid));
    record.cgroup = CgroupInfo::default();
    record.hostname = hostname.to_owned();
    record.exe = program.to_owned();
    record.time_us += second * 1_000_000;
    record
}

fn service(program: &str, second: u64) -> Record {
    let mut record = crash(0, "h", program, second);
    record.cgroup.path = "/system.slice/nginx.service".to_owned();
    record
}

/// Counts the crashes in one transaction; returns where the last one was counted.
fn count_all(db: &mut Connection, records: impl Iterator<Item = Record>) -> Counted {
    let adding = db.transaction().unwrap();
    let counted = records.map(|record| count(&adding, &record).unwrap()).last().unwrap();
    adding.commit().unwrap();
    counted
}

fn sum(db: &Connection) -> u64 {
    counts(db).unwrap().iter().map(|counter| counter.count).sum()
}

#[test]
fn a_users_two_thousand_host_names_leave_others_their_sets() {
    let (_dir, mut db) = catalog();
    let own = count_all(&mut db, std::iter::once(crash(1000, "h", "/usr/bin/own", 0)));
    assert_eq!(own.raised.program, "/usr/bin/own");
    let last = count_all(&mut db, (0..2500).map(|name| crash(1000, &format!("h{name}"), "/bin/x", name / 100)));
    assert!(last.raised.is_other() && last.left.is_none(), "{last:?}");
    for (second, record) in [(30, service("/usr/sbin/nginx", 30)), (31, crash(1001, "h", "/usr/bin/new", 31))] {
        let counted = count_all(&mut db, std::iter::once(record));
        assert!(!counted.raised.is_other() && counted.left.is_none(), "second {second}: {counted:?}");
    }
    let sets = counts(&db).unwrap();
    assert!(sets.len() <= 500, "{}", sets.len());
    assert_eq!(sum(&db), 2503);
}

#[test]
fn many_users_together_do_not_take_the_last_set_either() {
    let (_dir, mut db) = catalog();
    for user in 0..6 {
        count_all(&mut db, (0..600).map(|name| crash(1000 + user, &format!("h{name}"), "/bin/x", 0)));
    }
    assert!(counts(&db).unwrap().len() <= 2000);
    assert_eq!(sum(&db), 3600);
    let mut local = service("/usr/sbin/nginx", 1);
    local.hostname = uname().unwrap().nodename().to_string_lossy().into_owned();
    let counted = count_all(&mut db, std::iter::once(local));
    assert_eq!(counted.raised.program, "/usr/sbin/nginx");
    assert_eq!(sum(&db), 3601);
}

#[test]
fn a_set_that_was_not_raised_for_long_leaves_for_a_new_one_of_its_principal() {
    let (_dir, mut db) = catalog();
    count_all(&mut db, (0..600).map(|name| crash(1000, &format!("h{name}"), "/bin/x", 0)));
    count_all(&mut db, std::iter::once(crash(1000, "h0", "/bin/x", 7000)));
    let counted = count_all(&mut db, std::iter::once(crash(1000, "new", "/bin/x", 7001)));
    assert_eq!(counted.raised.hostname, "new");
    let left = counted.left.unwrap();
    assert!(left.hostname != "h0" && left.count == 1, "{left:?}");
    assert_eq!(sum(&db), 602);
}

#[test]
fn counters_of_an_earlier_version_obey_the_same_rules() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let db = schema::open(&path).unwrap();
    db.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2100)
         INSERT INTO counters (hostname, program, signal, core_exists, count) SELECT 'h' || i, '/bin/x', 'SEGV', 1, 3 FROM n;
         ALTER TABLE counters DROP COLUMN principal;",
    )
    .unwrap();
    drop(db);
    let mut db = {
        let db = Connection::open(&path).unwrap();
        db.execute_batch("ALTER TABLE counters DROP COLUMN foreign_host; ALTER TABLE counters DROP COLUMN raised_us;")
            .unwrap();
        drop(db);
        schema::open(&path).unwrap()
    };
    assert!(counts(&db).unwrap().len() <= 2000);
    let counted = count_all(&mut db, std::iter::once(service("/usr/sbin/nginx", 1)));
    assert_eq!(counted.raised.program, "/usr/sbin/nginx");
    assert_eq!(sum(&db), 6301);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// What a scrape shows, followed step by step, is what the catalog has; its sum is the number of crashes; and the sets stay
    /// within their number.
    #[test]
    fn the_sum_never_falls(crashes in prop::collection::vec((0..6_u32, 0..700_u32, 0..4_u64), 1..3000)) {
        let (_dir, mut db) = catalog();
        let mut shown: BTreeMap<(String, String), u64> = BTreeMap::new();
        let adding = db.transaction().unwrap();
        for (number, (user, name, hours)) in (1..).zip(crashes) {
            let counted = count(&adding, &crash(1000 + user, &format!("h{name}"), "/bin/x", hours * 3600)).unwrap();
            let key = |set: &CrashCount| (set.hostname.clone(), set.program.clone());
            if let Some(left) = counted.left {
                prop_assert_eq!(shown.remove(&key(&left)), Some(left.count));
                *shown.entry(key(&left.other())).or_default() += left.count;
            }
            *shown.entry(key(&counted.raised)).or_default() += 1;
            prop_assert_eq!(shown.values().sum::<u64>(), number);
        }
        adding.commit().unwrap();
        let kept: BTreeMap<_, _> = counts(&db).unwrap().into_iter().map(|set| ((set.hostname, set.program), set.count)).collect();
        prop_assert!(kept.len() <= 2000);
        prop_assert_eq!(kept, shown);
    }
}
