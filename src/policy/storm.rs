//! Crash storms: of one executable and signal, keep the first N cores of a window and count the rest.

use std::collections::HashMap;
use std::time::Duration;

/// `StormBurst=` and `StormIntervalSec=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Cores of a kind that are kept in one window; 0: no limit.
    pub burst: u32,
    /// Length of the window.
    pub interval: Duration,
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The program.
    pub program: String,
    /// The signal's number.
    pub signal: Option<u32>,
}

/// What to do with a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Keep its core.
    Store,
    /// Record it and let it go.
    RecordOnly,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Duration,
    kept: u32,
}

/// The windows that are open. Names are chosen by whoever crashes, so their number is bounded.
#[derive(Debug, Default)]
pub struct Storms {
    windows: HashMap<Kind, Window>,
}

/// More kinds than this in one window share nothing but the limit on the disk.
const MAX_KINDS: usize = 8192;

impl Storms {
    /// Decides on a crash at `now`, a time that never runs backwards.
    pub fn decide(&mut self, rule: Rule, kind: &Kind, now: Duration) -> Verdict {
        if rule.burst == 0 {
            return Verdict::Store;
        }
        if let Some(window) = self.windows.get_mut(kind)
            && now.saturating_sub(window.began) < rule.interval
        {
            if window.kept >= rule.burst {
                return Verdict::RecordOnly;
            }
            window.kept += 1;
            return Verdict::Store;
        }
        self.open(rule, kind.clone(), Window { began: now, kept: 1 }, now);
        Verdict::Store
    }

    fn open(&mut self, rule: Rule, kind: Kind, window: Window, now: Duration) {
        if self.windows.len() >= MAX_KINDS {
            self.windows.retain(|_, window| now.saturating_sub(window.began) < rule.interval);
        }
        if self.windows.len() >= MAX_KINDS
            && let Some(oldest) =
                self.windows.iter().min_by_key(|(_, window)| window.began).map(|(kind, _)| kind.clone())
        {
            self.windows.remove(&oldest);
        }
        self.windows.insert(kind, window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULE: Rule = Rule { burst: 3, interval: Duration::from_secs(60) };

    fn kind(program: &str) -> Kind {
        Kind { program: program.to_owned(), signal: Some(11) }
    }

    #[test]
    fn a_window_keeps_its_first_and_the_next_window_starts_anew() {
        let mut storms = Storms::default();
        let at = |second| Duration::from_secs(second);
        let kept = (0..60).filter(|second| storms.decide(RULE, &kind("/a"), at(*second)) == Verdict::Store).count();
        assert_eq!(kept, 3);
        assert_eq!(storms.decide(RULE, &kind("/b"), at(59)), Verdict::Store, "another program is not in the storm");
        assert_eq!(storms.decide(RULE, &kind("/a"), at(60)), Verdict::Store, "a new window");
    }

    #[test]
    fn a_restart_of_the_daemon_does_not_open_a_new_window() {
        let mut storms = Storms::default();
        // What was stored is decided again, at the times when it was.
        for second in [100, 105, 109] {
            storms.decide(RULE, &kind("/a"), Duration::from_secs(second));
        }
        assert_eq!(storms.decide(RULE, &kind("/a"), Duration::from_secs(120)), Verdict::RecordOnly);
        assert_eq!(storms.decide(RULE, &kind("/a"), Duration::from_secs(160)), Verdict::Store);
    }

    #[test]
    fn a_burst_of_zero_keeps_everything() {
        let mut storms = Storms::default();
        let rule = Rule { burst: 0, ..RULE };
        assert!((0..100).all(|_| storms.decide(rule, &kind("/a"), Duration::ZERO) == Verdict::Store));
    }

    #[test]
    fn a_flood_of_names_takes_bounded_memory() {
        let mut storms = Storms::default();
        for number in 0..3 * MAX_KINDS {
            storms.decide(RULE, &kind(&number.to_string()), Duration::from_secs(1));
        }
        assert!(storms.windows.len() <= MAX_KINDS);
    }

    proptest! {
        #[test]
        fn no_window_ever_keeps_more_than_the_burst(steps in prop::collection::vec((0..4_u8, 0..20_u64), 1..300)) {
            let mut storms = Storms::default();
            let mut now = 0;
            let mut kept: Vec<(u8, u64)> = Vec::new();
            for (program, step) in steps {
                now += step;
                if storms.decide(RULE, &kind(&program.to_string()), Duration::from_secs(now)) == Verdict::Store {
                    kept.push((program, now));
                }
            }
            for program in 0..4 {
                // Windows do not slide: an interval touches at most two of them.
                let times: Vec<u64> = kept.iter().filter(|(name, _)| *name == program).map(|(_, time)| *time).collect();
                for first in &times {
                    let within = times.iter().filter(|time| (*first..*first + 60).contains(*time)).count();
                    prop_assert!(within <= 2 * RULE.burst as usize);
                }
            }
        }
    }
}
