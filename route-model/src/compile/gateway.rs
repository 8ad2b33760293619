//! Gateways: which of them a proxy serves, and how their servers merge into listeners.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::finding::{Finding, Severity};
use super::names::{Seniority, qualified_name};
use super::topology::{self, Topology};
use super::virtual_service::Binding;
use super::{ProxyRole, ProxyScope};
use crate::field::FieldPath;
use crate::kinds::gateway::{Gateway, Server, ServerTlsMode};
use crate::kinds::protocol::Protocol;
use crate::resource::{Resource, ResourceSet};
use crate::table::{HostPattern, ServerRef};

/// The servers of a proxy, merged.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// By port and bind address.
    pub(super) listeners: Vec<PlannedListener>,
    /// The `namespace/name` of every Gateway that selects the proxy.
    pub(super) gateways: HashMap<Arc<str>, Arc<Resource>, foldhash::fast::RandomState>,
    /// The servers of each Gateway that are in force.
    servers: HashMap<Arc<str>, Vec<ServerPlace>, foldhash::fast::RandomState>,
    /// What each Gateway has to offer beside the hosts of its HTTP servers.
    pub(super) offers: HashMap<Arc<str>, Offer, foldhash::fast::RandomState>,
    pub(super) findings: Vec<Finding>,
}

/// Which rules of VirtualServices the servers of a Gateway that are in force look at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) http: bool,
    pub(super) tls: bool,
    pub(super) tcp: bool,
    /// Of the servers that do not speak HTTP.
    hosts: Vec<ServerHost>,
}

impl Offer {
    /// Whether a server that does not speak HTTP takes a host of a VirtualService in `namespace`, or a part of it.
    pub(super) fn admits(&self, host: &HostPattern, namespace: &str) -> bool {
        let mut open = self.hosts.iter().filter(|own| own.namespace.as_deref().is_none_or(|only| only == namespace));
        open.any(|own| own.pattern.narrower(host).is_some())
    }
}

/// Where a server's routes are, and what VirtualServices are compiled for there.
#[derive(Clone, Debug)]
pub(super) struct ServerPlace {
    /// The name of the route group.
    pub(super) group: Arc<str>,
    /// Index in the group.
    pub(super) index: usize,
    pub(super) binding: Binding,
}

/// One socket address.
#[derive(Debug)]
pub(super) struct PlannedListener {
    pub(super) port: u16,
    pub(super) bind: Option<IpAddr>,
    /// Of the oldest Gateway.
    pub(super) topology: Topology,
    pub(super) servers: Servers,
}

impl PlannedListener {
    /// The `namespace/name` of the Gateway of each server.
    pub(super) fn gateways(&self) -> impl Iterator<Item = &Arc<str>> {
        let groups = match &self.servers {
            Servers::Http(group) | Servers::Tcp(group) => std::slice::from_ref(group),
            Servers::Tls(groups) => groups,
        };
        groups.iter().flat_map(|group| &group.servers).map(|server| &server.gateway)
    }
}

#[derive(Debug)]
pub(super) enum Servers {
    /// Plain servers share one set of routes.
    Http(RouteGroup),
    /// Each TLS server has routes of its own.
    Tls(Vec<RouteGroup>),
    /// Connections carry nothing to choose a server by.
    Tcp(RouteGroup),
}

/// The servers that share one set of routes. Only plain HTTP servers can be more than one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteGroup {
    /// As Istio names the route configuration.
    pub(super) name: Arc<str>,
    pub(super) servers: Vec<PlannedServer>,
}

/// A server as far as routes are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedServer {
    /// The `namespace/name` of its Gateway.
    pub(super) gateway: Arc<str>,
    pub(super) server: ServerRef,
    pub(super) port: u16,
    pub(super) hosts: Vec<ServerHost>,
    pub(super) https_redirect: bool,
    pub(super) kind: ServerKind,
}

/// What a server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerKind {
    Http,
    Https,
    /// Routed by `tcp` rules.
    Tcp,
    /// TLS is terminated, and what is inside is routed by `tcp` rules.
    TlsTcp,
    /// Routed by `tls` rules.
    Passthrough,
}

