//! Whose connection it is, as proxies in front say it and as upstreams are told it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use route_model::table::upstream::{ProxyProtocolVersion, UpstreamPolicy};
use route_model::table::{Cluster, Listener, RouteTable};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::client::{Http1, connect_http2};
use crate::origin::{OK, Origin, Scripted};
use crate::table::{cluster, everything_to};
use crate::tcp::{self, counting};
use crate::{addr, apply, metrics, start, start_with};

/// The table with listeners that ask for a header.
fn announced(table: RouteTable) -> RouteTable {
    let asking = |listener: Arc<Listener>| Arc::new(Listener { proxy_protocol: true, ..(*listener).clone() });
    RouteTable { listeners: table.listeners.into_iter().map(asking).collect(), ..table }
}

fn telling(version: ProxyProtocolVersion, cluster: Cluster) -> Cluster {
    Cluster { policy: UpstreamPolicy { proxy_protocol: Some(version), ..cluster.policy }, ..cluster }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn v2(command: u8, more: usize) -> Vec<u8> {
    let mut block = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    block.extend([command, 0x11]);
    block.extend((12 + more as u16).to_be_bytes());
    block.extend([192, 0, 2, 7, 192, 0, 2, 1, 0x1f, 0x90, 0, 80]);
    block.resize(block.len() + more, 0xee);
    block
}

#[tokio::test]
async fn the_client_that_a_header_names_is_the_client() {
    let origin = Origin::http1("one").await;
    let proxy = start(1);
    apply(&proxy, announced(everything_to(cluster("o", &[origin.addr])))).await;
    let line = b"PROXY TCP4 192.0.2.7 192.0.2.1 8080 80\r\n".to_vec();
    for (header, client) in [
        (line.clone(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 8080 80\r\n".to_vec(), "2001:db8::7"),
        (v2(0x21, 0), "192.0.2.7"),
        (v2(0x21, 3000), "192.0.2.7"),
        // A health check speaks for itself.
        (v2(0x20, 0), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        // All at once, and in two parts that both end within the header.
        for cut in [None, Some(5), Some(13)] {
            let mut connection = Http1::connect(addr(&proxy, 80)).await;
            let all = [&header[..], REQUEST].concat();
            let (first, second) = all.split_at(cut.unwrap_or(all.len()));
            connection.send(first).await;
            tokio::task::yield_now().await;
            connection.send(second).await;
            let reply = connection.reply().await;
            assert_eq!(reply.status, 200);
            assert!(reply.text().contains(&format!("x-forwarded-for: {client}\n")), "{client}: {}", reply.text());
        }
    }
}

#[tokio::test]
async fn without_a_header_nothing_is_served() {
    let origin = Origin::http1("one").await;
    let proxy = counting();
    apply(&proxy, announced(everything_to(cluster("o", &[origin.addr])))).await;
    let cases: [Vec<u8>; 5] = [
        REQUEST.to_vec(),
        b"PROXY TCP4 1.2.3.4 nonsense 1 2\r\n".to_vec(),
        [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(),
        v2(0x21, 5000),
        v2(0x31, 0),
    ];
    for (count, bytes) in (1..).zip(cases) {
        let mut connection = Http1::connect(addr(&proxy, 80)).await;
        connection.send(&bytes).await;
        assert!(connection.is_closed().await);
        let text = metrics(&proxy).await;
        assert!(text.contains(&format!("fairway_proxy_headers_refused_total {count}\n")), "{text}");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let limits = proxy::Limits { handshake_timeout: Duration::from_millis(100), ..proxy::Limits::default() };
    let proxy = start_with(proxy::Options { workers: 1, limits, ..proxy::Options::default() });
    let origin = Origin::http1("one").await;
    apply(&proxy, announced(everything_to(cluster("o", &[origin.addr])))).await;
    let mut connection = Http1::connect(addr(&proxy, 80)).await;
    connection.send("PROXY TCP4 1.2.3.4 ").await;
    assert!(connection.is_closed().await);
}

/// An origin that reads a line of version 1 from each connection and then answers requests; and the lines.
async fn told() -> (SocketAddr, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let lines = Arc::<std::sync::Mutex<Vec<String>>>::default();
    let log = Arc::clone(&lines);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut connection = Http1 { io: tokio::io::BufReader::new(stream) };
                let Some(line) = connection.line().await else { return };
                log.lock().unwrap().push(line);
                while let Some(line) = connection.line().await {
                    if line.is_empty() {
                        connection.send(OK).await;
                    }
                }
            });
        }
    });
    (addr, lines)
}

#[tokio::test]
async fn each_clients_connection_has_upstream_connections_of_its_own() {
    let (origin, lines) = told().await;
    let proxy = start(1);
    apply(&proxy, everything_to(telling(ProxyProtocolVersion::V1, cluster("o", &[origin])))).await;
    let mut expected = Vec::new();
    for _ in 0..2 {
        let mut connection = Http1::connect(addr(&proxy, 80)).await;
        let (own, theirs) = {
            let stream = connection.io.get_ref();
            (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
        };
        expected.push(format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}", own.port(), theirs.port()));
        for _ in 0..3 {
            assert_eq!(connection.get("a.test", "/").await.status, 200);
        }
    }
    assert_eq!(*lines.lock().unwrap(), expected, "one connection for three requests, none for another client's");
}

#[tokio::test]
async fn the_second_version_is_binary_and_precedes_http2_too() {
    let origin = Scripted::new().await;
    let proxy = start(1);
    let upstream = crate::table::http2(telling(ProxyProtocolVersion::V2, cluster("o", &[origin.addr])));
    apply(&proxy, everything_to(upstream)).await;
    let mut client = connect_http2(addr(&proxy, 80)).await;
    let request = http::Request::get("http://a.test/").body(http_body_util::Full::default()).unwrap();
    tokio::spawn(async move { client.send_request(request).await });
    let mut upstream = origin.accept().await;
    let mut start = [0; 28 + 3];
    upstream.io.read_exact(&mut start).await.unwrap();
    assert_eq!(&start[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!((&start[16..24], &start[28..]), (&[127, 0, 0, 1, 127, 0, 0, 1][..], &b"PRI"[..]));
}

#[tokio::test]
async fn a_clients_upstream_connections_go_with_it() {
    let (origin, _lines) = told().await;
    let proxy = counting();
    apply(&proxy, everything_to(telling(ProxyProtocolVersion::V1, cluster("o", &[origin])))).await;
    let mut connection = Http1::connect(addr(&proxy, 80)).await;
    assert_eq!(connection.get("a.test", "/").await.status, 200);
    let open = async || metrics(&proxy).await.contains("fairway_upstream_connections_active 1\n");
    assert!(open().await);
    drop(connection);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while open().await {
        assert!(tokio::time::Instant::now() < deadline, "a connection is kept for a client that is gone");
    }
}

#[tokio::test]
async fn bytes_come_from_and_go_to_those_who_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let proxy = start(1);
    let told = telling(ProxyProtocolVersion::V1, cluster("s", &[upstream]));
    apply(&proxy, announced(tcp::raw(vec![told]))).await;
    let mut client = tcp::connect(&proxy, 80).await;
    client.write_all(b"PROXY TCP6 2001:db8::7 ::1 5 6\r\nhello").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut seen = String::new();
    stream.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "PROXY TCP6 2001:db8::7 ::1 5 6\r\nhello");
}
