//! The data plane as its clients and origins see it: real sockets, tables built by hand.

mod authentication;
mod authorization;
mod body_limits;
mod client;
mod connections;
mod dynamic_dns;
mod failures;
mod faults;
mod locality;
mod mesh;
mod origin;
mod own_traffic;
mod policies;
mod proxy_protocol;
mod rate_limits;
mod reload;
mod routing;
mod streaming;
mod table;
mod tcp;
mod tls;
mod tunnel;
mod upgrades;
mod upstream_tls;
mod upstreams;

use std::sync::Arc;
use std::time::Duration;

use proxy::{Options, Proxy};
use route_model::table::RouteTable;

use crate::client::Http1;
use crate::origin::Scripted;
use crate::table::{cluster, everything_to};

/// A proxy on loopback whose Gateway ports are all mapped to free ones.
pub(crate) fn start(workers: usize) -> Proxy {
    start_with(Options { workers, ..Options::default() })
}

pub(crate) fn start_with(options: Options) -> Proxy {
    let port_map = [80, 81, 443].map(|port| (port, 0)).into();
    Proxy::start(Options { bind: [127, 0, 0, 1].into(), port_map, drain_time: Duration::from_secs(5), ..options })
        .expect("a proxy starts")
}

/// Applies a table that has to be in force as a whole.
pub(crate) async fn apply(proxy: &Proxy, table: RouteTable) {
    let report = proxy.apply(Arc::new(table)).await;
    assert_eq!(report.issues, []);
}

/// A scripted origin, a proxy that sends it everything, and a client of the proxy.
pub(crate) async fn scripted() -> (Scripted, Proxy, Http1) {
    let origin = Scripted::new().await;
    let proxy = start(1);
    apply(&proxy, everything_to(cluster("o", &[origin.addr]))).await;
    let client = Http1::connect(addr(&proxy, 80)).await;
    (origin, proxy, client)
}

/// Where a Gateway port is bound.
pub(crate) fn addr(proxy: &Proxy, port: u16) -> std::net::SocketAddr {
    let bound = proxy.bound();
    bound.listeners.iter().find(|listener| listener.port == port).expect("the port is bound").address
}

/// What a scrape of the metrics sees.
pub(crate) async fn metrics(proxy: &Proxy) -> String {
    let mut client = Http1::connect(proxy.bound().metrics.expect("a port for metrics")).await;
    client.get("h", "/metrics").await.text().to_owned()
}

/// Polls a condition until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come true in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
