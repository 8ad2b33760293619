//! The compiled, immutable form that requests run on.
//!
//! A [`RouteTable`] is shared between threads by `Arc` and swapped whole. Parts that an edit did not touch are the
//! same allocations as in the table before it, so that "did this change?" is a pointer comparison.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::meta::{ResourceKey, Revision};
use crate::request::claims::Claims;
use crate::verdict::authorization::Authorization;
use crate::verdict::limits::LimitPolicy;

pub mod authentication;
pub mod cluster;
pub mod fault;
pub mod hash;
pub mod headers;
pub mod host;
pub mod locality;
pub mod mesh;
mod path_index;
pub(crate) mod radix;
pub mod redirect;
pub mod retry;
pub mod route;
pub mod stream;
mod template;
pub mod tls;
pub mod upstream;
pub mod upstream_tls;
pub mod vhost;

use authentication::HostAuthentication;
pub use cluster::{Cluster, ClusterId, ClusterKey};
pub use host::{HostIndex, HostPattern};
pub use mesh::{Inbound, InboundPort, MutualTls, Outbound, PortRoutes, Speaks};
pub use route::{Action, Destination, Forward, Route};
pub use stream::{StreamFacts, StreamRoutes, StreamRule};
pub use tls::{PassthroughServer, TlsChoice, TlsListener, TlsRoutes, TlsServer};
pub use vhost::VirtualHost;

/// Everything a proxy needs to serve one revision.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    pub revision: Revision,
    /// Sorted by (port, bind); at most one per pair.
    pub listeners: Vec<Arc<Listener>>,
    /// Indexed by [`ClusterId`]. `None` where a route names a service or subset that does not exist (503 NC).
    /// Ids are stable from one table to the next of the same `Compiler`; several may lead to one cluster.
    pub clusters: Vec<Option<Arc<Cluster>>>,
    pub settings: Arc<ProxySettings>,
    /// Indexed by [`LimitId`](crate::verdict::limits::LimitId); a number stays with its policy for as long as there is one of its name.
    pub limits: Vec<Option<Arc<LimitPolicy>>>,
    /// Who may do what: at a gateway with all it serves, at a sidecar with its workload. What the workload itself calls
    /// is for others to decide.
    pub authorization: Arc<Authorization>,
}

impl RouteTable {
    pub fn cluster(&self, id: ClusterId) -> Option<&Arc<Cluster>> {
        self.clusters.get(id.index())?.as_ref()
    }
}

/// Mesh-wide settings that reach the data plane, out of `MeshConfig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// How many hops in front of the gateway are trusted to have set X-Forwarded-For (Istio `numTrustedProxies`).
    pub num_trusted_proxies: u32,
    /// The same for the listeners (by port and bind address) whose Gateways say another number.
    pub num_trusted_proxies_of: BTreeMap<(u16, Option<IpAddr>), u32>,
    /// Default time to connect to an upstream; Istio: 10 s.
    pub connect_timeout: Duration,
    /// How often a DNS name whose look-up failed is tried again; Istio `dnsRefreshRate`: 60 s.
    pub dns_refresh_rate: Duration,
}

impl ProxySettings {
    /// How many hops in front of a listener are trusted.
    pub fn trusted_hops(&self, listener: &Listener) -> u32 {
        if self.num_trusted_proxies_of.is_empty() {
            return self.num_trusted_proxies;
        }
        let own = self.num_trusted_proxies_of.get(&(listener.port, listener.bind));
        own.copied().unwrap_or(self.num_trusted_proxies)
    }
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            num_trusted_proxies: 0,
            num_trusted_proxies_of: BTreeMap::new(),
            connect_timeout: Duration::from_secs(10),
            dns_refresh_rate: Duration::from_mins(1),
        }
    }
}

/// One socket address and what is served there.
#[derive(Clone, Debug)]
pub struct Listener {
    /// `None`: the proxy's default address (`--gateway-bind`).
    pub bind: Option<IpAddr>,
    /// As written in `servers[].port.number`, before `--port-map`.
    pub port: u16,
    /// The Gateway servers merged into this listener, oldest first; conditions name them. A sidecar has none.
    pub servers: Vec<ServerRef>,
    /// Every connection begins with a PROXY header, which says whose it is.
    pub proxy_protocol: bool,
    pub protocol: ListenerProtocol,
}

