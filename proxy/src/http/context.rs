//! What is known of a connection and of a request while it is under way.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, StatusCode, Version};
use http_body::Body as _;
use route_model::meta::ResourceKey;
use route_model::request::admission::Peer;
use route_model::table::tls::TlsTerms;
use route_model::table::{HttpRoutes, Listener, ListenerProtocol, MutualTls, Outbound, Route, TlsChoice, TlsListener};
use tokio::time::Instant;

use super::body::{BodyError, RequestBody};
use super::deadline::Deadline;
use super::facts::ConnectionFacts;
use super::local_reply::{LocalReply, is_grpc};
use super::upgrade::Tunnel;
use super::validate::authority;
use crate::drain::{Member, Phase};
use crate::http::message::RequestParts;
use crate::listener::ListenerId;
use crate::runtime_table::{RuntimeListener, WorkerCluster, WorkerTable, port_of};
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::log_line::{LogEntry, LogHead};
use crate::telemetry::metrics::Count;
use crate::telemetry::requests::{Outcome, RequestProtocol, Sizes};
use crate::telemetry::source::Source;
use crate::telemetry::stat_prefixes::PrefixSeries;
use crate::upstream::cluster_state::ActiveRequest;
use crate::upstream::peer::Client;
use crate::worker::Worker;

/// A response cut short with one of these was not cut by the client.
const CUT_BY_US: [ResponseFlags; 5] = [
    ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
    ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
    ResponseFlags::UPSTREAM_REMOTE_RESET,
    ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
    ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
];

/// A downstream connection that speaks HTTP.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) facts: ConnectionFacts,
    pub(crate) peer: Peer,
    pub(crate) member: Member,
    /// Whose it is, if it was opened to the workload beside this proxy.
    source: Option<Source>,
    listener: ListenerId,
    /// What an HTTP/1 client's connection turns into after a 101.
    pub(crate) tunnel: RefCell<Option<Tunnel>>,
    /// The server that the handshake chose; `None` on a plain connection.
    tls: Option<TlsBinding>,
    lane: Lane,
    /// Where in the table of a sequence number this connection's routes are.
    place: Cell<Option<(u64, Place)>>,
}

/// Which of the routes of its listener are a connection's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// All that there are.
    Listener,
    /// Those for where it was going before it was redirected, which is what it is known to be connected to.
    Captured,
    /// Those for the host of each request: it is to a forward proxy.
    Forward,
}

/// What a handshake settled that later tables must not change under the client.
#[derive(Debug)]
pub(crate) struct TlsBinding {
    /// What the handshake asked of the client.
    pub(crate) terms: Arc<TlsTerms>,
    /// In lower case.
    pub(crate) sni: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    listener: usize,
    /// Index of the TLS server; unused on a plain listener.
    server: usize,
}

/// The routes that a request runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Routes<'t> {
    /// All requests of the connection are welcome.
    Plain { listener: &'t RuntimeListener, routes: &'t Arc<HttpRoutes> },
    /// Only requests whose authority belongs to the server.
    Tls { listener: &'t RuntimeListener, tls: &'t TlsListener, server: usize },
    /// By the port that a request names.
    Forward { listener: &'t RuntimeListener, outbound: &'t Outbound },
}

impl Connection {
    pub(crate) fn new(
        worker: Rc<Worker>,
        listener: ListenerId,
        member: Member,
        facts: ConnectionFacts,
        tls: Option<TlsBinding>,
    ) -> Self {
        let certificate = facts.tls.as_ref().and_then(|tls| tls.peer.as_ref()?.forwarded.clone());
        let peer = Peer::new(facts.peer, facts.tls.is_some(), certificate);
        Self {
            worker,
            facts,
            peer,
            member,
            source: None,
            listener,
            tls,
            lane: Lane::Listener,
            tunnel: RefCell::default(),
            place: Cell::new(None),
        }
    }

    /// A connection on a listener of a sidecar. `certificate`: what `x-forwarded-client-cert` says of a client of the
    /// mesh. `source`: whose it is, if it was opened to the workload.
    pub(crate) fn within_mesh(
        worker: Rc<Worker>,
        listener: ListenerId,
        member: Member,
        facts: ConnectionFacts,
        lane: Lane,
        certificate: Option<HeaderValue>,
        source: Option<Source>,
    ) -> Self {
        let peer = Peer::within_mesh(facts.peer, certificate);
        Self {
            worker,
            facts,
            peer,
            member,
            source,
            listener,
            tls: None,
            lane,
            tunnel: RefCell::default(),
            place: Cell::new(None),
        }
    }

