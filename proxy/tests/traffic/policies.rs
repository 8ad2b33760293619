//! What routes do beside sending a request on: retries, deadlines, faults, mirrors, CORS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use proxy::Proxy;
use route_model::matching::StringMatch;
use route_model::table::fault::{Abort, Fault, Fraction};
use route_model::table::retry::{RetryOn, RetryPolicy};
use route_model::table::route::Mirror;
use route_model::table::{ClusterId, Forward, Route};
use route_model::verdict::cors::Cors;

use crate::client::{Http1, connect_http2};
use crate::origin::{OK, Origin, Scripted};
use crate::table::{self, cluster, direct, forward, listener, route, to};
use crate::{addr, apply, start};

const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy";

fn retrying(words: &[&str], attempts: u32) -> Arc<RetryPolicy> {
    Arc::new(RetryPolicy {
        attempts,
        on: words.iter().filter_map(|word| RetryOn::parse(word)).fold(RetryOn::default(), |all, one| all | one),
        explicit: true,
        backoff: Duration::from_millis(1),
        ..(*RetryPolicy::mesh_default()).clone()
    })
}

/// A proxy that sends everything to one cluster of these origins.
async fn proxying(action: Forward, origins: &[SocketAddr]) -> Proxy {
    let proxy = start(1);
    serve(&proxy, route("/", forward(action)), origins).await;
    proxy
}

async fn serve(proxy: &Proxy, route: Arc<Route>, origins: &[SocketAddr]) {
    apply(proxy, table::table(vec![listener(80, vec![("*", vec![route])])], vec![cluster("o", origins)])).await;
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    Scripted::new().await.addr
}

#[tokio::test]
async fn a_bad_answer_is_tried_again_with_the_same_body() {
    let origin = Scripted::new().await;
    let proxy = proxying(Forward { retry: Some(retrying(&["5xx"], 2)), ..to(&[(0, 1)]) }, &[origin.addr]).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client.send("POST /pay HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello").await;
    let mut upstream = origin.accept().await;
    for attempt in ["1", "2", "3"] {
        let (line, fields) = upstream.request().await;
        assert_eq!(line, "POST /pay HTTP/1.1");
        assert!(fields.contains(&("x-envoy-attempt-count".into(), attempt.into())), "{fields:?}");
        let mut body = [0; 5];
        tokio::io::AsyncReadExt::read_exact(&mut upstream.io, &mut body).await.unwrap();
        assert_eq!(&body, b"hello");
        upstream.send(if attempt == "3" { OK } else { UNAVAILABLE }).await;
    }
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text()), (200, "ok"));
}

#[tokio::test]
async fn the_last_answer_is_passed_on_when_tries_run_out() {
    let origin = Scripted::new().await;
    let proxy = proxying(Forward { retry: Some(retrying(&["503"], 1)), ..to(&[(0, 1)]) }, &[origin.addr]).await;
    let policy = RetryPolicy { statuses: Box::new([StatusCode::SERVICE_UNAVAILABLE]), ..(*retrying(&[], 1)).clone() };
    serve(&proxy, route("/", forward(Forward { retry: Some(Arc::new(policy)), ..to(&[(0, 1)]) })), &[origin.addr])
        .await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client.ask("h", "/").await;
    let mut upstream = origin.accept().await;
    for _ in 0..2 {
        upstream.request().await;
        upstream.send(UNAVAILABLE).await;
    }
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text()), (503, "busy"));
}

#[tokio::test]
async fn a_dead_endpoint_costs_nobody_a_request() {
    let alive = Origin::http1("alive").await;
    let origins = [nobody().await, alive.addr];
    let retry = Some(RetryPolicy::mesh_default());
    let proxy = proxying(Forward { retry, ..to(&[(0, 1)]) }, &origins).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi").await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.text().ends_with("hi")), (200, true), "{}", reply.text());
    }
}

