//! Faults, ten thousand times each: every one is counted under its code and flag, and nothing is left of any.

mod clients;
mod http2;
mod memory;
mod origins;
mod rig;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use route_model::table::fault::Fraction;
use route_model::table::retry::RetryPolicy;
use route_model::table::route::Mirror;
use route_model::table::upstream::{CircuitBreakers, RetryBudget, UpstreamPolicy};
use route_model::table::{Cluster, ClusterId, Forward, RouteTable};
use tokio::io::AsyncWriteExt as _;

use self::origins::{Faulty, deaf, gone, refusing, request};
use self::rig::{Client, Got, Rig};
use crate::table::{self, cluster, forward, listener, route, to};
use crate::upstream_tls::{Authority, SecureOrigin, over, simple};

/// How long a route may take where an origin says nothing …
const SHORT: Duration = Duration::from_millis(50);
/// … and where it has to say something before.
const LONGER: Duration = Duration::from_secs(2);

/// Everything to one origin. Connections do not rest for long, so that the proxy comes to hold what it held before.
fn to_origin(addr: SocketAddr) -> RouteTable {
    by(to(&[(0, 1)]), upstream(addr))
}

fn by(action: Forward, cluster: Cluster) -> RouteTable {
    table::table(vec![listener(80, vec![("*", vec![route("/", forward(action))])])], vec![cluster])
}

fn upstream(addr: SocketAddr) -> Cluster {
    // On a busy machine a connection may take long, and that is another fault.
    let connect_timeout = Duration::from_secs(20);
    Cluster { idle_timeout: Duration::from_secs(1), connect_timeout, ..cluster("o", &[addr]) }
}

fn within(timeout: Duration) -> Forward {
    Forward { timeout: Some(timeout), ..to(&[(0, 1)]) }
}