    /// Whether the client made a TLS connection to a server of a Gateway. What proxies of the mesh add is not its doing.
    pub(crate) fn is_https(&self) -> bool {
        self.tls.is_some()
    }

    /// Where it was going before it was redirected here.
    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        (self.lane == Lane::Captured).then_some(self.facts.local)
    }

    /// Itself, for upstreams that are told whose a connection is.
    pub(crate) fn as_client(self: &Rc<Self>) -> Client {
        let presence: Weak<Self> = Rc::downgrade(self);
        Client { source: self.facts.peer, destination: self.facts.local, presence }
    }

    /// The table that a request beginning now runs on.
    pub(crate) fn table(&self) -> Rc<WorkerTable> {
        match self.member.phase() {
            Phase::Open => self.worker.table(),
            Phase::Draining | Phase::Cut => self.worker.table_for(self.listener),
        }
    }

    /// The routes of this connection in a table; `None` when the table has none for it any more: its listener now
    /// speaks another protocol, or its TLS server is gone or asks for client certificates in another way.
    pub(crate) fn routes<'t>(&self, table: &'t WorkerTable) -> Option<Routes<'t>> {
        let runtime = table.runtime();
        let place = match self.place.get() {
            Some((sequence, place)) if sequence == runtime.sequence => place,
            _ => {
                let place = self.find_place(table)?;
                self.place.set(Some((runtime.sequence, place)));
                place
            }
        };
        let listener = runtime.listener_at(place.listener);
        let routes = match &listener.listener.protocol {
            ListenerProtocol::Http(routes) => routes,
            ListenerProtocol::Tls(tls) => return Some(Routes::Tls { listener, tls, server: place.server }),
            ListenerProtocol::Service(port) => &port.http,
            ListenerProtocol::Outbound(outbound) => match self.lane {
                Lane::Captured => &outbound.find(self.facts.local).http,
                Lane::Listener | Lane::Forward => return Some(Routes::Forward { listener, outbound }),
            },
            ListenerProtocol::Inbound { inbound, .. } => {
                let port = inbound.find(self.facts.local.port());
                // What became stricter meanwhile is so for open connections too.
                (port.mutual_tls != MutualTls::Strict || self.facts.tls.is_some()).then_some(&port.routes.http)?
            }
            ListenerProtocol::Tcp(_) => return None,
        };
        Some(Routes::Plain { listener, routes })
    }

    fn find_place(&self, table: &WorkerTable) -> Option<Place> {
        let runtime = table.runtime();
        let listener = runtime.find_listener(self.listener)?;
        let server = match (&self.tls, &runtime.listener_at(listener).tls) {
            (None, None) => 0,
            (Some(binding), Some(tls)) => {
                let TlsChoice::Terminate(server) = *tls.listener().by_sni.find_sni(binding.sni.as_deref())? else {
                    return None;
                };
                let server = server as usize;
                same_client_auth(tls.terms(server)?, &binding.terms).then_some(server)?
            }
            _ => return None,
        };
        Some(Place { listener, server })
    }
}

/// Whether a client that passed one server's handshake would have had to show the same to the other.
fn same_client_auth(one: &TlsTerms, other: &TlsTerms) -> bool {
    std::ptr::eq(one, other)
        || (one.mode == other.mode
            && one.skip_verify == other.skip_verify
            && one.client_ca == other.client_ca
            && one.subject_alt_names == other.subject_alt_names
            && one.verify_certificate_spki == other.verify_certificate_spki
            && one.verify_certificate_hash == other.verify_certificate_hash)
}

impl<'t> Routes<'t> {
    /// The routes for a request; `None` when its authority does not belong to the TLS server of the connection (421).
    pub(crate) fn for_request(self, head: &RequestParts) -> Option<&'t Arc<HttpRoutes>> {
        match self {
            Self::Plain { routes, .. } => Some(routes),
            Self::Tls { tls, server, .. } => tls.routes_for(server, authority(head)),
            Self::Forward { outbound, .. } => Some(&outbound.of_port(port_of(authority(head)).unwrap_or(80)).http),
        }
    }

    pub(crate) fn listener(self) -> &'t Listener {
        &self.runtime_listener().listener
    }

    /// Whether there are authorization policies for requests that come in here.
    pub(crate) fn is_guarded(self) -> bool {
        self.runtime_listener().guarded
    }

    fn runtime_listener(self) -> &'t RuntimeListener {
        match self {
            Self::Plain { listener, .. } | Self::Tls { listener, .. } | Self::Forward { listener, .. } => listener,
        }
    }

    /// The Gateway whose server takes all requests of the connection; `None`: there may be several.
    pub(crate) fn gateway(self) -> Option<&'t ResourceKey> {
        match self {
            Self::Plain { .. } | Self::Forward { .. } => None,
            Self::Tls { tls, server, .. } => tls.servers.get(server).map(|server| &server.server.gateway),
        }
    }
}

