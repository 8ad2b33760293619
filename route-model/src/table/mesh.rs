//! What a sidecar serves: connections that its application opens, and those that others open to its application.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{HttpRoutes, StreamRoutes};

/// What may be spoken where a connection was going, and where it leads then.
#[derive(Clone, Debug, Default)]
pub struct PortRoutes {
    pub speaks: Speaks,
    /// For HTTP; without hosts where none is expected, and what looks like it is bytes then.
    pub http: Arc<HttpRoutes>,
    /// For everything else; by server name where the client begins with a TLS handshake. `None`: only HTTP is served.
    pub streams: Option<Arc<StreamRoutes>>,
}

impl PortRoutes {
    /// Whether requests are routed by what they say.
    pub fn takes_http(&self) -> bool {
        !self.http.hosts.is_empty()
    }
}

/// What the first bytes of a connection are, as the port's declared protocol says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1, or HTTP/2 by prior knowledge.
    Http,
    /// The server may be the one to begin: nothing is waited for.
    #[default]
    Bytes,
    /// A TLS handshake that is not for this proxy, whose server name is looked at.
    Tls,
    /// Nobody said; the first bytes decide: HTTP, TLS, or else bytes. A client that says nothing for a while waits for
    /// its server, and so speaks none of the first two.
    Detect,
}

/// Where the connections of the sidecar's own application lead.
#[derive(Clone, Debug, Default)]
pub struct Outbound {
    /// Services that have an address.
    pub by_address: HashMap<(IpAddr, u16), Arc<PortRoutes>, RandomState>,
    /// All others, and the hosts of HTTP: by the port alone.
    pub by_port: HashMap<u16, Arc<PortRoutes>, RandomState>,
    /// Where nothing is declared: through to where they were going (`ALLOW_ANY`), or nowhere (`REGISTRY_ONLY`).
    pub unknown: Arc<PortRoutes>,
}

impl Outbound {
    /// The routes of a connection, by where the application wanted it to go.
    pub fn find(&self, destination: SocketAddr) -> &Arc<PortRoutes> {
        let by_address = self.by_address.get(&(destination.ip().to_canonical(), destination.port()));
        by_address.unwrap_or_else(|| self.of_port(destination.port()))
    }

    /// The routes of a request that names its port, and whose host decides where it goes.
    pub fn of_port(&self, port: u16) -> &Arc<PortRoutes> {
        self.by_port.get(&port).unwrap_or(&self.unknown)
    }
}

/// What others may open to the sidecar's application.
#[derive(Clone, Debug, Default)]
pub struct Inbound {
    /// By the port that the client connected to, which is the application's own with transparent capture.
    pub ports: HashMap<u16, Arc<InboundPort>, RandomState>,
    /// Every other port: through to the application, on the terms of the whole workload.
    pub other: Arc<InboundPort>,
}

impl Inbound {
    pub fn find(&self, port: u16) -> &Arc<InboundPort> {
        self.ports.get(&port).unwrap_or(&self.other)
    }
}

/// One port of the application.
#[derive(Clone, Debug, Default)]
pub struct InboundPort {
    pub mutual_tls: MutualTls,
    pub routes: Arc<PortRoutes>,
}

/// PeerAuthentication `mtls.mode`, as it came out for a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MutualTls {
    /// Plain text alone; a handshake is the application's own.
    Disable,
    /// Mutual TLS of the mesh, and everything else as it comes. Istio's default.
    #[default]
    Permissive,
    /// Mutual TLS of the mesh alone.
    Strict,
}