impl ServerKind {
    /// The client begins with a TLS handshake.
    pub(super) fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::TlsTcp | Self::Passthrough)
    }

    /// The handshake is with this server.
    pub(super) fn terminates(self) -> bool {
        matches!(self, Self::Https | Self::TlsTcp)
    }

    /// Routed by `http` rules.
    pub(super) fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// An entry of `servers[].hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerHost {
    pub(super) pattern: HostPattern,
    /// The namespace whose VirtualServices may bind; `None`: any.
    pub(super) namespace: Option<Arc<str>>,
}

impl ServerHost {
    /// `host`, `*/host`, `./host` or `namespace/host`.
    fn parse(text: &str, gateway_namespace: &Arc<str>) -> Self {
        let (namespace, host) = match text.split_once('/') {
            None | Some(("*", _)) => (None, text.split_once('/').map_or(text, |(_, host)| host)),
            Some((".", host)) => (Some(gateway_namespace.clone()), host),
            Some((namespace, host)) => (Some(namespace.into()), host),
        };
        Self { pattern: HostPattern::new(host), namespace }
    }
}

impl Plan {
    /// Merges the servers of all Gateways that select the proxy, oldest first. No Gateway is for a sidecar.
    pub(super) fn new(set: &ResourceSet, scope: &ProxyScope) -> Self {
        if scope.role == ProxyRole::Sidecar {
            return Self::default();
        }
        let mut selected: Vec<_> = set
            .specs::<Gateway>()
            .filter(|(_, spec)| spec.selector.iter().all(|(key, value)| scope.labels.get(key) == Some(value)))
            .map(|(resource, spec)| (Seniority::of(resource), resource, spec))
            .collect();
        selected.sort_by(|a, b| a.0.cmp(&b.0));
        let mut plan = Self::default();
        let mut merger = Merger::default();
        for (_, resource, spec) in selected {
            plan.gateways.insert(qualified_name(&resource.key), resource.clone());
            let topology = topology::of(resource).unwrap_or_else(|finding| {
                plan.findings.push(finding);
                Topology::default()
            });
            for (index, server) in spec.servers.iter().enumerate() {
                if let Err(problem) = merger.add(resource, index, server, topology) {
                    plan.findings.push(problem.finding(resource, index));
                }
            }
        }
        plan.listeners = merger.listeners;
        plan.findings.append(&mut merger.findings);
        plan.listeners.sort_by_key(|listener| (listener.port, listener.bind));
        let mut servers: HashMap<Arc<str>, Vec<ServerPlace>, _> = HashMap::default();
        for group in plan.groups() {
            for (index, server) in group.servers.iter().enumerate() {
                let binding = Binding {
                    gateway: server.gateway.clone(),
                    port: server.port,
                    tls: server.kind == ServerKind::Https,
                };
                let place = ServerPlace { group: group.name.clone(), index, binding };
                servers.entry(server.gateway.clone()).or_default().push(place);
            }
        }
        plan.servers = servers;
        let mut offers: HashMap<Arc<str>, Offer, _> = HashMap::default();
        for server in plan.all_groups().flat_map(|group| &group.servers) {
            let offer = offers.entry(server.gateway.clone()).or_default();
            match server.kind {
                ServerKind::Http | ServerKind::Https => offer.http = true,
                ServerKind::Passthrough => offer.tls = true,
                ServerKind::Tcp | ServerKind::TlsTcp => offer.tcp = true,
            }
            if !server.kind.is_http() {
                offer.hosts.extend(server.hosts.iter().cloned());
            }
        }
        plan.offers = offers;
        plan
    }

    /// The servers of a Gateway (`namespace/name`) that are in force.
    pub(super) fn servers_of(&self, gateway: &str) -> &[ServerPlace] {
        self.servers.get(gateway).map_or(&[], Vec::as_slice)
    }

    /// The servers of all kinds.
    pub(super) fn all_groups(&self) -> impl Iterator<Item = &RouteGroup> {
        self.listeners.iter().flat_map(|listener| match &listener.servers {
            Servers::Http(group) | Servers::Tcp(group) => std::slice::from_ref(group),
            Servers::Tls(groups) => groups,
        })
    }

