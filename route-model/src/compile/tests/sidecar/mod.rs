//! What resources do at a sidecar, case by case: YAML in, the fate of connections and requests out.

mod egress;
mod egress_gateway;
mod inbound;
mod incremental;
mod mutual_tls;
mod outbound;

use std::net::SocketAddr;
use std::sync::Arc;

use super::{head, set};
use crate::compile::{ApplicationPort, Finding, ProxyRole, ProxyScope, SidecarScope, compile_sidecar};
use crate::table::route::Action;
use crate::table::{
    Cluster, ClusterId, HttpRoutes, Inbound, ListenerProtocol, Lookup, Outbound, PortRoutes, Route, RouteTable,
    StreamFacts,
};

/// A workload `web` of namespace `shop`.
pub(super) fn scope() -> ProxyScope {
    let labels = [("app", "web"), ("version", "v1")];
    ProxyScope {
        role: ProxyRole::Sidecar,
        namespace: "shop".into(),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
    }
}

/// Its application serves HTTP on 9080, gRPC on 9090, something on 9100 and bytes on 9200.
pub(super) fn local() -> SidecarScope {
    let port = |name: &str, port| ApplicationPort { name: name.into(), port, listen: Vec::new() };
    SidecarScope {
        outbound: vec![address("127.0.0.1:15001")],
        inbound: vec![address("0.0.0.0:15006")],
        ports: vec![port("http-web", 9080), port("grpc", 9090), port("other", 9100), port("tcp", 9200)],
        services: Vec::new(),
    }
}

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A compiled sidecar.
pub(super) struct Mesh {
    pub(super) table: RouteTable,
    pub(super) findings: Vec<Finding>,
}

pub(super) fn sidecar(yaml: &str) -> Mesh {
    of(yaml, &local())
}

pub(super) fn of(yaml: &str, local: &SidecarScope) -> Mesh {
    let (table, findings) = compile_sidecar(&set(yaml), &scope(), local);
    Mesh { table, findings }
}

/// A ServiceEntry of `namespace` with one endpoint, and what else is written in `spec`.
pub(super) fn service(namespace: &str, name: &str, created: u32, hosts: &str, ports: &str, spec: &str) -> String {
    let comma = if spec.is_empty() { "" } else { ", " };
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-01T00:00:{created:02}Z'}}
spec: {{hosts: {hosts}, ports: {ports}, resolution: STATIC, location: MESH_INTERNAL, endpoints: [{{address: 10.0.0.1}}]{comma}{spec}}}
"
    )
}

/// A resource with a spec.
pub(super) fn resource(kind: &str, namespace: &str, name: &str, created: u32, spec: &str) -> String {
    let group = match kind {
        "PeerAuthentication" | "RequestAuthentication" | "AuthorizationPolicy" => "security.istio.io/v1",
        "MeshConfig" | "RateLimitPolicy" => "fairway.dev/v1",
        _ => "networking.istio.io/v1",
    };
    let place = if namespace.is_empty() { String::new() } else { format!("namespace: {namespace}, ") };
    format!(
        "
---
apiVersion: {group}
kind: {kind}
metadata: {{name: {name}, {place}creationTimestamp: '2026-02-01T00:00:{created:02}Z'}}
spec: {spec}
"
    )
}

/// A list with one port.
pub(super) fn port(number: u16, name: &str, protocol: &str) -> String {
    format!("[{{number: {number}, name: {name}, protocol: '{protocol}'}}]")
}

impl Mesh {
    pub(super) fn outbound(&self) -> &Arc<Outbound> {
        let found = self.table.listeners.iter().find_map(|listener| match &listener.protocol {
            ListenerProtocol::Outbound(outbound) => Some(outbound),
            _ => None,
        });
        found.expect("outbound")
    }

    pub(super) fn inbound(&self) -> &Arc<Inbound> {
        let found = self.table.listeners.iter().find_map(|listener| match &listener.protocol {
            ListenerProtocol::Inbound { inbound, .. } => Some(inbound),
            _ => None,
        });
        found.expect("inbound")
    }

    pub(super) fn cluster(&self, name: &str) -> &Cluster {
        let found = self.table.clusters.iter().flatten().find(|cluster| &*cluster.name == name);
        found.unwrap_or_else(|| panic!("no cluster {name}"))
    }

    fn name(&self, id: ClusterId) -> &str {
        self.table.cluster(id).map_or("503 NC", |cluster| &*cluster.name)
    }

    /// What becomes of a request, `METHOD authority path?query`, whose connection was going to an address.
    pub(super) fn send(&self, to: &str, request: &str) -> String {
        self.request(&self.outbound().find(address(to)).http, request)
    }

    pub(super) fn request(&self, routes: &HttpRoutes, request: &str) -> String {
        head("http", request, &[], |head| match routes.lookup(head) {
            Lookup::Route(_, route) => self.describe(route),
            Lookup::NoHost => "404 no host".to_owned(),
            Lookup::NoRoute(host) => format!("404 no route in {}", host.domain),
            Lookup::HttpsRedirect(_) => "301 https".to_owned(),
        })
    }

    fn describe(&self, route: &Route) -> String {
        match &route.action {
            Action::Forward(forward) => {
                let to: Vec<_> = forward.destinations.iter().map(|to| self.name(to.cluster)).collect();
                format!("{} by {}", to.join(" + "), route.name)
            }
            Action::Redirect(redirect) => redirect.status.as_u16().to_string(),
            Action::Direct(direct) => format!("{} by {}", direct.status.as_u16(), route.name),
        }
    }

    /// Where the bytes of a connection go that was going to an address.
    pub(super) fn connect(&self, to: &str, sni: Option<&str>) -> String {
        let to = address(to);
        self.stream(self.outbound().find(to), to, sni)
    }

    pub(super) fn stream(&self, routes: &PortRoutes, to: SocketAddr, sni: Option<&str>) -> String {
        let Some(streams) = &routes.streams else { return "only HTTP".to_owned() };
        let facts = StreamFacts { sni, destination: to.ip(), source: address("127.0.0.1:1").ip() };
        let Some(rule) = streams.find(&facts) else { return "closed".to_owned() };
        let to: Vec<_> = rule.destinations.iter().map(|to| self.name(to.cluster)).collect();
        to.join(" + ")
    }
}
