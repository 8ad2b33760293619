//! Connections that leave HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use route_model::matching::{HeaderField, HeaderPredicate, Predicate, Predicates, StringMatch, UriMatch, ValueMatch};
use route_model::table::Route;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::Http1;
use crate::origin::Origin;
use crate::table::{cluster, direct, everything_to, http2, listener, route, table};
use crate::{addr, apply, scripted, start};

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: x\r\n\r\nfirst";

#[tokio::test]
async fn websockets_pass_and_outlive_a_reload() {
    let (origin, proxy, mut client) = scripted().await;
    client
        .send(
            "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n",
        )
        .await;
    let mut upstream = origin.accept().await;
    let (_, fields) = upstream.request().await;
    for field in [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-key", "k")] {
        assert!(fields.contains(&(field.0.into(), field.1.into())), "{fields:?}");
    }
    upstream.send(SWITCHING).await;
    let head = client.head().await.unwrap();
    assert_eq!(
        (head.status, head.header("upgrade"), head.header("connection")),
        (101, Some("websocket"), Some("upgrade"))
    );
    apply(&proxy, everything_to(cluster("other", &[]))).await;
    let mut text = [0; 5];
    client.io.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"first");
    client.send("hello").await;
    upstream.io.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hello");
    // The end of one direction is passed on, and the other goes on.
    client.io.get_mut().shutdown().await.unwrap();
    assert_eq!(upstream.io.read(&mut text).await.unwrap(), 0);
    upstream.send("later").await;
    drop(upstream);
    client.io.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"later");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn rules_may_ask_for_an_upgrade() {
    let proxy = start(1);
    let upgrade = HeaderPredicate {
        field: HeaderField::parse("upgrade"),
        value: ValueMatch::Text(StringMatch::Exact("websocket".into())),
        inverted: false,
    };
    let (uri, plain) = (UriMatch::everything(), route("/", direct(200, "plain")));
    let predicates = Predicates::new(vec![Predicate::Header(upgrade)]);
    let sockets = Route::new("".into(), (*plain.origin).clone(), uri, predicates, direct(200, "sockets"));
    let hosts = vec![("*", vec![Arc::new(sockets), plain])];
    apply(&proxy, table(vec![listener(80, hosts)], vec![])).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for (upgrade, answer) in [("websocket", "sockets"), ("other", "plain")] {
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n")).await;
        assert_eq!(client.reply().await.text(), answer);
    }
}

#[tokio::test]
async fn an_upgrade_that_the_origin_declines_is_plain_http() {
    let (origin, _proxy, mut client) = scripted().await;
    // The second request looks like data to whoever believes that the protocol was switched already.
    client.send("GET /1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let mut upstream = origin.accept_request().await;
    upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    assert_eq!(client.reply().await.status, 403);
    client.ask("h", "/2").await;
    assert_eq!(upstream.request().await.0, "GET /2 HTTP/1.1");
    upstream.send(SWITCHING).await;
    assert_eq!(client.reply().await.status, 502, "nobody asked for a switch");
}

#[tokio::test]
async fn http2_in_clear_text_is_not_offered_to_the_origin() {
    // Were the switch granted, further requests would bypass all routes.
    let (origin, _proxy, mut client) = scripted().await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: websocket, H2C\r\n\
             HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        )
        .await;
    let mut upstream = origin.accept().await;
    let (_, fields) = upstream.request().await;
    assert!(
        !fields.iter().any(|(name, _)| ["upgrade", "connection", "http2-settings"].contains(&&**name)),
        "{fields:?}"
    );
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 200);
}

async fn over_http2(proxy: SocketAddr) -> SendRequest<Empty<Bytes>> {
    let io = TokioIo::new(TcpStream::connect(proxy).await.expect("connects"));
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("a handshake");
    tokio::spawn(connection);
    client
}

/// A WebSocket over HTTP/2 (RFC 8441 section 5).
fn extended_connect() -> Request<Empty<Bytes>> {
    let request = Request::connect("http://h/ws").version(Version::HTTP_2);
    let request = request.extension(hyper::ext::Protocol::from_static("websocket"));
    request.header("sec-websocket-version", "13").body(Empty::new()).expect("a request")
}