    /// Those that are routed by `http` rules.
    pub(super) fn groups(&self) -> impl Iterator<Item = &RouteGroup> {
        self.all_groups().filter(|group| group.servers.iter().all(|server| server.kind.is_http()))
    }

    /// Those that are routed by `tcp` or `tls` rules, each a group of its own.
    pub(super) fn streams(&self) -> impl Iterator<Item = (&RouteGroup, &PlannedServer)> {
        let single = self.all_groups().filter_map(|group| Some((group, group.servers.first()?)));
        single.filter(|(_, server)| !server.kind.is_http())
    }
}

/// Why a server is left out: the field below it, a reason, a sentence.
struct Problem {
    field: &'static str,
    reason: &'static str,
    message: String,
}

impl Problem {
    fn new(field: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { field, reason, message: message.into() }
    }

    fn finding(self, gateway: &Resource, index: usize) -> Finding {
        Finding {
            resource: gateway.key.clone(),
            path: FieldPath::new(&format!("spec.servers[{index}].{}", self.field)),
            severity: Severity::Rejected,
            reason: self.reason,
            message: format!("{}; the server is left out", self.message),
        }
    }
}

#[derive(Default)]
struct Merger {
    listeners: Vec<PlannedListener>,
    /// About servers that are not left out.
    findings: Vec<Finding>,
    by_address: HashMap<(u16, Option<IpAddr>), usize>,
    /// Of TLS servers.
    names: HashSet<Arc<str>>,
    /// Who first served a TLS host of a listener.
    tls_hosts: HashMap<(usize, HostPattern), ServerRef>,
}

impl Merger {
    fn add(&mut self, gateway: &Resource, index: usize, server: &Server, topology: Topology) -> Result<(), Problem> {
        let (number, protocol) = server.port.as_ref().map_or((0, ""), |port| (*port.number, port.protocol.as_str()));
        let protocol = Protocol::parse(protocol).ok_or_else(|| {
            Problem::new(
                "port.protocol",
                "UnknownProtocol",
                format!("`{protocol}` is no protocol; use HTTP, HTTPS, TLS or TCP"),
            )
        })?;
        if server.bind.starts_with("unix:") {
            return Err(Problem::new("bind", "NotSupported", "listening on a Unix socket is not supported yet"));
        }
        let bind = match server.bind.as_str() {
            "" => None,
            bind => Some(bind.parse().map_err(|_| {
                Problem::new(
                    "bind",
                    "InvalidBind",
                    format!("`{bind}` is no IP address; leave it out to use every address"),
                )
            })?),
        };
        let port = u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| {
            Problem::new("port.number", "InvalidPort", format!("{number} is no port; use a number from 1 to 65535"))
        })?;
        let kind = kind(server, protocol)?;
        let reference = ServerRef { gateway: gateway.key.clone(), index };
        let planned = PlannedServer {
            gateway: qualified_name(&gateway.key),
            server: reference.clone(),
            port,
            hosts: server.hosts.iter().map(|host| ServerHost::parse(host, &gateway.key.namespace)).collect(),
            https_redirect: kind == ServerKind::Http && server.tls.as_ref().is_some_and(|tls| *tls.https_redirect),
            kind,
        };
        let mut name = group_name(&planned, server, bind);
        if kind.is_tls() && !self.names.insert(name.clone()) {
            // Port names should be unique in a Gateway; where they are not, the servers still are two.
            name = format!("{name}.{index}").into();
        }
        let group = RouteGroup { name, servers: vec![planned] };
        let address = match bind {
            Some(bind) => format!("{bind}:{port}"),
            None => format!("port {port}"),
        };

