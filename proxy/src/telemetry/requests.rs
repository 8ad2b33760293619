//! Istio's request metrics: one series per destination, protocol, code, flags and gRPC status; at the destination itself
//! also per source.
//!
//! The values of labels come from the route table, from certificates of the mesh, from codes and from flags, never from
//! what a client sends, and the number of series is bounded ([`super::registry::MAX_SERIES`]); past it requests are counted
//! under the destination `overflow`. A worker finds the series of a destination's usual outcomes in a list of a few entries;
//! only an outcome that is new to it takes the lock of the worker's own map, which otherwise a scrape alone takes, for a
//! moment.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use route_model::table::Cluster;
use smallvec::SmallVec;

use super::cells::{Cell, Histogram, HistogramValue};
use super::flags::ResponseFlags;
use super::registry::SeriesRegistry;
use super::source::Source;

/// The `destination_*` labels of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationLabels {
    /// `destination_service`: the host.
    pub service: Arc<str>,
    /// `destination_service_name`.
    pub name: Arc<str>,
    /// `destination_service_namespace`.
    pub namespace: Arc<str>,
    /// Who sends it, where the proxy that counts is the destination's own.
    pub source: Option<Arc<Source>>,
}

impl DestinationLabels {
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            service: Arc::clone(&cluster.key.host),
            name: Arc::clone(&cluster.service_name),
            namespace: Arc::clone(&cluster.service_namespace),
            source: None,
        }
    }

    /// What has come to the workload beside this proxy, as far as `cluster`, its application, if it has come there. The
    /// service is empty where none leads to it; the namespace is the proxy's.
    pub fn here(cluster: Option<&Cluster>, source: Source) -> Self {
        let service = cluster.filter(|cluster| cluster.service_name != cluster.key.host);
        let service = service.map(|cluster| Arc::clone(&cluster.service_name)).unwrap_or_default();
        Self { name: Arc::clone(&service), service, namespace: Arc::default(), source: Some(Arc::new(source)) }
    }

    /// A request that reached no cluster: not routed, redirected, answered by the proxy itself.
    pub fn unknown() -> Self {
        Self::all("unknown")
    }

    pub(super) fn all(text: &str) -> Self {
        let text: Arc<str> = text.into();
        Self { service: Arc::clone(&text), name: Arc::clone(&text), namespace: text, source: None }
    }
}

/// `request_protocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestProtocol {
    #[default]
    Http,
    /// The request's Content-Type says `application/grpc`.
    Grpc,
}

impl RequestProtocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// What tells one series of a destination from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Outcome {
    pub protocol: RequestProtocol,
    /// The status sent to the client; 0 if it went away before there was one.
    pub code: u16,
    pub flags: ResponseFlags,
    /// `grpc-status`, from trailers or headers. Anything above 16 counts as 2, UNKNOWN, as gRPC clients take it.
    pub grpc_status: Option<u8>,
}

/// The sizes of a finished request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// From the first byte of the request to the last of the response.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub request: u64,
    /// Bytes of the response's body.
    pub response: u64,
}

/// The cells of one series.
#[derive(Debug, Default)]
pub struct Series {
    requests: Cell,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

/// A series' numbers as read by a scrape; can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeriesValue {
    pub requests: u64,
    /// Milliseconds.
    pub duration: HistogramValue,
    pub request_bytes: HistogramValue,
    pub response_bytes: HistogramValue,
}

impl SeriesValue {
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.wrapping_add(other.requests);
        self.duration.add(&other.duration);
        self.request_bytes.add(&other.request_bytes);
        self.response_bytes.add(&other.response_bytes);
    }
}

impl Series {
    fn record(&self, sizes: &Sizes) {
        self.requests.add(1);
        self.duration.observe_milli(sizes.duration.as_micros() as u64);
        self.request_bytes.observe_milli(sizes.request.saturating_mul(1000));
        self.response_bytes.observe_milli(sizes.response.saturating_mul(1000));
    }

