//! Bodies: both ways, long, slow, and with what comes before and after them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::connect_http2;
use crate::origin::Scripted;
use crate::table::{cluster, everything_to, http2};
use crate::{addr, apply, scripted, start};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn long_bodies_pass_both_ways_at_once() {
    let (origin, _proxy, mut client) = scripted().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", 32 * MIB)).await;
    let mut upstream = origin.accept().await;
    let (_, fields) = upstream.request().await;
    assert!(fields.contains(&("content-length".into(), (32 * MIB).to_string())));
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 32 * MIB)).await;
    let sending = |mut write: tokio::net::tcp::OwnedWriteHalf, length: usize| async move {
        let piece = vec![b'x'; 256 * 1024];
        for _ in 0..length / piece.len() {
            write.write_all(&piece).await.unwrap();
        }
        write
    };
    let receiving = |mut read: tokio::net::tcp::OwnedReadHalf, mut head: bool| async move {
        let mut left = 32 * MIB;
        let mut buffer = vec![0; 256 * 1024];
        while left > 0 {
            let count = read.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{left} bytes are missing");
            let mut data = &buffer[..count];
            if std::mem::take(&mut head) {
                let end = data.windows(4).position(|window| window == b"\r\n\r\n").expect("the head in one piece");
                data = &data[end + 4..];
            }
            assert!(data.iter().all(|byte| *byte == b'x'));
            left -= data.len();
        }
        read
    };
    let (client_read, client_write) = client.io.into_inner().into_split();
    let (upstream_read, upstream_write) = upstream.io.into_inner().into_split();
    let request_out = tokio::spawn(sending(client_write, 32 * MIB));
    let response_in = tokio::spawn(receiving(client_read, true));
    // A response that is complete ends the exchange, so its last part waits for the request.
    let response_out = tokio::spawn(sending(upstream_write, 31 * MIB));
    let _upstream_read = tokio::spawn(receiving(upstream_read, false)).await.unwrap();
    let _client_write = request_out.await.unwrap();
    let _upstream_write = tokio::spawn(sending(response_out.await.unwrap(), MIB)).await.unwrap();
    response_in.await.unwrap();
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number of pages") * 4096
}

#[tokio::test]
async fn a_slow_client_holds_the_origin_back() {
    let (origin, _proxy, mut client) = scripted().await;
    client.ask("h", "/").await;
    let mut upstream = origin.accept_request().await;
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1024 * MIB)).await;
    client.head().await.unwrap();
    let before = resident();
    let piece = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(300), upstream.io.get_mut().write_all(&piece)).await
    {
        written.unwrap();
        sent += piece.len();
        assert!(sent < 256 * MIB, "nobody holds the origin back");
    }
    // What was sent fills the sockets' buffers, which are the kernel's.
    assert!(resident().saturating_sub(before) < 4 * MIB, "{} bytes more", resident() - before);
}

#[tokio::test]
async fn trailers_pass_from_http2_to_http2() {
    let proxy = start(1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
            assert_eq!(request.headers()["te"], "trailers");
            let body = request.into_body().collect().await.unwrap();
            let sent = body.trailers().unwrap()["x-sent"].clone();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", sent);
            let frames = [Ok::<_, hyper::Error>(Frame::data(body.to_bytes())), Ok(Frame::trailers(trailers))];
            Ok::<_, hyper::Error>(http::Response::new(StreamBody::new(futures_util::stream::iter(frames))))
        });
        hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
            .await
            .unwrap();
    });
    apply(&proxy, everything_to(http2(cluster("o", &[origin])))).await;
    let io = tokio::net::TcpStream::connect(addr(&proxy, 80)).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), hyper_util::rt::TokioIo::new(io))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sent", "7".parse().unwrap());
    let frames =
        [Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from("message"))), Ok(Frame::trailers(trailers))];
    let request = Request::post("http://h/svc/M").header("te", "trailers").header("content-type", "application/grpc");
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let response = client.send_request(request.body(body).unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "7");
    assert_eq!(body.to_bytes(), "message");
}

