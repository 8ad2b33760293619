//! One bucket: the generic cell rate algorithm over one atomic number.
//!
//! A bucket is the moment at which it will be full again, in nanoseconds. Taking from it moves the moment on; where
//! that would put it further away than an empty bucket's, nothing is taken.
//!
//! The crate `governor` has the same algorithm before a `StateStore` of one's own, and does not fit: its limiters read the
//! clock before the state, so that of threads that meet at a bucket one can be refused although there is room; they count
//! time from their own making, so that a state does not outlive an edit of its limit, nor is it cut down to an empty
//! bucket of the new one; and they do not say when a bucket is full again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use route_model::verdict::limits::Rate;

/// How a bucket fills, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gcra {
    /// For one request, rounded up: never more passes than the limit says.
    interval: u64,
    /// For an empty bucket to be full.
    capacity: u64,
}

/// What a request got from a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    Admitted(Taken),
    Refused {
        /// Until the request could be admitted; `None`: it costs more than a full bucket holds.
        wait: Option<Duration>,
        /// Until the bucket is full.
        reset: Duration,
    },
}

/// Something that was taken and can be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    cost: u64,
    /// When the bucket is full if nothing else is taken.
    full_at: u64,
    /// Requests that the bucket would still admit.
    pub(super) remaining: u64,
    /// Until the bucket is full.
    pub(super) reset: Duration,
}

impl Gcra {
    pub(super) fn new(rate: Rate) -> Self {
        let interval =
            rate.per.as_nanos().div_ceil(u128::from(rate.requests.max(1))).clamp(1, u128::from(u64::MAX / 8));
        let capacity = (interval * u128::from(rate.burst)).min(u128::from(u64::MAX / 4));
        Self { interval: interval as u64, capacity: capacity as u64 }
    }

    /// Takes the cost of a request, if there is that much.
    ///
    /// The clock is read after the bucket, so that whoever finds a change of the bucket also has a time that is not
    /// before the change's: time never runs backwards in a bucket, and what is admitted is exact whatever threads do.
    pub(super) fn take(self, bucket: &AtomicU64, cost: u32, clock: impl Fn() -> u64) -> Take {
        let cost = self.interval.saturating_mul(u64::from(cost));
        let mut found = bucket.load(Ordering::Acquire);
        loop {
            let now = clock();
            let empty = now + self.capacity;
            if found > empty {
                // Another limit left it emptier than it can be under this one: from now on it is just empty.
                match bucket.compare_exchange_weak(found, empty, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => found = empty,
                    Err(other) => found = other,
                }
                continue;
            }
            let from = found.max(now);
            let full_at = from.saturating_add(cost);
            if full_at - now > self.capacity {
                let wait = (cost <= self.capacity).then(|| Duration::from_nanos(full_at - now - self.capacity));
                return Take::Refused { wait, reset: Duration::from_nanos(from - now) };
            }
            match bucket.compare_exchange_weak(found, full_at, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    let reset = full_at - now;
                    let remaining = (self.capacity - reset) / self.interval;
                    return Take::Admitted(Taken { cost, full_at, remaining, reset: Duration::from_nanos(reset) });
                }
                Err(other) => found = other,
            }
        }
    }
}

impl Taken {
    /// Puts back what was taken, unless it has come back by itself meanwhile.
    pub(super) fn give_back(self, bucket: &AtomicU64, clock: impl Fn() -> u64) {
        let mut found = bucket.load(Ordering::Acquire);
        while clock() < self.full_at {
            let before = found.saturating_sub(self.cost);
            match bucket.compare_exchange_weak(found, before, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(other) => found = other,
            }
        }
    }
}

