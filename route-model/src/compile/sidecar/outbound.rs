//! Where the connections of the workload lead.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::egress::{Egress, Place, Visible, addresses};
use super::http;
use super::pass::{Leads, Pass, Plain};
use super::rules::MeshRules;
use super::streams::{self, Wanted};
use crate::compile::BoundService;
use crate::compile::clusters::own;
use crate::compile::matches::MatchScope;
use crate::compile::mesh::Mesh;
use crate::compile::names::{MESH, is_short, qualify_host};
use crate::compile::rule::{RuleScope, TargetField, target};
use crate::compile::targets::{Target, TargetPort};
use crate::kinds::Protocol;
use crate::meta::ResourceKey;
use crate::table::cluster::{Discovery, UpstreamProtocol};
use crate::table::stream::{StreamRule, Subnet};
use crate::table::{HostPattern, Outbound, PortRoutes, Speaks, StreamRoutes, VirtualHost};

/// Hosts that only VirtualServices know are served there, as in Istio.
const OTHER_HOSTS_PORT: u16 = 80;
/// Where what nobody declares goes, as Istio names it.
const PASSTHROUGH: &str = "PassthroughCluster";

/// What becomes of hosts and connections that no service is known for.
pub(super) struct Unknown {
    /// For requests.
    pub(super) host: Arc<VirtualHost>,
    /// For connections; `None`: they are closed.
    pub(super) rule: Option<Arc<StreamRule>>,
}

impl Unknown {
    pub(super) fn new(pass: &mut Pass<'_>, egress: &Egress<'_>) -> Self {
        let (allowed, origin) = egress.unknown_hosts(pass.context.mesh);
        if !allowed {
            return Self::nowhere(pass, origin);
        }
        let scope = RuleScope {
            matches: MatchScope { gateway: MESH, port: 0, proxy: pass.context.proxy },
            tls: false,
            gateway: &None,
            max_request_body: None,
        };
        let proxy = egress.egress_proxy();
        let proxy = proxy.and_then(|to| target(Some(to), TargetField::Route(0), &origin.namespace, &scope).ok());
        let cluster = if let Some(proxy) = proxy {
            pass.cluster(proxy)
        } else {
            let passthrough = own(PASSTHROUGH, Discovery::Original, UpstreamProtocol::Client, pass.context.mesh);
            pass.own_cluster(passthrough)
        };
        let leads = Leads::To { cluster, retries: false, max_request_body: None };
        let route = pass.plain(Plain { name: "allow_any", origin: origin.clone(), leads });
        let rule = streams::unconditional(&origin, cluster);
        let host = pass.host(&"allow_any".into(), &HostPattern::new("*"), vec![route]);
        Self { host, rule: Some(Arc::new(rule)) }
    }

    /// Where there is no way on, as nothing was redirected: requests are answered 502.
    fn nowhere(pass: &mut Pass<'_>, origin: ResourceKey) -> Self {
        let route = pass.plain(Plain { name: "block_all", origin, leads: Leads::Nowhere });
        Self { host: pass.host(&"block_all".into(), &HostPattern::new("*"), vec![route]), rule: None }
    }

    fn port(&self, pass: &mut Pass<'_>) -> Arc<PortRoutes> {
        let name = Arc::from("unknown");
        let http = pass.http(&name, vec![(HostPattern::new("*"), self.host.clone())]);
        let streams = pass.streams(StreamRoutes::tcp(name.clone(), self.rule.iter().cloned().collect()));
        pass.port(&name, Speaks::Detect, http, Some(streams))
    }
}

/// What is declared for a port without regard to addresses.
#[derive(Default)]
struct OfPort<'v, 'a> {
    /// Those whose hosts are looked at in requests.
    http: Vec<(&'v Visible<'a>, u16)>,
    streams: Vec<Wanted<'v, 'a>>,
    speaks: Option<Speaks>,
}

