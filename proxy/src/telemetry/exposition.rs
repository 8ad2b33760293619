//! The metrics as text, in Prometheus' exposition format 0.0.4.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::cells::{HistogramValue, ISTIO_BOUNDS};
use super::connections::ConnectionValue;
use super::metrics::{COUNTS, Count, LAG_BOUNDS, Metrics};
use super::requests::{DestinationLabels, Outcome, RequestProtocol, SeriesValue};
use super::stat_prefixes::{self, PrefixValue};
use super::{authorization, keys, labels, rate_limits};

/// The media type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric made of the workers' [`Count`]s.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    samples: &'static [Sample],
}

struct Sample {
    /// With braces; empty for none.
    labels: &'static str,
    count: Count,
    /// For gauges: what is to be taken away.
    minus: Option<Count>,
}

const fn counter(name: &'static str, help: &'static str, samples: &'static [Sample]) -> Family {
    Family { name, help, kind: "counter", samples }
}

const fn gauge(name: &'static str, help: &'static str, samples: &'static [Sample]) -> Family {
    Family { name, help, kind: "gauge", samples }
}

const fn sample(labels: &'static str, count: Count) -> Sample {
    Sample { labels, count, minus: None }
}

const fn difference(count: Count, minus: Count) -> Sample {
    Sample { labels: "", count, minus: Some(minus) }
}

const FAMILIES: &[Family] = &[
    counter(
        "fairway_downstream_connections_total",
        "Connections that clients opened.",
        &[sample("", Count::DownstreamOpened)],
    ),
    gauge(
        "fairway_downstream_connections_active",
        "Connections of clients open now.",
        &[difference(Count::DownstreamOpened, Count::DownstreamClosed)],
    ),
    counter(
        "fairway_downstream_connections_refused_total",
        "Connections closed at once because a limit was reached.",
        &[sample("", Count::DownstreamRefused)],
    ),
    counter(
        "fairway_proxy_headers_refused_total",
        "Connections closed because they did not begin with the PROXY header that their listener asks for.",
        &[sample("", Count::ProxyHeadersRefused)],
    ),
    gauge(
        "fairway_requests_active",
        "Requests in flight.",
        &[difference(Count::RequestsStarted, Count::RequestsFinished)],
    ),
    counter(
        "fairway_tls_handshakes_total",
        "TLS handshakes with clients.",
        &[
            sample("{result=\"completed\"}", Count::TlsHandshakes),
            sample("{result=\"failed\"}", Count::TlsHandshakesFailed),
        ],
    ),
    counter(
        "fairway_tls_sessions_resumed_total",
        "TLS handshakes completed by resuming a session.",
        &[sample("", Count::TlsResumed)],
    ),
    counter(
        "fairway_protocol_violations_total",
        "Messages refused because the peer broke the protocol.",
        &[
            sample("{peer=\"downstream\"}", Count::ProtocolViolationsDownstream),
            sample("{peer=\"upstream\"}", Count::ProtocolViolationsUpstream),
        ],
    ),
    counter(
        "fairway_upstream_connections_total",
        "Connections opened to upstreams.",
        &[sample("", Count::UpstreamOpened)],
    ),
    gauge(
        "fairway_upstream_connections_active",
        "Connections to upstreams open now.",
        &[difference(Count::UpstreamOpened, Count::UpstreamClosed)],
    ),
    counter(
        "fairway_upstream_connect_failures_total",
        "Connections to upstreams that could not be made.",
        &[sample("", Count::UpstreamConnectFailed)],
    ),
    counter(
        "fairway_upstream_tls_handshakes_total",
        "TLS handshakes with upstreams.",
        &[
            sample("{result=\"completed\"}", Count::UpstreamTlsHandshakes),
            sample("{result=\"failed\"}", Count::UpstreamTlsFailed),
        ],
    ),
    counter(
        "fairway_upstream_requests_total",
        "Requests sent upstream, by whether their connection was new or reused.",
        &[
            sample("{connection=\"new\"}", Count::UpstreamRequestsNew),
            sample("{connection=\"reused\"}", Count::UpstreamRequestsReused),
        ],
    ),
    counter(
        "fairway_upstream_stale_retries_total",
        "Requests sent again because a reused connection turned out closed.",
        &[sample("", Count::UpstreamStaleRetries)],
    ),
    counter(
        "fairway_upstream_retries_total",
        "Tries after the first, as retry policies say.",
        &[sample("", Count::UpstreamRetries)],
    ),
    counter(
        "fairway_upstream_retries_refused_total",
        "Retries that maxRetries or a retry budget did not allow.",
        &[sample("", Count::UpstreamRetriesRefused)],
    ),
    counter(
        "fairway_outlier_ejections_total",
        "Endpoints taken out of rotation because they failed again and again.",
        &[sample("", Count::OutlierEjections)],
    ),
    counter(
        "fairway_mirrored_requests_total",
        "Copies of requests for mirrors, by whether they were sent or left out because too many were under way.",
        &[sample("{result=\"sent\"}", Count::MirroredRequests), sample("{result=\"dropped\"}", Count::MirrorsDropped)],
    ),
    counter(
        "fairway_faults_injected_total",
        "Faults made on purpose.",
        &[sample("{fault=\"delay\"}", Count::FaultDelays), sample("{fault=\"abort\"}", Count::FaultAborts)],
    ),
    counter(
        "fairway_jwt_accepted_total",
        "Tokens accepted, by whether their signature was verified now or is remembered.",
        &[
            sample("{result=\"verified\"}", Count::TokensVerified),
            sample("{result=\"remembered\"}", Count::TokensRemembered),
        ],
    ),
    counter(
        "fairway_jwt_refused_total",
        "Requests refused for a token of theirs.",
        &[
            sample("{reason=\"malformed\"}", Count::TokenMalformed),
            sample("{reason=\"algorithm\"}", Count::TokenAlgorithm),
            sample("{reason=\"issuer\"}", Count::TokenIssuer),
            sample("{reason=\"audience\"}", Count::TokenAudience),
            sample("{reason=\"not_yet_valid\"}", Count::TokenTooEarly),
            sample("{reason=\"expired\"}", Count::TokenExpired),
            sample("{reason=\"signature\"}", Count::TokenSignature),
            sample("{reason=\"unknown_key\"}", Count::TokenUnknownKey),
            sample("{reason=\"no_keys\"}", Count::TokenNoKeys),
        ],
    ),
];

