//! What others may open to the workload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::outbound::speaks;
use super::pass::{Leads, Pass, Plain};
use super::peer_authentication::PeerAuthentications;
use super::streams;
use crate::compile::authentication::Authentications;
use crate::compile::clusters::own;
use crate::compile::destination_rule::PortPolicy;
use crate::compile::mesh::Mesh;
use crate::compile::services::{Services, port_protocol};
use crate::compile::virtual_service::Context;
use crate::compile::{ApplicationPort, SidecarScope, upstream};
use crate::kinds::destination_rule::ConnectionPool;
use crate::kinds::service_entry::{ServiceEntry, ServicePort};
use crate::kinds::sidecar::{CaptureMode, IngressListener, Sidecar};
use crate::kinds::{Protocol, TextDuration};
use crate::meta::ResourceKey;
use crate::table::cluster::{Discovery, Endpoint, EndpointAddress, UpstreamProtocol};
use crate::table::{Cluster, HostPattern, Inbound, InboundPort, MutualTls, Speaks, StreamRoutes};

/// Where connections to ports go that nobody declares, as Istio names it.
const PASSTHROUGH: &str = "InboundPassthroughCluster";

/// A port that the workload's application serves, and where.
struct Port<'a> {
    number: u16,
    /// `None`: nobody says so far.
    protocol: Option<Protocol>,
    /// `None`: where clients wanted to reach it.
    address: Option<EndpointAddress>,
    pool: Option<&'a ConnectionPool>,
    /// Of the command line.
    declared: Option<&'a ApplicationPort>,
    /// Where the sidecar itself listens for it, as a Sidecar says.
    listens: Option<SocketAddr>,
}

/// What is served, and beside the sidecar's own addresses where (`captureMode: NONE`): an address and its port.
pub(super) struct Served {
    pub(super) inbound: Inbound,
    pub(super) places: Vec<(SocketAddr, u16)>,
}

pub(super) fn routes(
    pass: &mut Pass<'_>,
    local: &SidecarScope,
    sidecar: Option<&Sidecar>,
    services: &Services,
    authentications: &mut Authentications,
) -> Served {
    let peers = PeerAuthentications::of(&pass.context);
    let mut inbound = Inbound::default();
    let mut places = Vec::new();
    let entries = selecting(&pass.context, services);
    for port in ports(local, sidecar, &entries) {
        places.extend(port.listens.map(|address| (address, port.number)));
        let name: Arc<str> = format!("inbound|{}||", port.number).into();
        let (cluster, origin) = cluster(pass, &name, &port, &entries);
        let speaks = speaks(port.protocol).unwrap_or_default();
        let served = served(pass, &name, cluster, origin, speaks, mode(&peers, &port), authentications);
        inbound.ports.insert(port.number, served);
    }
    let passthrough = own(PASSTHROUGH, Discovery::Original, UpstreamProtocol::Client, pass.context.mesh);
    let name = PASSTHROUGH.into();
    inbound.other = served(pass, &name, passthrough, Mesh::key(), Speaks::Detect, peers.mode(), authentications);
    Served { inbound, places }
}

/// A ServiceEntry that selects the workload.
type Entry<'a> = (&'a ResourceKey, &'a ServiceEntry);

fn selecting<'a>(context: &Context<'a>, services: &'a Services) -> Vec<Entry<'a>> {
    let entries = services.selecting(&context.proxy.namespace).filter_map(|key| {
        let entry = context.set.get(key)?.spec::<ServiceEntry>()?;
        let mut labels = entry.workload_selector.as_ref()?.labels.iter();
        labels.all(|(key, value)| context.proxy.labels.get(key) == Some(value)).then_some((key, entry))
    });
    entries.collect()
}

/// Those that the Sidecar's `ingress` lists; without any those that the sidecar was started with, and those that
/// services lead to. One that has a listener of its own leads to the application in any case, as nothing else can be
/// meant by it.
fn ports<'a>(local: &'a SidecarScope, sidecar: Option<&'a Sidecar>, entries: &[Entry<'a>]) -> Vec<Port<'a>> {
    let pool = sidecar.and_then(|sidecar| sidecar.inbound_connection_pool.as_ref());
    let declared = |number: u16| local.ports.iter().find(|port| port.port == number);
    let listed = sidecar.into_iter().flat_map(|sidecar| &sidecar.ingress);
    let mut ports: Vec<_> = listed.filter_map(|listener| Port::listed(listener, pool, declared)).collect();
    let is_listed = !ports.is_empty();
    for port in &local.ports {
        if (!is_listed || !port.listen.is_empty()) && ports.iter().all(|known| known.number != port.port) {
            ports.push(Port {
                number: port.port,
                protocol: Protocol::of_port_name(&port.name),
                address: Some(EndpointAddress::Ip(Ipv4Addr::LOCALHOST.into(), port.port)),
                pool,
                declared: Some(port),
                listens: None,
            });
        }
    }
    let offered: Vec<&ServicePort> = entries.iter().flat_map(|(_, entry)| &entry.ports).collect();
    for service in offered.iter().filter(|_| !is_listed) {
        let Some(number) = target(service) else { continue };
        if ports.iter().all(|known| known.number != number && !known.serves(service)) {
            ports.push(Port { number, protocol: None, address: None, pool, declared: None, listens: None });
        }
    }
    for port in ports.iter_mut().filter(|port| port.protocol.is_none()) {
        let service = offered.iter().find(|service| port.serves(service));
        port.protocol = service.and_then(|service| port_protocol(service));
    }
    ports
}

