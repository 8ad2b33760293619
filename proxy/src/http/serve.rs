//! A downstream connection: TLS if its listener says so, then HTTP/1 or HTTP/2, whichever the client speaks.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use route_model::table::{ListenerProtocol, TlsChoice, TlsRoutes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::body::{RequestBody, ResponseBody};
use super::context::{Connection, TlsBinding};
use super::facts::ConnectionFacts;
use super::request;
use super::rewound::Rewound;
use super::upgrade;
use super::validate::{self, Violation};
use crate::drain::{Member, Phase};
use crate::h1;
use crate::http::message::{RequestParts, Response};
use crate::listener::ListenerId;
use crate::mesh;
use crate::proxy_protocol::{self, Addresses};
use crate::rt::LocalExecutor;
use crate::tcp::{self, Hello, read_hello};
use crate::telemetry::metrics::Count;
use crate::tls::TlsAcceptor;
use crate::tls::bonds::Bound;
use crate::tls::facts::TlsFacts;
use crate::worker::Worker;

/// What an HTTP/2 client sends first (RFC 9113 section 3.4). No HTTP/1 request begins with its first four bytes.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DECIDING: usize = 4;

/// Bytes that the first read of a connection may bring.
const FIRST_READ: usize = 8 * 1024;

/// How long a client that has connected but said nothing may still begin when its listener drains.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// Serves a connection to its end. `ends` are those of the client's connection, where that is not this one.
pub(crate) async fn serve_connection(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    ends: Option<Box<Addresses>>,
    id: ListenerId,
    member: Member,
) {
    let Ok(local) = stream.local_addr() else { return };
    let facts = match ends {
        None => ConnectionFacts { peer, local, tls: None },
        Some(ends) => ConnectionFacts { peer: ends.source, local: ends.destination, tls: None },
    };
    let acceptor = {
        let table = worker.table_for(id);
        let Some(position) = table.runtime().find_listener(id) else { return };
        let listener = table.runtime().listener_at(position);
        match &listener.listener.protocol {
            ListenerProtocol::Tcp(routes) => {
                let routes = Arc::clone(routes);
                let entrance = tcp::Entrance { listener: id, gateway: None, routes: &routes, captured: false };
                return Box::pin(tcp::serve(worker, table, entrance, stream, facts, member)).await;
            }
            ListenerProtocol::Http(_) | ListenerProtocol::Tls(_) => {}
            ListenerProtocol::Service(_) | ListenerProtocol::Outbound(_) | ListenerProtocol::Inbound { .. } => {
                let listener = Arc::clone(&listener.listener);
                drop(table);
                return Box::pin(mesh::serve(worker, stream, facts, &listener, id, member)).await;
            }
        }
        listener.tls.clone()
    };
    if let Some(acceptor) = acceptor {
        // Boxed, so that plain connections do not pay for its size.
        Box::pin(serve_tls(worker, stream, acceptor, facts, id, member)).await;
        return;
    }
    let connection = Rc::new(Connection::new(worker, id, member, facts, None));
    serve_either(&connection, stream).await;
}

/// Serves a connection that begins with a PROXY header, which says whose it is. Without one nothing is served: whoever
/// comes past those that write it could call himself what he likes.
pub(crate) async fn serve_announced(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    peer: SocketAddr,
    id: ListenerId,
    member: Member,
) {
    let limit = worker.process.options.limits.handshake_timeout;
    let cause = match tokio::time::timeout(limit, proxy_protocol::read(&mut stream)).await {
        Ok(Ok(ends)) => {
            return Box::pin(serve_connection(worker, stream, peer, ends.map(Box::new), id, member)).await;
        }
        Ok(Err(error)) => error.to_string(),
        Err(timeout) => timeout.to_string(),
    };
    worker.metrics.count(Count::ProxyHeadersRefused);
    tracing::debug!(cause, %peer, "a connection has no PROXY header");
}

