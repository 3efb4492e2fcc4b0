use super::*;
use crate::crash::{Party, SignatureKey};
use proptest::prelude::*;

const NONE: Rate = Rate { burst: 0, interval: Duration::from_secs(600) };
const RULES: StormRules = StormRules {
    storm: StormRule { burst: 3, stacks: 2, interval: Duration::from_secs(60) },
    unit: NONE,
    user: NONE,
    total: NONE,
};
const RATES: StormRules = StormRules {
    unit: Rate { burst: 8, interval: Duration::from_secs(600) },
    user: Rate { burst: 12, interval: Duration::from_secs(600) },
    total: Rate { burst: 40, interval: Duration::from_secs(600) },
    ..RULES
};

fn event(signature: &str, unit: &str, uid: u32) -> StormEvent {
    StormEvent {
        bug: BugKey { party: Party::User(Uid::from_raw(uid)), signature: SignatureKey::new(signature) },
        principal: Principal::Unit(unit.to_owned()),
        first: false,
        variant: None,
    }
}

fn at(second: u64) -> Duration {
    Duration::from_secs(second)
}

#[test]
fn up_to_four_cores_of_other_variants_are_kept_beyond_the_burst() {
    use Reason::{Burst, First, StacksBurst, Storm, Variant};
    let reasons = |burst: u32, variants: &[&str]| {
        let mut policy = StormPolicy::default();
        let rules = StormRules { storm: StormRule { burst, ..RULES.storm }, ..RULES };
        let mut decide = |(number, variant): (usize, &&str)| {
            let event = StormEvent { first: number == 0, variant: Some((*variant).to_owned()), ..event("a", "u", 0) };
            policy.decide(&rules, &event, at(number as u64 / 10)).reason
        };
        variants.iter().enumerate().map(&mut decide).collect::<Vec<_>>()
    };
    assert_eq!(
        reasons(3, &["a", "a", "a", "a", "b", "b", "c"]),
        [First, Burst, Burst, StacksBurst, Variant, StacksBurst, Variant]
    );
    assert_eq!(
        reasons(3, &["a", "b", "c", "c", "d", "e", "f", "g", "h", "i"]),
        [First, Burst, Burst, StacksBurst, Variant, Variant, Variant, Variant, StacksBurst, Storm]
    );
    let unknown = Signature::UNKNOWN_VARIANT;
    assert_eq!(
        reasons(3, &[unknown; 10]),
        [First, Burst, Burst, Variant, Variant, Variant, Variant, StacksBurst, StacksBurst, Storm]
    );
    // The default.
    assert_eq!(
        reasons(5, &["a", "b", "c", "d", "e", "e", "f", "f"]),
        [First, Burst, Burst, Burst, Burst, StacksBurst, Variant, StacksBurst]
    );
    assert_eq!(reasons(5, &[unknown; 10])[4..], [Burst, Variant, Variant, Variant, Variant, StacksBurst]);
    // So many that they are not all remembered.
    let many: Vec<String> = (0..200).map(|number: u32| number.to_string()).collect();
    let decided = reasons(100, &many.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(decided[99..106], [Burst, Variant, Variant, Variant, Variant, StacksBurst, StacksBurst]);
}

#[test]
fn a_window_keeps_whole_cores_then_stacks_then_records() {
    let mut policy = StormPolicy::default();
    let mut reasons = |group: &str, second, first| {
        policy.decide(&RULES, &StormEvent { first, ..event(group, "u", 0) }, at(second)).reason
    };
    use Reason::{Burst, First, NewWindow, StacksBurst, Storm};
    let window: Vec<Reason> = (0..7).map(|second| reasons("a", second, second == 0)).collect();
    assert_eq!(window, [First, Burst, Burst, StacksBurst, StacksBurst, Storm, Storm]);
    assert_eq!(reasons("b", 7, true), First, "another signature is not in the storm");
    assert_eq!(reasons("a", 59, false), Storm);
    assert_eq!(reasons("a", 60, false), NewWindow);
}

#[test]
fn a_burst_of_zero_keeps_everything() {
    let mut policy = StormPolicy::default();
    let rules = StormRules { storm: StormRule { burst: 0, ..RULES.storm }, ..RULES };
    assert!((0..100).all(|_| policy.decide(&rules, &event("a", "u", 0), Duration::ZERO).keep == Keep::Full));
}

#[test]
fn each_rate_says_which_it_was() {
    let keep = |events: &mut dyn Iterator<Item = StormEvent>| {
        let mut policy = StormPolicy::default();
        let reasons: Vec<Reason> = events.map(|event| policy.decide(&RATES, &event, at(1)).reason).collect();
        (reasons.iter().position(|reason| *reason != Reason::NewWindow), *reasons.last().unwrap())
    };
    let group = |number: u32| number.to_string();
    assert_eq!(keep(&mut (0..50).map(|n| event(&group(n), "one", 0))), (Some(8), Reason::UnitRate));
    assert_eq!(keep(&mut (0..50).map(|n| event(&group(n), &group(n), 7))), (Some(12), Reason::UserRate));
    assert_eq!(keep(&mut (0..50).map(|n| event(&group(n), &group(n), 0))), (Some(30), Reason::TotalRate));
}

#[test]
fn a_flood_of_groups_takes_bounded_memory_and_cannot_reopen_a_window() {
    let mut policy = StormPolicy::default();
    for _ in 0..5 {
        policy.decide(&RATES, &event("victim", "v", 0), at(1));
    }
    for number in 0..5 * MAX_WINDOWS {
        policy.decide(&RATES, &event(&number.to_string(), &number.to_string(), 0), at(2));
    }
    assert!(policy.windows.len() <= RATES.total.burst as usize);
    assert_eq!(policy.decide(&RATES, &event("victim", "v", 0), at(3)).reason, Reason::Storm);
    let mut policy = StormPolicy::default();
    for number in 0..3 * MAX_WINDOWS {
        policy.decide(&RULES, &event(&number.to_string(), "u", 0), at(1));
    }
    assert!(policy.windows.len() <= MAX_WINDOWS, "also without rates");
}

#[test]
fn a_restart_of_the_daemon_does_not_open_a_new_window() {
    let mut policy = StormPolicy::default();
    // The earlier decisions are replayed with their times.
    for second in [100, 101, 105, 107, 109] {
        policy.decide(&RULES, &event("a", "u", 0), at(second));
    }
    assert_eq!(policy.decide(&RULES, &event("a", "u", 0), at(120)).keep, Keep::Record);
    assert_eq!(policy.decide(&RULES, &event("a", "u", 0), at(160)).keep, Keep::Full);
}

#[test]
fn duplicates_of_one_user_hide_no_crash_of_another_or_of_root() {
    let mut policy = StormPolicy::default();
    let mut decide =
        |unit: &str, uid| policy.decide(&RATES, &StormEvent { first: true, ..event("a", unit, uid) }, at(1));
    let of_user: Vec<Keep> = (0..10).map(|_| decide("user", 1000).keep).collect();
    assert_eq!(of_user.iter().filter(|keep| **keep == Keep::Full).count(), 3);
    for uid in [0, 33, 1001] {
        assert_eq!(decide(&uid.to_string(), uid), Decision { keep: Keep::Full, reason: Reason::First });
    }
    assert_eq!(decide("another unit", 0).reason, Reason::First);
    assert_eq!((0..3).map(|_| decide("0", 0).keep).last(), Some(Keep::Stacks), "units of one user share the window");
}

proptest! {
    #[test]
    fn no_window_keeps_more_than_its_share(steps in prop::collection::vec((0..4_u8, 0..20_u64), 1..300)) {
        let mut policy = StormPolicy::default();
        let mut now = 0;
        let mut kept: Vec<(u8, u64, Keep)> = Vec::new();
        for (group, step) in steps {
            now += step;
            kept.push((group, now, policy.decide(&RULES, &event(&group.to_string(), "u", 0), at(now)).keep));
        }
        for (group, first, _) in &kept {
            for (keep, most) in [(Keep::Full, RULES.storm.burst), (Keep::Stacks, RULES.storm.stacks)] {
                // Windows do not slide, so an interval overlaps at most two of them.
                let is_within = |other: &&(u8, u64, Keep)| {
                    other.0 == *group && other.2 == keep && (*first..*first + 60).contains(&other.1)
                };
                prop_assert!(kept.iter().filter(is_within).count() <= 2 * most as usize);
            }
        }
    }

    #[test]
    fn a_new_signature_of_a_quiet_unit_gets_its_core_amid_any_flood_of_one_unit(
        flood in prop::collection::vec((0..500_u32, any::<bool>(), 0..3_u64), 0..400)
    ) {
        let mut policy = StormPolicy::default();
        let mut now = 1;
        for (group, first, step) in flood {
            now += step;
            let flood = StormEvent { first, ..event(&group.to_string(), "loud", 7) };
            policy.decide(&RATES, &flood, at(now));
        }
        let quiet = StormEvent { first: true, ..event("new", "quiet", 8) };
        prop_assert_eq!(policy.decide(&RATES, &quiet, at(now)), Decision { keep: Keep::Full, reason: Reason::First });
    }

    #[test]
    fn what_is_kept_is_within_every_rate(
        steps in prop::collection::vec((0..40_u32, 0..6_u8, 0..4_u32, any::<bool>(), 0..5_u64), 1..400)
    ) {
        let mut policy = StormPolicy::default();
        let mut now = 1;
        let (mut by_unit, mut by_user, mut all) = (HashMap::<u8, u32>::new(), HashMap::<u32, u32>::new(), 0);
        for (group, unit, uid, first, step) in steps {
            now = (now + step).min(500);
            let event = StormEvent { first, ..event(&group.to_string(), &unit.to_string(), uid) };
            if policy.decide(&RATES, &event, at(now)).keep > Keep::Record {
                *by_unit.entry(unit).or_default() += 1;
                *by_user.entry(uid).or_default() += 1;
                all += 1;
            }
        }
        // In less than an interval a bucket gives out at most its content and what is refilled meanwhile.
        prop_assert!(by_unit.values().all(|kept| *kept < 2 * RATES.unit.burst));
        prop_assert!(by_user.iter().all(|(uid, kept)| *uid == 0 || *kept < 2 * RATES.user.burst));
        prop_assert!(all < 2 * RATES.total.burst);
    }
}

#[test]
fn the_first_record_of_a_signature_that_a_rate_refused_has_its_stack_and_a_flood_of_them_has_not() {
    let mut policy = StormPolicy::default();
    let first = |number: u32| StormEvent { first: true, ..event(&format!("a{number}"), "u", 1) };
    for number in 0..8 {
        assert_eq!(policy.decide(&RATES, &first(number), at(1)).keep, Keep::Full);
    }
    assert_eq!(policy.decide(&RATES, &first(8), at(1)).reason, Reason::UnitRate);
    assert!(policy.tells_stack(&RATES, &first(8), at(1)));
    assert!(!policy.tells_stack(&RATES, &first(8), at(2)), "the second of the same signature");
    assert!(!policy.tells_stack(&RATES, &first(7), at(2)), "one with a core");
    assert!(!policy.tells_stack(&RATES, &event("old", "u", 1), at(2)), "one with a core from before");
    let told = (9..1000).filter(|number| policy.tells_stack(&RATES, &first(*number), at(3))).count();
    assert!((60..=64).contains(&told), "{told} of a flood of new signatures");
    let other = StormEvent { first: true, ..event("b", "v", 2) };
    assert!(policy.tells_stack(&RATES, &other, at(3)), "another unit has as many of its own");
}
