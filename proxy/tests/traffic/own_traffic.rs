//! A proxy to which the traffic of its host is led does not serve itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use proxy::{ListenAddr, Options, OwnTraffic, Proxy};
use route_model::table::cluster::Discovery;
use route_model::table::{Cluster, ListenerProtocol, Outbound, RouteTable, Speaks};
use testkit::{Host, Lan};

use crate::client::Http1;
use crate::mesh::{listener, port};
use crate::table::{cluster, table};
use crate::{addr, apply, metrics, start_with};

const OUTBOUND: u16 = 443;
const MARK: u32 = 1337;

fn sidecar(own_traffic: OwnTraffic) -> Proxy {
    let metrics = ListenAddr { addr: (Ipv4Addr::LOCALHOST, 0).into(), explicit: true };
    start_with(Options { workers: 2, own_traffic, metrics_addr: Some(metrics), ..Options::default() })
}

/// Everything goes where it was going.
fn passthrough() -> RouteTable {
    let outbound = Outbound { unknown: port(Speaks::Detect, 0), ..Outbound::default() };
    let cluster = Cluster { discovery: Discovery::Original, ..cluster("PassthroughCluster", &[]) };
    table(vec![listener(OUTBOUND, ListenerProtocol::Outbound(Arc::new(outbound)))], vec![cluster])
}

/// The client's connection, and the proxy's own that came back.
const TWO: &str = "fairway_downstream_connections_total 2\n";

#[tokio::test]
async fn a_forward_proxy_that_is_asked_for_itself_refuses() {
    let proxy = sidecar(OwnTraffic::Watched);
    apply(&proxy, passthrough()).await;
    let itself = addr(&proxy, OUTBOUND);
    let mut client = Http1::connect(itself).await;
    client.send(&format!("GET http://{itself}/ HTTP/1.1\r\nHost: {itself}\r\n\r\n")).await;
    assert_eq!(client.reply().await.status, 503);
    let counted = metrics(&proxy).await;
    assert!(counted.contains(TWO), "{counted}");
}

/// What a server on a host, or that its traffic is led to, answers a client on the host.
fn ask(host: &Host, to: SocketAddr, path: &str) -> String {
    host.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(20)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: elsewhere\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    })
}

/// Redirects what the host opens, but what has the mark.
fn redirect(host: &Host, port: u16) {
    let rules = format!(
        "table inet t {{\nchain c {{\ntype nat hook output priority -100\nmeta mark {MARK} accept\n\
         oifname != \"lo\" meta l4proto tcp redirect to :{port}\n}}\n}}\n"
    );
    let status = host.command("nft").arg(rules).status().unwrap();
    assert!(status.success(), "nft: scripts/setup installs it");
}

#[test]
fn a_connection_of_its_own_that_is_led_back_is_refused_and_one_with_a_mark_is_not_led_back() {
    let Some(lan) = Lan::new() else { return };
    let other = lan.host("other");
    let server = other.run(|| TcpListener::bind((other.v4, 80)).unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = server.accept() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nelse");
        }
    });
    for (own_traffic, answer) in [(OwnTraffic::Watched, "HTTP/1.1 503 "), (OwnTraffic::Marked(MARK), "HTTP/1.1 200 ")] {
        let host = lan.host("sidecar");
        let proxy = host.run(|| {
            let proxy = sidecar(own_traffic);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(apply(&proxy, passthrough()));
            proxy
        });
        redirect(&host, addr(&proxy, OUTBOUND).port());
        let found = ask(&host, (other.v4, 80).into(), "/");
        assert!(found.starts_with(answer), "{own_traffic:?}: {found}");
        let counted = ask(&host, proxy.bound().metrics.unwrap(), "/metrics");
        assert_eq!(counted.contains(TWO), own_traffic == OwnTraffic::Watched, "{counted}");
    }
}
