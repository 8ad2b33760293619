//! One exchange with an endpoint, over HTTP/1 or HTTP/2, on a connection from the pool or a new one.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::{HOST, UPGRADE};
use http::uri::{Authority, Scheme};
use http::{Method, Request, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use route_model::table::Cluster;
use tokio::task::spawn_local;

use super::cluster_state::ClusterState;
use super::connect::{ConnectError, ConnectionPermit, Stream, connect, unagreed};
use super::load::Permit;
use super::peer::Peer;
use crate::h1;
use crate::http::body::{BodyError, Source};
use crate::http::local_reply::LocalReply;
use crate::http::message::{RequestParts, Response};
use crate::http::outgoing::OutgoingBody;
use crate::http::upgrade::SEC_WEBSOCKET_KEY;
use crate::http::validate::authority;
use crate::rt::LocalExecutor;
use crate::runtime_table::WorkerCluster;
use crate::telemetry::metrics::Count;
use crate::tls::upstream::Inside;
use crate::worker::Worker;

/// An idle HTTP/1 connection.
pub(crate) type Http1 = h1::Connection<Stream>;

/// The body of a response over HTTP/1.
pub(crate) type Http1Body = h1::ResponseBody<Stream, OutgoingBody, Return>;

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum SendFailure {
    /// The connection was used before and turned out to be closed, nothing of a response had come, and the request can
    /// be sent again as it was.
    Stale(OutgoingBody),
    Failed {
        reply: LocalReply,
        /// The upstream got a byte of the request.
        sent: bool,
        /// Why there was no connection, or why TLS ended it, for the access log.
        reason: Option<Box<str>>,
    },
}

impl SendFailure {
    fn unsent(reply: LocalReply) -> Self {
        Self::Failed { reply, sent: false, reason: None }
    }
}

/// Sends a request and waits for the head of its response. With `reuse` a connection from the pool will do.
pub(crate) async fn send(
    worker: &Rc<Worker>,
    cluster: &WorkerCluster,
    peer: &Peer,
    http2: bool,
    head: &RequestParts,
    body: OutgoingBody,
    reuse: bool,
) -> Result<Response<Source>, SendFailure> {
    if http2 {
        Box::pin(send_http2(worker, cluster, peer, head, body, reuse)).await
    } else {
        send_http1(worker, cluster, peer, head, body, reuse).await
    }
}

async fn send_http1(
    worker: &Rc<Worker>,
    cluster: &WorkerCluster,
    peer: &Peer,
    head: &RequestParts,
    body: OutgoingBody,
    reuse: bool,
) -> Result<Response<Source>, SendFailure> {
    let pooled = if reuse { worker.pool.take_http1(peer) } else { None };
    let (connection, reused) = if let Some(connection) = pooled {
        (connection, true)
    } else {
        let found = Box::pin(find_http1(worker, cluster, peer, reuse)).await;
        found?
    };
    worker.metrics.count(if reused { Count::UpstreamRequestsReused } else { Count::UpstreamRequestsNew });
    let reclaim = Return { worker: Rc::clone(worker), peer: peer.clone(), cluster: Arc::clone(&cluster.state) };
    match connection.send(head, body, reclaim).await {
        Ok(response) => Ok(response.map(Source::Http1)),
        Err(error) => Err(http1_failure(worker, error, head, reused)),
    }
}

/// A new connection, or where the cluster may have no more one that comes free; and whether it was used before.
async fn find_http1(
    worker: &Worker,
    cluster: &WorkerCluster,
    peer: &Peer,
    reuse: bool,
) -> Result<(Http1, bool), SendFailure> {
    let state = &cluster.state;
    let take = || if reuse { worker.pool.take_http1(peer) } else { None };
    match turn(worker, state, peer, take).await.map_err(SendFailure::unsent)? {
        Turn::Free(connection) => Ok((connection, true)),
        // It counts as waiting until it is connected.
        Turn::Open(permit, _waiting) => {
            let stream = open(worker, state, peer, Inside::Http1, permit).await?;
            Ok((Http1::new(stream, worker.http1_client), false))
        }
    }
}

/// What a request that found no connection in the pool gets in the end.
enum Turn<C> {
    Open(ConnectionPermit, Option<Permit>),
    /// A connection that came free while the cluster could have no more.
    Free(C),
}

/// Waits, among the cluster's pending requests, for what comes first.
async fn turn<C>(
    worker: &Worker,
    state: &ClusterState,
    peer: &Peer,
    take: impl Fn() -> Option<C>,
) -> Result<Turn<C>, LocalReply> {
    let mut waiting = None;
    loop {
        if let Some(permit) = permit(worker, state, peer) {
            return Ok(Turn::Open(permit, waiting));
        }
        if waiting.is_none() {
            waiting = Some(state.load.pending(&state.cluster.policy.limits).ok_or(LocalReply::Overflow)?);
        }
        state.load.wait().await;
        if let Some(connection) = take() {
            return Ok(Turn::Free(connection));
        }
    }
}

/// Leave to open a connection: while the cluster may have more, and always when this worker has none to the peer.
fn permit(worker: &Worker, state: &ClusterState, peer: &Peer) -> Option<ConnectionPermit> {
    let open = worker.pool.open(peer);
    let permit = state.load.connection(&state.cluster.policy.limits, open.get() == 0)?;
    Some(ConnectionPermit::new(permit, open))
}

fn http1_failure(
    worker: &Worker,
    error: h1::SendError<OutgoingBody>,
    head: &RequestParts,
    reused: bool,
) -> SendFailure {
    tracing::debug!(%error, reused, "a request to an upstream failed");
    let repeatable = head.method.is_idempotent() || !error.written;
    if reused
        && repeatable
        && error.is_stale()
        && let Some(body) = error.body
    {
        return SendFailure::Stale(body);
    }
    let sent = error.written;
    let reason = match &error.kind {
        h1::SendErrorKind::Io(error) => tls_reason(error),
        _ => None,
    };
    let reply = match error.kind {
        h1::SendErrorKind::Protocol(_) => {
            worker.metrics.count(Count::ProtocolViolationsUpstream);
            LocalReply::UpstreamProtocol
        }
        h1::SendErrorKind::RequestBody(error) => {
            let reply = BodyError::of_request(&*error);
            if reply == LocalReply::RequestBody {
                worker.metrics.count(Count::ProtocolViolationsDownstream);
            }
            reply
        }
        h1::SendErrorKind::Closed | h1::SendErrorKind::Io(_) => LocalReply::UpstreamClosed,
    };
    SendFailure::Failed { reply, sent, reason }
}

/// Why TLS ended a connection that was agreed on. A server of TLS 1.3 judges a client's certificate so late.
fn tls_reason(error: &std::io::Error) -> Option<Box<str>> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(format!("TLS_error: {error}").into())
}

