//! The two sides together: crashes inserted by the daemon's side are read by the commands' side.

use super::{
    Catalog, CatalogView, CoreState, CrashSummary, Filter, Follower, Ledger, Listed, Meaning, QueryError, Selection,
    TallyBy, UsageBy, UsageShare, Viewer, find, find_all, for_each_row, groups, list, median_time, occurrences,
    signatures_named_before, stored_cores, tally,
};
use crate::crash::{CoreReport, Level, NoCore, Origin, Record, Signature, SignatureKey};
use crate::policy::access::LocalUsers;
use coreward_wire::paths::Root;
use nix::unistd::{Gid, Uid};
use std::sync::Arc;
use std::time::Duration;

/// Inserts crashes into a new catalog, in this order.
fn store(records: Vec<Record>) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let layout = super::Layout::new(&root);
    std::fs::create_dir_all(&layout.cores).unwrap();
    let ledger = Arc::new(Ledger::new(layout.open_cores().unwrap()));
    let (catalog, failure) = Catalog::start(layout.catalog, ledger, Box::new(|_| ()), Box::new(|| ())).unwrap();
    assert_eq!(failure, None);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for record in records {
            catalog.insert(Arc::new(record)).await.unwrap();
        }
    });
    (dir, root)
}

/// A crash without a core, `time_us` after a fixed time.
fn crash(pid: i32, time_us: u64) -> Record {
    let mut record = crate::crash::fixtures::record(pid.unsigned_abs());
    record.time_us += time_us;
    record.core = CoreReport::none(NoCore::Storm);
    record
}

/// The PIDs of the rows that a filter selects.
fn pids_of_rows(root: &Root, filter: &Filter) -> Vec<i32> {
    let mut pids = Vec::new();
    for_each_row(root, filter, &mut |row| pids.push(row.pid.as_raw())).unwrap();
    pids
}

#[test]
fn rows_and_records_come_in_the_order_of_their_times() {
    // Crashes 5 and 6 come late, as from the spool; crashes at the same time come in the order of their insertion.
    let times = [(1, 10), (2, 20), (3, 20), (4, 30), (5, 5), (6, 20)];
    let (_dir, root) = store(times.map(|(pid, time)| crash(pid, time)).into());
    let limit = |limit| Filter { limit, ..Filter::default() };
    for (limit, expected) in [
        (limit(None), &[5, 1, 2, 3, 6, 4][..]),
        (limit(Some(3)), &[3, 6, 4]),
        (limit(Some(0)), &[]),
        (limit(Some(usize::MAX)), &[5, 1, 2, 3, 6, 4]),
    ] {
        assert_eq!(pids_of_rows(&root, &limit), expected);
        let listed: Vec<i32> =
            list(&root, &limit).unwrap().iter().map(|listed| listed.record.key.pid.as_raw()).collect();
        assert_eq!(listed, expected);
    }
    assert_eq!(find(&root, None).unwrap().record.key.pid.as_raw(), 4);
}

#[test]
fn two_halves_have_all_rows_once_and_in_order() {
    let times = [(1, 10), (2, 20), (3, 20), (4, 30), (5, 5), (6, 20)];
    let (_dir, root) = store(times.map(|(pid, time)| crash(pid, time)).into());
    assert_eq!(median_time(&root, 7).unwrap(), None);
    let median_us = median_time(&root, 6).unwrap().unwrap();
    assert_eq!(median_us, crash(2, 20).time_us);
    let bounds = |since: u64, until: u64| Filter {
        since_us: Some(crash(1, since).time_us),
        until_us: Some(crash(1, until).time_us),
        ..Filter::default()
    };
    for filter in [Filter::default(), bounds(10, 20), bounds(0, 10), bounds(21, 30), bounds(6, 9)] {
        let (earlier, later) = filter.split_at(median_us);
        let halves = [pids_of_rows(&root, &earlier), pids_of_rows(&root, &later)].concat();
        assert_eq!(halves, pids_of_rows(&root, &filter), "{filter:?}");
    }
}

