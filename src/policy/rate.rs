//! Token buckets: so many at once, refilled evenly. Kept as the time at which a bucket will be full again, which is the
//! generic cell rate algorithm (ITU-T I.371).

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// A bucket's size and the time in which an empty one fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens; 0: no limit.
    pub burst: u32,
    /// Time.
    pub interval: Duration,
}

/// When a bucket will be full again, a time that never runs backwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: Duration,
}

impl Bucket {
    /// Whether a token can be taken at `now` with this part of the bucket left in it: `reserve` of 256 parts.
    pub fn has(self, rate: Rate, now: Duration, reserve: u32) -> bool {
        if rate.burst == 0 {
            return true;
        }
        let usable = rate.interval.saturating_sub(rate.interval.saturating_mul(reserve) / 256);
        self.after(rate, now).saturating_sub(now) <= usable
    }

    /// Takes a token.
    pub fn take(&mut self, rate: Rate, now: Duration) {
        if rate.burst > 0 {
            self.full_at = self.after(rate, now);
        }
    }

    fn after(self, rate: Rate, now: Duration) -> Duration {
        self.full_at.max(now).saturating_add(rate.interval / rate.burst.max(1))
    }
}

/// A bucket a name. Names are chosen by whoever crashes, so their number is bounded: behind it all share one bucket.
#[derive(Debug)]
pub struct Buckets<Name> {
    buckets: HashMap<Name, Bucket>,
    others: Bucket,
}

/// More names than this with buckets that are not full.
const MAX_NAMES: usize = 4096;

impl<Name> Default for Buckets<Name> {
    fn default() -> Self {
        Self { buckets: HashMap::new(), others: Bucket::default() }
    }
}

impl<Name: Clone + Eq + Hash> Buckets<Name> {
    /// The bucket of this name.
    pub fn of(&mut self, name: &Name, now: Duration) -> &mut Bucket {
        if self.buckets.contains_key(name) || self.has_room(now) {
            return self.buckets.entry(name.clone()).or_default();
        }
        &mut self.others
    }

    fn has_room(&mut self, now: Duration) -> bool {
        if self.buckets.len() >= MAX_NAMES {
            // A full bucket is as good as none.
            self.buckets.retain(|_, bucket| bucket.full_at > now);
        }
        self.buckets.len() < MAX_NAMES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: Rate = Rate { burst: 4, interval: Duration::from_secs(40) };

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn a_bucket_empties_at_once_and_fills_evenly() {
        let mut bucket = Bucket::default();
        let mut taken = |second: u64| {
            let has = bucket.has(RATE, at(second), 0);
            if has {
                bucket.take(RATE, at(second));
            }
            has
        };
        assert_eq!([0, 0, 0, 0, 0].map(&mut taken), [true, true, true, true, false]);
        assert_eq!([9, 10, 10, 30, 30, 30].map(&mut taken), [false, true, false, true, true, false]);
    }

    #[test]
    fn a_reserve_is_left_in_it() {
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert!(bucket.has(RATE, at(0), 64));
            bucket.take(RATE, at(0));
        }
        assert!(!bucket.has(RATE, at(0), 64) && bucket.has(RATE, at(0), 0));
        assert!(Bucket::default().has(Rate { burst: 0, ..RATE }, at(0), 256), "no limit");
    }

    #[test]
    fn a_flood_of_names_takes_bounded_memory_and_gains_nothing() {
        let mut buckets = Buckets::default();
        let mut taken = 0;
        for name in 0..10 * MAX_NAMES {
            let bucket = buckets.of(&name, at(0));
            if bucket.has(RATE, at(0), 0) {
                bucket.take(RATE, at(0));
                taken += 1;
            }
        }
        assert!(buckets.buckets.len() <= MAX_NAMES);
        assert_eq!(taken, MAX_NAMES + RATE.burst as usize);
    }

    proptest! {
        #[test]
        fn no_interval_takes_more_than_twice_the_burst(steps in prop::collection::vec(0..15_u64, 1..200), burst in 1..9_u32) {
            let rate = Rate { burst, interval: at(60) };
            let (mut bucket, mut now, mut taken) = (Bucket::default(), 0, Vec::new());
            for step in steps {
                now += step;
                if bucket.has(rate, at(now), 0) {
                    bucket.take(rate, at(now));
                    taken.push(now);
                }
            }
            for first in &taken {
                let within = taken.iter().filter(|time| (*first..*first + 60).contains(*time)).count();
                prop_assert!(within <= 2 * burst as usize);
            }
        }
    }
}