/// One request from its head to the end of its response. It is told to telemetry when dropped, however it ends.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) connection: Rc<Connection>,
    pub(crate) start: Instant,
    pub(crate) version: Version,
    /// The request speaks gRPC.
    pub(crate) grpc: bool,
    /// The client as far as it can be trusted.
    pub(crate) client: SocketAddr,
    pub(crate) status: Option<StatusCode>,
    pub(crate) flags: ResponseFlags,
    /// Why the response is what it is, in Envoy's words (`%RESPONSE_CODE_DETAILS%`).
    pub(crate) details: Option<&'static str>,
    /// The same where it names an authorization policy's rule, which then is what is logged.
    pub(crate) denied_by: Option<Arc<str>>,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) cluster: Option<Rc<WorkerCluster>>,
    /// Why the upstream could not be connected to, while that is so.
    pub(crate) transport_failure: Option<Box<str>>,
    /// Counts the request on its endpoint.
    pub(crate) active: Option<ActiveRequest>,
    /// `None` for a request without a body.
    pub(crate) progress: Option<Rc<Progress>>,
    /// The route's timeout, or what the client asked for.
    pub(crate) deadline: Option<Deadline>,
    /// Bytes of the response body.
    pub(crate) sent: u64,
    /// The response was handed to the client whole.
    pub(crate) complete: bool,
    route_name: Option<Arc<str>>,
    /// The place of the destination that was chosen in the list of its route.
    pub(crate) destination: usize,
    /// Where the requests of a route with a `statPrefix` are counted.
    prefix_series: Option<Arc<PrefixSeries>>,
    /// `None` while nothing is logged.
    log: Option<Box<Logged>>,
}

/// What only the access log wants to know.
#[derive(Debug)]
struct Logged {
    head: LogHead,
    upstream_service_time: Option<Duration>,
}

/// How far a request body has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    received: Cell<u64>,
    /// More than so many bytes are too much.
    most: Cell<Option<u64>>,
    completed: Cell<Option<Instant>>,
    /// What its request comes to, for want of the rest of it.
    failed: Cell<Option<LocalReply>>,
    waker: RefCell<Option<Waker>>,
}

impl Progress {
    pub(crate) fn add(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
    }

    pub(crate) fn limit(&self, most: u64) {
        self.most.set(Some(most));
    }

    pub(crate) fn is_too_much(&self) -> bool {
        self.most.get().is_some_and(|most| self.received() > most)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.get()
    }