#[test]
fn a_filter_selects_the_same_rows_and_records() {
    let mut records: Vec<Record> = (1..=40).map(|pid| crash(pid, u64::from(pid.unsigned_abs()))).collect();
    for record in &mut records {
        let pid = record.key.pid.as_raw();
        record.uid = Some(Uid::from_raw(pid.unsigned_abs() % 3));
        record.exe = format!("/bin/{}", pid % 4);
        record.cgroup.user_unit = (pid % 6 == 0).then(|| "u.service".to_owned());
        record.cgroup.container = (pid % 5 == 0).then(|| format!("web-{pid}"));
        record.cgroup.pod = (pid % 5 == 0).then(|| "pod".to_owned());
        record.hostname = format!("h{}", pid % 2);
        if pid % 8 == 0 {
            let id = format!("s2-{:020x}", pid % 3);
            let previous = Some(format!("s1-{:020x}", 0xab + pid % 2));
            record.signature = Some(Signature { id, level: Level::Stack, previous, variant: None });
        }
        // A text that looks like a field of the record is none.
        record.cmdline = format!("\"previous\":\"s1-{:020x}\"", 0xab);
        record.signal_name = if pid % 7 == 0 { "ABRT".to_owned() } else { "SEGV".to_owned() };
    }
    let base_us = records[0].time_us;
    let (_dir, root) = store(records.clone());
    let text = |text: &str| Some(text.to_owned());
    let all = Filter::default;
    for filter in [
        all(),
        Filter { matches: text("7"), ..all() },
        Filter { matches: text("/bin/2"), ..all() },
        Filter { matches: text("a"), ..all() },
        Filter { matches: text(records[3].id.as_str()), ..all() },
        Filter { matches: text("ABRT:/bin/3"), ..all() },
        Filter { unit: text("a"), ..all() },
        Filter { unit: text("b"), ..all() },
        Filter { matches: text("u"), ..all() },
        Filter { matches: text("u.service"), ..all() },
        Filter { unit: text("u"), ..all() },
        Filter { matches: text(""), ..all() },
        Filter { matches: text(&records[3].id.as_str()[..5]), since_us: Some(base_us + 20), ..all() },
        Filter { container: text("web-1"), ..all() },
        Filter { pod: text("pod"), uid: Some(Uid::from_raw(1)), ..all() },
        Filter { hostname: text("h1"), executable: text("/bin/1"), ..all() },
        Filter { signal: text("ABRT"), ..all() },
        Filter { signature: text("ABRT:"), ..all() },
        Filter { signature: text("s1-000000000000000000ab"), ..all() },
        Filter { signature: text("s1-0"), ..all() },
        Filter { signature: text("s2-0"), ..all() },
        Filter { matches: text("s1-000000000000000000ab"), ..all() },
        Filter { matches: text("s1-0"), ..all() },
        Filter { since_us: Some(base_us + 10), until_us: Some(base_us + 12), ..all() },
    ] {
        let meanings = [Meaning::Id, Meaning::Pid, Meaning::Name, Meaning::Prefix];
        let meaning = filter.matches.as_ref().filter(|text| !text.is_empty()).and_then(|text| {
            meanings.into_iter().find(|meaning| records.iter().any(|record| meaning.fits(text, record)))
        });
        let accepted = records.iter().filter(|record| filter.accepts(meaning, record));
        let expected: Vec<i32> = accepted.map(|record| record.key.pid.as_raw()).collect();
        assert_eq!(pids_of_rows(&root, &filter), expected, "{filter:?}");
        let listed: Vec<i32> =
            list(&root, &filter).unwrap().iter().map(|listed| listed.record.key.pid.as_raw()).collect();
        assert_eq!(listed, expected, "{filter:?}");
    }
}

