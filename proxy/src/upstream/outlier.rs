//! Outlier detection: endpoints that fail again and again leave the rotation for a while.
//!
//! Workers count on the endpoints themselves, without a lock. Only when a count is full the cluster's set is looked at,
//! and then published anew without the endpoint: picking one costs nothing more than before. A sweep every `interval`
//! brings back those whose time is over.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::StatusCode;
use route_model::table::upstream::OutlierDetection;
use tokio::runtime::Handle;

use super::cluster_state::{ClusterState, Discovered, EndpointState};
use crate::rt::Task;
use crate::telemetry::metrics::{Count, WorkerMetrics};

/// How a try ended, as far as it says something of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TryOutcome {
    Answered(StatusCode),
    /// No connection, or it ended before an answer.
    Failed,
    /// No answer in time.
    TimedOut,
}

/// What is held against an endpoint.
#[derive(Debug, Default)]
pub(super) struct Record {
    bad_answers: AtomicU32,
    gateway_errors: AtomicU32,
    local_failures: AtomicU32,
    ejection: Mutex<Ejection>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ejection {
    /// `None`: in rotation.
    until: Option<Instant>,
    /// How often it was taken out; falls with every sweep that finds it in rotation.
    times: u32,
}

impl Record {
    pub(super) fn is_out(&self) -> bool {
        self.ejection().until.is_some()
    }

    fn ejection(&self) -> std::sync::MutexGuard<'_, Ejection> {
        self.ejection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forgive(&self) {
        for count in [&self.bad_answers, &self.gateway_errors, &self.local_failures] {
            count.store(0, Ordering::Relaxed);
        }
    }

    /// Takes note of a try; whether a count is full now, which starts it anew.
    fn note(&self, rules: &OutlierDetection, outcome: TryOutcome) -> bool {
        let status = match (outcome, rules.local_failures) {
            (TryOutcome::Answered(status), _) => {
                self.local_failures.store(0, Ordering::Relaxed);
                status
            }
            (_, Some(most)) => return full(&self.local_failures, true, most),
            (TryOutcome::Failed, None) => StatusCode::SERVICE_UNAVAILABLE,
            (TryOutcome::TimedOut, None) => StatusCode::GATEWAY_TIMEOUT,
        };
        let answered = matches!(outcome, TryOutcome::Answered(_));
        let bad = if answered { rules.is_bad(status) } else { true };
        let gateway = matches!(status.as_u16(), 502..=504);
        // Both, not one or the other: each count has its own history.
        full(&self.bad_answers, bad, rules.consecutive_5xx)
            | full(&self.gateway_errors, gateway, rules.consecutive_gateway_errors)
    }
}

/// Counts what came in a row. The first worker that fills the count gets to know.
fn full(count: &AtomicU32, bad: bool, most: u32) -> bool {
    if !bad {
        if count.load(Ordering::Relaxed) != 0 {
            count.store(0, Ordering::Relaxed);
        }
        return false;
    }
    if most == 0 || count.fetch_add(1, Ordering::Relaxed) + 1 != most {
        return false;
    }
    count.store(0, Ordering::Relaxed);
    true
}

/// Takes note of how a try at one of a cluster's endpoints ended, if the cluster has rules about that.
pub(crate) fn note(cluster: &ClusterState, endpoint: &EndpointState, outcome: TryOutcome, metrics: &WorkerMetrics) {
    if let Some(rules) = &cluster.cluster.policy.outlier
        && record(&cluster.discovered, endpoint, rules, outcome, Instant::now())
    {
        metrics.count(Count::OutlierEjections);
    }
}

/// Whether the endpoint left the rotation for it.
pub(super) fn record(
    discovered: &Discovered,
    endpoint: &EndpointState,
    rules: &OutlierDetection,
    outcome: TryOutcome,
    now: Instant,
) -> bool {
    endpoint.record.note(rules, outcome) && discovered.eject(rules, endpoint, now)
}

impl Discovered {
    fn eject(&self, rules: &OutlierDetection, endpoint: &EndpointState, now: Instant) -> bool {
        self.revise(|all| {
            let out = all.iter().filter(|other| other.state.record.is_out()).count();
            let mut ejection = endpoint.record.ejection();
            if ejection.until.is_some() || !rules.may_eject(out, all.len()) {
                return false;
            }
            ejection.times += 1;
            ejection.until = Some(now + rules.ejection_time(ejection.times));
            tracing::info!(endpoint = %endpoint.name, times = ejection.times, "took a failing endpoint out of rotation");
            true
        })
    }

    /// Brings back whose time is over.
    fn sweep(&self, now: Instant) {
        self.revise(|all| {
            let mut changed = false;
            for endpoint in all {
                let mut ejection = endpoint.state.record.ejection();
                match ejection.until {
                    Some(until) if until <= now => {
                        ejection.until = None;
                        endpoint.state.record.forgive();
                        tracing::info!(endpoint = %endpoint.state.name, "an endpoint is back in rotation");
                        changed = true;
                    }
                    Some(_) => {}
                    None => ejection.times = ejection.times.saturating_sub(1),
                }
            }
            changed
        });
    }