impl Metrics {
    /// Writes all metrics, workers added up. Ends early with the writer's error.
    pub fn render(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.render_requests(out)?;
        self.render_connections(out)?;
        self.render_prefixes(out)?;
        self.render_counts(out)?;
        rate_limits::render(&self.rate_limits.lock().unwrap_or_else(PoisonError::into_inner), out)?;
        authorization::render(&self.authorization.lock().unwrap_or_else(PoisonError::into_inner), out)?;
        keys::render(&self.keys.lock().unwrap_or_else(PoisonError::into_inner), out)?;
        self.render_lag(out)?;
        self.render_process(out)
    }

    fn render_requests(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        type Key = (DestinationLabels, RequestProtocol, u16, String, Option<u8>);
        let mut sums: BTreeMap<Key, SeriesValue> = BTreeMap::new();
        let now = Instant::now();
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            worker.requests.read(now, |destination, outcome, value| {
                let Outcome { protocol, code, flags, grpc_status } = *outcome;
                let key = ((**destination).clone(), protocol, code, flags.to_string(), grpc_status);
                sums.entry(key).or_default().add(&value);
            });
        }
        let series: Vec<(String, SeriesValue)> = sums
            .into_iter()
            .map(|((destination, protocol, code, flags, grpc), value)| {
                let mut labels = labels::common(&self.identity, &destination);
                let _ = write!(
                    labels,
                    ",request_protocol=\"{}\",response_code=\"{code}\",grpc_response_status=\"{}\",\
                     response_flags=\"{flags}\",connection_security_policy=\"{}\"",
                    protocol.as_str(),
                    Text(grpc),
                    labels::security(&destination)
                );
                (labels, value)
            })
            .collect();

