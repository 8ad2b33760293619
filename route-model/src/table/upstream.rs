//! What a DestinationRule says of connections to an upstream: their limits, their life, and when an endpoint is taken
//! out of rotation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::upstream_tls::UpstreamTls;

/// The traffic policy of a cluster beside its load balancer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamPolicy {
    pub limits: CircuitBreakers,
    pub connections: ConnectionSettings,
    /// `None`: endpoints are never taken out.
    pub outlier: Option<OutlierDetection>,
    /// `None`: a new endpoint gets its whole share at once.
    pub warmup: Option<Warmup>,
    /// `None`: plain text.
    pub tls: Option<Arc<UpstreamTls>>,
    /// The header that says whose a connection is, before TLS. `None`: there is none.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    /// The endpoints are forward proxies that carry TCP on. Of effect for connections of `tcp` and `tls` rules alone.
    pub tunnel: Option<Tunnel>,
}

/// A tunnel that is asked for over HTTP/1.1 (`trafficPolicy.tunnel`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub method: TunnelMethod,
    /// Where it leads: `host:port`.
    pub authority: Box<str>,
}

impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.http(), self.authority)
    }
}

/// How a tunnel is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelMethod {
    /// RFC 9110 section 9.3.6.
    Connect,
    /// The bytes are the bodies of a POST and of its answer, both sent as they come.
    Post,
}

impl TunnelMethod {
    /// The method of the request.
    pub fn http(self) -> http::Method {
        match self {
            Self::Connect => http::Method::CONNECT,
            Self::Post => http::Method::POST,
        }
    }
}

/// The text or the binary form of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}

/// How the share of a new endpoint grows (`loadBalancer.warmup`, Envoy's slow start). Of effect with round robin and
/// least request.
#[derive(Clone, Debug, PartialEq)]
pub struct Warmup {
    /// From an endpoint's appearance to its whole share. More than zero.
    pub window: Duration,
    /// Of its weight, to begin with; 0 to 100.
    pub minimum_percent: f64,
    /// 1: the share grows in proportion to time; more: faster at first. More than zero.
    pub aggression: f64,
}

impl Warmup {
    /// The part of its weight that an endpoint has at this age, 0 to 1 (Envoy's formula).
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let time = age.as_secs_f64().max(1.0) / self.window.as_secs_f64().max(f64::MIN_POSITIVE);
        time.min(1.0).powf(1.0 / self.aggression).max(self.minimum_percent / 100.0).min(1.0)
    }
}

/// Ceilings over all workers of a proxy (Envoy's circuit breakers). What is beyond is answered 503, flag UO.
///
/// Workers count without waiting for each other, so a ceiling may be passed for a moment by as many as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CircuitBreakers {
    /// `tcp.maxConnections`. HTTP requests wait for a connection; each worker may have one in any case.
    pub connections: u32,
    /// `http1MaxPendingRequests`: requests that wait for a connection, over HTTP/2 too.
    pub pending: u32,
    /// `http2MaxRequests`: requests under way, over HTTP/1 too.
    pub requests: u32,
    /// `maxRetries`: tries after the first one under way at once.
    pub retries: u32,
    /// `retryBudget`, in place of `retries`.
    pub retry_budget: Option<RetryBudget>,
}

/// How many retries may be under way, relative to the requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Of the requests under way; 0 to 100.
    pub percent: f64,
    /// So many in any case.
    pub minimum: u32,
}

/// Istio's: no ceiling at all.
impl Default for CircuitBreakers {
    fn default() -> Self {
        let none = u32::MAX;
        Self { connections: none, pending: none, requests: none, retries: none, retry_budget: None }
    }
}

impl CircuitBreakers {
    /// How many retries may be under way beside so many requests.
    pub fn retries_beside(&self, requests: u32) -> u32 {
        match self.retry_budget {
            None => self.retries,
            Some(budget) => budget.minimum.max((f64::from(requests) * budget.percent / 100.0) as u32),
        }
    }
}

/// The life of a connection to an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// `maxRequestsPerConnection`; `None`: any number.
    pub max_requests: Option<u32>,
    /// `tcp.maxConnectionDuration`: an older connection gets no further request.
    pub max_duration: Option<Duration>,
    /// `maxConcurrentStreams` of one HTTP/2 connection.
    pub max_streams: Option<u32>,
    /// `http2KeepAlive`: time between pings, and time for the answer.
    pub ping: Option<(Duration, Duration)>,
    /// `tcp.tcpKeepalive`; `None`: the operating system's way without.
    pub keepalive: Option<TcpKeepalive>,
    /// `tcp.idleTimeout`, for TCP traffic: the connection is closed when no byte moved for so long. `None`: never.
    pub tcp_idle: Option<Duration>,
}