/// Asks again and again, by HTTP/1 and by HTTP/2, and gets the same every time.
async fn asking(rig: &Rig, at_once: usize, got: Got, counted: (u16, &str)) {
    rig.repeat(at_once, &[counted], async |turns| {
        let mut client = Client::either(rig.addr(), &turns).await;
        for turn in turns {
            assert_eq!(client.get("/").await, got, "at {turn}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_refuses() {
    let (addr, _socket) = refusing();
    let rig = Rig::new(to_origin(addr)).await;
    asking(&rig, 20, Got::Whole(503), (503, "UF")).await;
    assert!(rig.sample("fairway_upstream_connect_failures_total").await >= rig::TIMES);
}

#[tokio::test]
async fn an_upstream_that_does_not_accept() {
    let (addr, _socket, _queued) = deaf().await;
    let rig = Rig::new(by(to(&[(0, 1)]), Cluster { connect_timeout: SHORT, ..upstream(addr) })).await;
    asking(&rig, 400, Got::Whole(503), (503, "UF")).await;
}

#[tokio::test]
async fn an_upstream_that_resets_within_its_head() {
    let origin = Faulty::saying(b"HTTP/1.1 200 OK\r\nContent-Le").await;
    let rig = Rig::new(to_origin(origin.addr)).await;
    asking(&rig, 20, Got::Whole(503), (503, "UC")).await;
}

#[tokio::test]
async fn an_upstream_that_resets_within_its_body() {
    let origin = Faulty::saying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let rig = Rig::new(to_origin(origin.addr)).await;
    asking(&rig, 20, Got::Cut(200), (200, "UC")).await;
}

#[tokio::test]
async fn an_upstream_that_stalls_before_its_head() {
    let origin = Faulty::stalling(b"").await;
    let rig = Rig::new(by(within(SHORT), upstream(origin.addr))).await;
    asking(&rig, 400, Got::Whole(504), (504, "UT")).await;
}

#[tokio::test]
async fn an_upstream_that_stalls_within_its_body() {
    let origin = Faulty::stalling(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let rig = Rig::new(by(within(LONGER), upstream(origin.addr))).await;
    asking(&rig, 600, Got::Cut(200), (200, "UT")).await;
}

#[tokio::test]
async fn an_upstream_that_sends_garbage() {
    let origin = Faulty::saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n\x00\xff\x00\xff").await;
    let rig = Rig::new(to_origin(origin.addr)).await;
    asking(&rig, 20, Got::Whole(502), (502, "UPE")).await;
    assert!(rig.sample("fairway_protocol_violations_total{peer=\"upstream\"}").await >= rig::TIMES);
}

#[tokio::test]
async fn an_upstream_that_sends_a_megabyte_of_headers() {
    let origin = Faulty::start(|mut stream| async move {
        if request(&mut stream).await {
            let field = format!("x-padding: {}\r\n", "x".repeat(8 * 1024));
            let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
            for _ in 0..128 {
                sent = sent.and(stream.write_all(field.as_bytes()).await);
            }
            // The proxy has had enough long before.
            gone(stream).await;
        }
    })
    .await;
    let rig = Rig::new(to_origin(origin.addr)).await;
    asking(&rig, 20, Got::Whole(502), (502, "UPE")).await;
}

#[tokio::test]
async fn an_upstream_that_refuses_every_try() {
    let (addr, _socket) = refusing();
    let retry = Arc::new(RetryPolicy { backoff: Duration::from_millis(1), ..(*RetryPolicy::mesh_default()).clone() });
    let tries = retry.attempts as usize;
    let limits =
        CircuitBreakers { retry_budget: Some(RetryBudget { percent: 20.0, minimum: 1_000 }), ..Default::default() };
    let policy = UpstreamPolicy { limits, ..UpstreamPolicy::default() };
    let action = Forward { retry: Some(retry), ..to(&[(0, 1)]) };
    let rig = Rig::new(by(action, Cluster { policy, ..upstream(addr) })).await;
    rig.repeat(100, &[(503, "UF,URX")], async |turns| {
        let mut client = Client::either(rig.addr(), &turns).await;
        for turn in turns {
            assert_eq!(client.get("/").await, Got::Whole(503), "at {turn}");
        }
    })
    .await;
    assert!(rig.sample("fairway_upstream_retries_total").await >= tries * rig::TIMES);
}

#[tokio::test]
async fn a_mirror_that_fails_in_every_way() {
    let fine = Faulty::start(|mut stream| async move {
        while request(&mut stream).await && stream.write_all(crate::origin::OK.as_bytes()).await.is_ok() {}
    })
    .await;
    let (nobody, _socket) = refusing();
    let broken = Faulty::saying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    let silent = Faulty::stalling(b"").await;
    let mirrors = (1..=3).map(|cluster| Mirror { cluster: ClusterId(cluster), fraction: Fraction::ALWAYS }).collect();
    let action = Forward { mirrors, ..within(LONGER) };
    let clusters = [fine.addr, nobody, broken.addr, silent.addr].map(upstream);
    let hosts = vec![("*", vec![route("/", forward(action))])];
    let rig = Rig::new(table::table(vec![listener(80, hosts)], clusters.into())).await;
    asking(&rig, 20, Got::Whole(200), (200, "-")).await;
}

#[tokio::test]
async fn an_upstream_whose_certificate_has_expired() {
    let ca = Authority::new();
    let origin = SecureOrigin::start(&ca.expired("h")).await;
    let rig = Rig::new(by(to(&[(0, 1)]), over(simple(&ca), upstream(origin.addr)))).await;
    rig.repeat_times(2_000, 20, &[(503, "UF")], async |turns| {
        let mut client = Client::http1(rig.addr());
        for turn in turns {
            assert_eq!(client.get("/").await, Got::Whole(503), "at {turn}");
        }
    })
    .await;
    assert_eq!(rig.sample("fairway_upstream_tls_handshakes_total{result=\"failed\"}").await, 3_000);
    assert_eq!(origin.met(), []);
}