/// Puts an HTTP/1 connection back when its exchange is over.
#[derive(Debug)]
pub(crate) struct Return {
    worker: Rc<Worker>,
    peer: Peer,
    cluster: Arc<ClusterState>,
}

impl h1::Reclaim<Stream> for Return {
    fn reclaim(self, connection: Http1) {
        let Cluster { idle_timeout, policy, .. } = &*self.cluster.cluster;
        let settings = &policy.connections;
        let spent = settings.max_requests.is_some_and(|most| connection.exchanges() >= u64::from(most))
            || settings.max_duration.is_some_and(|most| connection.io().age() >= most);
        if !spent {
            self.worker.pool.put_http1(&self.peer, connection, *idle_timeout);
            self.cluster.load.freed();
        }
    }
}

async fn open(
    worker: &Worker,
    state: &ClusterState,
    peer: &Peer,
    inside: Inside,
    permit: ConnectionPermit,
) -> Result<Stream, SendFailure> {
    match connect(peer, inside, &state.cluster, permit, worker).await {
        Ok(stream) => Ok(stream),
        Err(error) => {
            worker.metrics.count(Count::UpstreamConnectFailed);
            tracing::debug!(%error, endpoint = %peer.endpoint.name, "cannot connect to an upstream");
            let reply = match error {
                ConnectError::TimedOut => LocalReply::ConnectTimeout,
                ConnectError::Failed(_) => LocalReply::ConnectFailure,
                ConnectError::Tls(_) => LocalReply::TlsFailure,
            };
            Err(SendFailure::Failed { reply, sent: false, reason: Some(error.to_string().into()) })
        }
    }
}

