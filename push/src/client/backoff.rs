//! How long to wait before the next attempt.

use std::time::Duration;

/// Exponential, with jitter, so that a thousand proxies do not come back in the same instant.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Before the first retry; doubles with every further one.
    pub first: Duration,
    pub max: Duration,
}

impl Default for Backoff {
    /// 200 ms to 15 s.
    fn default() -> Self {
        Self { first: Duration::from_millis(200), max: Duration::from_secs(15) }
    }
}

impl Backoff {
    /// The wait after `failures` failed attempts in a row (from 1): between half and all of the exponential value.
    pub fn wait(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let whole = self.first.saturating_mul(1 << doublings).min(self.max);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_and_differ() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };
        for (failures, whole) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (60, 1000), (u32::MAX, 1000)] {
            for _ in 0..100 {
                let wait = backoff.wait(failures).as_micros();
                assert!((whole * 500..=whole * 1000).contains(&wait), "{failures} failures: {wait} µs");
            }
        }
        assert_ne!(backoff.wait(5), backoff.wait(5));
    }
}