/// Turns away a connection beyond the limit.
pub(crate) fn refuse(worker: &Worker, stream: &TcpStream, id: ListenerId) {
    worker.metrics.count(Count::DownstreamRefused);
    let table = worker.table_for(id);
    let plain = table
        .runtime()
        .find_listener(id)
        .map(|position| &table.runtime().listener_at(position).listener.protocol)
        .is_some_and(|protocol| matches!(protocol, ListenerProtocol::Http(_)));
    if plain {
        // Whether it arrives does not matter: the connection ends either way.
        let _ = stream.try_write(
            b"HTTP/1.1 503 Service Unavailable\r\nserver: fairway\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        );
    }
}

/// Reads what the client says first. `None` if it goes away or says nothing.
async fn first_bytes<I>(io: &mut I, connection: &Connection) -> Option<BytesMut>
where
    I: AsyncRead + Unpin,
{
    let limits = &connection.worker.process.options.limits;
    let mut start = BytesMut::with_capacity(FIRST_READ);
    let read = tokio::select! {
        read = tokio::time::timeout(limits.idle_timeout, io.read_buf(&mut start)) => Some(read),
        _ = connection.member.beyond(Phase::Open) => None,
    };
    // A connection that was made just before its listener began to drain still gets its first answer.
    let read = match read {
        Some(read) => read,
        None => tokio::time::timeout(DRAIN_GRACE, io.read_buf(&mut start)).await,
    };
    if !matches!(read, Ok(Ok(count)) if count > 0) {
        return None;
    }
    let rest = async {
        while start.len() < DECIDING && PREFACE.starts_with(&start) {
            if !matches!(io.read_buf(&mut start).await, Ok(count) if count > 0) {
                return false;
            }
        }
        true
    };
    let whole = tokio::time::timeout(limits.header_timeout, rest).await;
    matches!(whole, Ok(true)).then_some(start)
}

/// Serves whichever protocol the client speaks.
pub(crate) async fn serve_either<I>(connection: &Rc<Connection>, mut io: I)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Some(start) = first_bytes(&mut io, connection).await else { return };
    if start.starts_with(&PREFACE[..DECIDING]) {
        Box::pin(serve_http2(connection, Rewound::new(start, io))).await;
    } else {
        serve_http1(connection, io, start).await;
    }
}

async fn serve_tls(
    worker: Rc<Worker>,
    mut stream: TcpStream,
    acceptor: TlsAcceptor,
    mut facts: ConnectionFacts,
    id: ListenerId,
    member: Member,
) {
    let deadline = Instant::now() + worker.process.options.limits.handshake_timeout;
    if acceptor.listener().passthrough.is_empty() {
        return terminate(worker, stream, acceptor, facts, id, member, deadline).await;
    }
    // Who the handshake is with depends on the name, and those who are behind need every byte of it.
    let hello = match tokio::time::timeout_at(deadline, read_hello(&mut stream)).await {
        Ok(Ok(hello)) => hello,
        failed => {
            worker.metrics.count(Count::TlsHandshakesFailed);
            let cause = failed
                .map_or_else(|timeout| timeout.to_string(), |r| r.err().map_or_else(String::new, |e| e.to_string()));
            tracing::debug!(cause, peer = %facts.peer, "a connection did not begin with a ClientHello");
            return;
        }
    };
    let Hello { server_name, bytes, .. } = hello;
    let stream = Rewound::new(bytes, stream);
    let listener = Arc::clone(acceptor.listener());
    if let Some(TlsChoice::PassThrough(index)) = listener.by_sni.find_sni(server_name.as_deref())
        && let Some(server) = listener.passthrough.get(*index as usize)
    {
        facts.tls = Some(Box::new(TlsFacts { server_name, ..TlsFacts::default() }));
        let table = worker.table_for(id);
        let entrance = tcp::Entrance {
            listener: id,
            gateway: Some(&server.server.gateway),
            routes: &server.routes,
            captured: false,
        };
        Box::pin(tcp::serve(worker, table, entrance, stream, facts, member)).await;
    } else {
        terminate(worker, stream, acceptor, facts, id, member, deadline).await;
    }
}

/// Runs the handshake and serves what is inside.
async fn terminate<I>(
    worker: Rc<Worker>,
    stream: I,
    acceptor: TlsAcceptor,
    mut facts: ConnectionFacts,
    id: ListenerId,
    member: Member,
    deadline: Instant,
) where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let handshake = async {
        // The semaphore is never closed.
        let _turn = worker.handshakes.acquire().await;
        acceptor.accept(stream).await
    };
    let accepted = match tokio::time::timeout_at(deadline, handshake).await {
        Ok(Ok(accepted)) => accepted,
        failed => {
            worker.metrics.count(Count::TlsHandshakesFailed);
            let cause = failed
                .map_or_else(|timeout| timeout.to_string(), |r| r.err().map_or_else(String::new, |e| e.to_string()));
            tracing::debug!(cause, peer = %facts.peer, "a TLS handshake failed");
            return;
        }
    };
    worker.metrics.count(Count::TlsHandshakes);
    let chain = accepted.stream.get_ref().1.peer_certificates().filter(|_| accepted.within_mesh);
    let bond = worker.bonds.enter(chain);
    // Boxed, because a future holds its stream once for every function that it passes through.
    let stream = Box::new(Bound::new(accepted.stream, bond));
    if accepted.resumed {
        worker.metrics.count(Count::TlsResumed);
    }
    if let TlsRoutes::Tcp(routes) = &accepted.server.routes {
        facts.tls = Some(Box::new(accepted.facts));
        let table = worker.table_for(id);
        let gateway = Some(&accepted.server.server.gateway);
        let entrance = tcp::Entrance { listener: id, gateway, routes, captured: false };
        return Box::pin(tcp::serve(worker, table, entrance, stream, facts, member)).await;
    }
    let binding = TlsBinding { terms: accepted.terms, sni: accepted.facts.server_name.clone() };
    facts.tls = Some(Box::new(accepted.facts));
    let connection = Rc::new(Connection::new(Rc::clone(&worker), id, member, facts, Some(binding)));
    if accepted.http2 {
        Box::pin(serve_http2(&connection, stream)).await;
    } else {
        serve_either(&connection, stream).await;
    }
}