        head(out, "istio_requests_total", "counter", "Requests handled.")?;
        for (labels, value) in &series {
            writeln!(out, "istio_requests_total{{{labels}}} {}", value.requests)?;
        }
        type Part = fn(&SeriesValue) -> &HistogramValue;
        let histograms: [(&str, &str, Part); 3] = [
            ("istio_request_duration_milliseconds", "Time from a request's first byte to its response's last.", |v| {
                &v.duration
            }),
            ("istio_request_bytes", "Bytes of request bodies.", |v| &v.request_bytes),
            ("istio_response_bytes", "Bytes of response bodies.", |v| &v.response_bytes),
        ];
        for (name, help, of) in histograms {
            head(out, name, "histogram", help)?;
            for (labels, value) in &series {
                histogram(out, name, labels, of(value))?;
            }
        }
        Ok(())
    }

    fn render_connections(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut sums: BTreeMap<(DestinationLabels, String), ConnectionValue> = BTreeMap::new();
        let now = Instant::now();
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            worker.connections.read(now, |destination, flags, value| {
                sums.entry((destination.clone(), flags.to_string())).or_default().add(&value);
            });
        }
        let series: Vec<(String, ConnectionValue)> = sums
            .into_iter()
            .map(|((destination, flags), value)| {
                let mut labels = labels::common(&self.identity, &destination);
                let security = labels::security(&destination);
                let _ = write!(
                    labels,
                    ",request_protocol=\"tcp\",response_flags=\"{flags}\",connection_security_policy=\"{security}\""
                );
                (labels, value)
            })
            .collect();
        type Part = fn(&ConnectionValue) -> u64;
        let counters: [(&str, &str, Part); 4] = [
            ("istio_tcp_connections_opened_total", "TCP connections opened.", |value| value.opened),
            ("istio_tcp_connections_closed_total", "TCP connections closed.", |value| value.closed),
            ("istio_tcp_sent_bytes_total", "Bytes sent to clients over TCP connections.", |value| value.sent),
            ("istio_tcp_received_bytes_total", "Bytes received from clients over TCP connections.", |value| {
                value.received
            }),
        ];
        for (name, help, of) in counters {
            head(out, name, "counter", help)?;
            for (labels, value) in &series {
                writeln!(out, "{name}{{{labels}}} {}", of(value))?;
            }
        }
        Ok(())
    }

    fn render_prefixes(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let mut sums = BTreeMap::new();
        let now = Instant::now();
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            worker.prefixes.read(now, |prefix, value| {
                sums.entry(Arc::clone(prefix)).or_insert_with(PrefixValue::default).add(&value);
            });
        }
        stat_prefixes::render(&sums, out)
    }

    /// Connections of clients open now.
    pub(crate) fn downstream_active(&self) -> u64 {
        let sums = self.sums();
        sums[Count::DownstreamOpened as usize].saturating_sub(sums[Count::DownstreamClosed as usize])
    }

    /// All workers' counts added up.
    fn sums(&self) -> [u64; COUNTS] {
        let mut sums = [0_u64; COUNTS];
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            for (sum, cell) in sums.iter_mut().zip(&worker.counts.0) {
                *sum = sum.wrapping_add(cell.get());
            }
        }
        sums
    }

    fn render_counts(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let sums = self.sums();
        for Family { name, help, kind, samples } in FAMILIES {
            head(out, name, kind, help)?;
            for Sample { labels, count, minus } in *samples {
                // Cells of several workers are not read at one moment: a difference may be briefly negative.
                let value = sums[*count as usize].saturating_sub(minus.map_or(0, |minus| sums[minus as usize]));
                writeln!(out, "{name}{labels} {value}")?;
            }
        }
        Ok(())
    }

    fn render_lag(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let name = "fairway_worker_poll_lag_seconds";
        head(out, name, "histogram", "How late a worker takes up a task that is ready.")?;
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (number, worker) in workers.iter().enumerate() {
            let mut sum = 0;
            for (index, cell) in worker.lag.iter().enumerate() {
                sum += cell.get();
                let bound = LAG_BOUNDS.get(index).map_or("+Inf".to_owned(), |milli| Milli(*milli).to_string());
                writeln!(out, "{name}_bucket{{worker=\"{number}\",le=\"{bound}\"}} {sum}")?;
            }
            writeln!(out, "{name}_sum{{worker=\"{number}\"}} {}", worker.lag_sum_micros.get() as f64 / 1e6)?;
            writeln!(out, "{name}_count{{worker=\"{number}\"}} {sum}")?;
        }
        Ok(())
    }

    fn render_process(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        head(out, "fairway_listeners", "gauge", "Listeners by whether they accept connections.")?;
        let accepting = self.listeners_accepting.load(Ordering::Relaxed);
        writeln!(out, "fairway_listeners{{state=\"active\"}} {accepting}")?;
        let down = self.listeners_down.load(Ordering::Relaxed);
        writeln!(out, "fairway_listeners{{state=\"failed\"}} {down}")?;
        head(out, "fairway_listener_connections_total", "counter", "Connections accepted, by Gateway port.")?;
        for (port, connections) in &listeners {
            writeln!(out, "fairway_listener_connections_total{{port=\"{port}\"}} {}", connections.total())?;
        }
        head(out, "fairway_listener_connections_active", "gauge", "Connections open now, by Gateway port.")?;
        for (port, connections) in &listeners {
            writeln!(out, "fairway_listener_connections_active{{port=\"{port}\"}} {}", connections.active())?;
        }
        let mut tasks = BTreeMap::new();
        for (thread, runtime) in self.runtimes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            *tasks.entry(*thread).or_insert(0) += runtime.num_alive_tasks();
        }
        head(out, "fairway_tasks_active", "gauge", "Tasks under way, by the kind of thread that they run on.")?;
        for (thread, tasks) in tasks {
            writeln!(out, "fairway_tasks_active{{thread=\"{thread}\"}} {tasks}")?;
        }
        let plain = [
            ("fairway_config_revision", "gauge", "The revision in force.", &self.revision),
            ("fairway_config_applied_total", "counter", "Tables put in force.", &self.applied),
            ("fairway_config_issues", "gauge", "What of the table in force could not be applied.", &self.issues),
            (
                "fairway_access_log_dropped_total",
                "counter",
                "Access log lines dropped because they could not be written fast enough.",
                &self.log_dropped,
            ),
        ];
        for (name, kind, help, value) in plain {
            head(out, name, kind, help)?;
            writeln!(out, "{name} {}", value.load(Ordering::Relaxed))?;
        }
        head(out, "fairway_build_info", "gauge", "The running build; always 1.")?;
        let node = Label(&self.identity.node_id);
        writeln!(out, "fairway_build_info{{version=\"{}\",node_id=\"{node}\"}} 1", env!("CARGO_PKG_VERSION"))?;
        Ok(())
    }
}