    /// Detection is off: everybody is in rotation.
    pub(crate) fn pardon(&self) {
        self.revise(|all| {
            let mut changed = false;
            for endpoint in all {
                changed |= std::mem::take(&mut *endpoint.state.record.ejection()).until.is_some();
                endpoint.state.record.forgive();
            }
            changed
        });
    }
}

/// Sweeps a cluster every `interval` of its rules.
pub(crate) fn sweep(handle: &Handle, discovered: &Arc<Discovered>, rules: &OutlierDetection) -> Task {
    let (discovered, interval) = (Arc::clone(discovered), rules.interval);
    Task(handle.spawn(async move {
        loop {
            tokio::time::sleep(interval).await;
            discovered.sweep(Instant::now());
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use route_model::table::cluster::{Endpoint, EndpointAddress};

    use super::*;

    fn rules() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 3,
            consecutive_gateway_errors: 0,
            local_failures: None,
            codes: Box::default(),
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 50,
            min_health_percent: 0,
        }
    }

    fn cluster(count: u16, rules: &OutlierDetection) -> (Discovered, Vec<Arc<EndpointState>>) {
        let discovered = Discovered::new();
        discovered.govern(Some(rules));
        let endpoint = |port| Endpoint::new(EndpointAddress::Ip([127, 0, 0, 1].into(), port), 1);
        discovered.publish(&(1..=count).map(endpoint).collect::<Vec<_>>());
        let endpoints = discovered.current().1.endpoints.iter().map(|e| Arc::clone(&e.state)).collect();
        (discovered, endpoints)
    }

    fn in_rotation(discovered: &Discovered) -> usize {
        discovered.current().1.endpoints.len()
    }

    /// Three bad answers in a row.
    fn strike(discovered: &Discovered, endpoint: &EndpointState, rules: &OutlierDetection, now: Instant) -> bool {
        (0..3).filter(|_| record(discovered, endpoint, rules, BAD, now)).count() == 1
    }

    const BAD: TryOutcome = TryOutcome::Answered(StatusCode::INTERNAL_SERVER_ERROR);
    const GOOD: TryOutcome = TryOutcome::Answered(StatusCode::OK);

    #[test]
    fn bad_answers_in_a_row_cost_the_place() {
        let rules = rules();
        let (discovered, endpoints) = cluster(2, &rules);
        let now = Instant::now();
        let outcomes = [BAD, BAD, GOOD, BAD, TryOutcome::Failed, TryOutcome::TimedOut];
        let ejected = outcomes.map(|outcome| record(&discovered, &endpoints[0], &rules, outcome, now));
        assert_eq!(ejected, [false, false, false, false, false, true]);
        assert_eq!(in_rotation(&discovered), 1);
        // Half of the cluster is out already.
        assert!(!strike(&discovered, &endpoints[1], &rules, now));
        assert_eq!(in_rotation(&discovered), 1);
    }

    #[test]
    fn time_out_grows_with_every_time() {
        let rules = rules();
        let (discovered, endpoints) = cluster(2, &rules);
        let mut now = Instant::now();
        for seconds in [30, 60] {
            assert!(strike(&discovered, &endpoints[0], &rules, now));
            discovered.sweep(now + Duration::from_secs(seconds - 1));
            assert_eq!(in_rotation(&discovered), 1);
            now += Duration::from_secs(seconds);
            discovered.sweep(now);
            assert_eq!(in_rotation(&discovered), 2);
        }
        // Two quiet sweeps, and it is as good as new.
        discovered.sweep(now);
        discovered.sweep(now);
        assert!(strike(&discovered, &endpoints[0], &rules, now));
        discovered.sweep(now + Duration::from_secs(30));
        assert_eq!(in_rotation(&discovered), 2);
    }

    #[test]
    fn failures_without_an_answer_can_be_counted_apart() {
        let rules = OutlierDetection { local_failures: Some(2), ..rules() };
        let (discovered, endpoints) = cluster(2, &rules);
        let now = Instant::now();
        let failed = TryOutcome::Failed;
        let outcomes = [BAD, failed, BAD, failed, failed];
        let ejected = outcomes.map(|outcome| record(&discovered, &endpoints[0], &rules, outcome, now));
        assert_eq!(ejected, [false, false, false, false, true]);
    }

    #[test]
    fn gateway_errors_and_listed_codes_count_as_the_rules_say() {
        let rules = OutlierDetection {
            consecutive_5xx: 2,
            consecutive_gateway_errors: 3,
            codes: Box::new([StatusCode::TOO_MANY_REQUESTS]),
            ..rules()
        };
        let (discovered, endpoints) = cluster(4, &rules);
        let now = Instant::now();
        let answer = |code| TryOutcome::Answered(StatusCode::from_u16(code).unwrap());
        let ejects = |endpoint: usize, codes: &[u16]| {
            codes.iter().any(|code| record(&discovered, &endpoints[endpoint], &rules, answer(*code), now))
        };
        assert!(!ejects(0, &[500, 500, 500, 500]));
        assert!(ejects(0, &[429, 429]));
        assert!(ejects(1, &[502, 503, 504]));
    }

    #[test]
    fn too_few_left_are_all_used_again() {
        let rules = OutlierDetection { max_ejection_percent: 100, min_health_percent: 50, ..rules() };
        let (discovered, endpoints) = cluster(4, &rules);
        let now = Instant::now();
        let eject = |endpoint: usize| assert!(strike(&discovered, &endpoints[endpoint], &rules, now));
        eject(0);
        eject(1);
        assert_eq!(in_rotation(&discovered), 2);
        eject(2);
        assert_eq!(in_rotation(&discovered), 4);
        discovered.pardon();
        assert_eq!(in_rotation(&discovered), 4);
        assert!(!endpoints[0].record.is_out());
    }
}
