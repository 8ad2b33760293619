//! Slow start: the share of an endpoint that has just joined grows over a window, so that it can fill its caches before
//! the crowd comes. Only the weights change; how they are used is the balancer's.

use std::time::{Duration, Instant};

use route_model::table::upstream::Warmup;

use super::cluster_state::WeightedEndpoint;

/// Weights are multiplied by this, so that a part of a small one is not nothing.
const SCALE: f64 = 1024.0;

/// How often the weights grow within a window.
const STEPS: u32 = 1000;
const SHORTEST_STEP: Duration = Duration::from_millis(10);
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// The growth of the endpoints of one set.
#[derive(Debug)]
pub(super) struct Growth {
    warmup: Warmup,
    /// The last of them has its whole share.
    until: Instant,
    next: Instant,
}

impl Growth {
    /// `None` where nobody has joined lately.
    pub(super) fn of(warmup: &Warmup, endpoints: &[WeightedEndpoint], now: Instant) -> Option<Self> {
        let last = endpoints.iter().filter_map(|endpoint| endpoint.state.joined).max()?;
        let until = last.checked_add(warmup.window)?;
        (until > now).then(|| Self { warmup: warmup.clone(), until, next: now })
    }

    /// Whether it is time to look at the weights again; the next time comes a step later.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + (self.warmup.window / STEPS).clamp(SHORTEST_STEP, LONGEST_STEP);
        true
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// The weight of an endpoint for now, relative to those of its set; at least 1.
    pub(super) fn weight(&self, endpoint: &WeightedEndpoint, now: Instant) -> u64 {
        let age = endpoint.state.joined.map(|joined| now.saturating_duration_since(joined));
        let factor = age.map_or(1.0, |age| self.warmup.factor(age));
        ((f64::from(endpoint.weight) * SCALE * factor) as u64).max(1)
    }
}