pub(super) fn head(out: &mut dyn fmt::Write, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
    Ok(())
}

pub(super) fn histogram(out: &mut dyn fmt::Write, name: &str, labels: &str, value: &HistogramValue) -> fmt::Result {
    let mut sum = 0;
    for (index, count) in value.buckets.iter().enumerate() {
        sum += count;
        let bound = ISTIO_BOUNDS.get(index).copied().unwrap_or("+Inf");
        writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}")?;
    }
    writeln!(out, "{name}_sum{{{labels}}} {}", Milli(value.sum_milli))?;
    writeln!(out, "{name}_count{{{labels}}} {sum}")?;
    Ok(())
}

/// A label value, escaped.
pub(super) struct Label<'a>(pub(super) &'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(['\\', '"', '\n']) {
            let plain = part.trim_end_matches(['\\', '"', '\n']);
            f.write_str(plain)?;
            f.write_str(match part.as_bytes().last() {
                Some(b'\\') => "\\\\",
                Some(b'"') => "\\\"",
                Some(b'\n') => "\\n",
                _ => "",
            })?;
        }
        Ok(())
    }
}

/// A number in thousandths, written exactly.
struct Milli(u64);

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        match rest {
            0 => write!(f, "{whole}"),
            _ => f.write_str(format!("{whole}.{rest:03}").trim_end_matches('0')),
        }
    }
}

