//! One connection, from its route to its last byte.

use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::StatusCode;
use route_model::meta::ResourceKey;
use route_model::table::cluster::{Discovery, LoadBalancer};
use route_model::table::upstream::Tunnel;
use route_model::table::{ListenerProtocol, StreamFacts, StreamRoutes};
use route_model::verdict::authorization::NOT_ALLOWED;
use tokio::io::{AsyncRead, AsyncWrite};

use super::relay::{End, Lifetime, relay};
use crate::drain::Member;
use crate::h1;
use crate::http::facts::ConnectionFacts;
use crate::listener::ListenerId;
use crate::runtime_table::{WorkerCluster, WorkerTable};
use crate::telemetry::connections::ConnectionSeries;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::log_line::{LogEntry, LogHead};
use crate::telemetry::metrics::Count;
use crate::telemetry::source::Source;
use crate::tls::upstream::Inside;
use crate::upstream::balance::Wish;
use crate::upstream::cluster_state::{ActiveRequest, EndpointState};
use crate::upstream::connect::{ConnectError, ConnectionPermit, Stream, connect};
use crate::upstream::dynamic::NoName;
use crate::upstream::outlier::{self, TryOutcome};
use crate::upstream::peer::{Client, Peer};
use crate::worker::Worker;

/// Where a connection came in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entrance<'a> {
    pub(crate) listener: ListenerId,
    /// Of the server that took it; `None`: there may be several.
    pub(crate) gateway: Option<&'a ResourceKey>,
    pub(crate) routes: &'a StreamRoutes,
    /// It was going elsewhere before it was redirected here.
    pub(crate) captured: bool,
}

/// Serves a connection to its end. The table is let go of as soon as the endpoint is known, so that long connections
/// do not keep old tables.
pub(crate) async fn serve<I>(
    worker: Rc<Worker>,
    table: Rc<WorkerTable>,
    entrance: Entrance<'_>,
    mut client: I,
    facts: ConnectionFacts,
    member: Member,
) where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = Session::new(worker, facts);
    session.note_source(&table, entrance.listener);
    let chosen = session.admit(&table, entrance).and_then(|()| session.choose(&table, entrance));
    drop(table);
    let opened = match chosen {
        Ok(cluster) => session.open(cluster).await,
        Err(flag) => Err(flag),
    };
    match opened {
        Ok((Opened::Directly(mut upstream), _active)) => {
            session.upstream_local = upstream.local_addr();
            session.carry(&mut client, &mut upstream, &member).await;
        }
        Ok((Opened::Tunnel(mut upstream), _active)) => {
            session.upstream_local = upstream.io().local_addr();
            Box::pin(session.carry(&mut client, &mut *upstream, &member)).await;
        }
        Err(flag) => session.flags.insert(flag),
    }
}

/// The way to an upstream.
enum Opened {
    Directly(Stream),
    Tunnel(Box<h1::Tunnel<Stream>>),
}

/// What metrics and the access log say of a connection, once it is dropped.
struct Session {
    worker: Rc<Worker>,
    facts: ConnectionFacts,
    /// Whose it is, if it was opened to the workload beside this proxy.
    source: Option<Source>,
    start: SystemTime,
    since: Instant,
    cluster: Option<Rc<WorkerCluster>>,
    endpoint: Option<Arc<EndpointState>>,
    upstream_local: Option<SocketAddr>,
    /// Set once an upstream is connected.
    series: Option<Arc<ConnectionSeries>>,
    flags: ResponseFlags,
    failure: Option<String>,
    termination: Option<&'static str>,
    /// The authorization policy's rule that closed it, which then is what is logged.
    denied_by: Option<Arc<str>>,
    received: u64,
    sent: u64,
}

impl Session {
    fn new(worker: Rc<Worker>, facts: ConnectionFacts) -> Self {
        Self {
            worker,
            facts,
            source: None,
            start: SystemTime::now(),
            since: Instant::now(),
            cluster: None,
            endpoint: None,
            upstream_local: None,
            series: None,
            flags: ResponseFlags::NONE,
            failure: None,
            termination: None,
            denied_by: None,
            received: 0,
            sent: 0,
        }
    }

    fn note_source(&mut self, table: &WorkerTable, listener: ListenerId) {
        let runtime = table.runtime();
        let listener = runtime.find_listener(listener).map(|position| &runtime.listener_at(position).listener);
        if listener.is_some_and(|listener| matches!(listener.protocol, ListenerProtocol::Inbound { .. })) {
            self.source = Some(Source::of(&self.facts, &self.worker.process.options.mesh_identity));
        }
    }