#[test]
fn a_name_of_the_version_before_leads_to_the_signatures_that_have_it_now() {
    let named = |pid: i32, id: &str, previous: &str| {
        let signature =
            Signature { id: id.to_owned(), level: Level::Stack, previous: Some(previous.to_owned()), variant: None };
        Record { signature: Some(signature), ..crash(pid, u64::from(pid.unsigned_abs())) }
    };
    let records =
        vec![named(1, "s2-a", "s1-x"), named(2, "s2-b", "s1-x"), named(3, "s2-a", "s1-x"), named(4, "s2-c", "s1-y")];
    let (_dir, root) = store(records);
    let found = |prefix: &str| -> Vec<String> {
        let found = signatures_named_before(&root, prefix).unwrap();
        found.iter().map(|signature| signature.as_str().to_owned()).collect()
    };
    assert_eq!(found("s1-x"), ["s2-a", "s2-b"]);
    assert_eq!(found("s1-"), ["s2-a", "s2-b", "s2-c"]);
    assert_eq!(found("s1-z"), [""; 0]);
}

#[test]
fn a_name_is_an_id_before_a_pid_before_a_name_before_a_prefix() {
    use crate::crash::CrashId;
    let with_id = |pid: i32, id: &str| {
        let id: CrashId = serde_json::from_value(id.into()).unwrap();
        Record { id, ..crash(pid, u64::from(pid.unsigned_abs())) }
    };
    let named = Record { comm: "4444".to_owned(), ..with_id(7, "7777777777777777") };
    let (_dir, root) = store(vec![
        with_id(1234, "0000000000000001"),
        with_id(1, "1234000000000002"),
        with_id(2, "4444000000000003"),
        with_id(3, "5555000000000004"),
        named,
    ]);
    for (name, pid, meaning) in [
        ("1234000000000002", 1, Meaning::Id),
        ("1234", 1234, Meaning::Pid),
        ("4444", 7, Meaning::Name),
        ("5555", 3, Meaning::Prefix),
        ("12340", 1, Meaning::Prefix),
    ] {
        let (found, as_found) = find_all(&root, name).unwrap();
        assert_eq!((found.len(), found[0].record.key.pid.as_raw(), as_found), (1, pid, meaning), "{name}");
        assert_eq!(find(&root, Some(name)).unwrap().record.key.pid.as_raw(), pid, "{name}");
        assert_eq!(
            pids_of_rows(&root, &Filter { matches: Some(name.to_owned()), ..Filter::default() }),
            [pid],
            "{name}"
        );
    }
    for name in ["", "01234", "+1234", "9"] {
        assert!(matches!(find(&root, Some(name)), Err(QueryError::NoMatch(_))), "{name:?}");
    }
}