/// A value, or nothing.
struct Text<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |value| value.fmt(f))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::super::flags::ResponseFlags;
    use super::super::requests::Sizes;
    use super::super::source::Source;
    use super::*;
    use crate::options::ProxyIdentity;

    /// A strict reader of the format: every sample belongs to the family announced before it, labels are well formed,
    /// no series comes twice. Gives values by `name{labels}` with the labels sorted.
    fn parse(text: &str) -> HashMap<String, f64> {
        let (mut samples, mut family, mut kind) = (HashMap::new(), String::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, type_) = rest.split_once(' ').unwrap();
                (family, kind) = (name.to_owned(), type_.to_owned());
                continue;
            }
            if line.starts_with("# HELP ") {
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} after {family}"));
            assert!(
                suffix.is_empty() || kind == "histogram" && ["_bucket", "_sum", "_count"].contains(&suffix),
                "{line}"
            );
            let mut rest = labels.strip_suffix('}').unwrap();
            let mut parsed = Vec::new();
            while !rest.is_empty() {
                let (key, after) = rest.split_once("=\"").unwrap();
                let mut end = 0;
                while after.as_bytes()[end] != b'"' {
                    end += if after.as_bytes()[end] == b'\\' { 2 } else { 1 };
                }
                parsed.push(format!("{key}={}", &after[..end]));
                rest = after[end + 1..].strip_prefix(',').unwrap_or(&after[end + 1..]);
            }
            parsed.sort();
            let id = format!("{name}{{{}}}", parsed.join(","));
            assert!(samples.insert(id, value.parse().unwrap()).is_none(), "twice: {line}");
        }
        samples
    }

    fn scrape(metrics: &Metrics) -> HashMap<String, f64> {
        let mut text = String::new();
        metrics.render(&mut text).unwrap();
        parse(&text)
    }

    /// The one sample of a family whose labels contain all of `labels`.
    fn get(samples: &HashMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
        let prefix = format!("{name}{{");
        let wanted = |id: &&String| id.starts_with(&prefix) && labels.iter().all(|label| id.contains(label));
        let found: Vec<_> = samples.keys().filter(wanted).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        samples[found[0]]
    }

    fn metrics() -> Arc<Metrics> {
        let identity =
            ProxyIdentity { node_id: "edge\"1\\".into(), workload: "edge".into(), namespace: "istio-system".into() };
        Metrics::new(identity)
    }

    #[test]
    fn requests_of_all_workers_are_added_up_under_istios_labels() {
        let metrics = metrics();
        let ok = Outcome { code: 200, ..Outcome::default() };
        let sizes = |millis| Sizes { duration: Duration::from_millis(millis), request: 0, response: 700 };
        for millis in [3, 40] {
            let worker = metrics.worker();
            let series = worker.requests_to_unknown();
            series.record(ok, &sizes(millis));
            series.record(ok, &sizes(millis));
            series.record(Outcome { code: 503, flags: ResponseFlags::NO_HEALTHY_UPSTREAM, ..ok }, &sizes(1));
            series.record(Outcome { protocol: RequestProtocol::Grpc, grpc_status: Some(5), ..ok }, &sizes(1));
        }
        let samples = scrape(&metrics);
        let http = ["request_protocol=http", "response_code=200", "grpc_response_status=,"];
        assert!((get(&samples, "istio_requests_total", &http) - 4.0).abs() < 0.1);
        let unhealthy = ["response_flags=UH", "response_code=503", "reporter=source", "source_workload=edge"];
        assert!((get(&samples, "istio_requests_total", &unhealthy) - 2.0).abs() < 0.1);
        let grpc = ["request_protocol=grpc", "grpc_response_status=5", "destination_service=unknown"];
        assert!((get(&samples, "istio_requests_total", &grpc) - 2.0).abs() < 0.1);
        let duration = "istio_request_duration_milliseconds";
        for (bound, expected) in [("1", 0.0), ("5", 2.0), ("25", 2.0), ("50", 4.0), ("+Inf", 4.0)] {
            let mut labels = http.to_vec();
            let bound = format!("le={bound},");
            labels.push(&bound);
            assert!((get(&samples, &format!("{duration}_bucket"), &labels) - expected).abs() < 0.1, "{bound}");
        }
        assert!((get(&samples, &format!("{duration}_sum"), &http) - 86.0).abs() < 0.001);
        assert!((get(&samples, "istio_response_bytes_sum", &http) - 2800.0).abs() < 0.001);
        assert!((get(&samples, "istio_request_bytes_count", &http) - 4.0).abs() < 0.001);
    }

    #[test]
    fn what_comes_to_the_workload_is_reported_as_by_its_destination() {
        let metrics = metrics();
        let worker = metrics.worker();
        let client = "spiffe://cluster.local/ns/shop/sa/ratings";
        let mesh = Source::Mesh { client: client.into(), own: "spiffe://cluster.local/ns/x/sa/edge".into() };
        for source in [mesh, Source::Unknown] {
            worker.requests_from(source.clone(), None).record(Outcome::default(), &Sizes::default());
            worker.connections_from(source, None, ResponseFlags::NONE).opened();
        }
        let samples = scrape(&metrics);
        for name in ["istio_requests_total", "istio_tcp_connections_opened_total"] {
            for (source, own, namespace, security) in [
                (client, "spiffe://cluster.local/ns/x/sa/edge", "shop", "mutual_tls"),
                ("unknown", "unknown", "unknown", "none"),
            ] {
                let labels = [
                    "reporter=destination".to_owned(),
                    format!("source_principal={source},"),
                    format!("source_workload_namespace={namespace}"),
                    "source_workload=unknown".to_owned(),
                    format!("destination_principal={own},"),
                    "destination_workload=edge,".to_owned(),
                    "destination_service=edge,".to_owned(),
                    "destination_service_namespace=istio-system,".to_owned(),
                    format!("connection_security_policy={security}"),
                ];
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                assert!((get(&samples, name, &labels) - 1.0).abs() < 0.1, "{source}");
            }
        }
    }

    #[test]
    fn connections_listeners_and_configuration_are_shown() {
        let metrics = metrics();
        let (one, two) = (metrics.worker(), metrics.worker());
        let _open = one.connection(&metrics.listener(80));
        drop(one.connection(&metrics.listener(81)));
        two.count(Count::ProtocolViolationsDownstream);
        two.observe_lag(Duration::from_millis(30));
        metrics.applied(17, &[443], 1, 2);
        let samples = scrape(&metrics);
        for (name, labels, expected) in [
            ("fairway_downstream_connections_total", "", 2.0),
            ("fairway_downstream_connections_active", "", 1.0),
            ("fairway_protocol_violations_total", "peer=downstream", 1.0),
            ("fairway_listeners", "state=active", 1.0),
            ("fairway_listeners", "state=failed", 1.0),
            ("fairway_listener_connections_active", "port=80", 1.0),
            ("fairway_listener_connections_total", "port=443", 0.0),
            ("fairway_config_revision", "", 17.0),
            ("fairway_config_issues", "", 2.0),
            ("fairway_build_info", "node_id=edge\\\"1\\\\", 1.0),
            ("fairway_worker_poll_lag_seconds_sum", "worker=1", 0.03),
            ("fairway_worker_poll_lag_seconds_bucket", "le=0.05,worker=1", 1.0),
            ("fairway_worker_poll_lag_seconds_bucket", "le=0.01,worker=1", 0.0),
        ] {
            assert!((get(&samples, name, &[labels]) - expected).abs() < 1e-9, "{name} {labels}");
        }
        assert!(!samples.keys().any(|id| id.contains("port=81")), "a listener that is gone and has no connections");
    }
}
