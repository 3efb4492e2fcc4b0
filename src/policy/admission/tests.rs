use super::super::evict::BugKey;
use super::super::rate::Rate;
use super::super::storm::StormRule;
use super::*;
use crate::crash::{Party, Principal, SignatureKey};
use nix::unistd::Uid;
use proptest::prelude::*;

const UNLIMITED: Rate = Rate { burst: 0, interval: Duration::from_secs(600) };
const RULES: StormRules = StormRules {
    storm: StormRule { burst: 2, stacks: 1, interval: Duration::from_secs(60) },
    unit: UNLIMITED,
    user: UNLIMITED,
    total: UNLIMITED,
};
const CONFIG: AdmissionConfig = AdmissionConfig { storage: Storage::External, enforce_core_limit: false, rules: RULES };

fn bug(signature: &str) -> BugKey {
    BugKey { party: Party::User(Uid::from_raw(0)), signature: SignatureKey::new(signature) }
}

fn facts() -> AdmissionFacts {
    let principal = Principal::Unit("a.service".to_owned());
    let event = StormEvent { bug: bug("s1-a"), principal, first: false, variant: None };
    AdmissionFacts { has_core: true, core_limit: u64::MAX, event, is_dump: false }
}

fn admit_once(config: &AdmissionConfig, crash: &AdmissionFacts) -> Admission {
    admit(config, crash, &mut StormPolicy::default(), Duration::from_secs(1))
}

#[test]
fn every_rule_before_the_limiter_names_its_reason() {
    let gone = AdmissionFacts { has_core: false, ..facts() };
    let unlimited_core = AdmissionFacts { core_limit: 0, ..facts() };
    let none = AdmissionConfig { storage: Storage::None, ..CONFIG };
    let enforced = AdmissionConfig { enforce_core_limit: true, ..CONFIG };
    for (config, crash, expected) in [
        (&CONFIG, &gone, Admission::record_only(Reason::Gone, NoCore::Gone)),
        (&none, &gone, Admission::record_only(Reason::Gone, NoCore::Gone)),
        (&none, &unlimited_core, Admission::record_only(Reason::Configured, NoCore::Configured)),
        (&enforced, &unlimited_core, Admission::record_only(Reason::Limit, NoCore::Limit)),
    ] {
        assert_eq!(admit_once(config, crash), expected);
    }
    assert_eq!(
        admit_once(&CONFIG, &unlimited_core).decision().keep,
        Keep::Full,
        "the limit counts only where it is enforced"
    );
}

#[test]
fn stacks_as_the_most_turns_whole_cores_into_stacks_and_leaves_other_reasons_alone() {
    let config = AdmissionConfig { storage: Storage::Stacks, ..CONFIG };
    let mut limiter = StormPolicy::default();
    let decisions: Vec<Decision> =
        (0..4).map(|_| admit(&config, &facts(), &mut limiter, Duration::from_secs(1)).decision()).collect();
    let expected = [
        (Keep::Stacks, Reason::Configured),
        (Keep::Stacks, Reason::Configured),
        (Keep::Stacks, Reason::StacksBurst),
        (Keep::Record, Reason::Storm),
    ];
    assert_eq!(decisions, expected.map(|(keep, reason)| Decision { keep, reason }));
}

#[test]
fn a_storm_and_a_rate_are_different_reasons_for_no_core() {
    let rate = StormRules { unit: Rate { burst: 1, ..UNLIMITED }, ..RULES };
    for (rules, expected) in [(RULES, NoCore::Storm), (rate, NoCore::Rate)] {
        let (config, mut limiter) = (AdmissionConfig { rules, ..CONFIG }, StormPolicy::default());
        let last = (0..4).map(|_| admit(&config, &facts(), &mut limiter, Duration::from_secs(1))).last();
        assert!(matches!(last, Some(Admission::RecordOnly { no_core, .. }) if no_core == expected), "{last:?}");
    }
}

proptest! {
    /// What the decision says, the outcome does; and a crash that is turned away before the limiter uses up nothing of it.
    #[test]
    fn an_outcome_never_contradicts_its_decision(
        crashes in prop::collection::vec((any::<bool>(), 0..2_u64, 0..3_usize, any::<bool>(), 0..4_u8, 0..100_u64), 1..80),
    ) {
        let (mut limiter, mut control) = (StormPolicy::default(), StormPolicy::default());
        let mut now = Duration::ZERO;
        for (has_core, core_limit, storage, enforce_core_limit, signature, step) in crashes {
            now += Duration::from_secs(step);
            let storage = [Storage::None, Storage::Stacks, Storage::External][storage];
            let config = AdmissionConfig { storage, enforce_core_limit, rules: RULES };
            let event = StormEvent { bug: bug(&signature.to_string()), ..facts().event };
            let crash = AdmissionFacts { has_core, core_limit, event, is_dump: false };
            let admission = admit(&config, &crash, &mut limiter, now);
            let keep = admission.decision().keep;
            prop_assert_eq!(matches!(admission, Admission::Core(_)), keep > Keep::Record);
            let most = match storage {
                Storage::None => Keep::Record,
                Storage::Stacks => Keep::Stacks,
                Storage::External => Keep::Full,
            };
            prop_assert!(keep <= most);
            prop_assert!(has_core || admission == Admission::record_only(Reason::Gone, NoCore::Gone));
            let reaches_the_limiter = has_core && storage != Storage::None && !(enforce_core_limit && core_limit == 0);
            if reaches_the_limiter {
                let decision = control.decide(&RULES, &crash.event, now);
                prop_assert_eq!(keep, if storage == Storage::Stacks { decision.keep.min(Keep::Stacks) } else { decision.keep });
            }
        }
    }
}

#[test]
fn a_dump_is_limited_by_storage_alone_and_fills_no_bucket() {
    let mut limiter = StormPolicy::default();
    let dump = AdmissionFacts { is_dump: true, ..facts() };
    let mut admitted = |config: &AdmissionConfig, facts: &AdmissionFacts| {
        admit(config, facts, &mut limiter, Duration::from_secs(1)).decision()
    };
    for _ in 0..10 {
        assert_eq!(admitted(&CONFIG, &dump), Decision { keep: Keep::Full, reason: Reason::Requested });
    }
    // The first crash after that is the first of its window.
    assert_eq!(admitted(&CONFIG, &facts()).keep, Keep::Full);
    let stacks = AdmissionConfig { storage: Storage::Stacks, ..CONFIG };
    assert_eq!(admitted(&stacks, &dump).keep, Keep::Stacks);
    let none = AdmissionConfig { storage: Storage::None, ..CONFIG };
    assert_eq!(admitted(&none, &dump), Decision { keep: Keep::Record, reason: Reason::Configured });
}
