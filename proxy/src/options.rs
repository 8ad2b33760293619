//! What a proxy is started with. None of it changes while it runs; what changes comes in route tables.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::limits::Limits;
use crate::tls::Identity;

/// The settings of one proxy process.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where listeners bind that name no address of their own (`--gateway-bind`).
    pub bind: IpAddr,
    /// Gateway port to the port that is really bound (`--port-map 80=8080`). Unmapped ports are bound as they are.
    /// A port mapped to 0 gets a free one.
    pub port_map: BTreeMap<u16, u16>,
    /// Worker threads; at least 1. [`Options::default`] takes the cores that this process may use.
    pub workers: usize,
    pub access_log: AccessLogFormat,
    /// `/metrics`, `/healthz`, `/readyz`; `None`: not served.
    pub metrics_addr: Option<ListenAddr>,
    /// Config dump and drain, for operators on this host; `None`: not served.
    pub admin_addr: Option<ListenAddr>,
    /// How long a drain waits for requests under way before it ends them.
    pub drain_time: Duration,
    /// Asked for the hosts of upstreams in place of those in `/etc/resolv.conf`, unless empty.
    pub name_servers: Vec<SocketAddr>,
    pub own_traffic: OwnTraffic,
    pub identity: ProxyIdentity,
    /// The certificate that proxies of the mesh know this one by, and whom it accepts. Filled while the proxy runs.
    pub mesh_identity: Identity,
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: Ipv4Addr::UNSPECIFIED.into(),
            port_map: BTreeMap::new(),
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            access_log: AccessLogFormat::Off,
            metrics_addr: None,
            admin_addr: None,
            drain_time: Duration::from_secs(30),
            name_servers: Vec::new(),
            own_traffic: OwnTraffic::default(),
            identity: ProxyIdentity::default(),
            mesh_identity: Identity::default(),
            limits: Limits::default(),
        }
    }
}

impl Options {
    /// The port that is bound for a Gateway port.
    pub fn mapped_port(&self, port: u16) -> u16 {
        self.port_map.get(&port).copied().unwrap_or(port)
    }
}

/// How a finished request is logged on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLogFormat {
    #[default]
    Off,
    /// Istio's default text line.
    Text,
    /// The same fields as one JSON object a line.
    Json,
}

/// How a proxy keeps the connections that it opens from being led back to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnTraffic {
    /// Nothing that this host opens is led here.
    #[default]
    NotLedHere,
    /// Those that come back are refused.
    Watched,
    /// So are they, and they have a packet mark (`SO_MARK`), by which rules that redirect can tell them. It takes the
    /// capability NET_ADMIN; without it none can be opened.
    Marked(u32),
}

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddr {
    pub addr: SocketAddr,
    /// Somebody asked for this address: being unable to bind it is an error. Otherwise it is a default and a free
    /// port is taken instead, with a warning.
    pub explicit: bool,
}

/// Who this proxy is, for the labels of Istio's metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyIdentity {
    /// Unique among the proxies of a control plane.
    pub node_id: String,
    /// Istio metric label `source_workload`.
    pub workload: String,
    /// Istio metric label `source_workload_namespace`.
    pub namespace: String,
}
