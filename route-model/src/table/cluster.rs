//! Upstreams: where a destination's requests go and how a connection to it is made.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::hash::ConsistentHash;
use super::locality::Rank;
use super::upstream::UpstreamPolicy;
use crate::verdict::limits::RouteLimits;

/// The index of a cluster in [`RouteTable::clusters`](super::RouteTable::clusters).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u32);

impl ClusterId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The identity of an upstream. What a proxy learns about one (connections, requests in flight, endpoint state) is
/// kept under this key from table to table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterKey {
    /// Fully qualified and in lower case. Clusters of a sidecar's own have their name here, which no host can have.
    pub host: Arc<str>,
    /// The service port, not the endpoint's.
    pub port: u16,
    pub subset: Option<Arc<str>>,
    /// The namespace of the ServiceEntry that declares the host; empty for an undeclared host.
    pub namespace: Arc<str>,
}

/// One upstream and its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    pub key: ClusterKey,
    /// As Istio names it: `outbound|9080|v1|reviews.default.svc.cluster.local`; at a sidecar also `inbound|9080||`,
    /// `PassthroughCluster` and `InboundPassthroughCluster`.
    pub name: Arc<str>,
    pub discovery: Discovery,
    pub load_balancer: LoadBalancer,
    /// How requests are sent: HTTP/2 where the port's protocol is HTTP2 or GRPC, or by `h2UpgradePolicy`.
    pub protocol: UpstreamProtocol,
    pub connect_timeout: Duration,
    /// How long an unused connection is kept; Istio: 1 h.
    pub idle_timeout: Duration,
    pub policy: UpstreamPolicy,
    /// Requests to endpoints that are part of the mesh share HTTP/2 connections, whatever `protocol` says, unless they
    /// ask for an upgrade.
    pub multiplexed: bool,
    /// The rate limits of the service, which its requests are under beside those of their route. At a sidecar those of
    /// the services that lead to its workload: elsewhere calls are not counted twice.
    pub limits: Option<Arc<RouteLimits>>,
    /// Istio metric labels `destination_service_name` and `destination_service_namespace`.
    pub service_name: Arc<str>,
    pub service_namespace: Arc<str>,
}

/// How the addresses of a cluster are found.
#[derive(Clone, Debug, PartialEq)]
pub enum Discovery {
    /// The addresses are known (ServiceEntry `STATIC`, WorkloadEntries).
    Static(Arc<[Endpoint]>),
    /// Each name is resolved on the proxy and every address of it is an endpoint (`DNS`).
    Dns(Arc<[DnsEndpoint]>),
    /// The name is resolved and new connections take one address (`DNS_ROUND_ROBIN`).
    LogicalDns(DnsEndpoint),
    /// A host that no ServiceEntry declares: the names are tried in this order, the first that resolves serves.
    Undeclared(Arc<[DnsEndpoint]>),
    /// Each request names its host, which is resolved when it is asked for (`DYNAMIC_DNS`).
    Dynamic(WildcardNames),
    /// Where the client was going before it was redirected to a sidecar (`NONE`, `PASSTHROUGH`); for a request to a
    /// forward proxy the host that it names.
    Original,
    /// No endpoints can be known (`NONE` on a gateway): 503 UH.
    None,
}

/// The names under a wildcard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WildcardNames {
    /// With the leading dot, in lower case: `.example.com`.
    pub suffix: Arc<str>,
    /// The port of every server.
    pub port: u16,
}

impl WildcardNames {
    /// Whether a host name in lower case is one of them. A DNS name of 253 bytes at the most and labels of 1 to 63.
    pub fn takes(&self, name: &str) -> bool {
        let is_label = |label: &str| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(plain)
        };
        name.len() <= 253 && name.strip_suffix(&*self.suffix).is_some_and(|rest| rest.split('.').all(is_label))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// Relative; at least 1.
    pub weight: u32,
    pub rank: Rank,
    /// A proxy of the mesh answers there (label `security.istio.io/tlsMode: istio`).
    pub in_mesh: bool,
}

impl Endpoint {
    /// An endpoint that is as near as any other.
    pub fn new(address: EndpointAddress, weight: u32) -> Self {
        Self { address, weight, rank: Rank::default(), in_mesh: false }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    Ip(IpAddr, u16),
    /// The path of a Unix domain socket (`unix:///path`).
    Unix(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsEndpoint {
    pub name: Arc<str>,
    pub port: u16,
    /// Relative; at least 1.
    pub weight: u32,
    /// Of every address of the name.
    pub rank: Rank,
    /// Proxies of the mesh answer at the addresses.
    pub in_mesh: bool,
}

impl DnsEndpoint {
    /// A name that is as near as any other.
    pub fn new(name: Arc<str>, port: u16, weight: u32) -> Self {
        Self { name, port, weight, rank: Rank::default(), in_mesh: false }
    }
}

/// `trafficPolicy.loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LoadBalancer {
    /// Power of two choices on requests in flight.
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
    Hash(Arc<ConsistentHash>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    #[default]
    Http1,
    Http2,
    /// HTTP/2 for requests that came by HTTP/2, else HTTP/1.1 (`useClientProtocol`).
    Client,
}

impl UpstreamProtocol {
    /// Whether a request that came by `version` goes out by HTTP/2.
    pub fn is_http2(self, version: http::Version) -> bool {
        match self {
            Self::Http1 => false,
            Self::Http2 => true,
            Self::Client => version == http::Version::HTTP_2,
        }
    }
}