impl<'v, 'a> OfPort<'v, 'a> {
    /// Adds a service for its requests.
    fn add_http(&mut self, service: &'v Visible<'a>, port: u16, speaks: Speaks) {
        self.http.push((service, port));
        self.speaks(speaks);
    }

    /// Adds one for its connections.
    fn add_streams(&mut self, wanted: Wanted<'v, 'a>) {
        self.speaks(wanted.speaks);
        self.streams.push(wanted);
    }

    fn routes(
        &self,
        pass: &mut Pass<'_>,
        name: &Arc<str>,
        others: &[(HostPattern, u16)],
        rules: &MeshRules<'_>,
        unknown: &Unknown,
    ) -> Arc<PortRoutes> {
        let speaks = self.speaks.unwrap_or_default();
        let http = if self.http.is_empty() && others.is_empty() {
            pass.no_http()
        } else {
            http::of_place(pass, name, &self.http, others, rules, &unknown.host)
        };
        let streams = (speaks != Speaks::Http).then(|| {
            let routes = streams::of_place(pass, name, &self.streams, rules, unknown.rule.as_deref());
            pass.streams(routes)
        });
        pass.port(name, speaks, http, streams)
    }

    /// Where services of one port do not agree, the bytes decide.
    fn speaks(&mut self, speaks: Speaks) {
        self.speaks = Some(match self.speaks {
            None => speaks,
            Some(known) if known == speaks => known,
            Some(_) => Speaks::Detect,
        });
    }
}

/// What a port's protocol lets expect; `None`: nothing that a sidecar sees.
pub(super) fn speaks(protocol: Option<Protocol>) -> Option<Speaks> {
    match protocol {
        None => Some(Speaks::Detect),
        Some(Protocol::Udp) => None,
        Some(protocol) if protocol.is_http() => Some(Speaks::Http),
        Some(protocol) if protocol.is_tls() => Some(Speaks::Tls),
        Some(_) => Some(Speaks::Bytes),
    }
}

