//! What resources do at a gateway, case by case: YAML in, the fate of requests out.

mod authentication;
mod authorization;
mod backend;
mod clusters;
mod effective;
mod findings;
mod gateways;
mod headers;
mod incremental;
mod limits;
mod locality;
mod routing;
mod sidecar;
mod streams;
mod tls;
mod topology;
mod traffic;
mod upstream_tls;

use std::fmt::Write as _;
use std::sync::Arc;

use http::HeaderName;

use super::{Compiled, Finding, ProxyRole, ProxyScope, compile};
use crate::kind::Kind;
use crate::request::headers::Headers;
use crate::resource::{Resource, ResourceSet};
use crate::table::route::Action;
use crate::table::{
    ListenerProtocol, Lookup, PortRoutes, RequestHead, Route, RouteTable, StreamRoutes, TlsChoice, TlsRoutes,
};

/// A Gateway on port 80 for every host, and the start of the documents that most cases need.
pub(crate) const EDGE: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default, creationTimestamp: '2026-01-01T00:00:00Z'}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
";

pub(crate) fn scope() -> ProxyScope {
    let labels = [("istio", "ingressgateway"), ("app", "istio-ingressgateway")];
    ProxyScope {
        role: ProxyRole::Gateway,
        namespace: "istio-system".into(),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    }
}

pub(crate) fn resources(yaml: &str) -> Vec<Arc<Resource>> {
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(yaml).expect("YAML");
    let typed = documents.iter().filter(|document| !document.is_null()).map(|document| {
        let kind = document["kind"].as_str().expect("kind");
        let kind = *Kind::ALL.iter().find(|known| known.name() == kind).expect("a known kind");
        Arc::new(Resource::from_object(kind, document).expect("a valid object"))
    });
    typed.collect()
}

pub(crate) fn set(yaml: &str) -> ResourceSet {
    resources(yaml).into_iter().collect()
}

/// A compiled edge.
pub(crate) struct Edge {
    pub(crate) table: RouteTable,
    pub(crate) findings: Vec<Finding>,
}

/// Compiles documents together with the Gateway [`EDGE`].
pub(crate) fn edge(yaml: &str) -> Edge {
    bare(&format!("{EDGE}---{yaml}"))
}

/// Compiles documents alone.
pub(crate) fn bare(yaml: &str) -> Edge {
    let (table, findings) = compile(&set(yaml), &scope());
    Edge { table, findings }
}

/// A VirtualService of the Gateway [`EDGE`] with these `http` rules.
pub(crate) fn virtual_service(name: &str, created: u32, hosts: &str, http: &str) -> String {
    service(name, created, hosts, &format!("http: {http}"))
}

/// A VirtualService of `edge` with what is written in `rules`.
pub(crate) fn service(name: &str, created: u32, hosts: &str, rules: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default, creationTimestamp: '2026-02-01T00:00:{created:02}Z'}}
spec:
  hosts: {hosts}
  gateways: [edge]
  {rules}
"
    )
}

/// A Gateway with servers as `port protocol hosts tls`.
pub(crate) fn gateway(servers: &[(u16, &str, &str, &str)]) -> String {
    let servers: Vec<_> = servers
        .iter()
        .enumerate()
        .map(|(i, (port, protocol, hosts, tls))| {
            let tls = if tls.is_empty() { String::new() } else { format!(", tls: {{{tls}}}") };
            format!("{{port: {{number: {port}, name: p{i}, protocol: {protocol}}}, hosts: {hosts}{tls}}}")
        })
        .collect();
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: default, creationTimestamp: '2026-01-01T00:00:00Z'}}
spec: {{selector: {{istio: ingressgateway}}, servers: [{}]}}
",
        servers.join(", ")
    )
}

/// A rule that sends everything that matches to a cluster named `to`.
pub(crate) fn to(matches: &str, to: &str) -> String {
    format!("{{match: {matches}, route: [{{destination: {{host: {to}.test, port: {{number: 80}}}}}}]}}")
}

