//! A proxy under the same fault again and again, and the proof that it holds nothing afterwards.

use std::collections::BTreeMap;
use std::iter::StepBy;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use proxy::{Limits, ListenAddr, Options, Proxy};
use route_model::table::RouteTable;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Mutex, MutexGuard};

use super::memory;
use crate::client::{Http1, connect_http2};
use crate::{addr, apply, start_with};

/// After so many everything is warm: tables and pools have the size that they keep …
const WARM_UP: usize = 2_000;
/// … and so do the buffers that a worker keeps for later, which are as many as it had in use at once, up to a bound.
const WARM_UP_AT_ONCE: usize = 600;
/// How often a fault happens then.
pub(super) const TIMES: usize = 10_000;
/// What is no leak: ten bytes a time.
const SLACK: isize = 100 * 1024;

/// How long all repetitions may take, on a machine that is busy with other things.
const ENDING: Duration = Duration::from_mins(2);
/// How long the last of what was under way may take to end.
const SETTLING: Duration = Duration::from_secs(30);

/// What counts is the whole process, so one rig runs at a time.
static TURN: Mutex<()> = Mutex::const_new(());

pub(super) struct Rig {
    proxy: Proxy,
    metrics: SocketAddr,
    admin: SocketAddr,
    _turn: MutexGuard<'static, ()>,
}

/// What a proxy has open.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    /// All of its gauges that say what is open or under way.
    gauges: BTreeMap<String, String>,
    /// By cluster: what counts against its ceilings, and the requests of its endpoints.
    clusters: Vec<(Value, Vec<Value>)>,
    /// File descriptors of the process, the test's own among them.
    files: usize,
}

/// Requests by response code and flags.
pub(super) type Counts = BTreeMap<(u16, String), usize>;

/// The numbers of the repetitions that fall to one of those who run at once.
pub(super) type Turns = StepBy<Range<usize>>;

impl Rig {
    pub(super) async fn new(table: RouteTable) -> Self {
        Self::with(Limits::default(), table).await
    }

    pub(super) async fn with(limits: Limits, table: RouteTable) -> Self {
        let turn = TURN.lock().await;
        let open = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: open.maximum, ..open }).expect("as many files as are allowed");
        let own = Some(ListenAddr { addr: ([127, 0, 0, 1], 0).into(), explicit: true });
        let proxy =
            start_with(Options { workers: 1, limits, metrics_addr: own, admin_addr: own, ..Options::default() });
        apply(&proxy, table).await;
        let bound = proxy.bound();
        let (metrics, admin) = (bound.metrics.expect("a port for metrics"), bound.admin.expect("a port for operators"));
        Self { proxy, metrics, admin, _turn: turn }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        addr(&self.proxy, 80)
    }

    /// Runs a fault again and again, so many at once, and checks that each time it was counted as it should be and that
    /// nothing is left of it: no connection, no request, no task, no file, no memory.
    pub(super) async fn repeat(&self, at_once: usize, expected: &[(u16, &str)], lane: impl AsyncFn(Turns)) {
        self.repeat_times(TIMES, at_once, expected, lane).await;
    }

    /// The same for faults that take long. The repetitions are shared out evenly among what is expected.
    pub(super) async fn repeat_times(
        &self,
        times: usize,
        at_once: usize,
        expected: &[(u16, &str)],
        lane: impl AsyncFn(Turns),
    ) {
        let warm_up = WARM_UP.min(times / 2);
        let before = self.settled(None).await;
        let began = Instant::now();
        run(0..warm_up, WARM_UP_AT_ONCE, &lane).await;
        self.settled(Some(&before)).await;
        let warm = live().await;
        run(warm_up..warm_up + times, at_once, &lane).await;
        self.settled(Some(&before)).await;
        let grown = live().await - warm;
        println!("{times} times in {:?}, {grown} bytes more", began.elapsed());
        assert!(grown < SLACK, "{times} repetitions left {grown} bytes behind");
        let share = (warm_up + times) / expected.len();
        let expected: Counts = expected.iter().map(|(code, flags)| ((*code, (*flags).to_owned()), share)).collect();
        assert_eq!(self.requests().await, expected);
    }

    /// How many requests ended with each code and flag.
    pub(super) async fn requests(&self) -> Counts {
        let mut counts = Counts::new();
        for line in self.scrape().await.lines().filter(|line| line.starts_with("istio_requests_total{")) {
            let label =
                |name: &str| line.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next());
            let code = label("response_code").and_then(|code| code.parse().ok()).expect("a code");
            let flags = label("response_flags").expect("flags").to_owned();
            let count: usize = line.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number");
            *counts.entry((code, flags)).or_default() += count;
        }
        counts
    }

    /// A sample of the metrics by its full name.
    pub(super) async fn sample(&self, name: &str) -> usize {
        let text = self.scrape().await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}"))
    }

    async fn scrape(&self) -> String {
        Http1::connect(self.metrics).await.get("127.0.0.1", "/metrics").await.text().to_owned()
    }

    /// Waits until the proxy holds what it held before; without a `before` until what it holds stays the same.
    async fn settled(&self, before: Option<&Held>) -> Held {
        let deadline = Instant::now() + SETTLING;
        let mut last = None;
        loop {
            let held = self.held().await;
            if before.or(last.as_ref()) == Some(&held) {
                return held;
            }
            if let Some(before) = before {
                assert!(Instant::now() < deadline, "before: {before:#?}\nafterwards: {held:#?}");
            }
            last = Some(held);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn held(&self) -> Held {
        let is_gauge = |line: &&str| line.starts_with("fairway_") && line.contains("_active");
        let metrics = self.scrape().await;
        let gauges = metrics.lines().filter(is_gauge).filter_map(|line| line.rsplit_once(' '));
        let gauges = gauges.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let clusters = Http1::connect(self.admin).await.get("127.0.0.1", "/clusters").await;
        let clusters: Value = serde_json::from_slice(&clusters.body).expect("JSON");
        let clusters = clusters.as_array().expect("a list").iter().map(|cluster| {
            let endpoints = cluster["endpoints"].as_array().expect("a list").iter();
            (cluster["under_way"].clone(), endpoints.map(|endpoint| endpoint["active_requests"].clone()).collect())
        });
        let clusters = clusters.collect();
        let files = std::fs::read_dir("/proc/self/fd").expect("the files of this process").count();
        Held { gauges, clusters, files }
    }
}

async fn run(numbers: Range<usize>, at_once: usize, lane: &impl AsyncFn(Turns)) {
    let lanes = (0..at_once).map(|first| lane((numbers.start + first..numbers.end).step_by(at_once)));
    let all = join_all(lanes);
    tokio::time::timeout(ENDING, all).await.expect("all repetitions end in time");
}

/// The least that is allocated in a short while: reading the metrics takes some for a moment.
async fn live() -> isize {
    let mut least = memory::live();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        least = least.min(memory::live());
    }
    least
}

