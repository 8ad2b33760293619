//! What a proxy counts: the cells of every worker, and the gauges of the process.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use route_model::table::Cluster;
use tokio::runtime::RuntimeMetrics;

use super::authorization::AuthorizationSeries;
use super::cells::Cell;
use super::connections::{ConnectionRegistry, ConnectionSeries};
use super::flags::ResponseFlags;
use super::keys::KeySeries;
use super::rate_limits::{self, LimitSeries};
use super::requests::{DestinationLabels, RequestRegistry, RequestSeries};
use super::source::Source;
use super::stat_prefixes::{PrefixRegistry, PrefixSeries};
use crate::options::ProxyIdentity;

/// A counter that every worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Connections that clients opened.
    DownstreamOpened,
    /// Connections of clients that ended.
    DownstreamClosed,
    /// Connections closed at once because a limit was reached.
    DownstreamRefused,
    /// Connections closed because they did not begin with the PROXY header that their listener asks for.
    ProxyHeadersRefused,
    /// Requests taken up.
    RequestsStarted,
    /// Requests whose response is complete or cut.
    RequestsFinished,
    /// TLS handshakes completed.
    TlsHandshakes,
    /// TLS handshakes that failed.
    TlsHandshakesFailed,
    /// TLS handshakes completed by resuming a session.
    TlsResumed,
    /// Messages answered 400, or HTTP/2 streams reset, because a client broke the protocol.
    ProtocolViolationsDownstream,
    /// Responses of upstreams refused because they broke the protocol.
    ProtocolViolationsUpstream,
    /// Connections opened to upstreams.
    UpstreamOpened,
    /// Connections to upstreams that ended.
    UpstreamClosed,
    /// Connections to upstreams that could not be made.
    UpstreamConnectFailed,
    /// TLS handshakes with upstreams completed.
    UpstreamTlsHandshakes,
    /// TLS handshakes with upstreams that failed.
    UpstreamTlsFailed,
    /// Requests sent on a new upstream connection.
    UpstreamRequestsNew,
    /// Requests sent on an upstream connection that was used before.
    UpstreamRequestsReused,
    /// Requests sent again because a reused connection turned out closed.
    UpstreamStaleRetries,
    /// Tries after the first, as routes' retry policies say.
    UpstreamRetries,
    /// Retries that a ceiling of the cluster did not allow.
    UpstreamRetriesRefused,
    /// Endpoints taken out of rotation because they failed again and again.
    OutlierEjections,
    /// Copies of requests sent to mirrors.
    MirroredRequests,
    /// Copies that were not sent, because too many were under way.
    MirrorsDropped,
    /// Requests delayed on purpose.
    FaultDelays,
    /// Requests aborted on purpose.
    FaultAborts,
    /// Tokens whose signature was found true.
    TokensVerified,
    /// Tokens that were verified before.
    TokensRemembered,
    /// Requests refused because a token is none, or says something in a form that it must not have.
    TokenMalformed,
    /// … because it is signed in a way that is not taken.
    TokenAlgorithm,
    /// … because no rule is for its issuer.
    TokenIssuer,
    /// … because it is for others.
    TokenAudience,
    /// … because it is not valid yet.
    TokenTooEarly,
    /// … because it is valid no more.
    TokenExpired,
    /// … because its signature is not true.
    TokenSignature,
    /// … because its issuer has no key of that name and type.
    TokenUnknownKey,
    /// … because its issuer's keys are not known.
    TokenNoKeys,
}

/// The number of [`Count`]s.
pub(super) const COUNTS: usize = Count::TokenNoKeys as usize + 1;

/// Upper bounds of the poll lag histogram, in milliseconds.
pub(super) const LAG_BOUNDS: [u64; 8] = [1, 5, 10, 50, 100, 250, 500, 1000];

/// The cells of one worker.
#[derive(Debug, Default)]
pub(super) struct WorkerCells {
    pub(super) counts: CountCells,
    pub(super) requests: Arc<RequestRegistry>,
    pub(super) connections: ConnectionRegistry,
    pub(super) prefixes: PrefixRegistry,
    /// Not cumulative; the last one has no bound.
    pub(super) lag: [Cell; LAG_BOUNDS.len() + 1],
    pub(super) lag_sum_micros: Cell,
}