#[test]
fn a_core_that_is_gone_is_missing_from_rows_records_and_usage() {
    let stored = crate::crash::fixtures::record(1);
    let (_dir, root) = store(vec![stored.clone(), crash(2, 1)]);
    let file = super::Layout::new(&root).cores.join(super::core_file_name(&stored.id));
    let states = || -> Vec<(CoreState, u64)> {
        let mut states = Vec::new();
        for_each_row(&root, &Filter::default(), &mut |row| states.push((row.core_state, row.stored))).unwrap();
        let listed = list(&root, &Filter::default()).unwrap();
        assert!(listed.iter().map(|listed: &Listed| listed.core_state).eq(states.iter().map(|(state, _)| *state)));
        states
    };
    std::fs::write(&file, "core").unwrap();
    assert_eq!(states(), [(CoreState::Stored, 2048), (CoreState::None, 0)]);
    assert_eq!(stored_cores(&root).unwrap().iter().map(|core| core.bytes).collect::<Vec<_>>(), [4]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(states(), [(CoreState::Missing, 0), (CoreState::None, 0)]);
    assert!(stored_cores(&root).unwrap().is_empty());
}

#[test]
fn groups_count_rolled_up_crashes_and_their_occurrences_add_up() {
    let mut records: Vec<Record> =
        (0..1300).map(|pid| crash(pid, u64::from(i32::unsigned_abs(pid)) * 10_000_000)).collect();
    records.push(crate::crash::fixtures::record(5000));
    records[1300].signal_name = "ABRT".to_owned();
    // The writer does not wait for more of these.
    records.iter_mut().for_each(|record| record.origin = Origin::Spool);
    let (_dir, root) = store(records);
    let groups = groups(&root).unwrap();
    let counted: Vec<(&str, u64, u64)> =
        groups.iter().map(|group| (group.signature.as_str(), group.count, group.cores)).collect();
    assert_eq!(counted, [("SEGV:/usr/bin/segv", 1300, 0), ("ABRT:/usr/bin/segv", 1, 1)]);
    assert!(pids_of_rows(&root, &Filter::default()).len() < 1300, "some are rolled up");
    let occurrences = occurrences(&root, &groups[0].signature).unwrap();
    assert_eq!(occurrences.iter().map(|occurrence| occurrence.count).sum::<u64>(), 1300);
    assert!(occurrences.len() >= 3 && occurrences.is_sorted_by(|a, b| a.last_us >= b.last_us));
}

/// What a catalog of an earlier version, with records as long as it allowed, does at a start.
#[test]
fn rows_and_cores_of_an_earlier_version_are_charged_and_their_records_cut() {
    let mut long = crate::crash::fixtures::record(1);
    long.cmdline = "\u{1}".repeat(100_000);
    let (_dir, root) = store(vec![crash(2, 1)]);
    let layout = super::Layout::new(&root);
    let db = rusqlite::Connection::open(&layout.catalog).unwrap();
    db.execute_batch("DROP TRIGGER row_deleted; DROP TABLE charges; DROP TABLE principals;").unwrap();
    let add = "INSERT INTO crashes (id, time_us, pid, uid, signal_name, program, comm, unit, hostname, signature, keep, reason, core,
                   truncated, stored, held_us) VALUES (?1, 5, 1, 0, 'SEGV', '/p', 'c', 'a.service', 'h', 's1-a', 'full', 'first', 'stored', 0, 1, 1)";
    db.execute(add, [long.id.as_str()]).unwrap();
    let json = serde_json::to_string(&long).unwrap();
    db.execute("INSERT INTO records (seq, record) VALUES (last_insert_rowid(), ?1)", [&json]).unwrap();
    drop(db);
    std::fs::write(layout.cores.join(super::core_file_name(&long.id)), "core").unwrap();
    let ledger = Arc::new(Ledger::new(layout.open_cores().unwrap()));
    let (catalog, failure) =
        Catalog::start(layout.catalog, Arc::clone(&ledger), Box::new(|_| ()), Box::new(|| ())).unwrap();
    assert_eq!(failure, None);
    assert_eq!(ledger.usage(), (4, 1));
    let party = crate::crash::Party::User(Uid::from_raw(0));
    let signature = SignatureKey::new("s1-a");
    assert!(ledger.has_bug(&crate::policy::evict::BugKey { party, signature }));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let found = runtime.block_on(catalog.find(long.id.clone())).unwrap().unwrap();
    assert!(serde_json::to_vec(&found).unwrap().len() <= crate::crash::MAX_RECORD);
}

const ALICE: u32 = 1000;
const BOB: u32 = 1001;

/// What a user of a machine with two users sees.
fn view_of(root: &Root, uid: u32) -> CatalogView {
    let users =
        LocalUsers { passwd: "alice:x:1000:1000::/:\nbob:x:1001:1001::/:\n".to_owned(), ..LocalUsers::default() };
    let viewer = if uid == 0 { Viewer::Administrator } else { Viewer::User(Uid::from_raw(uid), Arc::new(users)) };
    CatalogView::open(root, &viewer, Duration::from_secs(60)).unwrap()
}

