//! Gateways: which of them a proxy serves, and how their servers merge into listeners.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::ProxyScope;
use super::finding::{Finding, Severity};
use super::names::{Seniority, qualified_name};
use super::virtual_service::Binding;
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
    pub(super) findings: Vec<Finding>,
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
    pub(super) servers: Servers,
}

#[derive(Debug)]
pub(super) enum Servers {
    /// Plain servers share one set of routes.
    Http(RouteGroup),
    /// Each TLS server has routes of its own.
    Tls(Vec<RouteGroup>),
}

/// The servers that share one set of routes. Of TLS servers it is one.
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
    pub(super) tls: bool,
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
    /// Merges the servers of all Gateways that select the proxy, oldest first.
    pub(super) fn new(set: &ResourceSet, scope: &ProxyScope) -> Self {
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
            for (index, server) in spec.servers.iter().enumerate() {
                if let Err(problem) = merger.add(resource, index, server) {
                    plan.findings.push(problem.finding(resource, index));
                }
            }
        }
        plan.listeners = merger.listeners;
        plan.listeners.sort_by_key(|listener| (listener.port, listener.bind));
        let mut servers: HashMap<Arc<str>, Vec<ServerPlace>, _> = HashMap::default();
        for group in plan.groups() {
            for (index, server) in group.servers.iter().enumerate() {
                let binding = Binding { gateway: server.gateway.clone(), port: server.port, tls: server.tls };
                let place = ServerPlace { group: group.name.clone(), index, binding };
                servers.entry(server.gateway.clone()).or_default().push(place);
            }
        }
        plan.servers = servers;
        plan
    }

    /// The servers of a Gateway (`namespace/name`) that are in force.
    pub(super) fn servers_of(&self, gateway: &str) -> &[ServerPlace] {
        self.servers.get(gateway).map_or(&[], Vec::as_slice)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &RouteGroup> {
        self.listeners.iter().flat_map(|listener| match &listener.servers {
            Servers::Http(group) => std::slice::from_ref(group),
            Servers::Tls(groups) => groups,
        })
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
    by_address: HashMap<(u16, Option<IpAddr>), usize>,
    /// Of TLS servers.
    names: HashSet<Arc<str>>,
    /// Who first served a TLS host of a listener.
    tls_hosts: HashMap<(usize, HostPattern), ServerRef>,
}

impl Merger {
    fn add(&mut self, gateway: &Resource, index: usize, server: &Server) -> Result<(), Problem> {
        let (number, protocol) = server.port.as_ref().map_or((0, ""), |port| (*port.number, port.protocol.as_str()));
        let protocol = Protocol::parse(protocol).ok_or_else(|| {
            Problem::new("port.protocol", "UnknownProtocol", format!("`{protocol}` is no protocol; use HTTP or HTTPS"))
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
        let tls = is_terminating(server, protocol)?;
        let reference = ServerRef { gateway: gateway.key.clone(), index };
        let planned = PlannedServer {
            gateway: qualified_name(&gateway.key),
            server: reference.clone(),
            port,
            hosts: server.hosts.iter().map(|host| ServerHost::parse(host, &gateway.key.namespace)).collect(),
            https_redirect: !tls && server.tls.as_ref().is_some_and(|tls| *tls.https_redirect),
            tls,
        };
        let mut name = group_name(&planned, server, bind);
        if tls && !self.names.insert(name.clone()) {
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
            let servers = if tls { Servers::Tls(vec![group]) } else { Servers::Http(group) };
            self.listeners.push(PlannedListener { port, bind, servers });
            self.by_address.insert((port, bind), at);
            return Ok(());
        };
        match &self.listeners[at].servers {
            Servers::Http(_) if tls => Err(Problem::new(
                "port",
                "PortConflict",
                format!("{address} is taken by a plain HTTP server of an older Gateway; use another port"),
            )),
            Servers::Tls(_) if !tls => Err(Problem::new(
                "port",
                "PortConflict",
                format!("{address} is taken by a TLS server of an older Gateway; use another port"),
            )),
            _ => {
                self.claim_hosts(at, &group.servers[0], &address)?;
                match &mut self.listeners[at].servers {
                    Servers::Http(shared) => shared.servers.extend(group.servers),
                    Servers::Tls(groups) => groups.push(group),
                }
                Ok(())
            }
        }
    }

    /// SNI must lead to one server: a TLS server with a host that is taken is left out whole.
    fn claim_hosts(&mut self, listener: usize, server: &PlannedServer, address: &str) -> Result<(), Problem> {
        if !server.tls {
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

/// Whether a server terminates TLS for HTTP; an error for what cannot be served yet.
fn is_terminating(server: &Server, protocol: Protocol) -> Result<bool, Problem> {
    if protocol.is_http() {
        return Ok(false);
    }
    let mode = server.tls.as_ref().map_or(ServerTlsMode::Passthrough, |tls| *tls.mode);
    match (protocol, mode) {
        (Protocol::Https, ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual) => Ok(true),
        (Protocol::Https | Protocol::Tls, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough) => {
            Err(Problem::new("tls.mode", "NotSupported", "passing TLS through is not supported yet; use mode SIMPLE"))
        }
        (Protocol::Https | Protocol::Tls, ServerTlsMode::IstioMutual) => {
            Err(Problem::new("tls.mode", "NotSupported", "ISTIO_MUTUAL is not supported yet; use mode MUTUAL"))
        }
        _ => Err(Problem::new(
            "port.protocol",
            "NotSupported",
            "only HTTP and HTTPS servers are supported yet; TCP and TLS are not",
        )),
    }
}

/// `http.80`, or with a bind address `http.80.10.0.0.1`; `https.443.<port name>.<gateway>.<namespace>`.
fn group_name(planned: &PlannedServer, server: &Server, bind: Option<IpAddr>) -> Arc<str> {
    let port = planned.port;
    let bind = bind.map_or_else(String::new, |bind| format!(".{bind}"));
    if planned.tls {
        let key = &planned.server.gateway;
        let port_name = server.port.as_ref().map_or("", |port| port.name.as_str());
        format!("https.{port}.{port_name}.{}.{}{bind}", key.name, key.namespace).into()
    } else {
        format!("http.{port}{bind}").into()
    }
}