#[tokio::test]
async fn by_default_a_post_that_was_sent_is_not_sent_twice() {
    let origin = Scripted::new().await;
    let retry = RetryPolicy { explicit: false, ..(*retrying(&["reset"], 2)).clone() };
    let proxy = proxying(Forward { retry: Some(Arc::new(retry)), ..to(&[(0, 1)]) }, &[origin.addr]).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx").await;
    let upstream = origin.accept_request().await;
    drop(upstream);
    assert_eq!(client.reply().await.status, 503);
    assert!(origin.is_left_alone().await);
    // A GET does no harm twice.
    client.ask("h", "/").await;
    drop(origin.accept().await);
    let mut upstream = origin.accept_request().await;
    upstream.send(OK).await;
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_given_up_for_another() {
    let slow = Scripted::new().await;
    let policy =
        RetryPolicy { per_try_timeout: Some(Duration::from_millis(50)), ..(*retrying(&["gateway-error"], 1)).clone() };
    let proxy = proxying(Forward { retry: Some(Arc::new(policy)), ..to(&[(0, 1)]) }, &[slow.addr]).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client.ask("h", "/").await;
    let mut first = slow.accept_request().await;
    let mut second = slow.accept().await;
    assert!(first.is_closed().await);
    second.request().await;
    second.send(OK).await;
    assert_eq!(client.reply().await.status, 200);
    client.ask("h", "/").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text()), (504, "upstream request timeout"));
}

#[tokio::test]
async fn a_body_too_long_to_keep_is_sent_once() {
    let origin = Scripted::new().await;
    let proxy = proxying(Forward { retry: Some(retrying(&["5xx"], 2)), ..to(&[(0, 1)]) }, &[origin.addr]).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    let body = vec![b'x'; 100_000];
    client.send(format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    client.send(&body).await;
    let mut upstream = origin.accept_request().await;
    let mut received = vec![0; body.len()];
    tokio::io::AsyncReadExt::read_exact(&mut upstream.io, &mut received).await.unwrap();
    assert!(received == body);
    upstream.send(UNAVAILABLE).await;
    assert_eq!(client.reply().await.status, 503);
}

#[tokio::test]
async fn a_grpc_clients_own_deadline_holds() {
    let silent = Scripted::new().await;
    let proxy = proxying(Forward { timeout: Some(Duration::from_mins(1)), ..to(&[(0, 1)]) }, &[silent.addr]).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    let head = "POST /s/m HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n";
    client.send(format!("{head}grpc-timeout: 50m\r\n\r\n")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("grpc-status")), (200, Some("4")));
}

#[tokio::test]
async fn a_grpc_stream_that_runs_out_of_time_ends_with_a_status() {
    let origin = Scripted::new().await;
    let proxy = proxying(to(&[(0, 1)]), &[origin.addr]).await;
    let mut client = connect_http2(addr(&proxy, 80)).await;
    let call = Request::post("http://h/s/m").header(CONTENT_TYPE, "application/grpc").header("grpc-timeout", "300m");
    let answer = client.send_request(call.body(Full::default()).unwrap());
    let answering = async {
        let mut upstream = origin.accept_request().await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n";
        upstream.send(format!("{head}\r\n5\r\n\0\0\0\0\0\r\n")).await;
        upstream
    };
    let (answer, mut upstream) = tokio::join!(answer, answering);
    let body = answer.unwrap().into_body().collect().await.expect("an end, not a reset");
    assert_eq!(body.trailers().map(|trailers| trailers["grpc-status"].as_bytes()), Some(&b"4"[..]));
    assert_eq!(body.to_bytes(), &[0; 5][..]);
    assert!(upstream.is_closed().await, "the origin is told");
}

fn with(route: &Arc<Route>, change: impl FnOnce(&mut Route)) -> Arc<Route> {
    let mut route = Route::clone(route);
    change(&mut route);
    Arc::new(route)
}

#[tokio::test]
async fn faults_are_made_in_the_upstreams_place() {
    let origin = Origin::http1("o").await;
    let proxy = start(1);
    let plain = route("/", forward(to(&[(0, 1)])));
    let aborting = |abort| {
        with(&plain, |route| {
            let delay = Some((Fraction::ALWAYS, Duration::from_millis(30)));
            route.fault = Some(Box::new(Fault { delay, abort: Some((Fraction::ALWAYS, abort)) }));
        })
    };
    serve(&proxy, aborting(Abort::Http(StatusCode::IM_A_TEAPOT)), &[origin.addr]).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    let before = std::time::Instant::now();
    let reply = client.get("h", "/").await;
    assert_eq!((reply.status, reply.text()), (418, "fault filter abort"));
    assert!(before.elapsed() >= Duration::from_millis(30));
    assert_eq!(origin.connections(), 0);
    serve(&proxy, aborting(Abort::Grpc(8)), &[origin.addr]).await;
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("grpc-status")), (200, Some("8")));
    let never = with(&plain, |route| {
        let abort = Some((Fraction::NEVER, Abort::Http(StatusCode::IM_A_TEAPOT)));
        route.fault = Some(Box::new(Fault { delay: None, abort }));
    });
    serve(&proxy, never, &[origin.addr]).await;
    assert_eq!(client.get("h", "/").await.status, 200);
}

