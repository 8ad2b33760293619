//! How long the bodies of requests may be.

use proxy::Proxy;
use route_model::table::Forward;
use route_model::table::retry::RetryPolicy;

use crate::client::{Http1, connect_http2};
use crate::origin::Scripted;
use crate::table::{cluster, forward, http2, listener, route, table, to};
use crate::{addr, apply, start};

/// Ten bytes may come.
async fn limited(origin: &Scripted, retried: bool) -> (Proxy, Http1) {
    let proxy = start(1);
    let retry = retried.then(|| RetryPolicy::mesh_default().clone());
    let action = forward(Forward { max_request_body: Some(10), retry, ..to(&[(0, 1)]) });
    let listener = listener(80, vec![("*", vec![route("/", action)])]);
    apply(&proxy, table(vec![listener], vec![cluster("o", &[origin.addr])])).await;
    let client = Http1::connect(addr(&proxy, 80)).await;
    (proxy, client)
}

#[tokio::test]
async fn a_body_that_says_it_is_too_long_is_refused_before_anybody_is_asked() {
    let origin = Scripted::new().await;
    let (_proxy, mut client) = limited(&origin, false).await;
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text()), (413, "Payload Too Large"));
    assert!(origin.is_left_alone().await);
    // A client that asks first is spared the sending.
    let (_proxy, mut client) = limited(&origin, false).await;
    client.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 413);
    let (_proxy, mut client) = limited(&origin, false).await;
    client
        .send("POST /a.B/C HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc\r\nContent-Length: 11\r\n\r\n")
        .await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("grpc-status")), (200, Some("8")));
}

#[tokio::test]
async fn a_body_of_just_the_length_passes() {
    for retried in [false, true] {
        let origin = Scripted::new().await;
        let (_proxy, mut client) = limited(&origin, retried).await;
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n0123456789").await;
        let mut upstream = origin.accept_request().await;
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(client.reply().await.status, 200);
    }
}

#[tokio::test]
async fn a_body_that_grows_too_long_is_cut_and_refused() {
    for retried in [false, true] {
        let origin = Scripted::new().await;
        let (_proxy, mut client) = limited(&origin, retried).await;
        client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n").await;
        let mut upstream = origin.accept_request().await;
        assert_eq!(upstream.line().await.as_deref(), Some("6"));
        client.send("5\r\n67890\r\n0\r\n\r\n").await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.text()), (413, "Payload Too Large"));
        // What was left of the body is read and thrown away, as after any early answer.
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n01234567890").await;
        assert_eq!(client.reply().await.status, 413);
        // The upstream never sees an end that looks like one.
        assert_eq!(upstream.line().await.as_deref(), Some("012345"));
        assert!(upstream.is_closed().await);
        assert!(origin.is_left_alone().await, "nobody tries again");
    }
}

#[tokio::test]
async fn an_answer_that_began_ends_with_the_body() {
    let origin = Scripted::new().await;
    let (_proxy, mut client) = limited(&origin, false).await;
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n").await;
    let mut upstream = origin.accept_request().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").await;
    assert_eq!(client.head().await.expect("a head").status, 200);
    client.send("5\r\n67890\r\n").await;
    let mut rest = Vec::new();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut client.io, &mut rest);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(10), reading).await.expect("an end in time");
    assert!(b"begun".starts_with(&rest), "{rest:?}");
}

#[tokio::test]
async fn http2_upstreams_change_nothing() {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let origin = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        let (stream, _) = socket.accept().await.expect("accepts");
        let mut connection = h2::server::handshake(stream).await.expect("a handshake");
        let mut unanswered = Vec::new();
        while let Some(Ok(request)) = connection.accept().await {
            unanswered.push(request);
        }
    });
    let proxy = start(1);
    let action = forward(Forward { max_request_body: Some(10), ..to(&[(0, 1)]) });
    apply(
        &proxy,
        table(vec![listener(80, vec![("*", vec![route("/", action)])])], vec![http2(cluster("o", &[origin]))]),
    )
    .await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send("6\r\n012345\r\n5\r\n67890\r\n0\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text()), (413, "Payload Too Large"));
}

#[tokio::test]
async fn http2_clients_are_refused_as_well() {
    let origin = Scripted::new().await;
    let (proxy, _client) = limited(&origin, false).await;
    let mut client = connect_http2(addr(&proxy, 80)).await;
    let body = http_body_util::Full::new(bytes::Bytes::from_static(b"01234567890"));
    let request = http::Request::post("http://h/").body(body).expect("a request");
    assert_eq!(client.send_request(request).await.expect("an answer").status(), 413);
}