/// A crash of a user's own process.
fn crash_of(uid: u32, pid: i32) -> Record {
    let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)));
    Record { uid: ids.0, gid: ids.1, ..crash(pid, u64::from(pid.unsigned_abs())) }
}

fn all_pages(view: &CatalogView, selection: &Selection) -> Vec<CrashSummary> {
    let (mut all, mut from) = (Vec::new(), None);
    loop {
        let page = view.page(selection, from).unwrap();
        all.extend(page.crashes);
        match page.next {
            Some(next) => from = Some(next),
            None => return all,
        }
    }
}

fn pids_seen(view: &CatalogView, filter: Filter) -> Vec<i32> {
    all_pages(view, &view.select(filter, false).unwrap()).iter().map(|crash| crash.pid).collect()
}

#[test]
fn pages_have_every_crash_once_and_in_order() {
    // Many at the same time, and some that come late.
    let records = (1..=700).map(|pid| crash(pid, u64::from(pid.unsigned_abs() / 100 * 7 % 5)));
    let (_dir, root) = store(records.collect());
    let view = view_of(&root, 0);
    let all = Filter::default;
    for filter in [
        all(),
        Filter { limit: Some(0), ..all() },
        Filter { limit: Some(1), ..all() },
        Filter { limit: Some(450), ..all() },
        Filter { limit: Some(usize::MAX), ..all() },
        Filter { matches: Some("77".to_owned()), ..all() },
        Filter { matches: Some("nothing".to_owned()), ..all() },
        Filter { since_us: Some(crash(1, 2).time_us), limit: Some(300), ..all() },
    ] {
        assert_eq!(pids_seen(&view, filter.clone()), pids_of_rows(&root, &filter), "{filter:?}");
    }
    let selection = view.select(Filter { limit: Some(250), ..all() }, true).unwrap();
    let listed = list(&root, &Filter { limit: Some(250), ..all() }).unwrap();
    for (ours, theirs) in all_pages(&view, &selection).iter().zip(&listed) {
        assert_eq!(ours.record.as_ref().unwrap().record, theirs.record);
        assert_eq!((ours.core_state, ours.no_core.as_deref()), (theirs.core_state, Some("storm")));
    }
    let too_late = CatalogView::open(&root, &Viewer::Administrator, Duration::ZERO).and_then(|view| view.groups(10));
    assert!(
        matches!(too_late, Err(QueryError::Sqlite { error, .. }) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted))
    );
}