#[tokio::test]
async fn chunks_and_trailers_pass_over_http1() {
    let (origin, _proxy, mut client) = scripted().await;
    client
        .send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX-Up: 1\r\n\r\n")
        .await;
    let mut upstream = origin.accept().await;
    let (_, fields) = upstream.request().await;
    assert!(fields.contains(&("transfer-encoding".into(), "chunked".into())), "{fields:?}");
    for line in ["3", "abc", "0"] {
        assert_eq!(upstream.line().await.unwrap(), line);
    }
    assert_eq!(upstream.fields().await, [("x-up".to_owned(), "1".to_owned())]);
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Down: 2\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!(reply.text(), "hi");
    assert_eq!(reply.trailers, [("x-down".to_owned(), "2".to_owned())]);
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let (origin, _proxy, mut client) = scripted().await;
    client.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut upstream = origin.accept().await;
    assert_eq!(upstream.request().await.0, "HEAD / HTTP/1.1");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000")));
    // Both connections go on.
    client.ask("h", "/").await;
    upstream.request().await;
    upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status, 204);
}

#[tokio::test]
async fn the_origin_decides_whether_a_body_is_worth_sending() {
    let (origin, _proxy, mut client) = scripted().await;
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    let mut upstream = origin.accept().await;
    let (_, fields) = upstream.request().await;
    assert!(fields.contains(&("expect".into(), "100-continue".into())));
    upstream.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status, 100);
    client.send("body").await;
    let mut body = [0; 4];
    upstream.io.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"body");
    upstream.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 201);
}

const EARLY: (&str, &str) = ("link", "</a.css>; rel=preload");

/// Answers the next request on a connection of its own, with interim answers before.
async fn answer_late(origin: &Scripted) {
    let mut upstream = origin.accept_request().await;
    upstream.send(format!("HTTP/1.1 103 Early Hints\r\n{}: {}\r\n\r\n", EARLY.0, EARLY.1)).await;
    upstream.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n").await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
}

/// An origin that does the same over HTTP/2.
async fn late_http2() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        let mut connection = h2::server::handshake(stream).await.expect("a handshake");
        while let Some(request) = connection.accept().await {
            let (_, mut respond) = request.expect("a request");
            for status in [103, 102] {
                let interim = Response::builder().status(status).header(EARLY.0, EARLY.1);
                respond.send_informational(interim.body(()).expect("a response")).expect("sends");
            }
            let mut body = respond.send_response(Response::new(()), false).expect("sends");
            body.send_data(Bytes::from("ok"), true).expect("sends");
        }
    });
    addr
}

/// As in Envoy, Early Hints and the like are between the origin and the proxy.
#[tokio::test]
async fn interim_answers_stay_at_the_proxy() {
    let (origin, proxy, mut client) = scripted().await;
    let (reply, ()) = tokio::join!(client.get("h", "/"), answer_late(&origin));
    assert_eq!((reply.status, reply.header(EARLY.0), reply.text()), (200, None, "ok"));
    let mut http2_client = connect_http2(addr(&proxy, 80)).await;
    let request = Request::get("http://h/").body(Full::default()).unwrap();
    let (response, ()) = tokio::join!(http2_client.send_request(request), answer_late(&origin));
    let response = response.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get(EARLY.0)), (200, None));

    apply(&proxy, everything_to(http2(cluster("two", &[late_http2().await])))).await;
    let reply = client.get("h", "/").await;
    assert_eq!((reply.status, reply.header(EARLY.0), reply.text()), (200, None, "ok"));
}

#[tokio::test]
async fn an_answer_before_the_request_is_complete_reaches_the_client() {
    let (origin, _proxy, mut client) = scripted().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", 16 * MIB)).await;
    let mut upstream = origin.accept_request().await;
    upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text()), (413, "big"));
}