        let Some(&at) = self.by_address.get(&(port, bind)) else {
            let at = self.listeners.len();
            self.claim_hosts(at, &group.servers[0], &address)?;
            let servers = match kind {
                ServerKind::Http => Servers::Http(group),
                ServerKind::Tcp => Servers::Tcp(group),
                ServerKind::Https | ServerKind::TlsTcp | ServerKind::Passthrough => Servers::Tls(vec![group]),
            };
            self.listeners.push(PlannedListener { port, bind, topology, servers });
            self.by_address.insert((port, bind), at);
            return Ok(());
        };
        let taken_by = match &self.listeners[at].servers {
            Servers::Http(_) if kind == ServerKind::Http => None,
            Servers::Tls(_) if kind.is_tls() => None,
            Servers::Http(_) => Some("plain HTTP"),
            Servers::Tls(_) => Some("TLS"),
            Servers::Tcp(_) => Some("TCP"),
        };
        if let Some(other) = taken_by {
            return Err(Problem::new(
                "port",
                "PortConflict",
                format!("{address} is taken by a {other} server that comes first; use another port"),
            ));
        }
        self.claim_hosts(at, &group.servers[0], &address)?;
        let listener = &self.listeners[at];
        if listener.topology != topology {
            let older = listener.gateways().next().map_or("", |gateway| &**gateway);
            self.findings.push(topology::overruled(gateway, &address, older, listener.topology));
        }
        match &mut self.listeners[at].servers {
            Servers::Http(shared) | Servers::Tcp(shared) => shared.servers.extend(group.servers),
            Servers::Tls(groups) => groups.push(group),
        }
        Ok(())
    }

    /// SNI must lead to one server: a TLS server with a host that is taken is left out whole.
    fn claim_hosts(&mut self, listener: usize, server: &PlannedServer, address: &str) -> Result<(), Problem> {
        if !server.kind.is_tls() {
            return Ok(());
        }
        for host in &server.hosts {
            if let Some(holder) = self.tls_hosts.get(&(listener, host.pattern.clone())) {
                return Err(Problem::new(
                    "hosts",
                    "DuplicateHost",
                    format!(
                        "TLS for `{}` on {address} is served by {} servers[{}]; give each host to one server",
                        host.pattern, holder.gateway, holder.index
                    ),
                ));
            }
        }
        for host in &server.hosts {
            self.tls_hosts.insert((listener, host.pattern.clone()), server.server.clone());
        }
        Ok(())
    }
}

/// What a server does; an error for what cannot be served yet.
fn kind(server: &Server, protocol: Protocol) -> Result<ServerKind, Problem> {
    let mode = server.tls.as_ref().map_or(ServerTlsMode::Passthrough, |tls| *tls.mode);
    match (protocol, mode) {
        _ if protocol.is_http() => Ok(ServerKind::Http),
        (Protocol::Tcp | Protocol::Mongo | Protocol::Redis | Protocol::Mysql, _) => Ok(ServerKind::Tcp),
        (Protocol::Https | Protocol::Tls, ServerTlsMode::Passthrough) => Ok(ServerKind::Passthrough),
        (Protocol::Https | Protocol::Tls, ServerTlsMode::AutoPassthrough) => Err(Problem::new(
            "tls.mode",
            "NotSupported",
            "AUTO_PASSTHROUGH is not supported yet; use mode PASSTHROUGH and `tls` rules",
        )),
        (Protocol::Https, _) => Ok(ServerKind::Https),
        (Protocol::Tls, _) => Ok(ServerKind::TlsTcp),
        _ => Err(Problem::new(
            "port.protocol",
            "NotSupported",
            "gateways serve HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TLS, TCP, MONGO, REDIS and MYSQL",
        )),
    }
}

/// `http.80` or `tcp.9000`, or with a bind address `http.80.10.0.0.1`; `https.443.<port name>.<gateway>.<namespace>`,
/// `tls.443.…` where TLS is not of HTTP or not terminated.
fn group_name(planned: &PlannedServer, server: &Server, bind: Option<IpAddr>) -> Arc<str> {
    let port = planned.port;
    let bind = bind.map_or_else(String::new, |bind| format!(".{bind}"));
    if planned.kind == ServerKind::Tcp {
        format!("tcp.{port}{bind}").into()
    } else if planned.kind.is_tls() {
        let protocol = if planned.kind == ServerKind::Https { "https" } else { "tls" };
        let key = &planned.server.gateway;
        let port_name = server.port.as_ref().map_or("", |port| port.name.as_str());
        format!("{protocol}.{port}.{port_name}.{}.{}{bind}", key.name, key.namespace).into()
    } else {
        format!("http.{port}{bind}").into()
    }
}