/// A multiplexed connection.
#[derive(Debug)]
pub(crate) struct Http2 {
    sender: http2::SendRequest<OutgoingBody>,
    /// Requests under way.
    streams: Rc<Cell<u32>>,
    /// When it was last used, by the pool's clock.
    used: Cell<u64>,
    idle_seconds: u64,
    requests_left: Cell<u32>,
    /// When it takes no further request.
    retires: Option<Instant>,
}

/// A request under way on an HTTP/2 connection.
#[derive(Debug)]
struct StreamPermit(Rc<Cell<u32>>);

/// The body of a response over HTTP/2; the request counts on its connection until it is dropped.
#[derive(Debug)]
pub(crate) struct Http2Body {
    pub(crate) body: Incoming,
    _permit: StreamPermit,
}

impl Http2Body {
    fn new(body: Incoming, permit: StreamPermit) -> Self {
        Self { body, _permit: permit }
    }
}

impl Http2 {
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(crate) fn streams(&self) -> u32 {
        self.streams.get()
    }

    /// Marks the connection as used.
    pub(crate) fn touch(&self, now: u64) {
        self.used.set(now);
    }

    /// Whether it has been without a request for too long, or has none and takes no other.
    pub(crate) fn is_stale(&self, now: u64) -> bool {
        self.streams.get() == 0 && (now.saturating_sub(self.used.get()) > self.idle_seconds || self.is_spent())
    }

    /// Whether it has carried all that it may.
    pub(crate) fn is_spent(&self) -> bool {
        self.requests_left.get() == 0 || self.retires.is_some_and(|at| at <= Instant::now())
    }

