//! `fairway.dev` MeshConfig: settings of the whole mesh. Field names are those of Istio's MeshConfig.

use super::destination_rule::LocalityLoadBalancer;
use super::value::{TextDuration, Written, choice, message};

message! {
    /// The spec of the MeshConfig, of which there is one, named `default`.
    pub struct MeshConfig {
        /// The namespace whose policies are for the whole mesh. Empty: `istio-system`.
        pub root_namespace: Written<String>,
        /// Of workload identities. Empty: `cluster.local`.
        pub trust_domain: Written<String>,
        /// Trust domains whose identities are taken for those of the mesh's own, such as the one it had before.
        pub trust_domain_aliases: Written<Vec<String>>,
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
        /// What an absent `exportTo` means, by kind. Absent: `*`.
        pub default_service_export_to: Written<Vec<String>>,
        pub default_virtual_service_export_to: Written<Vec<String>>,
        pub default_destination_rule_export_to: Written<Vec<String>>,
        /// Time to connect to an upstream whose DestinationRule has none. Absent: 10 s.
        pub connect_timeout: Option<TextDuration>,
        /// How often a name that could not be resolved is tried again. Absent: 60 s.
        pub dns_refresh_rate: Option<TextDuration>,
        /// How many proxies before the gateway are trusted to have set X-Forwarded-For.
        pub num_trusted_proxies: Written<u32>,
        /// How long a request's body may be, in bytes, where no BackendPolicy says so. Absent or 0: as long as it likes.
        pub max_request_body_bytes: Written<u64>,
        /// Preference for near endpoints where a DestinationRule says nothing of it. Absent: `enabled`.
        pub locality_lb_setting: Option<LocalityLoadBalancer>,
        /// What becomes of a destination host that no ServiceEntry declares.
        pub undeclared_hosts: Written<UndeclaredHosts>,
    }

    /// What sidecars do with requests to hosts that no resource declares.
    pub struct OutboundTrafficPolicy {
        pub mode: Written<OutboundMode>,
    }
}

impl MeshConfig {
    /// With its default.
    pub fn root_namespace(&self) -> &str {
        if self.root_namespace.is_empty() { "istio-system" } else { &self.root_namespace }
    }

    /// With its default.
    pub fn trust_domain(&self) -> &str {
        if self.trust_domain.is_empty() { "cluster.local" } else { &self.trust_domain }
    }

    /// The mesh's own trust domain, and then its aliases, each once.
    pub fn trust_domains(&self) -> Vec<&str> {
        let mut domains = vec![self.trust_domain()];
        for alias in &self.trust_domain_aliases {
            if !domains.contains(&alias.as_str()) {
                domains.push(alias);
            }
        }
        domains
    }
}

choice! {
    /// Where a sidecar lets requests to unknown hosts go. Istio's zero value is `REGISTRY_ONLY`, its default
    /// `ALLOW_ANY`; here the default comes first.
    pub enum OutboundMode {
        AllowAny,
        RegistryOnly,
    }
}

/// Fairway's own: its values are words, as in Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum UndeclaredHosts {
    /// The proxy looks the name up in DNS, as written first, then expanded.
    #[default]
    Resolve,
    /// Requests are answered 503 NC.
    Refuse,
}
