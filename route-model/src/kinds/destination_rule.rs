//! `networking.istio.io` DestinationRule: subsets of a service and how connections to it are made.

use std::collections::BTreeMap;

use super::selector::LabelSelector;
use super::value::{Double, StringMap, TextDuration, Written, choice, message};
use super::virtual_service::PortSelector;

message! {
    /// The spec of a DestinationRule.
    pub struct DestinationRule {
        /// A service or a wildcard; without a dot it is one of the rule's namespace.
        pub host: Written<String>,
        pub traffic_policy: Option<TrafficPolicy>,
        pub subsets: Written<Vec<Subset>>,
        pub export_to: Written<Vec<String>>,
        /// The clients that this rule is for.
        pub workload_selector: Option<LabelSelector>,
    }

    /// The endpoints that carry all of these labels.
    pub struct Subset {
        pub name: Written<String>,
        pub labels: Written<StringMap>,
        /// Block by block in place of the rule's.
        pub traffic_policy: Option<TrafficPolicy>,
    }

    /// How connections are made and requests spread.
    pub struct TrafficPolicy {
        pub load_balancer: Option<LoadBalancer>,
        pub connection_pool: Option<ConnectionPool>,
        pub outlier_detection: Option<OutlierDetection>,
        pub tls: Option<ClientTls>,
        pub port_level_settings: Written<Vec<PortTrafficPolicy>>,
        pub tunnel: Option<Tunnel>,
        pub proxy_protocol: Option<ProxyProtocol>,
        pub retry_budget: Option<RetryBudget>,
    }

    /// For one port, in place of the policy as a whole: blocks left out here go to their defaults.
    pub struct PortTrafficPolicy {
        pub port: Option<PortSelector>,
        pub load_balancer: Option<LoadBalancer>,
        pub connection_pool: Option<ConnectionPool>,
        pub outlier_detection: Option<OutlierDetection>,
        pub tls: Option<ClientTls>,
    }

    /// At most one of `simple`, `consistentHash` and `backendUtilization`.
    pub struct LoadBalancer {
        pub simple: Written<SimpleLoadBalancer>,
        pub consistent_hash: Option<ConsistentHash>,
        pub backend_utilization: Option<BackendUtilization>,
        pub locality_lb_setting: Option<LocalityLoadBalancer>,
        pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancer>,
        /// Deprecated form of `warmup.duration`.
        pub warmup_duration_secs: Option<TextDuration>,
        pub warmup: Option<Warmup>,
    }

    /// One key to hash by and one algorithm (none: a ring).
    pub struct ConsistentHash {
        pub http_header_name: Written<String>,
        pub http_cookie: Option<HttpCookie>,
        pub use_source_ip: Written<bool>,
        pub http_query_parameter_name: Written<String>,
        pub ring_hash: Option<RingHash>,
        pub maglev: Option<Maglev>,
        /// Deprecated form of `ringHash.minimumRingSize`.
        pub minimum_ring_size: Written<u64>,
    }

    /// A cookie whose value is hashed.
    pub struct HttpCookie {
        pub name: Written<String>,
        pub path: Written<String>,
        /// Present, be it `0s`: the proxy issues the cookie; absent: it only reads it.
        pub ttl: Option<TextDuration>,
        pub attributes: Written<Vec<CookieAttribute>>,
    }

    /// An attribute of a cookie that the proxy issues, such as `SameSite`.
    pub struct CookieAttribute {
        pub name: Written<String>,
        pub value: Written<String>,
    }

    /// A ring, the default algorithm.
    pub struct RingHash {
        pub minimum_ring_size: Written<u64>,
    }

    /// A Maglev table.
    pub struct Maglev {
        /// A prime below 5000011; 0: 65537.
        pub table_size: Written<u64>,
    }

    /// Weights from the load that endpoints report.
    pub struct BackendUtilization {
        pub weight_stabilization_period: Option<TextDuration>,
        pub weight_expiration_period: Option<TextDuration>,
        pub weight_update_period: Option<TextDuration>,
        pub error_utilization_penalty_percent: Written<u32>,
        pub metric_names_for_computing_utilization: Written<Vec<String>>,
    }

    /// Preference for near endpoints. `distribute` excludes the other two.
    pub struct LocalityLoadBalancer {
        pub distribute: Written<Vec<Distribute>>,
        pub failover: Written<Vec<Failover>>,
        pub failover_priority: Written<Vec<String>>,
        pub enabled: Written<bool>,
    }

    /// Shares of traffic from one locality to others, in percent.
    pub struct Distribute {
        pub from: Written<String>,
        pub to: Written<BTreeMap<String, u32>>,
    }

    /// From one region to another.
    pub struct Failover {
        pub from: Written<String>,
        pub to: Written<String>,
    }

    /// Preference for endpoints of the same zone.
    pub struct ZoneAwareLoadBalancer {
        pub enabled: Written<bool>,
        pub min_cluster_size: Written<u32>,
        pub failover: Written<Vec<Failover>>,
        pub failover_priority: Written<Vec<String>>,
    }

    /// How a new endpoint's share of traffic grows.
    pub struct Warmup {
        pub duration: Option<TextDuration>,
        /// Absent: 10.
        pub minimum_percent: Written<Double>,
        /// Absent: 1, linear.
        pub aggression: Written<Double>,
    }

    /// Limits and times of connections.
    pub struct ConnectionPool {
        pub tcp: Option<TcpSettings>,
        pub http: Option<HttpSettings>,
    }

    /// For HTTP upstreams too.
    pub struct TcpSettings {
        /// 0: 2^32 - 1.
        pub max_connections: Written<i32>,
        /// Absent: the mesh's, 10 s.
        pub connect_timeout: Option<TextDuration>,
        pub tcp_keepalive: Option<TcpKeepalive>,
        pub max_connection_duration: Option<TextDuration>,
        /// Absent: 1 h; `0s`: never.
        pub idle_timeout: Option<TextDuration>,
    }

    /// Absent values are the operating system's.
    pub struct TcpKeepalive {
        pub probes: Written<u32>,
        pub time: Option<TextDuration>,
        pub interval: Option<TextDuration>,
    }

    /// For HTTP upstreams. 0 means the default: 2^32 - 1, and 2^31 - 1 for streams.
    pub struct HttpSettings {
        pub http1_max_pending_requests: Written<i32>,
        pub http2_max_requests: Written<i32>,
        /// 0: no limit.
        pub max_requests_per_connection: Written<i32>,
        pub max_retries: Written<i32>,
        /// Absent: 1 h.
        pub idle_timeout: Option<TextDuration>,
        pub h2_upgrade_policy: Written<H2UpgradePolicy>,
        pub use_client_protocol: Written<bool>,
        pub max_concurrent_streams: Written<i32>,
        pub http2_keep_alive: Option<Http2KeepAlive>,
    }

    /// Pings on HTTP/2 connections.
    pub struct Http2KeepAlive {
        pub interval: Option<TextDuration>,
        pub timeout: Option<TextDuration>,
    }

    /// When an endpoint is taken out of rotation. Off unless the block is there.
    pub struct OutlierDetection {
        /// Deprecated and without effect.
        pub consecutive_errors: Written<i32>,
        pub split_external_local_origin_errors: Written<bool>,
        pub consecutive_local_origin_failures: Written<u32>,
        /// Absent: off.
        pub consecutive_gateway_errors: Written<u32>,
        /// Absent: 5; 0: off.
        pub consecutive_5xx_errors: Written<u32>,
        /// Absent: 10 s.
        pub interval: Option<TextDuration>,
        /// Absent: 30 s.
        pub base_ejection_time: Option<TextDuration>,
        /// 0: 10.
        pub max_ejection_percent: Written<i32>,
        pub min_health_percent: Written<i32>,
        pub outlier_detection_http_error_codes: Written<Vec<u32>>,
    }

    /// TLS to the upstream (Istio: `ClientTLSSettings`).
    pub struct ClientTls {
        pub mode: Written<ClientTlsMode>,
        pub client_certificate: Written<String>,
        pub private_key: Written<String>,
        pub ca_certificates: Written<String>,
        pub credential_name: Written<String>,
        pub subject_alt_names: Written<Vec<String>>,
        pub sni: Written<String>,
        pub insecure_skip_verify: Written<bool>,
        pub ca_crl: Written<String>,
    }

    /// A tunnel through a forward proxy.
    pub struct Tunnel {
        /// `CONNECT` or `POST`; empty: `CONNECT`.
        pub protocol: Written<String>,
        pub target_host: Written<String>,
        pub target_port: Written<u32>,
    }

    /// The header that names the client to the upstream.
    pub struct ProxyProtocol {
        pub version: Written<ProxyProtocolVersion>,
    }

    /// How many retries may be under way, relative to the requests.
    pub struct RetryBudget {
        /// Absent: 20.
        pub percent: Written<Double>,
        /// 0: 3.
        pub min_retry_concurrency: Written<u32>,
        pub budget_interval: Option<TextDuration>,
    }
}

choice! {
    /// `UNSPECIFIED` and `LEAST_CONN` mean `LEAST_REQUEST`.
    pub enum SimpleLoadBalancer {
        Unspecified,
        LeastConn,
        Random,
        /// To the address that the client connected to.
        Passthrough,
        RoundRobin,
        LeastRequest,
    }

    /// Whether HTTP/1.1 connections become HTTP/2.
    pub enum H2UpgradePolicy {
        Default,
        DoNotUpgrade,
        Upgrade,
    }

    /// Mind the zero value: a `tls` block without a mode switches TLS off.
    pub enum ClientTlsMode {
        Disable,
        Simple,
        Mutual,
        IstioMutual,
    }

    /// The text or the binary form.
    pub enum ProxyProtocolVersion {
        V1,
        V2,
    }
}