impl Edge {
    pub(crate) fn routes(&self, port: u16, sni: Option<&str>) -> Option<&Arc<crate::table::HttpRoutes>> {
        let listener = self.table.listeners.iter().find(|listener| listener.port == port)?;
        match &listener.protocol {
            ListenerProtocol::Http(routes) => Some(routes),
            ListenerProtocol::Tls(tls) => match tls.by_sni.find_sni(sni)? {
                TlsChoice::Terminate(index) => tls.servers[*index as usize].http(),
                TlsChoice::PassThrough(_) => None,
            },
            _ => None,
        }
    }

    /// What becomes of a request: `METHOD authority path?query` and headers, on a plain port.
    pub(crate) fn send(&self, port: u16, request: &str, headers: &[(&str, &str)]) -> String {
        let Some(routes) = self.routes(port, None) else { return "no listener".to_owned() };
        self.lookup(routes, "http", request, headers)
    }

    /// The same over TLS with an SNI.
    pub(crate) fn send_tls(&self, port: u16, sni: &str, request: &str) -> String {
        let Some(routes) = self.routes(port, Some(sni)) else { return "no handshake".to_owned() };
        self.lookup(routes, "https", request, &[])
    }

    fn lookup(
        &self,
        routes: &crate::table::HttpRoutes,
        scheme: &str,
        request: &str,
        headers: &[(&str, &str)],
    ) -> String {
        let with_head = |head: &RequestHead<'_>| match routes.lookup(head) {
            Lookup::NoHost => "404 no host".to_owned(),
            Lookup::NoRoute(host) => format!("404 no route in {}", host.domain),
            Lookup::HttpsRedirect(_) => "301 https".to_owned(),
            Lookup::Route(_, route) => self.describe(route, head),
        };
        head(scheme, request, headers, with_head)
    }

    pub(crate) fn route(&self, port: u16, request: &str) -> Arc<Route> {
        let routes = self.routes(port, None).expect("listener");
        head("http", request, &[], |head| match routes.lookup(head) {
            Lookup::Route(_, route) => route.clone(),
            other => panic!("{request}: {other:?}"),
        })
    }

    fn describe(&self, route: &Route, head: &RequestHead<'_>) -> String {
        match &route.action {
            Action::Forward(forward) => {
                let mut text = String::new();
                for destination in &forward.destinations {
                    let cluster = self.table.cluster(destination.cluster);
                    let name = cluster.map_or("503 NC", |cluster| &*cluster.name);
                    let name = name.strip_prefix("outbound|80||").and_then(|n| n.strip_suffix(".test")).unwrap_or(name);
                    let _ = write!(text, "{}{name}", if text.is_empty() { "" } else { " + " });
                    if forward.destinations.len() > 1 {
                        let _ = write!(text, "*{}", destination.weight);
                    }
                }
                if let Some(rewritten) = route.rewrite_path(head.path) {
                    let _ = write!(text, " as {rewritten}");
                }
                text
            }
            Action::Redirect(redirect) => {
                format!("{} {}", redirect.status.as_u16(), route.location(redirect, head))
            }
            Action::Direct(direct) => {
                format!("{} {:?}", direct.status.as_u16(), String::from_utf8_lossy(&direct.body))
            }
        }
    }

    /// `severity reason resource path` of every finding.
    pub(crate) fn finding_lines(&self) -> Vec<String> {
        lines(&self.findings)
    }
}

pub(crate) fn lines(findings: &[Finding]) -> Vec<String> {
    let line =
        |finding: &Finding| format!("{:?} {} {} {}", finding.severity, finding.reason, finding.resource, finding.path);
    findings.iter().map(line).collect()
}