    fn read(&self) -> SeriesValue {
        SeriesValue {
            requests: self.requests.get(),
            duration: self.duration.read(),
            request_bytes: self.request_bytes.read(),
            response_bytes: self.response_bytes.read(),
        }
    }
}

/// All series of one worker.
#[derive(Debug, Default)]
pub struct RequestRegistry(SeriesRegistry<(Arc<DestinationLabels>, Outcome), Series>);

impl RequestRegistry {
    fn series(&self, destination: &Arc<DestinationLabels>, outcome: Outcome) -> Arc<Series> {
        // The overflow itself must not grow with what upstreams answer.
        let overflow = || (Arc::new(DestinationLabels::all("overflow")), Outcome::default());
        self.0.series((Arc::clone(destination), outcome), overflow)
    }

    /// Hands every series to `visit`, and forgets those whose destination has been in no table for an hour.
    pub fn read(&self, now: Instant, mut visit: impl FnMut(&Arc<DestinationLabels>, &Outcome, SeriesValue)) {
        self.0.read(now, |(destination, outcome), series| visit(destination, outcome, series.read()));
    }
}

type KnownSeries = (Outcome, Arc<Series>);

/// Where one worker counts the requests of one destination. Lives as long as the worker's view of a table.
#[derive(Debug)]
pub struct RequestSeries {
    registry: Arc<RequestRegistry>,
    destination: Arc<DestinationLabels>,
    known: RefCell<SmallVec<[KnownSeries; 2]>>,
}

impl RequestSeries {
    pub fn new(registry: Arc<RequestRegistry>, destination: Arc<DestinationLabels>) -> Self {
        Self { registry, destination, known: RefCell::default() }
    }

    /// Counts a finished request.
    pub fn record(&self, outcome: Outcome, sizes: &Sizes) {
        let outcome =
            Outcome { grpc_status: outcome.grpc_status.map(|code| if code > 16 { 2 } else { code }), ..outcome };
        let mut known = self.known.borrow_mut();
        if let Some((_, series)) = known.iter().find(|(seen, _)| *seen == outcome) {
            series.record(sizes);
            return;
        }
        let series = self.registry.series(&self.destination, outcome);
        series.record(sizes);
        known.push((outcome, series));
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::MAX_SERIES;
    use super::*;

    fn destination(name: &str) -> Arc<DestinationLabels> {
        Arc::new(DestinationLabels::all(name))
    }

    #[test]
    fn past_the_bound_requests_count_under_one_destination_whatever_came_of_them() {
        let registry = Arc::new(RequestRegistry::default());
        for number in 0..MAX_SERIES as u64 + 500 {
            let series = RequestSeries::new(Arc::clone(&registry), destination(&number.to_string()));
            series.record(Outcome { code: (number % 500) as u16, ..Outcome::default() }, &Sizes::default());
        }
        let (mut series, mut overflow) = (0, 0);
        registry.read(Instant::now(), |destination, _, value| {
            series += 1;
            if &*destination.name == "overflow" {
                overflow += value.requests;
            }
        });
        assert_eq!((series, overflow), (MAX_SERIES + 1, 500));
    }

    #[test]
    fn grpc_statuses_outside_the_list_are_unknown() {
        let registry = Arc::new(RequestRegistry::default());
        let series = RequestSeries::new(Arc::clone(&registry), destination("a"));
        for grpc_status in [Some(0), Some(99), Some(200), None] {
            series.record(Outcome { grpc_status, ..Outcome::default() }, &Sizes::default());
        }
        let mut seen = Vec::new();
        registry.read(Instant::now(), |_, outcome, value| seen.push((outcome.grpc_status, value.requests)));
        seen.sort_unstable();
        assert_eq!(seen, [(None, 1), (Some(0), 1), (Some(2), 2)]);
    }
}
