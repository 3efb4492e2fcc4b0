//! Token buckets: a burst at once, refilled evenly. A bucket is stored as the time at which it will be full again, which is
//! the generic cell rate algorithm (ITU-T I.371).

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// The size of a bucket and the time in which an empty one fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens in a full bucket; 0 means no limit.
    pub burst: u32,
    /// Time to fill an empty bucket.
    pub interval: Duration,
}

/// The time, on a monotonic clock, at which a bucket will be full again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: Duration,
}

impl Bucket {
    /// Whether a token can be taken at `now` so that `reserve`/256 of the bucket remain.
    #[must_use]
    pub fn has_token(self, rate: Rate, now: Duration, reserve: u32) -> bool {
        if rate.burst == 0 {
            return true;
        }
        let usable = rate.interval.saturating_sub(rate.interval.saturating_mul(reserve) / 256);
        self.full_after_take(rate, now).saturating_sub(now) <= usable
    }

    /// Takes a token at `now`.
    pub fn take_token(&mut self, rate: Rate, now: Duration) {
        if rate.burst > 0 {
            self.full_at = self.full_after_take(rate, now);
        }
    }

    fn full_after_take(self, rate: Rate, now: Duration) -> Duration {
        self.full_at.max(now).saturating_add(rate.interval / rate.burst.max(1))
    }
}

/// One bucket per name. Crashing processes choose the names, so their number is bounded: any further names share one bucket.
#[derive(Debug)]
pub struct Buckets<Name> {
    buckets: HashMap<Name, Bucket>,
    others: Bucket,
}

/// The most names that have buckets of their own.
const MAX_NAMES: usize = 4096;

impl<Name> Default for Buckets<Name> {
    fn default() -> Self {
        Self { buckets: HashMap::new(), others: Bucket::default() }
    }
}

impl<Name: Clone + Eq + Hash> Buckets<Name> {
    /// The bucket of `name`.
    pub fn bucket(&mut self, name: &Name, now: Duration) -> &mut Bucket {
        if self.buckets.contains_key(name) || self.has_room(now) {
            return self.buckets.entry(name.clone()).or_default();
        }
        &mut self.others
    }

    fn has_room(&mut self, now: Duration) -> bool {
        if self.buckets.len() >= MAX_NAMES {
            // A full bucket is equivalent to none.
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
            let has = bucket.has_token(RATE, at(second), 0);
            if has {
                bucket.take_token(RATE, at(second));
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
            assert!(bucket.has_token(RATE, at(0), 64));
            bucket.take_token(RATE, at(0));
        }
        assert!(!bucket.has_token(RATE, at(0), 64) && bucket.has_token(RATE, at(0), 0));
        assert!(Bucket::default().has_token(Rate { burst: 0, ..RATE }, at(0), 256), "no limit");
    }

    #[test]
    fn a_flood_of_names_takes_bounded_memory_and_gains_nothing() {
        let mut buckets = Buckets::default();
        let mut taken = 0;
        for name in 0..10 * MAX_NAMES {
            let bucket = buckets.bucket(&name, at(0));
            if bucket.has_token(RATE, at(0), 0) {
                bucket.take_token(RATE, at(0));
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
                if bucket.has_token(rate, at(now), 0) {
                    bucket.take_token(rate, at(now));
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
