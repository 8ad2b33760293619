//! Connections that leave HTTP: WebSocket and other upgrades of HTTP/1, extended CONNECT of HTTP/2 (RFC 8441).
//!
//! Bytes are passed on blindly only after the upstream itself agreed to the switch.

use std::fmt;
use std::rc::Rc;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, UPGRADE};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::task::spawn_local;

use super::body::{RequestBody, ResponseBody, Source};
use super::context::{Connection, Exchange};
use super::local_reply::LocalReply;
use super::request::{self, reply};
use super::rewound::Rewound;
use super::validate;
use crate::drain::Phase;
use crate::h1;
use crate::http::message::{RequestParts, Response};

pub(crate) const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// The upstream's end of a tunnel, and the request that asked for it.
pub(crate) struct Tunnel {
    upstream: Rewound<Box<dyn Io>>,
    exchange: Box<Exchange>,
}

/// A byte stream of either protocol; tunnels live long, so that the indirection costs nothing.
trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<I: AsyncRead + AsyncWrite + Unpin> Io for I {}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

/// Whether an upstream agreed to the switch that the request asked for: 101, or over HTTP/2 any success of an extended
/// CONNECT.
pub(crate) fn is_agreed(head: &RequestParts, response: &Response<Source>) -> bool {
    match response.body() {
        Source::Http2(_) => response.status().is_success() && head.headers.contains_key(UPGRADE),
        Source::Http1(_) | Source::Local(_) | Source::Broken(_) => response.status() == StatusCode::SWITCHING_PROTOCOLS,
    }
}

/// The upstream switched protocols: tells the client so, and ties the two ends together once the client knows.
pub(crate) async fn switched(
    mut exchange: Box<Exchange>,
    head: &mut RequestParts,
    response: Response<Source>,
) -> Response<ResponseBody> {
    let (mut response, source) = response.into_parts();
    let upstream: Option<Rewound<Box<dyn Io>>> = match source {
        Source::Http2(_) => match response.extensions.remove::<OnUpgrade>() {
            Some(upgraded) => {
                upgraded.await.ok().map(|io| Rewound::new(BytesMut::new(), Box::new(TokioIo::new(io)) as _))
            }
            None => None,
        },
        Source::Http1(body) => {
            body.into_upgraded().map(|upgraded| Rewound::new(upgraded.read_ahead, Box::new(upgraded.io) as _))
        }
        Source::Local(_) | Source::Broken(_) => None,
    };
    let Some(upstream) = upstream else { return reply(exchange, LocalReply::UpstreamProtocol) };
    response.headers.remove(CONTENT_LENGTH);
    let client = head.extensions.remove::<OnUpgrade>();
    response.status = if client.is_some() { StatusCode::OK } else { StatusCode::SWITCHING_PROTOCOLS };
    exchange.status = Some(response.status);
    let connection = Rc::clone(&exchange.connection);
    let tunnel = Tunnel { upstream, exchange };
    if let Some(client) = client {
        response.headers.remove(SEC_WEBSOCKET_ACCEPT);
        spawn_local(async move {
            match client.await {
                Ok(client) => tunnel.run(&connection, TokioIo::new(client)).await,
                Err(error) => tracing::debug!(%error, "a client left before its tunnel began"),
            }
        });
    } else {
        if let Some(protocol) = head.headers.remove(UPGRADE) {
            response.headers.insert(UPGRADE, protocol);
        }
        if let Some(key) = head.headers.get(SEC_WEBSOCKET_KEY)
            && !response.headers.contains_key(SEC_WEBSOCKET_ACCEPT)
        {
            response.headers.insert(SEC_WEBSOCKET_ACCEPT, websocket_accept(key));
        }
        connection.tunnel.replace(Some(tunnel));
    }
    Response::from_parts(response, ResponseBody::detached())
}

/// The answer to a client's key (RFC 6455 section 4.2.2), which an upstream over HTTP/2 leaves to us.
fn websocket_accept(key: &HeaderValue) -> HeaderValue {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    // Base64 is always a valid value.
    HeaderValue::from_str(&BASE64_STANDARD.encode(digest)).unwrap_or(HeaderValue::from_static(""))
}

/// Runs the tunnel of an HTTP/1 connection that has sent its 101.
pub(crate) async fn tunnel_http1<I>(connection: &Connection, client: h1::Upgraded<I>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    if let Some(tunnel) = connection.tunnel.take() {
        tunnel.run(connection, Rewound::new(client.read_ahead, client.io)).await;
    }
}

/// Takes an extended CONNECT for the upgrade request that an HTTP/1 origin understands.
pub(crate) async fn extended_connect(
    connection: &Rc<Connection>,
    request: Request<Incoming>,
    protocol: hyper::ext::Protocol,
) -> Response<ResponseBody> {
    // The request's stream becomes the tunnel; there is no body beside it.
    let (head, _) = request.into_parts();
    let mut head = Box::new(RequestParts::from(head));
    head.method = Method::GET;
    let max_headers = connection.worker.process.options.limits.max_headers;
    let Ok(protocol) = HeaderValue::from_str(protocol.as_str()) else {
        return request::refuse(connection, validate::Violation::HeaderValue);
    };
    if let Err(violation) = validate::http2_request(&mut head, max_headers) {
        return request::refuse(connection, violation);
    }
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if protocol == "websocket" && !head.headers.contains_key(SEC_WEBSOCKET_KEY) {
        head.headers.insert(SEC_WEBSOCKET_KEY, websocket_key());
    }
    head.headers.insert(UPGRADE, protocol);
    request::handle(connection, head, RequestBody::Empty).await
}

/// Sixteen random bytes in base64 (RFC 6455 section 4.1), which HTTP/2 clients need not send.
fn websocket_key() -> HeaderValue {
    let key = BASE64_STANDARD.encode(fastrand::u128(..).to_be_bytes());
    HeaderValue::from_str(&key).unwrap_or(HeaderValue::from_static(""))
}

impl Tunnel {
    /// Passes bytes both ways until both ends are done or the drain's time is over.
    async fn run<I>(mut self, connection: &Connection, mut client: I)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let ended = tokio::select! {
            ended = copy_bidirectional(&mut client, &mut self.upstream) => ended.map(|_| ()),
            _ = connection.member.beyond(Phase::Draining) => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a tunnel ended with an error");
        }
        let exchange = &mut self.exchange;
        exchange.sent += self.upstream.bytes_read();
        exchange.progress.get_or_insert_default().add(self.upstream.bytes_written());
        exchange.complete = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(websocket_accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(websocket_key().len(), 24);
    }
}