/// The workload's own port that a service's leads to; `None`: it says nothing that is one.
fn target(service: &ServicePort) -> Option<u16> {
    let written = if *service.target_port > 0 { *service.target_port } else { *service.number };
    u16::try_from(written).ok().filter(|port| *port > 0)
}

impl<'a> Port<'a> {
    fn listed(
        listener: &'a IngressListener,
        pool: Option<&'a ConnectionPool>,
        declared: impl Fn(u16) -> Option<&'a ApplicationPort>,
    ) -> Option<Self> {
        let written = listener.port.as_ref()?;
        let number = u16::try_from(*written.number).ok().filter(|number| *number > 0)?;
        let endpoint = if let Some(path) = listener.default_endpoint.strip_prefix("unix://") {
            EndpointAddress::Unix(path.into())
        } else {
            match listener.default_endpoint.parse::<SocketAddr>() {
                // Every address of the workload: the application can be reached by loopback then.
                Ok(SocketAddr::V6(endpoint)) => EndpointAddress::Ip(Ipv6Addr::LOCALHOST.into(), endpoint.port()),
                Ok(SocketAddr::V4(endpoint)) => EndpointAddress::Ip(Ipv4Addr::LOCALHOST.into(), endpoint.port()),
                Err(_) => EndpointAddress::Ip(Ipv4Addr::LOCALHOST.into(), number),
            }
        };
        Some(Self {
            number,
            protocol: Protocol::parse(&written.protocol).or_else(|| Protocol::of_port_name(&written.name)),
            address: Some(endpoint),
            pool: listener.connection_pool.as_ref().or(pool),
            declared: declared(number),
            listens: (*listener.capture_mode == CaptureMode::None).then(|| {
                let bind = listener.bind.parse::<IpAddr>().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
                SocketAddr::new(bind, number)
            }),
        })
    }

    /// Whether a port of a service that selects the workload leads here.
    fn serves(&self, service: &ServicePort) -> bool {
        let named = self.declared.is_some_and(|port| *port.name == **service.name);
        let listens = |number: u16| {
            self.number == number
                || self.declared.is_some_and(|port| port.listen.iter().any(|address| address.port() == number))
        };
        named || target(service).is_some_and(listens)
    }
}

/// Policies name the application's port; where it has another one for others, that is understood too.
fn mode(peers: &PeerAuthentications<'_>, port: &Port<'_>) -> MutualTls {
    let listening = port.declared.into_iter().flat_map(|port| &port.listen).map(SocketAddr::port);
    let said = [port.number].into_iter().chain(listening).find_map(|number| peers.said_of_port(number));
    said.unwrap_or_else(|| peers.mode())
}

fn served(
    pass: &mut Pass<'_>,
    name: &Arc<str>,
    cluster: Cluster,
    origin: ResourceKey,
    speaks: Speaks,
    mutual_tls: MutualTls,
    authentications: &mut Authentications,
) -> Arc<InboundPort> {
    let cluster = pass.own_cluster(cluster);
    let http = if matches!(speaks, Speaks::Http | Speaks::Detect) {
        let leads = Leads::To { cluster, retries: false, max_request_body: None };
        let route = pass.plain(Plain { name: "default", origin: origin.clone(), leads });
        let any = HostPattern::new("*");
        let host = pass.host(name, &any, vec![route]);
        pass.authenticated(name, vec![(any, host)], authentications.of_workload())
    } else {
        pass.no_http()
    };
    let streams = (speaks != Speaks::Http).then(|| {
        let rule = Arc::new(streams::unconditional(&origin, cluster));
        pass.streams(StreamRoutes::tcp(name.clone(), vec![rule]))
    });
    let routes = pass.port(name, speaks, http, streams);
    pass.inbound(name, mutual_tls, routes)
}

/// The application on a port, with the rate limits of the services that lead there, and the first of these.
fn cluster(pass: &Pass<'_>, name: &Arc<str>, port: &Port<'_>, entries: &[Entry<'_>]) -> (Cluster, ResourceKey) {
    let context = &pass.context;
    let serves = |entry: &&Entry<'_>| entry.1.ports.iter().any(|service| port.serves(service));
    let entries: Vec<Entry<'_>> = entries.iter().filter(serves).copied().collect();
    let service = entries.iter().find_map(|(_, entry)| entry.hosts.first());
    let http2 = port.protocol.is_some_and(Protocol::is_http2);
    let protocol = if http2 { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 };
    let discovery = match &port.address {
        Some(address) => Discovery::Static(Arc::new([Endpoint::new(address.clone(), 1)])),
        None => Discovery::Original,
    };
    let mut cluster = own(name, discovery, protocol, context.mesh);
    cluster.limits =
        context.limits.of_entries(entries.iter().map(|(key, _)| *key), || format!("inbound:{}", port.number));
    if let Some(host) = service {
        cluster.service_name = host.to_ascii_lowercase().into();
    }
    cluster.service_namespace = context.proxy.namespace.clone();
    cluster.key.port = port.number;
    if let Some(pool) = port.pool {
        cluster.policy = upstream::policy(&PortPolicy { connection_pool: Some(pool), ..PortPolicy::default() });
        let time = |written: Option<&TextDuration>| written.map(TextDuration::get).filter(|time| !time.is_zero());
        let connect = time(pool.tcp.as_ref().and_then(|tcp| tcp.connect_timeout.as_ref()));
        let idle = time(pool.http.as_ref().and_then(|http| http.idle_timeout.as_ref()));
        cluster.connect_timeout = connect.unwrap_or(cluster.connect_timeout);
        cluster.idle_timeout = idle.unwrap_or(cluster.idle_timeout);
    }
    (cluster, entries.first().map_or_else(Mesh::key, |(key, _)| (*key).clone()))
}
