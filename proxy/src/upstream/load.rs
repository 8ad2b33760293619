//! How busy a cluster is, over all workers, and the ceilings that its rules set (Envoy's circuit breakers).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use route_model::table::upstream::CircuitBreakers;
use tokio::sync::Notify;

/// What is under way towards one cluster. Kept under the cluster's key from table to table.
#[derive(Debug, Default)]
pub(crate) struct ClusterLoad {
    requests: AtomicU32,
    retries: AtomicU32,
    pending: AtomicU32,
    connections: AtomicU32,
    /// A connection was closed, or has come to rest in a pool.
    freed: Notify,
}

/// What a permit counts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gauge {
    Request,
    Retry,
    Pending,
    Connection,
}

/// Something under way; counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    load: Arc<ClusterLoad>,
    gauge: Gauge,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.load.gauge(self.gauge).fetch_sub(1, Ordering::Relaxed);
        if self.gauge == Gauge::Connection {
            self.load.freed();
        }
    }
}

impl ClusterLoad {
    fn gauge(&self, gauge: Gauge) -> &AtomicU32 {
        match gauge {
            Gauge::Request => &self.requests,
            Gauge::Retry => &self.retries,
            Gauge::Pending => &self.pending,
            Gauge::Connection => &self.connections,
        }
    }

    fn permit(self: &Arc<Self>, gauge: Gauge, most: u32) -> Option<Permit> {
        let count = self.gauge(gauge);
        if count.fetch_add(1, Ordering::Relaxed) >= most {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Permit { load: Arc::clone(self), gauge })
    }

    /// A request; `None` if there are too many. Where nobody asks how many there are, they are not counted.
    #[allow(clippy::option_option, reason = "refused, admitted uncounted, and admitted counted")]
    pub(crate) fn request(self: &Arc<Self>, limits: &CircuitBreakers) -> Option<Option<Permit>> {
        if limits.requests == u32::MAX && limits.retry_budget.is_none() {
            return Some(None);
        }
        self.permit(Gauge::Request, limits.requests).map(Some)
    }

    /// A retry; `None` if there are too many.
    pub(crate) fn retry(self: &Arc<Self>, limits: &CircuitBreakers) -> Option<Permit> {
        let requests = self.requests.load(Ordering::Relaxed) + self.pending.load(Ordering::Relaxed);
        self.permit(Gauge::Retry, limits.retries_beside(requests))
    }

    /// A new connection; `None` if there are too many. `first`: of this worker, which has one in any case.
    pub(crate) fn connection(self: &Arc<Self>, limits: &CircuitBreakers, first: bool) -> Option<Permit> {
        self.permit(Gauge::Connection, if first { u32::MAX } else { limits.connections })
    }

    /// A request that waits for a connection; `None` if there are too many.
    pub(crate) fn pending(self: &Arc<Self>, limits: &CircuitBreakers) -> Option<Permit> {
        self.permit(Gauge::Pending, limits.pending)
    }

    /// What is under way, by the names of Envoy's circuit breakers. Requests are counted only where there is a ceiling.
    pub(crate) fn dump(&self) -> serde_json::Value {
        let read = |gauge| self.gauge(gauge).load(Ordering::Relaxed);
        serde_json::json!({
            "requests": read(Gauge::Request),
            "retries": read(Gauge::Retry),
            "pending_requests": read(Gauge::Pending),
            "connections": read(Gauge::Connection),
        })
    }

    /// A connection has come free: those who wait look again.
    pub(crate) fn freed(&self) {
        if self.pending.load(Ordering::Relaxed) > 0 {
            self.freed.notify_waiters();
        }
    }

    /// Waits for a connection to come free, or a moment: one may have come free just before.
    pub(crate) async fn wait(&self) {
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        let _ = tokio::time::timeout(LOOK_AGAIN, self.freed.notified()).await;
    }
}

#[cfg(test)]
mod tests {
    use route_model::table::upstream::RetryBudget;

    use super::*;

    #[test]
    fn ceilings_hold_and_permits_come_back() {
        let load = Arc::<ClusterLoad>::default();
        let limits = CircuitBreakers { requests: 2, connections: 1, pending: 0, ..CircuitBreakers::default() };
        let first = load.request(&limits);
        let second = load.request(&limits);
        assert!(first.is_some() && second.is_some() && load.request(&limits).is_none());
        drop(first);
        assert!(load.request(&limits).is_some());
        let connection = load.connection(&limits, false);
        assert!(connection.is_some() && load.connection(&limits, false).is_none());
        assert!(load.connection(&limits, true).is_some(), "a worker has one in any case");
        assert!(load.pending(&limits).is_none());
    }

    #[test]
    fn a_budget_grows_with_the_requests() {
        let load = Arc::<ClusterLoad>::default();
        let budget = Some(RetryBudget { percent: 50.0, minimum: 1 });
        let limits = CircuitBreakers { retry_budget: budget, ..CircuitBreakers::default() };
        let requests: Vec<_> = (0..4).map(|_| load.request(&limits)).collect();
        let retries: Vec<_> = (0..3).map(|_| load.retry(&limits)).collect();
        assert_eq!(retries.iter().filter(|retry| retry.is_some()).count(), 2);
        drop(requests);
    }
}
