//! Upstreams and clients that misbehave.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use route_model::table::Forward;

use crate::client::{Http1, connect_http2};
use crate::origin::{OK, Scripted};
use crate::table::{self, cluster, forward, listener, route, to};
use crate::{addr, apply, scripted, start};

#[tokio::test]
async fn a_stale_connection_costs_a_retry_and_not_a_request() {
    let (origin, _proxy, mut client) = scripted().await;
    client.ask("h", "/1").await;
    let mut first = origin.accept_request().await;
    first.send(OK).await;
    assert_eq!(client.reply().await.status, 200);
    // The origin closes only when the next request has reached it: the proxy could not have known.
    client.ask("h", "/2").await;
    assert_eq!(first.request().await.0, "GET /2 HTTP/1.1");
    drop(first);
    let mut second = origin.accept().await;
    assert_eq!(second.request().await.0, "GET /2 HTTP/1.1");
    second.send(OK).await;
    assert_eq!(client.reply().await.status, 200);
    // A POST may have been acted upon, so it is not repeated.
    client.send("POST /3 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx").await;
    second.request().await;
    drop(second);
    let reply = client.reply().await;
    assert_eq!(reply.status, 503);
    assert!(reply.text().ends_with("connection termination"), "{}", reply.text());
    assert!(origin.is_left_alone().await);
}

#[tokio::test]
async fn an_idle_connection_that_the_origin_closed_is_not_used() {
    let (origin, _proxy, mut client) = scripted().await;
    for _ in 0..2 {
        // A POST is never retried, so this passes only if the closed connection is noticed.
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").await;
        let mut upstream = origin.accept_request().await;
        upstream.send(OK).await;
        assert_eq!(client.reply().await.status, 200);
        drop(upstream);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_end_the_connection() {
    let (origin, _proxy, mut client) = scripted().await;
    client.ask("h", "/1").await;
    let mut first = origin.accept_request().await;
    first.send(format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")).await;
    assert_eq!(client.reply().await.text(), "ok");
    assert!(first.is_closed().await);
    client.ask("h", "/2").await;
    let mut second = origin.accept_request().await;
    second.send(OK).await;
    assert_eq!(client.reply().await.text(), "ok");
}

#[tokio::test]
async fn a_routes_timeout_is_a_504_and_frees_the_upstream() {
    let origin = Scripted::new().await;
    let proxy = start(1);
    let limited = Forward { timeout: Some(Duration::from_millis(50)), ..to(&[(0, 1)]) };
    let hosts = vec![("*", vec![route("/", forward(limited))])];
    apply(&proxy, table::table(vec![listener(80, hosts)], vec![cluster("o", &[origin.addr])])).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client.ask("h", "/").await;
    let mut upstream = origin.accept_request().await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text()), (504, "upstream request timeout"));
    assert!(upstream.is_closed().await);
    // The time runs to the end of the response: one that has begun is cut.
    client.ask("h", "/").await;
    let mut upstream = origin.accept_request().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert_eq!(client.head().await.unwrap().status, 200);
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut client.io, &mut rest).await;
    assert_eq!(rest, b"half");
}

#[tokio::test]
async fn the_timeout_waits_for_the_request_to_be_complete() {
    let origin = Scripted::new().await;
    let proxy = start(1);
    let limited = Forward { timeout: Some(Duration::from_millis(100)), ..to(&[(0, 1)]) };
    let hosts = vec![("*", vec![route("/", forward(limited))])];
    apply(&proxy, table::table(vec![listener(80, hosts)], vec![cluster("o", &[origin.addr])])).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na").await;
    let mut upstream = origin.accept_request().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.send("b").await;
    upstream.send(OK).await;
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn a_broken_response_is_not_passed_on() {
    let (origin, _proxy, mut client) = scripted().await;
    for broken in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
        "SSH-2.0-OpenSSH\r\n\r\n",
    ] {
        client.ask("h", "/").await;
        let mut upstream = origin.accept_request().await;
        upstream.send(broken).await;
        assert_eq!(client.reply().await.status, 502, "{broken:?}");
        assert!(upstream.is_closed().await);
    }
}

#[tokio::test]
async fn what_came_before_a_response_broke_off_reaches_the_client() {
    let (origin, _proxy, mut client) = scripted().await;
    client.ask("h", "/").await;
    let mut upstream = origin.accept_request().await;
    // All at once: the proxy learns of the end when it takes up the beginning.
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    drop(upstream);
    assert_eq!(client.head().await.expect("a head").status, 200);
    let mut rest = Vec::new();
    let _ = tokio::io::AsyncReadExt::read_to_end(&mut client.io, &mut rest).await;
    assert_eq!(rest, b"half");
}

#[tokio::test]
async fn a_client_that_goes_away_releases_the_upstream() {
    let (origin, proxy, mut client) = scripted().await;
    // While the response is awaited.
    client.ask("h", "/").await;
    let mut upstream = origin.accept_request().await;
    drop(client);
    assert!(upstream.is_closed().await);
    // While the response is coming.
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client.ask("h", "/").await;
    let mut upstream = origin.accept_request().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    client.head().await.unwrap();
    drop(client);
    assert!(upstream.is_closed().await);
    // The same for a stream of HTTP/2.
    let mut client = connect_http2(addr(&proxy, 80)).await;
    let request = Request::get("http://h/").body(Full::<Bytes>::default()).unwrap();
    let response = tokio::spawn(client.send_request(request));
    let mut upstream = origin.accept_request().await;
    response.abort();
    assert!(upstream.is_closed().await);
}

#[tokio::test]
async fn malformed_requests_are_refused_and_the_connection_closed() {
    let (origin, proxy, _) = scripted().await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.0\r\nHost: h\r\n\r\n", 426),
        ("GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    ] {
        let mut client = Http1::connect(addr(&proxy, 80)).await;
        client.send(request).await;
        assert_eq!(client.reply().await.status, status, "{request:?}");
    }
    assert!(origin.is_left_alone().await);
}

#[tokio::test]
async fn a_body_that_turns_out_malformed_is_refused_and_ends_both_connections() {
    let (origin, _proxy, mut client) = scripted().await;
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
    let mut upstream = origin.accept_request().await;
    client.send("1 \r\nb\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (400, Some("close")));
    let mut sent = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut upstream.io, &mut sent).await.unwrap();
    assert!(!sent.contains("0\r\n\r\n") && !sent.contains("smuggled"), "{sent}");
}