    /// The last of the body was taken from the client.
    pub(crate) fn finish(&self) {
        if self.completed.get().is_none() {
            self.completed.set(Some(Instant::now()));
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// The client did not send it to its end.
    pub(crate) fn fail(&self, error: &BodyError) {
        self.failed.set(Some(BodyError::of_request(error)));
    }

    pub(crate) fn failed(&self) -> Option<LocalReply> {
        self.failed.get()
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.completed.get().is_some()
    }

    /// When that was.
    pub(crate) fn completed(&self) -> Option<Instant> {
        self.completed.get()
    }

    /// Wakes the task when the body is complete.
    pub(crate) fn wake_on_finish(&self, waker: &Waker) {
        *self.waker.borrow_mut() = Some(waker.clone());
    }
}

impl Exchange {
    pub(crate) fn new(connection: &Rc<Connection>, head: &RequestParts, body: &RequestBody) -> Self {
        let mut exchange = Self::unread(connection);
        exchange.version = head.version;
        exchange.grpc = is_grpc(&head.headers);
        exchange.progress = (!body.is_end_stream()).then(Rc::default);
        exchange
    }

    /// For a request whose head could not be understood.
    pub(crate) fn unread(connection: &Rc<Connection>) -> Self {
        connection.worker.metrics.count(Count::RequestsStarted);
        Self {
            start: Instant::now(),
            version: Version::HTTP_11,
            grpc: false,
            client: connection.facts.peer,
            status: None,
            flags: ResponseFlags::NONE,
            details: None,
            denied_by: None,
            grpc_status: None,
            cluster: None,
            transport_failure: None,
            active: None,
            progress: None,
            deadline: None,
            sent: 0,
            complete: false,
            route_name: None,
            destination: 0,
            prefix_series: None,
            log: None,
            connection: Rc::clone(connection),
        }
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.connection.worker
    }

    pub(crate) fn flag(&mut self, flag: ResponseFlags) {
        self.flags.insert(flag);
    }

    /// Keeps of the head what the access log shows, if there is one.
    pub(crate) fn capture(&mut self, head: &RequestParts) {
        if self.worker().access_log.is_none() {
            return;
        }
        let authority = HeaderValue::from_str(authority(head)).ok();
        let path = head.uri.path_and_query().cloned();
        let start = SystemTime::now() - self.start.elapsed();
        let head = LogHead::new(start, head.version, head.method.clone(), path, authority, &head.headers);
        self.log = Some(Box::new(Logged { head, upstream_service_time: None }));
    }

    /// Has the access log show the path as it is now.
    pub(crate) fn recapture_path(&mut self, head: &RequestParts) {
        if let Some(log) = &mut self.log {
            log.head.path = head.uri.path_and_query().cloned();
        }
    }

    /// The same for a request whose head could not be read.
    pub(crate) fn capture_unread(&mut self) {
        if self.worker().access_log.is_some() {
            let head = LogHead::unread(SystemTime::now(), self.version);
            self.log = Some(Box::new(Logged { head, upstream_service_time: None }));
        }
    }

    /// The route that took the request. Its name is kept only where somebody may ask for it.
    pub(crate) fn set_route(&mut self, route: &Route) {
        if !route.name.is_empty() {
            self.route_name = Some(Arc::clone(&route.name));
        }
        self.prefix_series = route.stat_prefix.as_ref().map(|prefix| self.worker().metrics.requests_of(prefix));
    }

    pub(crate) fn route_name(&self) -> &str {
        self.route_name.as_deref().unwrap_or_default()
    }

    /// When the request came in, by the clock on the wall.
    pub(crate) fn wall_start(&self) -> SystemTime {
        match &self.log {
            Some(log) => log.head.start,
            None => SystemTime::now() - self.start.elapsed(),
        }
    }

    /// The response's head is here: the time since the request was complete, for `x-envoy-upstream-service-time`.
    pub(crate) fn upstream_answered(&mut self) -> Duration {
        let sent = self.progress.as_ref().and_then(|progress| progress.completed()).unwrap_or(self.start);
        let elapsed = sent.elapsed();
        if let Some(log) = &mut self.log {
            log.upstream_service_time = Some(elapsed);
        }
        elapsed
    }

    /// Notes `grpc-status`, which is in the trailers, or in the head of a response without a body.
    pub(crate) fn note_grpc_status(&mut self, status: Option<&HeaderValue>) {
        if self.grpc
            && let Some(status) = status
        {
            self.grpc_status = status.to_str().ok().and_then(|status| status.parse().ok());
        }
    }

    fn finish(&mut self) {
        if self.details == Some(LocalReply::RequestAborted.details()) {
            // Nobody was there any more to get the answer.
            self.status = None;
        }
        if !self.complete && !CUT_BY_US.iter().any(|flag| self.flags.contains(*flag)) {
            self.flag(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
            self.details = Some("downstream_remote_disconnect");
        }
        let worker = &self.connection.worker;
        let sizes = Sizes {
            duration: self.start.elapsed(),
            request: self.progress.as_ref().map_or(0, |progress| progress.received()),
            response: self.sent,
        };
        let outcome = Outcome {
            protocol: if self.grpc { RequestProtocol::Grpc } else { RequestProtocol::Http },
            code: self.status.map_or(0, |status| status.as_u16()),
            flags: self.flags,
            grpc_status: self.grpc_status,
        };
        match (&self.connection.source, &self.cluster) {
            (None, Some(cluster)) => cluster.series(worker).record(outcome, &sizes),
            (None, None) => worker.requests_to_unknown.record(outcome, &sizes),
            (Some(source), cluster) => worker.requests_from(source, cluster.as_deref()).record(outcome, &sizes),
        }
        if let Some(series) = &self.prefix_series {
            series.record(self.status, sizes.duration);
        }
        worker.metrics.count(Count::RequestsFinished);
        if let (Some(log), Some(logger)) = (&self.log, &worker.access_log) {
            logger.log(&LogEntry {
                head: &log.head,
                connection: &self.connection.facts,
                client: self.client,
                status: self.status,
                flags: self.flags,
                details: self.denied_by.as_deref().or(self.details),
                termination: None,
                transport_failure: self.transport_failure.as_deref(),
                bytes_received: sizes.request,
                bytes_sent: sizes.response,
                duration: sizes.duration,
                upstream_service_time: log.upstream_service_time,
                upstream_host: self.active.as_ref().map(|active| &*active.endpoint().name),
                upstream_cluster: self.cluster.as_ref().map(|cluster| &*cluster.state.cluster.name),
                upstream_local: None,
                route_name: self.route_name(),
                grpc_status: self.grpc_status,
            });
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.finish();
    }
}