#[test]
fn a_user_sees_own_crashes_and_nothing_that_depends_on_others() {
    let mut records: Vec<Record> =
        (1..=30).map(|pid: i32| crash_of([ALICE, BOB, 0][pid.unsigned_abs() as usize % 3], pid)).collect();
    records.push(Record { privileged: true, ..crash_of(ALICE, 31) });
    records.push(Record { in_namespace: true, ..crash_of(ALICE, 32) });
    records.push(Record { gid: Some(Gid::from_raw(4000)), ..crash_of(ALICE, 33) });
    records.push(Record { uid: None, ..crash_of(ALICE, 34) });
    let mut with_core = crash_of(ALICE, 36);
    with_core.core = crate::crash::fixtures::record(1).core;
    records.push(with_core.clone());
    let (_dir, root) = store(records.clone());
    let (alice, nobody, root_view) = (view_of(&root, ALICE), view_of(&root, 1002), view_of(&root, 0));
    let all = Filter::default;
    let own: Vec<i32> = (1..=10).map(|n| n * 3).chain([36]).collect();
    assert_eq!(pids_seen(&alice, all()), own);
    assert_eq!(pids_seen(&alice, Filter { limit: Some(3), ..all() }), [27, 30, 36], "the newest of hers");
    assert_eq!(pids_seen(&alice, Filter { uid: Some(Uid::from_raw(BOB)), ..all() }), [] as [i32; 0]);
    assert_eq!(pids_seen(&nobody, all()), [] as [i32; 0]);
    assert_eq!(pids_seen(&root_view, all()).len(), records.len());

    // A name means what it means among her own crashes.
    let id_of = |pid: i32| records.iter().find(|record| record.key.pid.as_raw() == pid).unwrap().id.to_string();
    assert_eq!(alice.find(Some("3")).unwrap().record.key.pid.as_raw(), 3);
    assert_eq!(alice.find(None).unwrap().record.key.pid.as_raw(), 36);
    for others in [id_of(1), id_of(31), id_of(32), id_of(33), id_of(34), "0000000000000000".to_owned()] {
        assert!(matches!(alice.find(Some(&others)), Err(QueryError::NoMatch(name)) if name == others));
        assert!(root_view.find(Some(&others)).is_ok() || others.starts_with("0000"));
    }
    assert!(matches!(nobody.find(None), Err(QueryError::Nothing)));

    let groups = alice.groups(10).unwrap();
    assert_eq!(groups.iter().map(|group| (group.count, group.cores)).collect::<Vec<_>>(), [(11, 1)]);
    assert_eq!(groups[0].last_us, crash_of(ALICE, 36).time_us);
    let signature = SignatureKey::new("SEGV:/usr/bin/segv");
    let sum =
        |view: &CatalogView| -> u64 { view.occurrences(&signature).unwrap().iter().map(|found| found.count).sum() };
    assert_eq!((sum(&alice), sum(&root_view), sum(&nobody)), (11, records.len() as u64, 0));
    assert!(alice.example(&signature).unwrap().is_none_or(|example| own.contains(&example.record.key.pid.as_raw())));
    let share = |name: &str| UsageShare { name: name.to_owned(), cores: 1, bytes: 2048 };
    assert_eq!(alice.usage(UsageBy::User).unwrap(), [share("1000")]);
    assert_eq!(alice.usage(UsageBy::Executable).unwrap(), [share("/usr/bin/segv")]);
    assert_eq!(nobody.usage(UsageBy::Unit).unwrap(), []);

    // New crashes: hers, and no others.
    let inserted = |view: &CatalogView, after| -> (Vec<i32>, i64) {
        let (crashes, last) = view.inserted_after(after, &all()).unwrap();
        (crashes.iter().map(|crash| crash.pid).collect(), last)
    };
    let last = alice.last_row().unwrap();
    assert_eq!(inserted(&alice, 25), (vec![27, 30, 36], last));
    assert_eq!(inserted(&alice, last), (Vec::new(), last));
    assert_eq!(inserted(&nobody, 0), (Vec::new(), last));
    let by_pid = Filter { matches: Some("30".to_owned()), ..all() };
    assert_eq!(alice.inserted_after(0, &by_pid).unwrap().0.len(), 1);
}

#[test]
fn what_crashes_most_is_counted_with_what_was_rolled_up() {
    let mut other = crash(2, 2);
    other.exe = "/usr/bin/other".to_owned();
    other.uid = Some(Uid::from_raw(7));
    other.cgroup.unit = None;
    other.cgroup.container = Some("web".to_owned());
    let (program, uid, time_us) = (crash(1, 0).program(), crash(1, 0).uid.unwrap(), crash(1, 0).time_us);
    let unit = crash(1, 0).cgroup.unit.unwrap();
    let signature = crash(1, 0).signature_key();
    let (_dir, root) = store(vec![crash(1, 1), other, crash(3, 3)]);
    let db = rusqlite::Connection::open(super::Layout::new(&root).catalog).unwrap();
    let fold = "INSERT INTO folded (signature, hostname, unit, container, from_us, span_us, program, signal_name, count, first_us, last_us)
        VALUES (?1, 'h', ?2, '', 0, 1, ?3, 'SEGV', ?4, ?5, ?5)";
    for (signature, unit, program, count) in
        [(signature.as_str(), unit.as_str(), program.as_str(), 10), ("*", "*", "x", 100)]
    {
        db.execute(fold, rusqlite::params![signature, unit, program, count, time_us.cast_signed()]).unwrap();
    }
    let counts = |by, since_us, until_us| -> Vec<(Option<String>, u64)> {
        tally(&root, by, since_us, until_us).unwrap().into_iter().map(|tally| (tally.name, tally.count)).collect()
    };
    let name = |name: &str| Some(name.to_owned());
    let all = |by| counts(by, 0, u64::MAX >> 1);
    assert_eq!(all(TallyBy::Unit), [(None, 100), (Some(unit), 12), (name("container web"), 1)]);
    assert_eq!(all(TallyBy::Executable), [(None, 100), (Some(program.clone()), 12), (name("/usr/bin/other"), 1)]);
    assert_eq!(all(TallyBy::User), [(None, 110), (Some(uid.to_string()), 2), (name("7"), 1)]);
    assert_eq!(all(TallyBy::Signature).iter().map(|(_, count)| count).sum::<u64>(), 113);
    assert_eq!(counts(TallyBy::Executable, time_us + 3, time_us + 9), [(Some(program), 1)]);
}