#[tokio::test]
async fn mirrors_get_a_copy_and_nobody_waits_for_them() {
    let (origin, mirror) = (Origin::http1("o").await, Scripted::new().await);
    let proxy = start(1);
    let mirrors = Box::new([Mirror { cluster: ClusterId(1), fraction: Fraction::ALWAYS }]);
    let action = forward(Forward { mirrors, ..to(&[(0, 1)]) });
    let listeners = vec![listener(80, vec![("*", vec![route("/", action)])])];
    let clusters = vec![cluster("o", &[origin.addr]), cluster("m", &[mirror.addr])];
    apply(&proxy, table::table(listeners, clusters)).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client.send("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody").await;
    // The mirror has said nothing yet.
    assert!(client.reply().await.text().ends_with("body"));
    let mut copy = mirror.accept().await;
    let (line, fields) = copy.request().await;
    assert_eq!(line, "POST /x HTTP/1.1");
    assert!(fields.contains(&("host".into(), "h".into())), "{fields:?}");
    let mut body = [0; 4];
    tokio::io::AsyncReadExt::read_exact(&mut copy.io, &mut body).await.unwrap();
    assert_eq!(&body, b"body");
    copy.send(OK).await;
    // Its connection is kept for the next copy.
    assert_eq!(client.get("h", "/y").await.status, 200);
    assert_eq!(copy.request().await.0, "GET /y HTTP/1.1");
}

#[tokio::test]
async fn a_mirror_that_is_away_harms_nobody() {
    let origin = Origin::http1("o").await;
    let proxy = start(1);
    let mirrors = [1, 7].map(|cluster| Mirror { cluster: ClusterId(cluster), fraction: Fraction::ALWAYS });
    let action = forward(Forward { mirrors: Box::new(mirrors), ..to(&[(0, 1)]) });
    let listeners = vec![listener(80, vec![("*", vec![route("/", action)])])];
    let clusters = vec![cluster("o", &[origin.addr]), cluster("m", &[nobody().await])];
    apply(&proxy, table::table(listeners, clusters)).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for _ in 0..10 {
        assert_eq!(client.get("h", "/").await.status, 200);
    }
}

#[tokio::test]
async fn browsers_are_told_who_may_read() {
    let origin = Origin::http1("o").await;
    let proxy = start(1);
    let cors = Cors {
        origins: Box::new([StringMatch::Exact("https://shop.test".into())]),
        methods: Some(HeaderValue::from_static("GET,PUT")),
        max_age: Some(HeaderValue::from(600)),
        expose: Some(HeaderValue::from_static("x-total")),
        ..Cors::default()
    };
    let crossing = |action| with(&route("/", action), |route| route.cors = Some(Box::new(cors.clone())));
    serve(&proxy, crossing(forward(to(&[(0, 1)]))), &[origin.addr]).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    let ask = "Access-Control-Request-Method: PUT\r\n";
    client.send(format!("OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: https://shop.test\r\n{ask}\r\n")).await;
    let preflight = client.reply().await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (200, Some("https://shop.test")));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET,PUT"));
    assert_eq!(preflight.header("access-control-max-age"), Some("600"));
    assert_eq!(origin.connections(), 0);
    client.send("GET / HTTP/1.1\r\nHost: h\r\nOrigin: https://shop.test\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!(reply.header("access-control-expose-headers"), Some("x-total"));
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://shop.test"));
    // Another origin is not refused: its browser does that.
    client.send(format!("OPTIONS / HTTP/1.1\r\nHost: h\r\nOrigin: https://evil.test\r\n{ask}\r\n")).await;
    let reply = client.reply().await;
    assert!(reply.text().starts_with("o OPTIONS /"), "{}", reply.text());
    assert_eq!(reply.header("access-control-allow-origin"), None);
    serve(&proxy, crossing(direct(200, "here")), &[origin.addr]).await;
    client.send("GET / HTTP/1.1\r\nHost: h\r\nOrigin: https://shop.test\r\n\r\n").await;
    assert_eq!(client.reply().await.header("access-control-allow-origin"), Some("https://shop.test"));
}
