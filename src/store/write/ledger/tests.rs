use super::*;
use crate::crash::{CrashKey, Party, Principal, SignatureKey};
use crate::store::core_dir::core_file_name;
use nix::unistd::{Pid, Uid};
use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;

fn id(number: u32) -> CrashId {
    CrashKey { boot_id: "0".repeat(32), pid: Pid::from_raw(number.cast_signed()), start_time: 0 }.id()
}

fn attribution(unit: &str, signature: &str) -> Attribution {
    Attribution {
        principal: Principal::Unit(unit.to_owned()),
        party: Party::User(Uid::from_raw(0)),
        program: format!("p{signature}"),
        signature: SignatureKey::new(signature),
    }
}

fn ledger(dir: &Path, quotas: Quotas) -> Ledger {
    let ledger = Ledger::new(std::fs::File::open(dir).unwrap().into());
    ledger.set_limits(quotas);
    ledger
}

/// `MaxUse=` alone.
fn total(max_use: u64) -> Quotas {
    let all = Some(u64::MAX);
    Quotas {
        max_use: Some(max_use),
        keep_free: Some(0),
        per_unit: all,
        per_user: all,
        per_executable: all,
        per_signature: all,
        ..Quotas::default()
    }
}

fn store(dir: &Path, ledger: &Ledger, number: u32, attribution: &Attribution, bytes: u64) -> Grant {
    let grant = ledger.reserve(attribution, bytes);
    if grant == Grant::Granted {
        std::fs::write(dir.join(core_file_name(&id(number))), "x").unwrap();
        ledger.commit(attribution.clone(), bytes, id(number), u64::from(number), bytes - 20);
    }
    grant
}

fn left(dir: &Path, numbers: std::ops::Range<u32>) -> Vec<u32> {
    numbers.filter(|number| dir.join(core_file_name(&id(*number))).exists()).collect()
}

#[test]
fn what_is_stored_of_a_class_follows_commits_and_evictions() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path(), total(1000));
    let user = Attribution {
        principal: Principal::User(Uid::from_raw(1000)),
        party: Party::User(Uid::from_raw(1000)),
        ..attribution("", "b")
    };
    store(dir.path(), &ledger, 0, &attribution("u", "a"), 300);
    store(dir.path(), &ledger, 1, &user, 200);
    assert_eq!(ledger.reserve(&user, 100), Grant::Granted);
    let usage = || {
        let stored = ledger.usage_by_class().into_iter().filter(|(_, usage)| usage.cores > 0 || usage.bytes > 0);
        stored.map(|(class, usage)| (class, usage.bytes, usage.cores)).collect::<Vec<_>>()
    };
    let root = (PrincipalClass::Root, 280, 1);
    assert_eq!(usage(), [root, (PrincipalClass::User, 180, 1)], "what is reserved is not stored");
    ledger.commit(user.clone(), 100, id(1), 1, 90);
    assert_eq!(usage(), [root, (PrincipalClass::User, 90, 1)], "the same core anew");
    assert!(ledger.forget(&id(1)));
    assert_eq!(usage(), [root]);
}

#[test]
fn what_is_redundant_goes_first_and_the_total_is_never_over_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path(), total(1000));
    for number in 0..5 {
        assert_eq!(store(dir.path(), &ledger, number, &attribution("u", "a"), 300), Grant::Granted);
        assert!(ledger.usage().0 <= 1000);
    }
    assert_eq!(left(dir.path(), 0..5), [0, 3, 4], "the first and the newest stay");
    assert_eq!(ledger.drain_evicted(), [id(1), id(2)]);
    assert_eq!(ledger.drain_evicted(), []);
}

#[test]
fn a_unit_that_is_full_pays_itself_and_what_can_never_fit_costs_no_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path(), Quotas { per_unit: Some(600), ..total(10_000) });
    store(dir.path(), &ledger, 100, &attribution("quiet", "q"), 300);
    for number in 0..8 {
        assert_eq!(store(dir.path(), &ledger, number, &attribution("loud", &number.to_string()), 290), Grant::Granted);
    }
    assert_eq!(left(dir.path(), 0..101), [6, 7, 100]);
    assert_eq!(ledger.reserve(&attribution("loud", "x"), 601), Grant::Full("MaxUsePerUnit="));
    assert_eq!(ledger.reserve(&attribution("third", "x"), 10_001), Grant::Full("MaxUsePerUnit="));
    assert_eq!(left(dir.path(), 0..101), [6, 7, 100]);
    ledger.set_limits(Quotas { keep_free: Some(u64::MAX), ..total(u64::MAX) });
    assert_eq!(ledger.reserve(&attribution("u", "x"), 1), Grant::Full("KeepFree="));
}