pub(super) fn routes(
    pass: &mut Pass<'_>,
    visible: &[Visible<'_>],
    rules: &MeshRules<'_>,
    unknown: &Unknown,
) -> Outbound {
    let mut ports: BTreeMap<u16, OfPort<'_, '_>> = BTreeMap::new();
    let mut addressed: BTreeMap<(IpAddr, u16), Wanted<'_, '_>> = BTreeMap::new();
    for service in visible {
        for port in &service.ports {
            let Some(speaks) = speaks(port.protocol()) else { continue };
            let (single, networks) = addresses(port);
            if matches!(speaks, Speaks::Http | Speaks::Detect) {
                ports.entry(port.number).or_default().add_http(service, port.number, speaks);
            }
            if speaks == Speaks::Http {
                continue;
            }
            let wanted = |subnets: Vec<Subnet>| Wanted { service, port: *port, speaks, subnets };
            for address in &single {
                // Of two services that claim an address the older has it.
                addressed.entry((*address, port.number)).or_insert_with(|| wanted(Vec::new()));
            }
            if single.is_empty() || !networks.is_empty() {
                ports.entry(port.number).or_default().add_streams(wanted(networks));
            }
        }
    }
    let others = rules.other_hosts(visible).into_iter().map(|host| (host, OTHER_HOSTS_PORT)).collect::<Vec<_>>();
    if !others.is_empty() {
        ports.entry(OTHER_HOSTS_PORT).or_default().speaks(Speaks::Http);
    }
    let mut outbound = Outbound { unknown: unknown.port(pass), ..Outbound::default() };
    for (number, of_port) in &ports {
        let others = if *number == OTHER_HOSTS_PORT { &others[..] } else { &[] };
        let routes = of_port.routes(pass, &number.to_string().into(), others, rules, unknown);
        outbound.by_port.insert(*number, routes);
    }
    for ((address, number), wanted) in &addressed {
        let name: Arc<str> = format!("{address}_{number}").into();
        let http = outbound.by_port.get(number).filter(|_| wanted.speaks == Speaks::Detect);
        let http = http.map_or_else(|| pass.no_http(), |port| port.http.clone());
        let routes = streams::of_service(pass, &name, wanted, rules);
        let routes = pass.streams(routes);
        outbound.by_address.insert((*address, *number), pass.port(&name, wanted.speaks, http, Some(routes)));
    }
    outbound
}

/// What is served at the address of an egress listener: its own services and no others.
pub(super) fn place(
    pass: &mut Pass<'_>,
    place: &Place,
    visible: &[Visible<'_>],
    rules: &MeshRules<'_>,
    egress: &Egress<'_>,
    unknown: &Unknown,
) -> Arc<PortRoutes> {
    let mut of_port = OfPort::default();
    for service in visible {
        for port in &service.ports {
            let Some(speaks) = speaks(place.protocol.or(port.protocol())) else { continue };
            if matches!(speaks, Speaks::Http | Speaks::Detect) {
                of_port.add_http(service, port.number, speaks);
            }
            if speaks != Speaks::Http {
                of_port.add_streams(Wanted { service, port: *port, speaks, subnets: Vec::new() });
            }
        }
    }
    let name = format!("{}_{}", place.address.ip(), place.address.port()).into();
    if place.listens {
        let (_, origin) = egress.unknown_hosts(pass.context.mesh);
        let unknown = Unknown::nowhere(pass, origin);
        return of_port.routes(pass, &name, &[], rules, &unknown);
    }
    of_port.routes(pass, &name, &[], rules, unknown)
}

/// What is served at an address that stands for a service.
pub(super) fn bound(
    pass: &mut Pass<'_>,
    bound: &BoundService,
    visible: &[Visible<'_>],
    rules: &MeshRules<'_>,
) -> Arc<PortRoutes> {
    let own = &pass.context.proxy.namespace;
    let (full, written) = (qualify_host(&bound.host, own), bound.host.to_ascii_lowercase());
    let find = |host: &str| visible.iter().find(|service| *service.host == *host);
    let service = find(&full).or_else(|| find(&written));
    let name: Arc<str> = format!("{}:{}", service.map_or(&full, |service| &service.host), bound.port).into();
    let port = service.and_then(|service| service.ports.iter().find(|port| port.number == bound.port));
    if let (Some(service), Some(port)) = (service, port) {
        let speaks = speaks(port.protocol()).unwrap_or_default();
        let http = if matches!(speaks, Speaks::Http | Speaks::Detect) {
            let host = http::of_service(pass, &bound.port.to_string().into(), service, bound.port, rules);
            pass.http(&name, vec![(HostPattern::new("*"), host)])
        } else {
            pass.no_http()
        };
        let streams = (speaks != Speaks::Http).then(|| {
            let wanted = Wanted { service, port: *port, speaks, subnets: Vec::new() };
            let routes = streams::of_service(pass, &name, &wanted, rules);
            pass.streams(routes)
        });
        return pass.port(&name, speaks, http, streams);
    }
    // Nobody declares it: a name in DNS, unless a VirtualService says otherwise.
    let target = Target {
        host: full.clone(),
        short: is_short(&bound.host),
        port: TargetPort::Number(bound.port),
        subset: None,
        namespace: own.clone(),
    };
    let cluster = pass.cluster(target);
    let host = HostPattern::new(&full);
    let host = http::of_host(pass, &name, &host, bound.port, rules).unwrap_or_else(|| {
        let leads = Leads::To { cluster, retries: true, max_request_body: pass.context.mesh.max_request_body() };
        let route = pass.plain(Plain { name: "default", origin: Mesh::key(), leads });
        pass.host(&name, &host, vec![route])
    });
    let http = pass.http(&name, vec![(HostPattern::new("*"), host)]);
    let rule = Arc::new(streams::unconditional(&Mesh::key(), cluster));
    let streams = pass.streams(StreamRoutes::tcp(name.clone(), vec![rule]));
    pass.port(&name, Speaks::Detect, http, Some(streams))
}
