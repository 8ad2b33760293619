//! The smallest proxy: everything that comes in at one address goes to one origin. For measuring the data plane
//! without a control plane.
//!
//! `relay 127.0.0.1:8080 127.0.0.1:9000 [workers] [http2]`

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy::{Options, Proxy};
use route_model::kind::Kind;
use route_model::matching::{Predicates, UriMatch};
use route_model::meta::{ResourceKey, Revision};
use route_model::table::cluster::{Discovery, Endpoint, EndpointAddress, LoadBalancer, UpstreamProtocol};
use route_model::table::headers::HeaderOps;
use route_model::table::route::RouteOrigin;
use route_model::table::upstream::UpstreamPolicy;
use route_model::table::{
    Action, Cluster, ClusterId, ClusterKey, Destination, Forward, HostIndex, HostPattern, HttpRoutes, Listener,
    ListenerProtocol, Route, RouteTable, VirtualHost,
};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn table(listen: SocketAddr, origin: SocketAddr, http2: bool) -> RouteTable {
    let cluster = Cluster {
        key: ClusterKey { host: "origin".into(), port: 80, subset: None, namespace: "".into() },
        name: "outbound|80||origin".into(),
        discovery: Discovery::Static([Endpoint::new(EndpointAddress::Ip(origin.ip(), origin.port()), 1)].into()),
        load_balancer: LoadBalancer::LeastRequest,
        protocol: if http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 },
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_hours(1),
        policy: UpstreamPolicy::default(),
        multiplexed: false,
        limits: None,
        service_name: "origin".into(),
        service_namespace: "".into(),
    };
    let destination = Destination {
        cluster: ClusterId(0),
        weight: 1,
        authority: None,
        request_headers: Box::default(),
        response_headers: Box::default(),
    };
    let forward = Forward {
        destinations: [destination].into(),
        total_weight: 1,
        path_rewrite: None,
        timeout: None,
        retry: None,
        mirrors: Box::default(),
        max_request_body: None,
        local_reply_headers: HeaderOps::default(),
    };
    let origin = RouteOrigin {
        virtual_service: ResourceKey::new(Kind::VirtualService, "default", "relay"),
        rule: 0,
        match_index: None,
        delegate: None,
    };
    let action = Action::Forward(Arc::new(forward));
    let route = Arc::new(Route::new("".into(), origin, UriMatch::everything(), Predicates::default(), action));
    let host = HostPattern::new("*");
    let virtual_host = Arc::new(VirtualHost::new(host.clone(), false, vec![route]));
    let routes =
        HttpRoutes { name: "http".into(), hosts: HostIndex::new([(host, virtual_host)]), ..HttpRoutes::default() };
    let listener = Listener {
        bind: Some(listen.ip()),
        proxy_protocol: false,
        port: listen.port(),
        servers: Vec::new(),
        protocol: ListenerProtocol::Http(Arc::new(routes)),
    };
    RouteTable {
        revision: Revision(1),
        listeners: vec![Arc::new(listener)],
        clusters: vec![Some(Arc::new(cluster))],
        ..RouteTable::default()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen: SocketAddr = arguments.next().ok_or("the address to listen on is missing")?.parse()?;
    let origin: SocketAddr = arguments.next().ok_or("the origin's address is missing")?.parse()?;
    let workers = arguments.next().map_or(Ok(1), |workers| workers.parse())?;
    let http2 = arguments.next().is_some_and(|protocol| protocol == "http2");
    let proxy = Proxy::start(Options { workers, ..Options::default() })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        proxy.apply(Arc::new(table(listen, origin, http2))).await;
        println!("{listen} -> {origin}");
        std::future::pending::<()>().await;
    });
    Ok(())
}