async fn serve_http1<I>(connection: &Rc<Connection>, io: I, start: BytesMut)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let options = connection.worker.http1_options(connection.is_https());
    let drain = connection.member.http1();
    let service = async |request: Result<h1::Request, Violation>| match request {
        Ok(h1::Request { head, body }) => request::handle(connection, head, RequestBody::Http1(body)).await,
        Err(violation) => request::refuse(connection, violation),
    };
    let serving = pin!(h1::serve(io, start, options, drain, service));
    let outcome = tokio::select! {
        biased;
        outcome = serving => outcome,
        () = connection.member.cut() => return,
    };
    if let h1::Outcome::Upgraded(upgraded) = outcome {
        upgrade::tunnel_http1(connection, upgraded).await;
    }
}

pub(crate) async fn serve_http2<I>(connection: &Rc<Connection>, io: I)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let limits = &connection.worker.process.options.limits;
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_concurrent_streams(limits.h2_max_streams)
        .max_header_list_size(limits.h2_max_header_list_bytes)
        .max_send_buf_size(limits.h2_send_buffer)
        .max_pending_accept_reset_streams(limits.h2_max_pending_accept_resets)
        .max_local_error_reset_streams(limits.h2_max_local_error_resets)
        .keep_alive_interval(limits.h2_keep_alive_interval)
        .keep_alive_timeout(limits.h2_keep_alive_timeout)
        .enable_connect_protocol();
    let service = service_fn(|request: Request<Incoming>| {
        let connection = Rc::clone(connection);
        async move { Ok::<_, std::convert::Infallible>(http::Response::from(handle_http2(&connection, request).await)) }
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut seen = Phase::Open;
    let ended = poll_fn(|cx| {
        while let Poll::Ready(phase) = connection.member.poll_beyond(seen, cx) {
            seen = phase;
            match phase {
                Phase::Draining => serving.as_mut().graceful_shutdown(),
                Phase::Cut => return Poll::Ready(Ok(())),
                Phase::Open => {}
            }
        }
        serving.as_mut().poll(cx)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP/2 connection ended with an error");
    }
}

async fn handle_http2(connection: &Rc<Connection>, mut request: Request<Incoming>) -> Response<ResponseBody> {
    if let Some(protocol) = request.extensions_mut().remove::<hyper::ext::Protocol>() {
        return Box::pin(upgrade::extended_connect(connection, request, protocol)).await;
    }
    let (head, body) = request.into_parts();
    let mut head = Box::new(RequestParts::from(head));
    let max_headers = connection.worker.process.options.limits.max_headers;
    if let Err(violation) = validate::http2_request(&mut head, max_headers) {
        return request::refuse(connection, violation);
    }
    request::handle(connection, head, RequestBody::from_http2(body)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function makes, which is never called.
    fn size<A, F: Future>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// Every idle connection holds the whole future of its connection, with room for that of a request.
    #[test]
    fn connections_and_requests_stay_small() {
        type Accepted = (Rc<Worker>, TcpStream, SocketAddr, ListenerId, Member);
        let connection = size(|(worker, stream, peer, id, member): Accepted| {
            serve_connection(worker, stream, peer, None, id, member)
        });
        assert!(connection <= 1920, "a plain connection takes {connection} bytes");
        async fn request((connection, head, body): (Rc<Connection>, Box<RequestParts>, RequestBody)) {
            request::handle(&connection, head, body).await;
        }
        let request = size(request);
        assert!(request <= 2368, "a request takes {request} bytes");
    }
}