    fn permit(&self) -> StreamPermit {
        self.requests_left.set(self.requests_left.get().saturating_sub(1));
        self.streams.set(self.streams.get() + 1);
        StreamPermit(Rc::clone(&self.streams))
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn send_http2(
    worker: &Rc<Worker>,
    cluster: &WorkerCluster,
    peer: &Peer,
    head: &RequestParts,
    body: OutgoingBody,
    reuse: bool,
) -> Result<Response<Source>, SendFailure> {
    let most = cluster.state.cluster.policy.connections.max_streams.unwrap_or(u32::MAX);
    let pooled = if reuse { worker.pool.take_http2(peer, most) } else { None };
    let reused = pooled.is_some();
    let connection = match pooled {
        Some(connection) => connection,
        None => open_http2(worker, cluster, peer, reuse, most).await?,
    };
    worker.metrics.count(if reused { Count::UpstreamRequestsReused } else { Count::UpstreamRequestsNew });
    let permit = connection.permit();
    let request = http2_request(head, body, peer.tls().is_some()).ok_or(SendFailure::unsent(LocalReply::BadRequest))?;
    let mut sender = connection.sender.clone();
    drop(connection);
    match sender.try_send_request(request).await {
        Ok(response) => Ok(Response::from(response).map(|body| Source::Http2(Http2Body::new(body, permit)))),
        Err(mut error) => match error.take_message() {
            // The connection ended before it took the request up.
            Some(request) if reused => Err(SendFailure::Stale(request.into_body())),
            // What was not taken up was not sent.
            message => {
                let reply = http2_failure(error.error());
                if reply == LocalReply::UpstreamProtocol {
                    worker.metrics.count(Count::ProtocolViolationsUpstream);
                }
                let reason = tls_reason_of(error.error()).map(|reason| format!("TLS_error: {reason}").into());
                Err(SendFailure::Failed { reply, sent: message.is_none(), reason })
            }
        },
    }
}

async fn open_http2(
    worker: &Rc<Worker>,
    cluster: &WorkerCluster,
    peer: &Peer,
    reuse: bool,
    most: u32,
) -> Result<Rc<Http2>, SendFailure> {
    let settings = &cluster.state.cluster;
    let opening = worker.pool.opening(peer);
    let _turn = opening.lock().await;
    // Whoever had the turn before may have opened one for all who waited.
    if reuse && let Some(connection) = worker.pool.take_http2(peer, most) {
        return Ok(connection);
    }
    let state = &cluster.state;
    let take = || if reuse { worker.pool.take_http2(peer, most) } else { None };
    let permit = match turn(worker, state, peer, take).await.map_err(SendFailure::unsent)? {
        Turn::Free(connection) => return Ok(connection),
        Turn::Open(permit, _) => permit,
    };
    let stream = open(worker, state, peer, Inside::Http2, permit).await?;
    let retires = stream.retires();
    let limits = &worker.process.options.limits;
    let ping = (limits.h2_keep_alive_interval, limits.h2_keep_alive_timeout);
    let (interval, timeout) = settings.policy.connections.ping.unwrap_or(ping);
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_header_list_size(limits.h2_max_header_list_bytes)
        .max_send_buf_size(limits.h2_send_buffer)
        .keep_alive_interval(interval)
        .keep_alive_timeout(timeout);
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (sender, driver) = handshake.map_err(|_| SendFailure::unsent(LocalReply::ConnectFailure))?;
    // Not the peer itself: as long as somebody has that, the pool keeps its connections.
    let in_mesh = peer.is_in_mesh().then(|| (Arc::clone(&worker.process), peer.endpoint.address.clone()));
    spawn_local(async move {
        if let Err(error) = driver.await {
            if let (Some((process, address)), Some(reason)) = (&in_mesh, tls_reason_of(&error)) {
                unagreed(process, address, &reason);
            }
            tracing::debug!(%error, "an HTTP/2 connection to an upstream ended with an error");
        }
    });
    let idle_seconds = settings.idle_timeout.as_secs().max(1);
    let connections = &settings.policy.connections;
    let connection = Rc::new(Http2 {
        sender,
        streams: Rc::default(),
        used: Cell::new(0),
        idle_seconds,
        requests_left: Cell::new(connections.max_requests.unwrap_or(u32::MAX)),
        retires: connections.max_duration.map(|most| Instant::now() + most).into_iter().chain(retires).min(),
    });
    worker.pool.put_http2(peer, &connection);
    Ok(connection)
}

/// The request as HTTP/2 carries it: scheme and authority in the target, no Host. `None` if there is no valid authority.
fn http2_request(head: &RequestParts, body: OutgoingBody, secure: bool) -> Option<Request<OutgoingBody>> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.version_mut() = Version::HTTP_2;
    let mut target = head.uri.clone().into_parts();
    target.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    target.authority = Some(Authority::try_from(authority(head)).ok()?);
    *request.uri_mut() = Uri::from_parts(target).ok()?;
    let mut headers = head.headers.clone();
    headers.remove(HOST);
    if let Some(protocol) = headers.remove(UPGRADE) {
        // RFC 8441 section 4.
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(hyper::ext::Protocol::from(protocol.to_str().ok()?));
        headers.remove(SEC_WEBSOCKET_KEY);
    }
    *request.headers_mut() = headers.into();
    Some(request)
}

/// What a request comes to whose stream has failed.
pub(crate) fn http2_failure(error: &hyper::Error) -> LocalReply {
    match cause::<h2::Error>(error) {
        Some(error) => match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => LocalReply::UpstreamRefusedStream,
            // This end found that the other one breaks the protocol.
            _ if error.is_library() => LocalReply::UpstreamProtocol,
            _ if error.is_reset() => LocalReply::UpstreamReset,
            _ => LocalReply::UpstreamClosed,
        },
        None if error.is_user() => LocalReply::RequestBody,
        None => LocalReply::UpstreamClosed,
    }
}

/// [`tls_reason`] of an HTTP/2 connection: of the errors beneath it that keeps no more than their kind and text.
fn tls_reason_of(error: &hyper::Error) -> Option<String> {
    let error: &std::io::Error = cause(error)?;
    (error.kind() == std::io::ErrorKind::InvalidData).then(|| error.to_string())
}

/// The first error of a type among an error and its causes.
fn cause<E: std::error::Error + 'static>(error: &hyper::Error) -> Option<&E> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        cause = error.source();
    }
    None
}
