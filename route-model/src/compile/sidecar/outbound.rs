//! Where the connections of the workload lead.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::egress::{Egress, Visible, addresses};
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
use crate::table::cluster::{Discovery, UpstreamProtocol};
use crate::table::stream::{StreamRule, Subnet};
use crate::table::{HostPattern, Outbound, PortRoutes, Speaks, StreamRoutes, VirtualHost};

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
        let any = HostPattern::new("*");
        if !allowed {
            let route = pass.plain(Plain { name: "block_all", origin, leads: Leads::Nowhere });
            return Self { host: pass.host(&"block_all".into(), &any, vec![route]), rule: None };
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
        Self { host: pass.host(&"allow_any".into(), &any, vec![route]), rule: Some(Arc::new(rule)) }
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
    http: Vec<&'v Visible<'a>>,
    streams: Vec<Wanted<'v, 'a>>,
    speaks: Option<Speaks>,
}

impl OfPort<'_, '_> {
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
                let of_port = ports.entry(port.number).or_default();
                of_port.http.push(service);
                of_port.speaks(speaks);
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
                let of_port = ports.entry(port.number).or_default();
                of_port.streams.push(wanted(networks));
                of_port.speaks(speaks);
            }
        }
    }
    let others = rules.other_hosts(visible);
    if !others.is_empty() {
        ports.entry(80).or_default().speaks(Speaks::Http);
    }
    let mut outbound = Outbound { unknown: unknown.port(pass), ..Outbound::default() };
    for (number, of_port) in &ports {
        let name: Arc<str> = number.to_string().into();
        let speaks = of_port.speaks.unwrap_or_default();
        let others = if *number == 80 { &others[..] } else { &[] };
        let http = if of_port.http.is_empty() && others.is_empty() {
            pass.no_http()
        } else {
            http::of_port(pass, &name, *number, &of_port.http, others, rules, &unknown.host)
        };
        let streams = (speaks != Speaks::Http).then(|| {
            let routes = streams::of_port(pass, &name, &of_port.streams, rules, unknown.rule.as_deref());
            pass.streams(routes)
        });
        outbound.by_port.insert(*number, pass.port(&name, speaks, http, streams));
    }
    for ((address, number), wanted) in &addressed {
        let name: Arc<str> = format!("{address}_{number}").into();
        let http = outbound.by_port.get(number).filter(|_| wanted.speaks == Speaks::Detect);
        let http = http.map(|port| port.http.clone()).unwrap_or_else(|| pass.no_http());
        let routes = streams::of_service(pass, &name, wanted, rules);
        let routes = pass.streams(routes);
        outbound.by_address.insert((*address, *number), pass.port(&name, wanted.speaks, http, Some(routes)));
    }
    outbound
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
    let name: Arc<str> = format!("{full}:{}", bound.port).into();
    let find = |host: &str| visible.iter().find(|service| *service.host == *host);
    let service = find(&full).or_else(|| find(&written));
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
