//! Route tables by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use route_model::kind::Kind;
use route_model::matching::{Predicates, UriMatch, UriPattern};
use route_model::meta::{ResourceKey, Revision};
use route_model::table::cluster::{Discovery, Endpoint, EndpointAddress, LoadBalancer, UpstreamProtocol};
use route_model::table::headers::HeaderOps;
use route_model::table::route::{DirectResponse, RouteOrigin};
use route_model::table::upstream::UpstreamPolicy;
use route_model::table::{
    Action, Cluster, ClusterId, ClusterKey, Destination, Forward, HostIndex, HostPattern, HttpRoutes, Listener,
    ListenerProtocol, Route, RouteTable, ServerRef, VirtualHost,
};

pub(crate) fn gateway() -> ResourceKey {
    ResourceKey::new(Kind::Gateway, "default", "edge")
}

/// A cluster of origins on loopback.
pub(crate) fn cluster(host: &str, origins: &[SocketAddr]) -> Cluster {
    let endpoints = origins.iter().map(|origin| Endpoint::new(EndpointAddress::Ip(origin.ip(), origin.port()), 1));
    Cluster {
        key: ClusterKey { host: host.into(), port: 80, subset: None, namespace: "default".into() },
        name: format!("outbound|80||{host}").into(),
        discovery: Discovery::Static(endpoints.collect()),
        load_balancer: LoadBalancer::default(),
        protocol: UpstreamProtocol::Http1,
        connect_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_mins(1),
        policy: UpstreamPolicy::default(),
        multiplexed: false,
        limits: None,
        service_name: host.into(),
        service_namespace: "default".into(),
    }
}

pub(crate) fn http2(cluster: Cluster) -> Cluster {
    Cluster { protocol: UpstreamProtocol::Http2, ..cluster }
}

/// Forwarding to clusters of the table, by position and weight.
pub(crate) fn to(destinations: &[(u32, u32)]) -> Forward {
    Forward {
        destinations: destinations
            .iter()
            .map(|&(cluster, weight)| Destination {
                cluster: ClusterId(cluster),
                weight,
                authority: None,
                request_headers: Box::default(),
                response_headers: Box::default(),
            })
            .collect(),
        total_weight: destinations.iter().map(|(_, weight)| u64::from(*weight)).sum(),
        path_rewrite: None,
        timeout: None,
        retry: None,
        mirrors: Box::default(),
        max_request_body: None,
        local_reply_headers: HeaderOps::default(),
    }
}

pub(crate) fn direct(status: u16, body: &str) -> Action {
    Action::Direct(Arc::new(DirectResponse {
        status: StatusCode::from_u16(status).expect("a status"),
        body: Bytes::copy_from_slice(body.as_bytes()),
        content_type: None,
        response_headers: HeaderOps::default(),
    }))
}

pub(crate) fn forward(forward: Forward) -> Action {
    Action::Forward(Arc::new(forward))
}

/// A route for paths with a prefix.
pub(crate) fn route(prefix: &str, action: Action) -> Arc<Route> {
    let origin = RouteOrigin {
        virtual_service: ResourceKey::new(Kind::VirtualService, "default", "vs"),
        rule: 0,
        match_index: Some(0),
        delegate: None,
    };
    let uri = UriMatch { pattern: UriPattern::Prefix(prefix.into()), ignore_case: false };
    Arc::new(Route::new("".into(), origin, uri, Predicates::default(), action))
}

pub(crate) fn routes(hosts: Vec<(&str, Vec<Arc<Route>>)>) -> Arc<HttpRoutes> {
    let hosts = hosts.into_iter().map(|(host, routes)| {
        let pattern = HostPattern::new(host);
        (pattern.clone(), Arc::new(VirtualHost::new(pattern, false, routes)))
    });
    Arc::new(HttpRoutes { name: "http".into(), hosts: HostIndex::new(hosts), ..HttpRoutes::default() })
}

/// A plain HTTP listener.
pub(crate) fn listener(port: u16, hosts: Vec<(&str, Vec<Arc<Route>>)>) -> Arc<Listener> {
    Arc::new(Listener {
        bind: None,
        proxy_protocol: false,
        port,
        servers: vec![ServerRef { gateway: gateway(), index: 0 }],
        protocol: ListenerProtocol::Http(routes(hosts)),
    })
}

pub(crate) fn table(listeners: Vec<Arc<Listener>>, clusters: Vec<Cluster>) -> RouteTable {
    RouteTable {
        revision: Revision(1),
        listeners,
        clusters: clusters.into_iter().map(|cluster| Some(Arc::new(cluster))).collect(),
        ..RouteTable::default()
    }
}

/// Port 80, every host and path, to one cluster.
pub(crate) fn everything_to(cluster: Cluster) -> RouteTable {
    table(vec![listener(80, vec![("*", vec![route("/", forward(to(&[(0, 1)])))])])], vec![cluster])
}
