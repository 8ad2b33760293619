//! `networking.istio.io` Sidecar: what a workload's proxy listens on and what it can reach.

use super::destination_rule::ConnectionPool;
use super::gateway::{Port, ServerTls};
use super::selector::WorkloadSelector;
use super::value::{Written, choice, message};
use super::virtual_service::Destination;

message! {
    /// The spec of a Sidecar.
    pub struct Sidecar {
        /// Absent: the default of the namespace.
        pub workload_selector: Option<WorkloadSelector>,
        pub ingress: Written<Vec<IngressListener>>,
        pub egress: Written<Vec<EgressListener>>,
        pub inbound_connection_pool: Option<ConnectionPool>,
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    }

    /// A port of the workload that its proxy serves.
    pub struct IngressListener {
        pub port: Option<Port>,
        pub bind: Written<String>,
        pub capture_mode: Written<CaptureMode>,
        /// `127.0.0.1:port`, `0.0.0.0:port`, their IPv6 forms, or `unix://`.
        pub default_endpoint: Written<String>,
        pub tls: Option<ServerTls>,
        pub connection_pool: Option<ConnectionPool>,
    }

    /// What the workload can reach, and where its proxy listens for it.
    pub struct EgressListener {
        /// Absent: every port of the hosts' services.
        pub port: Option<Port>,
        pub bind: Written<String>,
        pub capture_mode: Written<CaptureMode>,
        /// `namespace/host` with `.`, `*` and `~` as special namespaces.
        pub hosts: Written<Vec<String>>,
    }

    /// What becomes of requests to hosts that `egress` does not bring in.
    pub struct OutboundTrafficPolicy {
        pub mode: Written<OutboundMode>,
        pub egress_proxy: Option<Destination>,
    }
}

choice! {
    /// Whether traffic is redirected to the listener.
    pub enum CaptureMode {
        Default,
        Iptables,
        None,
    }

    /// Mind the zero value: an empty `outboundTrafficPolicy` refuses unknown hosts.
    pub enum OutboundMode {
        RegistryOnly,
        AllowAny,
    }
}
