//! Connections: how many, on which worker, to what kind of endpoint, and how they end.

use std::collections::HashSet;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use proxy::{Limits, Options};
use route_model::table::cluster::{Discovery, Endpoint, EndpointAddress, LoadBalancer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{Http1, connect_http2};
use crate::origin::{OK, Origin, Scripted};
use crate::table::{self, cluster, direct, everything_to, http2, listener, route};
use crate::{addr, apply, eventually, scripted, start, start_with};

fn saying(text: &str) -> route_model::table::RouteTable {
    table::table(vec![listener(80, vec![("*", vec![route("/", direct(200, text))])])], Vec::new())
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so_and_those_within_go_on() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let proxy = start_with(Options { workers: 1, limits, ..Options::default() });
    apply(&proxy, saying("ok")).await;
    let mut first = Http1::connect(addr(&proxy, 80)).await;
    let mut second = Http1::connect(addr(&proxy, 80)).await;
    assert_eq!(first.get("h", "/").await.status, 200);
    assert_eq!(second.get("h", "/").await.status, 200);
    let mut third = Http1::connect(addr(&proxy, 80)).await;
    assert_eq!(third.reply().await.status, 503);
    assert!(third.is_closed().await);
    drop(first);
    let mut served = false;
    for _ in 0..200 {
        let mut client = Http1::connect(addr(&proxy, 80)).await;
        served = client.get("h", "/").await.status == 200;
        if served {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert!(served, "room that was given back is used");
    assert_eq!(second.get("h", "/").await.status, 200);
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_in_time_and_a_slow_head_is_answered() {
    let limits = Limits {
        idle_timeout: std::time::Duration::from_millis(200),
        header_timeout: std::time::Duration::from_millis(200),
        ..Limits::default()
    };
    let proxy = start_with(Options { workers: 1, limits, ..Options::default() });
    apply(&proxy, saying("ok")).await;
    assert!(Http1::connect(addr(&proxy, 80)).await.is_closed().await);
    let mut slow = Http1::connect(addr(&proxy, 80)).await;
    slow.send("GET / HTT").await;
    assert_eq!(slow.reply().await.status, 408);
    assert!(slow.is_closed().await);
    let mut preface = Http1::connect(addr(&proxy, 80)).await;
    preface.send("PR").await;
    assert!(preface.is_closed().await);
}

#[tokio::test]
async fn all_workers_serve() {
    let proxy = start(3);
    apply(&proxy, saying("ok")).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        let mut client = Http1::connect(addr(&proxy, 80)).await;
        assert_eq!(client.get("h", "/").await.status, 200);
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.get("h", "/").await.status, 200);
    }
}

#[tokio::test]
async fn unix_sockets_are_endpoints_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let socket = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = socket.accept().await.unwrap();
        let mut buffer = [0; 4096];
        while stream.read(&mut buffer).await.unwrap() > 0 {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix").await.unwrap();
        }
    });
    let address = EndpointAddress::Unix(path.to_str().unwrap().into());
    let discovery = Discovery::Static([Endpoint::new(address, 1)].into());
    let proxy = start(1);
    apply(&proxy, everything_to(route_model::table::Cluster { discovery, ..cluster("u", &[]) })).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    for _ in 0..3 {
        assert_eq!(client.get("h", "/").await.text(), "unix");
    }
}

#[tokio::test]
async fn endpoints_take_turns() {
    let (a, b) = (Origin::http1("a").await, Origin::http1("b").await);
    let proxy = start(1);
    let cluster = cluster("o", &[a.addr, b.addr]);
    apply(&proxy, everything_to(route_model::table::Cluster { load_balancer: LoadBalancer::RoundRobin, ..cluster }))
        .await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(client.get("h", "/").await.header("x-origin").unwrap().to_owned());
    }
    assert_eq!(seen[..2].iter().collect::<HashSet<_>>().len(), 2, "{seen:?}");
    assert_eq!(seen[..2], seen[2..]);
}

#[tokio::test]
async fn streams_to_one_origin_share_a_connection() {
    let origin = Origin::http2("o").await;
    let proxy = start(1);
    apply(&proxy, everything_to(http2(cluster("o", &[origin.addr])))).await;
    let client = connect_http2(addr(&proxy, 80)).await;
    let requests = (0..50).map(|_| {
        let mut client = client.clone();
        async move {
            let request = Request::post("http://h/").body(Full::<Bytes>::from("x")).unwrap();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
        }
    });
    futures_util::future::join_all(requests).await;
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_draining_http2_connection_finishes_its_streams() {
    let (origin, proxy, _) = scripted().await;
    let mut client = connect_http2(addr(&proxy, 80)).await;
    let request = Request::get("http://h/").body(Full::<Bytes>::default()).unwrap();
    let response = tokio::spawn(client.send_request(request));
    let mut upstream = origin.accept_request().await;
    apply(&proxy, table::table(Vec::new(), Vec::new())).await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
    let body = response.await.unwrap().unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "done");
    eventually("the connection is closed", || client.is_closed()).await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_gets_no_request_and_its_connections_end() {
    let (a, b) = (Scripted::new().await, Origin::http1("b").await);
    let proxy = start(1);
    apply(&proxy, everything_to(cluster("o", &[a.addr]))).await;
    let mut client = Http1::connect(addr(&proxy, 80)).await;
    client.ask("h", "/").await;
    let mut upstream = a.accept_request().await;
    upstream.send(OK).await;
    assert_eq!(client.reply().await.text(), "ok");
    apply(&proxy, everything_to(cluster("o", &[b.addr]))).await;
    assert_eq!(client.get("h", "/").await.header("x-origin"), Some("b"));
    assert!(upstream.is_closed().await, "the idle connection to the old endpoint is closed");
}
