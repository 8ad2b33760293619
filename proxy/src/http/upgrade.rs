//! Connections that leave HTTP: WebSocket and other upgrades of HTTP/1, extended CONNECT of HTTP/2 (RFC 8441).
//!
//! Bytes are passed on blindly only after the upstream itself agreed to the switch.

use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
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
use crate::upstream::connect::Stream;

const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// The upstream's end of a tunnel, and the request that asked for it.
#[derive(Debug)]
pub(crate) struct Tunnel {
    upstream: Rewound<Stream>,
    exchange: Box<Exchange>,
}

/// The upstream switched protocols: tells the client so, and ties the two ends together once the client knows.
pub(crate) fn switched(
    exchange: Box<Exchange>,
    head: &mut Parts,
    response: Response<Source>,
    protocol: Option<HeaderValue>,
) -> Response<ResponseBody> {
    let (mut response, source) = response.into_parts();
    let upgraded = match source {
        Source::Http1(body) => body.into_upgraded(),
        Source::Local(_) | Source::Http2(..) => None,
    };
    let Some(h1::Upgraded { io, read_ahead }) = upgraded else {
        return reply(exchange, LocalReply::UpstreamProtocol);
    };
    let connection = Rc::clone(&exchange.connection);
    let tunnel = Tunnel { upstream: Rewound::new(read_ahead, io), exchange };
    match head.extensions.remove::<OnUpgrade>() {
        Some(client) => {
            response.status = StatusCode::OK;
            response.headers.remove(SEC_WEBSOCKET_ACCEPT);
            response.headers.remove(CONTENT_LENGTH);
            spawn_local(async move {
                match client.await {
                    Ok(client) => tunnel.run(&connection, TokioIo::new(client)).await,
                    Err(error) => tracing::debug!(%error, "a client left before its tunnel began"),
                }
            });
        }
        None => {
            if let Some(protocol) = protocol {
                response.headers.insert(UPGRADE, protocol);
            }
            connection.tunnel.replace(Some(tunnel));
        }
    }
    Response::from_parts(response, ResponseBody::detached())
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
    let (mut head, _) = request.into_parts();
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
    request::handle(connection, Request::from_parts(head, RequestBody::Empty)).await
}

/// Sixteen random bytes in base64 (RFC 6455 section 4.1), which HTTP/2 clients need not send.
fn websocket_key() -> HeaderValue {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // 128 bits are 21 digits and a last one of which two bits count.
    let mut random = fastrand::u128(..);
    let mut key = [b'='; 24];
    for digit in &mut key[..21] {
        *digit = ALPHABET[(random & 63) as usize];
        random >>= 6;
    }
    key[21] = ALPHABET[((random & 3) << 4) as usize];
    HeaderValue::from_bytes(&key).unwrap_or(HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="))
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
    fn websocket_keys_are_sixteen_bytes_in_base64() {
        let key = websocket_key();
        let key = key.to_str().unwrap();
        assert!(key.len() == 24 && key.ends_with("==") && !key[..22].contains('='), "{key}");
        // The last digit carries two bits.
        assert!("AQgw".contains(&key[21..22]), "{key}");
    }
}