/// One cell for each [`Count`].
#[derive(Debug)]
pub(super) struct CountCells(pub(super) [Cell; COUNTS]);

impl Default for CountCells {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Cell::default()))
    }
}

/// Everything a process counts; shared by its threads.
#[derive(Debug)]
pub struct Metrics {
    pub(super) identity: ProxyIdentity,
    pub(super) workers: Mutex<Vec<Arc<WorkerCells>>>,
    pub(super) listeners: Mutex<BTreeMap<u16, Arc<ListenerConnections>>>,
    pub(super) revision: AtomicU64,
    pub(super) applied: AtomicU64,
    pub(super) issues: AtomicU64,
    pub(super) listeners_accepting: AtomicU64,
    pub(super) listeners_down: AtomicU64,
    pub(super) log_dropped: Arc<AtomicU64>,
    pub(super) rate_limits: Mutex<Vec<LimitSeries>>,
    pub(super) authorization: Mutex<Vec<AuthorizationSeries>>,
    pub(super) keys: Mutex<Vec<KeySeries>>,
    pub(super) runtimes: Mutex<Vec<(&'static str, RuntimeMetrics)>>,
}

/// The connections of one listener, over all workers.
#[derive(Debug, Default)]
pub struct ListenerConnections {
    opened: AtomicU64,
    closed: AtomicU64,
}

impl ListenerConnections {
    fn open(self: &Arc<Self>) -> ListenerConnection {
        self.opened.fetch_add(1, Ordering::Relaxed);
        ListenerConnection(Arc::clone(self))
    }

    /// Connections accepted since the listener exists.
    pub fn total(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub fn active(&self) -> u64 {
        let closed = self.closed.load(Ordering::Relaxed);
        self.total().saturating_sub(closed)
    }
}

#[derive(Debug)]
struct ListenerConnection(Arc<ListenerConnections>);

impl Drop for ListenerConnection {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::Relaxed);
    }
}

/// An open connection of a client, counted until it is dropped.
#[derive(Debug)]
pub struct DownstreamConnection {
    worker: WorkerMetrics,
    _listener: ListenerConnection,
}

impl Drop for DownstreamConnection {
    fn drop(&mut self) {
        self.worker.count(Count::DownstreamClosed);
    }
}

impl Metrics {
    pub fn new(identity: ProxyIdentity) -> Arc<Self> {
        Arc::new(Self {
            identity,
            workers: Mutex::default(),
            listeners: Mutex::default(),
            revision: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            issues: AtomicU64::new(0),
            listeners_accepting: AtomicU64::new(0),
            listeners_down: AtomicU64::new(0),
            log_dropped: Arc::default(),
            rate_limits: Mutex::default(),
            authorization: Mutex::default(),
            keys: Mutex::default(),
            runtimes: Mutex::default(),
        })
    }

    /// The cells of a new worker; to be called on the worker's thread.
    pub fn worker(&self) -> WorkerMetrics {
        let cells = Arc::<WorkerCells>::default();
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&cells));
        WorkerMetrics { cells, here: PhantomData }
    }

    /// Where the connections of a Gateway port are counted.
    pub fn listener(&self, port: u16) -> Arc<ListenerConnections> {
        Arc::clone(self.listeners.lock().unwrap_or_else(PoisonError::into_inner).entry(port).or_default())
    }

    /// Says what is in force: the revision, the ports that accept, how many listeners could not be bound, and how many
    /// issues there are. Listeners of other ports are forgotten once their last connection is closed.
    pub fn applied(&self, revision: u64, accepting: &[u16], down: usize, issues: usize) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|port, connections| accepting.contains(port) || connections.active() > 0);
        for port in accepting {
            listeners.entry(*port).or_default();
        }
        drop(listeners);
        self.revision.store(revision, Ordering::Relaxed);
        self.applied.fetch_add(1, Ordering::Relaxed);
        self.listeners_accepting.store(accepting.len() as u64, Ordering::Relaxed);
        self.listeners_down.store(down as u64, Ordering::Relaxed);
        self.issues.store(issues as u64, Ordering::Relaxed);
    }

    /// Says which rate limits there are.
    pub(crate) fn limited_by(&self, series: Vec<LimitSeries>) {
        *self.rate_limits.lock().unwrap_or_else(PoisonError::into_inner) = series;
    }

    /// Says which authorization policies there are.
    pub(crate) fn authorized_by(&self, series: Vec<AuthorizationSeries>) {
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = series;
    }

    /// Says which issuers' keys are fetched.
    pub(crate) fn keys_from(&self, series: Vec<KeySeries>) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = series;
    }

    /// Shows the tasks of a thread's runtime under this name; threads of one name are added up.
    pub(crate) fn runs(&self, thread: &'static str, runtime: RuntimeMetrics) {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner).push((thread, runtime));
    }

    /// The rate limits as they stand, for operators.
    pub(crate) fn rate_limits(&self) -> serde_json::Value {
        rate_limits::dump(&self.rate_limits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts access log lines that were dropped because the log's reader is too slow.
    pub(super) fn log_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.log_dropped)
    }
}