#[test]
fn a_follower_finds_each_crash_once_and_only_what_is_selected() {
    let (_dir, root) = store(vec![crash(1, 1)]);
    let layout = super::Layout::new(&root);
    let filter = |text: &str| Filter { matches: Some(text.to_owned()), ..Filter::default() };
    let mut all = Follower::start(&root, Filter::default()).unwrap();
    let mut some = Follower::start(&root, filter("COREDUMP_PID=3\nCOREDUMP_PID=4")).unwrap();
    let ledger = Arc::new(Ledger::new(layout.open_cores().unwrap()));
    let (catalog, _) = Catalog::start(layout.catalog.clone(), ledger, Box::new(|_| ()), Box::new(|| ())).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let insert = |pid| runtime.block_on(catalog.insert(Arc::new(crash(pid, 0)))).unwrap();
    let pids = |follower: &mut Follower| -> Vec<i32> {
        follower.poll().unwrap().iter().map(|listed| listed.record.key.pid.as_raw()).collect()
    };
    assert_eq!(pids(&mut all), [0; 0]);
    insert(2);
    insert(3);
    assert_eq!((pids(&mut all), pids(&mut some)), (vec![2, 3], vec![3]));
    insert(4);
    assert_eq!((pids(&mut all), pids(&mut some)), (vec![4], vec![4]));
    assert_eq!(pids(&mut all), [0; 0]);
}

#[test]
fn matches_of_coredumpctl_select_rows_and_records_alike() {
    let mut abrt = crash(2, 2);
    (abrt.signal, abrt.signal_name) = (Some(6), "ABRT".to_owned());
    abrt.cgroup.unit = Some("b.service".to_owned());
    let (_dir, root) = store(vec![crash(1, 1), abrt, crash(3, 3)]);
    for (text, expected) in [
        ("COREDUMP_UNIT=b.service", &[2][..]),
        ("COREDUMP_UNIT=b", &[]),
        ("b\nCOREDUMP_SIGNAL=6", &[2]),
        ("COREDUMP_SIGNAL=6\nCOREDUMP_SIGNAL=SIGSEGV", &[1, 2, 3]),
        ("COREDUMP_SIGNAL=11\nCOREDUMP_PID=3", &[3]),
        ("3\n1", &[1, 3]),
    ] {
        let filter = Filter { matches: Some(text.to_owned()), ..Filter::default() };
        assert_eq!(pids_of_rows(&root, &filter), expected, "{text:?}");
        let found = list(&root, &filter).unwrap();
        let listed: Vec<i32> = found.iter().map(|listed| listed.record.key.pid.as_raw()).collect();
        assert_eq!(listed, expected, "{text:?}");
    }
    assert_eq!(find(&root, Some("COREDUMP_PID=2")).unwrap().record.key.pid.as_raw(), 2);
    assert!(matches!(find(&root, Some("COREDUMP_PID=9")), Err(QueryError::NoMatch(_))));
}