pub(crate) fn head<R>(
    scheme: &str,
    request: &str,
    headers: &[(&str, &str)],
    with: impl FnOnce(&RequestHead<'_>) -> R,
) -> R {
    let mut words = request.split(' ');
    let (method, authority, target) =
        (words.next().expect("method"), words.next().expect("authority"), words.next().expect("path"));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let mut map = Headers::new();
    for (name, value) in headers {
        map.append(name.parse::<HeaderName>().expect("name"), value.parse().expect("value"));
    }
    with(&RequestHead { method, scheme, authority, path, query, headers: &map, claims: None })
}

/// Everything that a table decides, with cluster ids replaced by what they stand for: equal for equal tables whatever
/// compiler made them.
pub(crate) fn dump(compiled: &Compiled, target: impl Fn(crate::table::ClusterId) -> String) -> String {
    let name_ids = |text: String| {
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once("ClusterId(") {
            let (id, after) = after.split_once(')').expect("an id");
            let _ = write!(out, "{before}{}", target(crate::table::ClusterId(id.trim().parse().expect("a number"))));
            rest = after;
        }
        out + rest
    };
    let routes = |routes: &crate::table::HttpRoutes| {
        let mut hosts: Vec<_> = routes.hosts.iter().collect();
        hosts.sort_by_key(|(domain, _)| (*domain).clone());
        let mut by_host: Vec<_> = routes.authentication.hosts.iter().collect();
        by_host.sort_by_key(|(domain, _)| (*domain).clone());
        let otherwise = &routes.authentication.otherwise;
        let mut text = format!("routes {} {otherwise:?} {by_host:?}\n", routes.name);
        for (domain, host) in hosts {
            let _ = writeln!(text, "host {domain} redirect {}", host.https_redirect);
            for route in host.routes() {
                let _ = writeln!(text, "  {route:?}");
            }
        }
        name_ids(text)
    };
    let streams = |routes: &StreamRoutes| name_ids(format!("{routes:?}\n"));
    let port = |place: &PortRoutes| {
        let streams = place.streams.as_ref().map(|found| streams(found)).unwrap_or_default();
        format!("{:?}\n{}{streams}", place.speaks, routes(&place.http))
    };
    let table = &compiled.table;
    let mut text = format!("{:?} {:?}\n", table.revision, table.settings);
    let mut limits: Vec<_> = table.limits.iter().flatten().map(|policy| format!("{policy:?}\n")).collect();
    limits.sort();
    text += &limits.concat();
    let _ = writeln!(text, "{:?}", table.authorization.policies());
    for listener in &table.listeners {
        let _ = writeln!(text, "listener {:?}:{} {:?}", listener.bind, listener.port, listener.servers);
        match &listener.protocol {
            ListenerProtocol::Http(http) => text += &routes(http),
            ListenerProtocol::Tcp(tcp) => text += &streams(tcp),
            ListenerProtocol::Tls(tls) => {
                for server in &tls.servers {
                    let _ = writeln!(text, "{:?} {:?}", server.server, server.terms);
                    text += &match &server.routes {
                        TlsRoutes::Http(http) => routes(http),
                        TlsRoutes::Tcp(tcp) => streams(tcp),
                    };
                }
                for server in &tls.passthrough {
                    let _ = writeln!(text, "{:?}", server.server);
                    text += &streams(&server.routes);
                }
                let mut sni: Vec<_> = tls.by_sni.iter().map(|(host, i)| format!("{host} {i:?}")).collect();
                sni.sort();
                let _ = writeln!(text, "{sni:?}");
            }
            ListenerProtocol::Service(service) => text += &port(service),
            ListenerProtocol::Outbound(outbound) => {
                let mut addresses: Vec<_> = outbound.by_address.iter().collect();
                addresses.sort_by_key(|(address, _)| **address);
                for (address, routes) in addresses {
                    let _ = write!(text, "to {address:?} {}", port(routes));
                }
                let mut ports: Vec<_> = outbound.by_port.iter().collect();
                ports.sort_by_key(|(number, _)| **number);
                for (number, routes) in ports {
                    let _ = write!(text, "to port {number} {}", port(routes));
                }
                let _ = write!(text, "to others {}", port(&outbound.unknown));
            }
            ListenerProtocol::Inbound { port: only, inbound } => {
                let mut ports: Vec<_> = inbound.ports.iter().collect();
                ports.sort_by_key(|(number, _)| **number);
                for (number, served) in ports {
                    let _ = write!(text, "{only:?} at {number} {:?} {}", served.mutual_tls, port(&served.routes));
                }
                let _ = write!(text, "others {:?} {}", inbound.other.mutual_tls, port(&inbound.other.routes));
            }
        }
    }
    let mut clusters: Vec<_> = (0..)
        .zip(&table.clusters)
        .filter_map(|(id, cluster)| Some(format!("{} {:?}", target(crate::table::ClusterId(id)), cluster.as_ref()?)))
        .collect();
    clusters.sort();
    text + &clusters.join("\n") + &format!("\n{:#?}", compiled.findings)
}