    /// Asks the authorization policies; the flag of a connection that they close is none.
    fn admit(&mut self, table: &WorkerTable, entrance: Entrance<'_>) -> Result<(), ResponseFlags> {
        let runtime = table.runtime();
        let Some(authorization) = &runtime.authorization else { return Ok(()) };
        let listener = runtime.find_listener(entrance.listener).ok_or(ResponseFlags::NO_ROUTE)?;
        let listener = runtime.listener_at(listener);
        if !listener.guarded {
            return Ok(());
        }
        authorization.admits_connection(&self.facts, &listener.listener, entrance.gateway).map_err(|denied| {
            self.termination = Some(NOT_ALLOWED);
            self.denied_by = denied;
            ResponseFlags::NONE
        })
    }

    /// The cluster that the routes lead to; else the flag that says why there is none.
    fn choose(&mut self, table: &WorkerTable, entrance: Entrance<'_>) -> Result<Rc<WorkerCluster>, ResponseFlags> {
        let facts = StreamFacts {
            sni: self.facts.tls.as_ref().and_then(|tls| tls.server_name.as_deref()),
            destination: self.facts.local.ip(),
            source: self.facts.peer.ip(),
        };
        let rule = entrance.routes.find(&facts).ok_or(ResponseFlags::NO_ROUTE)?;
        let drawn = if rule.total_weight > 1 { fastrand::u64(..rule.total_weight) } else { 0 };
        let destination = rule.destination(drawn).ok_or(ResponseFlags::NO_ROUTE)?;
        let cluster = table.cluster(destination.cluster).ok_or(ResponseFlags::NO_CLUSTER)?;
        self.cluster = Some(Rc::clone(&cluster));
        let destination = entrance.captured.then_some(self.facts.local);
        let cluster =
            cluster.of_host(|| facts.sni.unwrap_or_default(), destination).map_err(|problem| match problem {
                NoName::Foreign => ResponseFlags::NO_HEALTHY_UPSTREAM,
                NoName::Full => ResponseFlags::UPSTREAM_OVERFLOW,
            })?;
        Ok(cluster)
    }

    /// Connects to an endpoint of the cluster, within its limits.
    async fn open(&mut self, cluster: Rc<WorkerCluster>) -> Result<(Opened, ActiveRequest), ResponseFlags> {
        let state = &cluster.state;
        state.known().await;
        let hash = match &state.cluster.load_balancer {
            LoadBalancer::Hash(by) => by.of_connection(self.facts.peer.ip().to_canonical()),
            _ => None,
        };
        let Some(endpoint) = cluster.pick(Wish { hash, tried: &[] }) else {
            state.discovered.suspect();
            return Err(ResponseFlags::NO_HEALTHY_UPSTREAM);
        };
        self.endpoint = Some(Arc::clone(&endpoint));
        let permit =
            state.load.connection(&state.cluster.policy.limits, false).ok_or(ResponseFlags::UPSTREAM_OVERFLOW)?;
        let active = ActiveRequest::connection(&endpoint);
        let facts = &self.facts;
        let client = || Some(Client { source: facts.peer, destination: facts.local, presence: Weak::<()>::new() });
        // Of a wildcard it is the name that the client asks for; any other service is asked for itself.
        let wildcard = matches!(state.cluster.discovery, Discovery::Dynamic(_));
        let name = facts.server_name().filter(|_| wildcard);
        let peer = Peer::new(state, endpoint, || name, client, &self.worker.pool).map_err(|error| {
            self.failure = Some(error.to_string());
            ResponseFlags::UPSTREAM_CONNECTION_FAILURE
        })?;
        let permit = ConnectionPermit::new(permit, self.worker.pool.open(&peer));
        let until = tokio::time::Instant::now() + state.cluster.connect_timeout;
        let connected = connect(&peer, Inside::Tcp, &state.cluster, permit, &self.worker).await;
        let connected = match (connected, &state.cluster.policy.tunnel) {
            (Ok(stream), Some(tunnel)) => Box::pin(dig(stream, tunnel, until)).await.map_err(Failure::Tunnel),
            (Ok(stream), None) => Ok(Opened::Directly(stream)),
            (Err(error), _) => Err(Failure::Connect(error)),
        };
        let outcome = match &connected {
            Ok(_) => TryOutcome::Answered(StatusCode::OK),
            Err(failure) => failure.outcome(),
        };
        outlier::note(state, &peer.endpoint, outcome, &self.worker.metrics);
        match connected {
            Ok(opened) => Ok((opened, active)),
            Err(error) => {
                // Its address may be out of date.
                state.discovered.suspect();
                self.worker.metrics.count(Count::UpstreamConnectFailed);
                self.failure = Some(error.to_string());
                Err(ResponseFlags::UPSTREAM_CONNECTION_FAILURE)
            }
        }
    }