/// Somebody who asks by one protocol or the other.
pub(super) enum Client {
    /// Connects again when it has to.
    Http1(SocketAddr, Option<Http1>),
    Http2(SendRequest<Full<Bytes>>),
}

/// How an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    Whole(u16),
    /// It broke off after its head.
    Cut(u16),
}

impl Client {
    pub(super) fn http1(addr: SocketAddr) -> Self {
        Self::Http1(addr, None)
    }

    pub(super) async fn http2(addr: SocketAddr) -> Self {
        Self::Http2(connect_http2(addr).await)
    }

    /// One of either kind, in turns.
    pub(super) async fn either(addr: SocketAddr, turns: &Turns) -> Self {
        if turns.clone().next().is_none_or(|first| first % 2 == 0) {
            Self::http1(addr)
        } else {
            Self::http2(addr).await
        }
    }

    pub(super) async fn get(&mut self, path: &str) -> Got {
        match self {
            Self::Http1(addr, place) => {
                let mut client = match place.take() {
                    Some(client) => client,
                    None => Http1::connect(*addr).await,
                };
                client.ask("h", path).await;
                let head = client.head().await.expect("an answer");
                if let Some(length) = head.header("content-length") {
                    let mut body = vec![0; length.parse().expect("a length")];
                    if client.io.read_exact(&mut body).await.is_err() {
                        return Got::Cut(head.status);
                    }
                    if head.header("connection") != Some("close") {
                        *place = Some(client);
                    }
                    return Got::Whole(head.status);
                }
                let mut body = Vec::new();
                let ended = client.io.read_to_end(&mut body).await;
                if ended.is_ok() && body.ends_with(b"0\r\n\r\n") {
                    Got::Whole(head.status)
                } else {
                    Got::Cut(head.status)
                }
            }
            Self::Http2(sender) => {
                sender.ready().await.expect("the connection stays");
                let request = Request::get(format!("http://h{path}")).body(Full::default()).expect("a request");
                let response = sender.send_request(request).await.expect("an answer");
                let status = response.status().as_u16();
                if response.into_body().collect().await.is_ok() { Got::Whole(status) } else { Got::Cut(status) }
            }
        }
    }
}