/// Probes on a silent connection; what is `None` is the operating system's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// When an endpoint is taken out of rotation, and for how long (Envoy's outlier detection as Istio uses it).
///
/// Mind `max_ejection_percent`: with the default of 10 no endpoint of fewer than ten is ever taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Bad answers in a row; 0: off.
    pub consecutive_5xx: u32,
    /// 502, 503 and 504 in a row; 0: off.
    pub consecutive_gateway_errors: u32,
    /// Failures without an answer (connect, reset, timeout) in a row are counted apart, up to so many. `None`: they
    /// count as 503 and 504.
    pub local_failures: Option<u32>,
    /// What counts as a bad answer; empty: any 5xx.
    pub codes: Box<[StatusCode]>,
    /// Between two looks at who may come back.
    pub interval: Duration,
    /// How long an endpoint is out the first time; the second time twice as long, and so on up to
    /// [`max_ejection_time`](Self::max_ejection_time).
    pub base_ejection_time: Duration,
    /// No more endpoints of the cluster than this are out at once.
    pub max_ejection_percent: u32,
    /// Where fewer endpoints of one priority are in rotation than this, and the others cannot make up for it, all are
    /// used, in or out (Envoy's panic threshold). 0: never.
    pub min_health_percent: u32,
}

impl OutlierDetection {
    /// Five minutes, or the base time if that is longer (Envoy's default of `max_ejection_time`).
    pub fn max_ejection_time(&self) -> Duration {
        self.base_ejection_time.max(Duration::from_mins(5))
    }

    /// How long an endpoint stays out that is taken out for the `times`th time.
    pub fn ejection_time(&self, times: u32) -> Duration {
        self.base_ejection_time.saturating_mul(times).min(self.max_ejection_time())
    }

    /// Whether one more of `endpoints` may be taken out when `out` are.
    pub fn may_eject(&self, out: usize, endpoints: usize) -> bool {
        (out + 1) * 100 <= endpoints * self.max_ejection_percent as usize
    }

    pub fn is_bad(&self, status: StatusCode) -> bool {
        if self.codes.is_empty() { status.is_server_error() } else { self.codes.contains(&status) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlier() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 0,
            local_failures: None,
            codes: Box::default(),
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
        }
    }

    #[test]
    fn as_many_go_as_the_percentage_allows() {
        for (percent, out, endpoints, may) in [
            (10, 0, 9, false),
            (10, 0, 10, true),
            (10, 1, 10, false),
            (50, 0, 2, true),
            (50, 0, 1, false),
            (100, 0, 1, true),
        ] {
            let outlier = OutlierDetection { max_ejection_percent: percent, ..outlier() };
            assert_eq!(outlier.may_eject(out, endpoints), may, "{percent}% {out} of {endpoints}");
        }
    }

    #[test]
    fn times_grow_up_to_five_minutes() {
        let seconds = |times| outlier().ejection_time(times).as_secs();
        assert_eq!([1, 2, 3, 100].map(seconds), [30, 60, 90, 300]);
        let long = OutlierDetection { base_ejection_time: Duration::from_hours(1), ..outlier() };
        assert_eq!(long.ejection_time(3), Duration::from_hours(1));
    }

    #[test]
    fn a_new_endpoints_share_grows() {
        let warmup = |aggression| Warmup { window: Duration::from_secs(100), minimum_percent: 10.0, aggression };
        for (aggression, age, factor) in [
            (1.0, 0, 0.1),
            (1.0, 10, 0.1),
            (1.0, 50, 0.5),
            (1.0, 99, 0.99),
            (1.0, 100, 1.0),
            (1.0, 1000, 1.0),
            (2.0, 0, 0.1),
            (2.0, 25, 0.5),
            (0.5, 50, 0.25),
        ] {
            let found = warmup(aggression).factor(Duration::from_secs(age));
            assert!((found - factor).abs() < 1e-9, "{aggression} after {age} s: {found}");
        }
        // A window of less than a second is over before its first second counts.
        let short = Warmup { window: Duration::from_millis(10), minimum_percent: 10.0, aggression: 1.0 };
        assert!((short.factor(Duration::ZERO) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_budget_is_a_share_of_the_requests_and_never_nothing() {
        let limits = CircuitBreakers {
            retry_budget: Some(RetryBudget { percent: 20.0, minimum: 3 }),
            ..CircuitBreakers::default()
        };
        assert_eq!([0, 10, 100].map(|requests| limits.retries_beside(requests)), [3, 3, 20]);
        assert_eq!(CircuitBreakers { retries: 7, ..CircuitBreakers::default() }.retries_beside(100), 7);
    }
}