    /// Carries bytes both ways to the end.
    async fn carry<C, U>(&mut self, client: &mut C, upstream: &mut U, member: &Member)
    where
        C: AsyncRead + AsyncWrite + Unpin,
        U: AsyncRead + AsyncWrite + Unpin,
    {
        let lifetime = self.lifetime();
        let series = self.begin();
        let worker = Rc::clone(&self.worker);
        let (received, sent) = (&mut self.received, &mut self.sent);
        let end = relay(client, upstream, lifetime, &worker.tcp_buffers, member, |up, down| {
            *received += up;
            *sent += down;
            series.moved(up, down);
        })
        .await;
        self.ended(end);
    }

    fn lifetime(&self) -> Lifetime {
        let Some(cluster) = &self.cluster else { return Lifetime::default() };
        let connections = &cluster.state.cluster.policy.connections;
        let until = connections.max_duration.and_then(|most| tokio::time::Instant::now().checked_add(most));
        Lifetime { idle: connections.tcp_idle, until }
    }

    /// Counts the connection as open.
    fn begin(&mut self) -> Arc<ConnectionSeries> {
        let series = match (&self.source, &self.cluster) {
            (None, Some(cluster)) => Arc::clone(cluster.connections(&self.worker)),
            _ => self.other_series(ResponseFlags::NONE),
        };
        series.opened();
        self.series = Some(Arc::clone(&series));
        series
    }

    /// Where it is counted, if not among those that reach their cluster.
    fn other_series(&self, flags: ResponseFlags) -> Arc<ConnectionSeries> {
        let cluster = self.cluster.as_ref().map(|cluster| &*cluster.state.cluster);
        match self.source.clone() {
            None => self.worker.metrics.connections_to(cluster, flags),
            Some(source) => self.worker.metrics.connections_from(source, cluster, flags),
        }
    }

    fn ended(&mut self, end: End) {
        let (flag, termination) = match end {
            End::Done => return,
            End::Idle => (ResponseFlags::STREAM_IDLE_TIMEOUT, Some("idle_timeout")),
            End::TooOld => (ResponseFlags::DURATION_TIMEOUT, Some("max_connection_duration")),
            End::Drained => (ResponseFlags::NONE, Some("drain_time_over")),
            End::Client(error) => {
                tracing::debug!(%error, peer = %self.facts.peer, "a client's TCP connection failed");
                (ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION, None)
            }
            End::Upstream(error) => {
                tracing::debug!(%error, "an upstream's TCP connection failed");
                (ResponseFlags::UPSTREAM_CONNECTION_TERMINATION, None)
            }
        };
        self.flags.insert(flag);
        self.termination = termination;
    }
}

/// Why an upstream was not reached.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Connect(ConnectError),
    #[error("no tunnel: {0}")]
    Tunnel(Undug),
}

/// Why a proxy that was reached leads no further.
#[derive(Debug, thiserror::Error)]
enum Undug {
    #[error("the proxy took too long")]
    TimedOut,
    #[error(transparent)]
    Failed(h1::TunnelError),
}

impl Failure {
    /// What it says of the endpoint.
    fn outcome(&self) -> TryOutcome {
        match self {
            Self::Connect(error) => error.outcome(),
            Self::Tunnel(Undug::TimedOut) => TryOutcome::TimedOut,
            Self::Tunnel(Undug::Failed(h1::TunnelError::Refused(status))) => TryOutcome::Answered(*status),
            Self::Tunnel(Undug::Failed(_)) => TryOutcome::Failed,
        }
    }
}

/// Asks the proxy at the other end for a tunnel.
async fn dig(stream: Stream, tunnel: &Tunnel, until: tokio::time::Instant) -> Result<Opened, Undug> {
    let method = tunnel.method.http();
    let opening = h1::Tunnel::open(stream, &method, &tunnel.authority);
    match tokio::time::timeout_at(until, opening).await {
        Ok(opened) => opened.map(|tunnel| Opened::Tunnel(Box::new(tunnel))).map_err(Undug::Failed),
        Err(_) => Err(Undug::TimedOut),
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(series) = &self.series {
            series.closed();
        } else {
            let series = self.other_series(self.flags);
            series.opened();
            series.closed();
        }
        let Some(logger) = &self.worker.access_log else { return };
        logger.log(&LogEntry {
            head: &LogHead::connection(self.start),
            connection: &self.facts,
            client: self.facts.peer,
            status: None,
            flags: self.flags,
            details: None,
            termination: self.denied_by.as_deref().or(self.termination),
            transport_failure: self.failure.as_deref(),
            bytes_received: self.received,
            bytes_sent: self.sent,
            duration: self.since.elapsed(),
            upstream_service_time: None,
            upstream_host: self.endpoint.as_ref().map(|endpoint| &*endpoint.name),
            upstream_cluster: self.cluster.as_ref().map(|cluster| &*cluster.state.cluster.name),
            upstream_local: self.upstream_local,
            route_name: "",
            grpc_status: None,
        });
    }
}
