//! The buckets of one rule, by key.
//!
//! There are never more than a number of them. A bucket that is not full is never thrown away: somebody who sends many
//! keys cannot make room for themselves in the bucket of one. Where there is no room, new keys share one bucket.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{PoisonError, RwLock};

use super::bucket::{Gcra, Take, Taken, is_full};

/// Keys of one rule; with them a rule takes at most some 10 MB.
pub(super) const MAX_KEYS: usize = 262_144;

const SHARDS: usize = 64;

/// A shard that has no room is not searched again for so long, in nanoseconds.
const SWEEP_PAUSE: u64 = 10_000_000;

#[derive(Debug)]
pub(super) struct Buckets {
    /// Of a rule without a key.
    single: AtomicU64,
    /// Of all keys that found no room.
    overflow: AtomicU64,
    shards: Box<[RwLock<Shard>]>,
    max_keys_per_shard: usize,
}

/// A cache line or two each, as all workers use them.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// Keys are hashes already, that clients cannot foresee.
    buckets: HashMap<u64, AtomicU64, foldhash::fast::RandomState>,
    /// When to look again for buckets that are full.
    sweep_at: u64,
}

/// Where something was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Single,
    Key(u64),
    Overflow,
}

impl Buckets {
    pub(super) fn new(max_keys: usize) -> Self {
        Self {
            single: AtomicU64::new(0),
            overflow: AtomicU64::new(0),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            max_keys_per_shard: max_keys.div_ceil(SHARDS),
        }
    }

    /// Takes from the bucket of a key; `None`: the one bucket of a rule without a key. Allocates nothing for a key that
    /// is known.
    pub(super) fn take(&self, key: Option<u64>, gcra: Gcra, cost: u32, clock: impl Fn() -> u64) -> (Take, Place) {
        let Some(key) = key else { return (gcra.take(&self.single, cost, clock), Place::Single) };
        let shard = self.shard(key);
        if let Some(bucket) = shard.read().unwrap_or_else(PoisonError::into_inner).buckets.get(&key) {
            return (gcra.take(bucket, cost, clock), Place::Key(key));
        }
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        match shard.bucket(key, self.max_keys_per_shard, &clock) {
            Some(bucket) => (gcra.take(bucket, cost, clock), Place::Key(key)),
            None => (gcra.take(&self.overflow, cost, clock), Place::Overflow),
        }
    }

    pub(super) fn give_back(&self, place: Place, taken: Taken, clock: impl Fn() -> u64) {
        match place {
            Place::Single => taken.give_back(&self.single, clock),
            Place::Overflow => taken.give_back(&self.overflow, clock),
            Place::Key(key) => {
                if let Some(bucket) = self.shard(key).read().unwrap_or_else(PoisonError::into_inner).buckets.get(&key) {
                    taken.give_back(bucket, clock);
                }
            }
        }
    }

    fn shard(&self, key: u64) -> &RwLock<Shard> {
        &self.shards[(key >> 32) as usize % SHARDS]
    }
}

impl Shard {
    /// The bucket of a key, a new one if there is room.
    fn bucket(&mut self, key: u64, max: usize, clock: impl Fn() -> u64) -> Option<&AtomicU64> {
        if !self.buckets.contains_key(&key) {
            let len = self.buckets.len();
            // Before it grows, and when it cannot.
            if len >= max || len == self.buckets.capacity() {
                self.sweep(clock());
            }
            if self.buckets.len() >= max {
                return None;
            }
        }
        Some(self.buckets.entry(key).or_default())
    }

    /// Lets go of the buckets that are full, which say no more than new ones would.
    fn sweep(&mut self, now: u64) {
        if now >= self.sweep_at {
            self.buckets.retain(|_, bucket| !is_full(bucket, now));
            self.sweep_at = now + SWEEP_PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use route_model::verdict::limits::Rate;

    use super::*;

    fn gcra(per: Duration, burst: u32) -> Gcra {
        Gcra::new(Rate { requests: 1, per, burst })
    }

    fn admits(buckets: &Buckets, key: u64, gcra: Gcra, now: u64) -> (bool, Place) {
        let (take, place) = buckets.take(Some(key), gcra, 1, || now);
        (matches!(take, Take::Admitted(_)), place)
    }

    /// Spreads over the shards.
    fn key(number: u64) -> u64 {
        number << 32 | number
    }

    #[test]
    fn keys_beyond_the_ceiling_share_one_bucket_and_refill_nobodys() {
        let (buckets, gcra) = (Buckets::new(SHARDS), gcra(Duration::from_hours(1), 1));
        for number in 0..SHARDS as u64 {
            assert_eq!(admits(&buckets, key(number), gcra, 0), (true, Place::Key(key(number))));
        }
        // One of all the others is admitted.
        assert_eq!(admits(&buckets, key(1000), gcra, 0), (true, Place::Overflow));
        for number in 1001..3000 {
            assert_eq!(admits(&buckets, key(number), gcra, number * 20_000_000), (false, Place::Overflow));
        }
        for number in 0..SHARDS as u64 {
            assert!(!admits(&buckets, key(number), gcra, 60_000_000_000).0);
        }
        // An hour later there is room again.
        let later = 3_700_000_000_000;
        assert_eq!(admits(&buckets, key(1000), gcra, later), (true, Place::Key(key(1000))));
    }

    #[test]
    fn what_is_given_back_is_there_again_in_every_place() {
        let (buckets, gcra) = (Buckets::new(0), gcra(Duration::from_secs(1), 1));
        for key in [None, Some(7)] {
            for _ in 0..3 {
                let (Take::Admitted(taken), place) = buckets.take(key, gcra, 1, || 5) else { panic!("refused") };
                buckets.give_back(place, taken, || 5);
            }
        }
    }

    proptest! {
        /// A key gets no more than its own bucket would give it, whatever other keys come between.
        #[test]
        fn no_crowd_refills_a_bucket(
            requests in vec((0u64..300, 0u64..50_000_000), 1..600),
            max_keys in 0usize..400,
        ) {
            let gcra = gcra(Duration::from_millis(100), 3);
            let buckets = Buckets::new(max_keys);
            let mut alone: HashMap<u64, AtomicU64> = HashMap::new();
            let mut shared = HashSet::new();
            let mut now = 0;
            for (number, step) in requests {
                now += step;
                let (admitted, place) = admits(&buckets, key(number), gcra, now);
                if place == Place::Overflow {
                    shared.insert(number);
                    continue;
                }
                // Those that were in the shared bucket for a while had less than their own.
                let own = alone.entry(number).or_default();
                let would = matches!(gcra.take(own, 1, || now), Take::Admitted(_));
                prop_assert!(admitted == would || shared.contains(&number));
            }
        }
    }
}