/// A worker's own end of the metrics. Not `Send`, because its cells bear one writer only.
#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    cells: Arc<WorkerCells>,
    here: PhantomData<Rc<()>>,
}

impl WorkerMetrics {
    pub fn count(&self, what: Count) {
        self.cells.counts.0[what as usize].add(1);
    }

    /// Counts a connection of a client until the guard is dropped.
    pub fn connection(&self, listener: &Arc<ListenerConnections>) -> DownstreamConnection {
        self.count(Count::DownstreamOpened);
        DownstreamConnection { worker: self.clone(), _listener: listener.open() }
    }

    /// Where to count the requests of a cluster; to be kept with the worker's view of the table.
    pub fn requests_to(&self, cluster: &Cluster) -> RequestSeries {
        self.requests(DestinationLabels::of(cluster))
    }

    /// Where to count the requests that reach no cluster.
    pub fn requests_to_unknown(&self) -> RequestSeries {
        self.requests(DestinationLabels::unknown())
    }

    /// Where to count the requests to the workload beside this proxy: those that reach its application, or those that
    /// reach no cluster.
    pub fn requests_from(&self, source: Source, cluster: Option<&Cluster>) -> RequestSeries {
        self.requests(DestinationLabels::here(cluster, source))
    }

    /// Where to count the requests of routes with a `statPrefix`.
    pub fn requests_of(&self, prefix: &Arc<str>) -> Arc<PrefixSeries> {
        self.cells.prefixes.series(prefix)
    }

    /// Where to count TCP connections to a cluster, or those that reach none.
    pub fn connections_to(&self, cluster: Option<&Cluster>, flags: ResponseFlags) -> Arc<ConnectionSeries> {
        let destination = cluster.map_or_else(DestinationLabels::unknown, DestinationLabels::of);
        self.cells.connections.series(destination, flags)
    }

    /// The same for connections to the workload beside this proxy.
    pub fn connections_from(
        &self,
        source: Source,
        cluster: Option<&Cluster>,
        flags: ResponseFlags,
    ) -> Arc<ConnectionSeries> {
        self.cells.connections.series(DestinationLabels::here(cluster, source), flags)
    }

    fn requests(&self, destination: DestinationLabels) -> RequestSeries {
        RequestSeries::new(Arc::clone(&self.cells.requests), Arc::new(destination))
    }

    /// Counts by how much a timer of this worker was late.
    pub fn observe_lag(&self, lag: Duration) {
        let bucket = LAG_BOUNDS.partition_point(|bound| Duration::from_millis(*bound) < lag);
        self.cells.lag[bucket].add(1);
        self.cells.lag_sum_micros.add(lag.as_micros() as u64);
    }

    /// Measures this worker's lag as long as it is polled: how late it takes up a task that is ready. A worker that
    /// something keeps busy shows here before its clients complain.
    pub async fn watch_lag(self) {
        const EVERY: Duration = Duration::from_millis(250);
        /// The grain of the runtime's timers, which is no lag.
        const GRAIN: Duration = Duration::from_millis(1);
        loop {
            let due = Instant::now() + EVERY;
            tokio::time::sleep_until(due.into()).await;
            self.observe_lag(due.elapsed().saturating_sub(GRAIN));
        }
    }
}