#[derive(Clone, Debug)]
pub enum ListenerProtocol {
    /// Plain HTTP/1.1, and HTTP/2 by prior knowledge. All plain servers of a port share one set of routes.
    Http(Arc<HttpRoutes>),
    /// TLS; the server is chosen by SNI.
    Tls(Arc<TlsListener>),
    /// Bytes, of whatever protocol. One server has the port for itself.
    Tcp(Arc<StreamRoutes>),
    /// One service, which a sidecar's application reaches by this address.
    Service(Arc<PortRoutes>),
    /// What a sidecar's application opens: connections that were redirected here, by where they were going, and
    /// requests that a client sends here as to a forward proxy, by their host.
    Outbound(Arc<Outbound>),
    /// What others open to a sidecar's application.
    Inbound {
        /// The application's port that all connections are for; `None`: that which they were going to before they
        /// were redirected here.
        port: Option<u16>,
        inbound: Arc<Inbound>,
    },
}

/// `servers[index]` of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRef {
    pub gateway: ResourceKey,
    pub index: usize,
}

impl Listener {
    /// Whether the authorization policies of the table are for those who come in here: they guard a gateway's servers
    /// and a sidecar's application, not what the application itself asks for.
    pub fn is_guarded(&self) -> bool {
        !matches!(self.protocol, ListenerProtocol::Service(_) | ListenerProtocol::Outbound(_))
    }

    /// Whether it is a sidecar's.
    pub fn is_within_mesh(&self) -> bool {
        use ListenerProtocol::{Inbound, Outbound, Service};
        matches!(self.protocol, Service(_) | Outbound(_) | Inbound { .. })
    }

    /// The Gateways of its servers, each once.
    pub fn gateways(&self) -> impl Iterator<Item = &ResourceKey> + Clone {
        let servers = &self.servers;
        servers.iter().enumerate().filter_map(move |(index, server)| {
            let seen = servers[..index].iter().any(|before| before.gateway == server.gateway);
            (!seen).then_some(&server.gateway)
        })
    }
}

/// The virtual hosts of one route configuration.
#[derive(Clone, Debug, Default)]
pub struct HttpRoutes {
    /// As Istio names it: `http.80`, `https.443.https.bookinfo-gateway.default`; at a sidecar the port (`9080`), or
    /// `inbound|9080||`.
    pub name: Arc<str>,
    pub hosts: HostIndex<Arc<VirtualHost>>,
    /// Which tokens requests are verified by before their routes are looked up.
    pub authentication: HostAuthentication,
}

/// What the table says about a request.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'t> {
    Route(&'t Arc<VirtualHost>, &'t Arc<Route>),
    /// The virtual host redirects plain HTTP to https (`tls.httpsRedirect`): 301, whatever the routes say.
    HttpsRedirect(&'t Arc<VirtualHost>),
    /// The host is known, no rule took the request: 404 NR.
    NoRoute(&'t Arc<VirtualHost>),
    /// No virtual host: 404 NR.
    NoHost,
}

impl HttpRoutes {
    /// Finds the route of a request: the host first (exact, then the longest wildcard, then `*`), then the first
    /// rule in list order that takes the request. There is no fall-back to a wider host.
    pub fn lookup<'t>(&'t self, head: &RequestHead<'_>) -> Lookup<'t> {
        let Some(vhost) = self.hosts.find_authority(head.authority) else { return Lookup::NoHost };
        if vhost.https_redirect && head.scheme == "http" {
            return Lookup::HttpsRedirect(vhost);
        }
        match vhost.find(head) {
            Some(route) => Lookup::Route(vhost, route),
            None => Lookup::NoRoute(vhost),
        }
    }
}

/// The facts about a request that routing may look at. The proxy fills it after normalising the path.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// `http` or `https`, as the proxy sees it: the listener's, or a trusted hop's X-Forwarded-Proto.
    pub scheme: &'a str,
    /// Host or `:authority` as the client wrote it, port included.
    pub authority: &'a str,
    /// The normalised path without query and fragment.
    pub path: &'a str,
    /// What follows the `?`, undecoded.
    pub query: Option<&'a str>,
    pub headers: &'a crate::request::headers::Headers,
    /// What the token says that the request was verified by; `None` without one.
    pub claims: Option<&'a Claims>,
}

impl<'a> RequestHead<'a> {
    /// A query parameter as it was sent, undecoded: the first of its name. Only `&` separates.
    pub fn query_parameter(&self, key: &str) -> Option<&'a str> {
        self.query?.split('&').filter(|parameter| !parameter.is_empty()).find_map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (name == key).then_some(value)
        })
    }

    /// The value of the first cookie of a name (RFC 6265 section 5.4).
    pub fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        let fields = self.headers.get_all(http::header::COOKIE);
        let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
        pairs.find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }
}
