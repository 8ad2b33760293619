//! The mesh-wide settings, out of the MeshConfig or by default.

use std::time::Duration;

use crate::kind::Kind;
use crate::kinds::MeshConfig;
use crate::kinds::destination_rule::LocalityLoadBalancer;
use crate::kinds::mesh_config::{OutboundMode, UndeclaredHosts};
use crate::meta::ResourceKey;
use crate::resource::ResourceSet;
use crate::table::ProxySettings;

/// The name of the one MeshConfig.
const NAME: &str = "default";

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Mesh(MeshConfig);

impl Mesh {
    pub(super) fn key() -> ResourceKey {
        ResourceKey::new(Kind::MeshConfig, "", NAME)
    }

    pub(super) fn of(set: &ResourceSet) -> Self {
        let config = set.get(&Self::key()).and_then(|resource| resource.spec::<MeshConfig>());
        Self(config.cloned().unwrap_or_default())
    }

    pub(super) fn root_namespace(&self) -> &str {
        self.0.root_namespace()
    }

    /// The mesh's own, and then its aliases.
    pub(super) fn trust_domains(&self) -> Vec<&str> {
        self.0.trust_domains()
    }

    pub(super) fn virtual_service_export_to(&self) -> &[String] {
        &self.0.default_virtual_service_export_to
    }

    pub(super) fn destination_rule_export_to(&self) -> &[String] {
        &self.0.default_destination_rule_export_to
    }

    pub(super) fn service_export_to(&self) -> &[String] {
        &self.0.default_service_export_to
    }

    pub(super) fn resolves_undeclared_hosts(&self) -> bool {
        *self.0.undeclared_hosts == UndeclaredHosts::Resolve
    }

    /// Whether sidecars let requests to hosts through that nobody declares.
    pub(super) fn allows_unknown_hosts(&self) -> bool {
        self.0.outbound_traffic_policy.as_ref().is_none_or(|policy| *policy.mode == OutboundMode::AllowAny)
    }

    pub(super) fn max_request_body(&self) -> Option<u64> {
        Some(*self.0.max_request_body_bytes).filter(|bytes| *bytes > 0)
    }

    pub(super) fn locality_lb_setting(&self) -> Option<&LocalityLoadBalancer> {
        self.0.locality_lb_setting.as_ref()
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.settings().connect_timeout
    }

    pub(super) fn settings(&self) -> ProxySettings {
        let default = ProxySettings::default();
        let time = |duration: &Option<crate::kinds::TextDuration>, default| {
            duration.as_ref().map(crate::kinds::TextDuration::get).filter(|time| !time.is_zero()).unwrap_or(default)
        };
        ProxySettings {
            num_trusted_proxies: *self.0.num_trusted_proxies,
            num_trusted_proxies_of: default.num_trusted_proxies_of,
            connect_timeout: time(&self.0.connect_timeout, default.connect_timeout),
            dns_refresh_rate: time(&self.0.dns_refresh_rate, default.dns_refresh_rate),
        }
    }
}