/// Whether a bucket is full, so that nothing is lost with it.
pub(super) fn is_full(bucket: &AtomicU64, now: u64) -> bool {
    bucket.load(Ordering::Acquire) <= now
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn gcra(requests: u32, per_ms: u64, burst: u32) -> Gcra {
        Gcra::new(Rate { requests, per: Duration::from_millis(per_ms), burst })
    }

    fn admitted(take: Take) -> Option<Taken> {
        match take {
            Take::Admitted(taken) => Some(taken),
            Take::Refused { .. } => None,
        }
    }

    #[test]
    fn a_full_bucket_holds_the_burst_and_says_when_there_is_more() {
        let (gcra, bucket) = (gcra(10, 1000, 3), AtomicU64::new(0));
        let at = |ms: u64| move || ms * 1_000_000;
        for remaining in [2, 1, 0] {
            assert_eq!(admitted(gcra.take(&bucket, 1, at(1000))).unwrap().remaining, remaining);
        }
        let (wait, reset) = (Some(Duration::from_millis(100)), Duration::from_millis(300));
        assert_eq!(gcra.take(&bucket, 1, at(1000)), Take::Refused { wait, reset });
        assert!(admitted(gcra.take(&bucket, 1, at(1099))).is_none());
        assert!(admitted(gcra.take(&bucket, 1, at(1100))).is_some());
        assert!(matches!(gcra.take(&bucket, 4, at(9000)), Take::Refused { wait: None, .. }));
        assert!(admitted(gcra.take(&bucket, 3, at(9000))).is_some());
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_time_is_not_given_twice() {
        let (gcra, bucket) = (gcra(1, 1000, 1), AtomicU64::new(0));
        let at = |ms: u64| move || ms * 1_000_000;
        let taken = admitted(gcra.take(&bucket, 1, at(0))).unwrap();
        assert!(admitted(gcra.take(&bucket, 1, at(0))).is_none());
        taken.give_back(&bucket, at(1));
        let taken = admitted(gcra.take(&bucket, 1, at(1))).unwrap();
        // It has come back by itself; another request has it now.
        assert!(admitted(gcra.take(&bucket, 1, at(1001))).is_some());
        taken.give_back(&bucket, at(1001));
        assert!(admitted(gcra.take(&bucket, 1, at(1001))).is_none());
    }

    #[test]
    fn under_a_new_limit_a_bucket_is_at_most_empty() {
        let bucket = AtomicU64::new(0);
        let slow = gcra(1, 3_600_000, 20);
        while admitted(slow.take(&bucket, 1, || 0)).is_some() {}
        let fast = gcra(100, 1000, 20);
        assert!(admitted(fast.take(&bucket, 1, || 0)).is_none());
        assert!(admitted(fast.take(&bucket, 1, || 10_000_000)).is_some());
    }

    proptest! {
        /// In no stretch of time, however it is cut, passes more than the burst and what the time brings.
        #[test]
        fn no_window_admits_more_than_the_limit(
            requests in 1u32..50,
            per_ms in 1u64..5000,
            burst in 1u32..40,
            steps in vec((0u64..400_000_000, 1u32..4), 1..200),
        ) {
            let (gcra, bucket) = (gcra(requests, per_ms, burst), AtomicU64::new(0));
            let mut now = 0;
            let mut passed: Vec<(u64, u64)> = Vec::new();
            for (step, cost) in steps {
                now += step;
                if admitted(gcra.take(&bucket, cost, || now)).is_some() {
                    passed.push((now, u64::from(cost)));
                }
            }
            for (first, &(start, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for &(end, cost) in &passed[first..] {
                    sum += cost;
                    let brought = u128::from(end - start) * u128::from(requests) / (u128::from(per_ms) * 1_000_000);
                    prop_assert!(u128::from(sum) <= u128::from(burst) + brought);
                }
            }
        }
    }

    #[test]
    fn threads_at_once_get_exactly_the_burst_of_a_fresh_bucket() {
        for _ in 0..20 {
            let (gcra, bucket, epoch) = (gcra(1, 86_400_000, 1000), AtomicU64::new(0), Instant::now());
            let clock = || epoch.elapsed().as_nanos() as u64;
            let passed: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| (0..400).filter(|_| admitted(gcra.take(&bucket, 1, clock)).is_some()).count())
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert_eq!(passed, 1000);
        }
    }

    #[test]
    fn threads_get_no_more_than_time_brings() {
        let (gcra, bucket, epoch) = (gcra(1000, 100, 50), AtomicU64::new(0), Instant::now());
        let clock = || epoch.elapsed().as_nanos() as u64;
        let passed: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..20_000).filter(|_| admitted(gcra.take(&bucket, 1, clock)).is_some()).count() as u64
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let brought = epoch.elapsed().as_nanos() * 1000 / 100_000_000;
        assert!(passed >= 50 && u128::from(passed) <= 50 + brought, "{passed} passed, time brought {brought}");
    }
}