#[tokio::test]
async fn extended_connect_becomes_an_upgrade() {
    let (origin, proxy, _) = scripted().await;
    let mut client = over_http2(addr(&proxy, 80)).await;
    let response = tokio::spawn(client.send_request(extended_connect()));
    let mut upstream = origin.accept().await;
    let (line, fields) = upstream.request().await;
    assert_eq!(line, "GET /ws HTTP/1.1");
    assert!(fields.iter().any(|(name, value)| name == "sec-websocket-key" && value.len() == 24), "{fields:?}");
    upstream.send(SWITCHING).await;
    let response = response.await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut text = [0; 5];
    tunnel.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"first");
    tunnel.write_all(b"hello").await.unwrap();
    upstream.io.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hello");
}

/// An origin over HTTP/2 that takes every extended CONNECT and sends back what it gets.
async fn echoing_http2() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
            assert_eq!(
                request.extensions().get::<hyper::ext::Protocol>().map(hyper::ext::Protocol::as_str),
                Some("websocket")
            );
            tokio::spawn(async move {
                let io = TokioIo::new(hyper::upgrade::on(request).await.expect("a tunnel"));
                let (mut read, mut write) = tokio::io::split(io);
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            Ok::<_, std::convert::Infallible>(http::Response::new(Empty::<Bytes>::new()))
        });
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.enable_connect_protocol().serve_connection(TokioIo::new(stream), service).await;
    });
    addr
}

#[tokio::test]
async fn upgrades_reach_origins_over_http2() {
    let origin = echoing_http2().await;
    let proxy = start(1);
    apply(&proxy, everything_to(http2(cluster("o", &[origin])))).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client
        .send(
            "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    let head = client.head().await.unwrap();
    assert_eq!((head.status, head.header("sec-websocket-accept")), (101, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
    client.send("hello").await;
    let mut text = [0; 5];
    client.io.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hello");
}

#[tokio::test]
async fn extended_connect_reaches_origins_over_http2() {
    let origin = echoing_http2().await;
    let proxy = start(1);
    apply(&proxy, everything_to(http2(cluster("o", &[origin])))).await;
    let response = over_http2(addr(&proxy, 80)).await.send_request(extended_connect()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-accept"), "there is no key to answer");
    let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    tunnel.write_all(b"hello").await.unwrap();
    let mut text = [0; 5];
    tunnel.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"hello");
    // The end of one direction comes back as the end of the other.
    tunnel.shutdown().await.unwrap();
    assert_eq!(tunnel.read(&mut text).await.unwrap(), 0);
}

#[tokio::test]
async fn an_origin_over_http2_that_takes_no_upgrades_costs_one_request() {
    let origin = Origin::http2("o").await;
    let proxy = start(1);
    apply(&proxy, everything_to(http2(cluster("o", &[origin.addr])))).await;
    let mut client = over_http2(addr(&proxy, 80)).await;
    assert_eq!(client.send_request(extended_connect()).await.unwrap().status(), 503);
    let mut http1 = Http1::connect(addr(&proxy, 80)).await;
    http1.send("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(http1.reply().await.status, 503);
    // All three connections go on.
    let response = client.send_request(Request::get("http://h/").body(Empty::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap();
    assert_eq!(http1.get("h", "/").await.status, 200);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_proxy_is_not_asked_for_other_hosts() {
    let origin = Origin::http1("o").await;
    let proxy = start(1);
    apply(&proxy, everything_to(cluster("o", &[origin.addr]))).await;
    let mut client = over_http2(addr(&proxy, 80)).await;
    let connect = Request::connect("other.example:443").version(Version::HTTP_2).body(Empty::new()).unwrap();
    let refused = client.send_request(connect).await.map(|response| response.status().as_u16());
    assert!(refused.as_ref().is_ok_and(|status| (400..500).contains(status)), "{refused:?}");
    assert_eq!(origin.connections(), 0);
}