#[test]
fn signatures_executables_and_users_have_limits_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let user =
        |uid, signature: &str| Attribution { party: Party::User(Uid::from_raw(uid)), ..attribution("u", signature) };
    for (quotas, attribution, name) in [
        (Quotas { per_signature: Some(99), ..total(1000) }, user(0, "a"), "MaxUsePerSignature="),
        (Quotas { per_executable: Some(99), ..total(1000) }, user(0, "b"), "MaxUsePerExecutable="),
        (Quotas { per_user: Some(99), ..total(1000) }, user(7, "c"), "MaxUsePerUser="),
    ] {
        let ledger = ledger(dir.path(), quotas);
        assert_eq!(ledger.reserve(&attribution, 100), Grant::Full(name));
        assert_eq!(ledger.reserve(&attribution, 99), Grant::Granted);
        assert!(!ledger.reserve_spare(&attribution, 1, 0) && ledger.reserve_spare(&user(0, "d"), 99, 0));
    }
    let ledger = ledger(dir.path(), Quotas { per_user: Some(99), ..total(1000) });
    assert_eq!(ledger.reserve(&user(0, "c"), 100), Grant::Granted, "root's units have limits of their own");
}

#[test]
fn pinned_cores_and_those_that_are_read_stay() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path(), total(1000));
    for number in 0..3 {
        store(dir.path(), &ledger, number, &attribution("u", "a"), 300);
    }
    let cores = std::fs::File::open(dir.path()).unwrap().into();
    if pin::set_pinned(&cores, &id(1), true).is_err() {
        eprintln!("SKIPPED: no extended attributes for users on {}", dir.path().display());
        return;
    }
    let reader = pin::lock_for_reading(std::fs::File::open(dir.path().join(core_file_name(&id(0)))).unwrap()).unwrap();
    assert_eq!(store(dir.path(), &ledger, 3, &attribution("u", "a"), 300), Grant::Granted);
    assert_eq!(left(dir.path(), 0..4), [0, 1, 3], "the one that is neither");
    assert_eq!(store(dir.path(), &ledger, 4, &attribution("u", "a"), 900), Grant::Full("MaxUse="));
    drop(reader);
    pin::set_pinned(&cores, &id(1), false).unwrap();
    assert!(ledger.evict_one());
}

#[test]
fn age_and_number_are_limits_too() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path(), Quotas { cores: 3, age: Duration::from_micros(10), ..total(10_000) });
    for number in 0..6 {
        store(dir.path(), &ledger, number, &attribution("u", &number.to_string()), 100);
        assert!(ledger.usage().1 <= 3);
    }
    assert_eq!(left(dir.path(), 0..6), [3, 4, 5]);
    assert_eq!(
        (ledger.evict_expired(14), ledger.evict_expired(3)),
        (1, 0),
        "a clock that was set back expires nothing"
    );
    assert_eq!(left(dir.path(), 0..6), [4, 5]);
}

#[test]
fn a_core_that_is_entered_twice_is_counted_once_and_one_that_somebody_deleted_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path(), total(1000));
    ledger.commit(attribution("u", "a"), 0, id(1), 5, 100);
    ledger.commit(attribution("u", "a"), 0, id(1), 9, 120);
    assert_eq!((ledger.usage(), ledger.has_bug(&attribution("u", "a").bug())), ((120, 1), true));
    assert!(ledger.forget(&id(1)) && !ledger.forget(&id(1)));
    assert_eq!((ledger.usage(), ledger.has_bug(&attribution("u", "a").bug())), ((0, 0), false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Concurrent captures in any order never hold more than a limit allows, and give all of it back.
    #[test]
    fn no_limit_is_ever_broken_and_nothing_is_lost(
        steps in prop::collection::vec((0..4_usize, 0..3_u8, 1..300_u64, 0..3_u8), 1..120)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let quotas = Quotas { per_unit: Some(700), per_signature: Some(500), ..total(1000) };
        let ledger = ledger(dir.path(), quotas);
        let mut captures = [0_u64; 4];
        for (number, (capture, unit, bytes, step)) in steps.into_iter().enumerate() {
            let attribution = attribution(&(capture % 2).to_string(), &format!("{}{unit}", capture % 2));
            let attribution = Attribution { signature: SignatureKey::new(format!("g{capture}")), program: "p".to_owned(), ..attribution };
            match step {
                0 | 1 => {
                    if ledger.reserve(&attribution, bytes) == Grant::Granted {
                        captures[capture] += bytes;
                    }
                }
                _ => {
                    let held = std::mem::take(&mut captures[capture]);
                    let number = u32::try_from(number).unwrap();
                    ledger.commit(attribution, held, id(number), u64::from(number), held / 2);
                }
            }
            prop_assert!(ledger.usage().0 <= 1000);
            let state = ledger.state();
            for unit in ["0", "1"] {
                prop_assert!(state.usage.used(&LimitScope::Principal(Principal::Unit(unit.to_owned()))) <= 700);
            }
            for number in 0..4 {
                let scope = LimitScope::Signature(Party::User(Uid::from_raw(0)), SignatureKey::new(format!("g{number}")));
                prop_assert!(state.usage.used(&scope) <= 500);
            }
        }
    }
}
