//! Requests by the `statPrefix` of their route's match: what Envoy counts as `vhost.*.route.<stat_prefix>.upstream_rq_*`.
//! Prefixes come from the configuration, and are bounded as other series are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::cells::{Cell, Histogram, HistogramValue};
use super::exposition::{Label, head, histogram};
use super::registry::SeriesRegistry;

/// `response_code_class`: `none` for a client that went away before there was a status.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The cells of one prefix.
#[derive(Debug, Default)]
pub struct PrefixSeries {
    requests: [Cell; CLASSES.len()],
    duration: Histogram,
}

/// A series' numbers as read by a scrape; can be added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixValue {
    /// By [`CLASSES`].
    pub requests: [u64; CLASSES.len()],
    /// Milliseconds.
    pub duration: HistogramValue,
}

impl PrefixSeries {
    pub fn record(&self, status: Option<StatusCode>, duration: Duration) {
        let class = status.map_or(0, |status| usize::from(status.as_u16() / 100));
        if let Some(cell) = self.requests.get(class) {
            cell.add(1);
        }
        self.duration.observe_milli(duration.as_micros() as u64);
    }

    fn read(&self) -> PrefixValue {
        PrefixValue {
            requests: std::array::from_fn(|class| self.requests[class].get()),
            duration: self.duration.read(),
        }
    }
}

impl PrefixValue {
    pub fn add(&mut self, other: &Self) {
        for (sum, count) in self.requests.iter_mut().zip(other.requests) {
            *sum = sum.wrapping_add(count);
        }
        self.duration.add(&other.duration);
    }
}

/// All prefixes of one worker.
#[derive(Debug, Default)]
pub struct PrefixRegistry(SeriesRegistry<Arc<str>, PrefixSeries>);

impl PrefixRegistry {
    pub fn series(&self, prefix: &Arc<str>) -> Arc<PrefixSeries> {
        self.0.series(Arc::clone(prefix), || "overflow".into())
    }

    /// Hands every series to `visit`, and forgets those that nothing has used for an hour.
    pub fn read(&self, now: Instant, mut visit: impl FnMut(&Arc<str>, PrefixValue)) {
        self.0.read(now, |prefix, series| visit(prefix, series.read()));
    }
}

/// Writes the counts and times of all prefixes.
pub(super) fn render(series: &BTreeMap<Arc<str>, PrefixValue>, out: &mut dyn fmt::Write) -> fmt::Result {
    let name = "fairway_route_requests_total";
    head(out, name, "counter", "Requests of routes that have a statPrefix, by class of their status.")?;
    for (prefix, value) in series {
        let prefix = Label(prefix);
        for (class, count) in CLASSES.iter().zip(value.requests).filter(|(_, count)| *count > 0) {
            writeln!(out, "{name}{{stat_prefix=\"{prefix}\",response_code_class=\"{class}\"}} {count}")?;
        }
    }
    let name = "fairway_route_request_duration_milliseconds";
    head(out, name, "histogram", "How long requests of routes that have a statPrefix took.")?;
    for (prefix, value) in series {
        histogram(out, name, &format!("stat_prefix=\"{}\"", Label(prefix)), &value.duration)?;
    }
    Ok(())
}
