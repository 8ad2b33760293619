//! The registry of kinds: what Fairway keeps, and how Kubernetes clients name it.

use serde::{Deserialize, Serialize};

/// A kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    Gateway,
    VirtualService,
    DestinationRule,
    ServiceEntry,
    WorkloadEntry,
    WorkloadGroup,
    Sidecar,
    EnvoyFilter,
    ProxyConfig,
    PeerAuthentication,
    RequestAuthentication,
    AuthorizationPolicy,
    Telemetry,
    WasmPlugin,
    TrafficExtension,
    MeshConfig,
    RateLimitPolicy,
    BackendPolicy,
    Namespace,
    Secret,
    Event,
}

/// How a kind appears in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindInfo {
    pub kind: Kind,
    /// As written in a document's `kind`.
    pub name: &'static str,
    /// `networking.istio.io`; empty for Kubernetes' core group.
    pub group: &'static str,
    /// All served versions, the preferred one first. They name the same objects and share one schema.
    pub versions: &'static [&'static str],
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub namespaced: bool,
    /// There is a `status`, with a `/status` subresource.
    pub has_status: bool,
    /// The document has a `spec`; Secrets and Events have their fields beside the metadata.
    pub has_spec: bool,
    /// The generation of the model that brought the kind. Proxies of an older one are not sent it.
    pub since: u32,
}

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const TELEMETRY: &str = "telemetry.istio.io";
const EXTENSIONS: &str = "extensions.istio.io";
const FAIRWAY: &str = "fairway.dev";

const NETWORKING_CATEGORIES: &[&str] = &["istio-io", "networking-istio-io"];
const SECURITY_CATEGORIES: &[&str] = &["istio-io", "security-istio-io"];
const TELEMETRY_CATEGORIES: &[&str] = &["istio-io", "telemetry-istio-io"];
const EXTENSIONS_CATEGORIES: &[&str] = &["istio-io", "extensions-istio-io"];

const NETWORKING_VERSIONS: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY_VERSIONS: &[&str] = &["v1", "v1beta1"];

/// In the order of [`Kind`]'s variants.
static REGISTRY: [KindInfo; 21] = [
    networking(Kind::Gateway, "Gateway", "gateways", "gateway", &["gw"]),
    networking(Kind::VirtualService, "VirtualService", "virtualservices", "virtualservice", &["vs"]),
    networking(Kind::DestinationRule, "DestinationRule", "destinationrules", "destinationrule", &["dr"]),
    networking(Kind::ServiceEntry, "ServiceEntry", "serviceentries", "serviceentry", &["se"]),
    networking(Kind::WorkloadEntry, "WorkloadEntry", "workloadentries", "workloadentry", &["we"]),
    networking(Kind::WorkloadGroup, "WorkloadGroup", "workloadgroups", "workloadgroup", &["wg"]),
    networking(Kind::Sidecar, "Sidecar", "sidecars", "sidecar", &[]),
    KindInfo {
        versions: &["v1alpha3"],
        ..networking(Kind::EnvoyFilter, "EnvoyFilter", "envoyfilters", "envoyfilter", &[])
    },
    KindInfo {
        versions: &["v1beta1"],
        ..networking(Kind::ProxyConfig, "ProxyConfig", "proxyconfigs", "proxyconfig", &[])
    },
    security(Kind::PeerAuthentication, "PeerAuthentication", "peerauthentications", "peerauthentication", &["pa"]),
    security(
        Kind::RequestAuthentication,
        "RequestAuthentication",
        "requestauthentications",
        "requestauthentication",
        &["ra"],
    ),
    KindInfo {
        since: 3,
        ..security(
            Kind::AuthorizationPolicy,
            "AuthorizationPolicy",
            "authorizationpolicies",
            "authorizationpolicy",
            &["ap"],
        )
    },
    KindInfo {
        group: TELEMETRY,
        versions: &["v1", "v1alpha1"],
        categories: TELEMETRY_CATEGORIES,
        ..networking(Kind::Telemetry, "Telemetry", "telemetries", "telemetry", &["telemetry"])
    },
    extensions(Kind::WasmPlugin, "WasmPlugin", "wasmplugins", "wasmplugin"),
    extensions(Kind::TrafficExtension, "TrafficExtension", "trafficextensions", "trafficextension"),
    KindInfo {
        group: FAIRWAY,
        versions: &["v1"],
        categories: &["fairway"],
        namespaced: false,
        ..networking(Kind::MeshConfig, "MeshConfig", "meshconfigs", "meshconfig", &[])
    },
    KindInfo {
        group: FAIRWAY,
        versions: &["v1"],
        categories: &["fairway"],
        since: 2,
        ..networking(Kind::RateLimitPolicy, "RateLimitPolicy", "ratelimitpolicies", "ratelimitpolicy", &["rlp"])
    },
    KindInfo {
        group: FAIRWAY,
        versions: &["v1"],
        categories: &["fairway"],
        since: 3,
        ..networking(Kind::BackendPolicy, "BackendPolicy", "backendpolicies", "backendpolicy", &["bp"])
    },
    KindInfo {
        namespaced: false,
        has_status: true,
        has_spec: true,
        ..core(Kind::Namespace, "Namespace", "namespaces", "namespace", &["ns"])
    },
    core(Kind::Secret, "Secret", "secrets", "secret", &[]),
    core(Kind::Event, "Event", "events", "event", &["ev"]),
];

const fn networking(
    kind: Kind,
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> KindInfo {
    KindInfo {
        kind,
        name,
        group: NETWORKING,
        versions: NETWORKING_VERSIONS,
        plural,
        singular,
        short_names,
        categories: NETWORKING_CATEGORIES,
        namespaced: true,
        has_status: true,
        has_spec: true,
        since: 1,
    }
}

const fn security(
    kind: Kind,
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> KindInfo {
    KindInfo {
        group: SECURITY,
        versions: SECURITY_VERSIONS,
        categories: SECURITY_CATEGORIES,
        ..networking(kind, name, plural, singular, short_names)
    }
}

const fn extensions(kind: Kind, name: &'static str, plural: &'static str, singular: &'static str) -> KindInfo {
    KindInfo {
        group: EXTENSIONS,
        versions: &["v1alpha1"],
        categories: EXTENSIONS_CATEGORIES,
        ..networking(kind, name, plural, singular, &[])
    }
}

const fn core(
    kind: Kind,
    name: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> KindInfo {
    KindInfo {
        group: "",
        versions: &["v1"],
        categories: &[],
        has_status: false,
        has_spec: false,
        ..networking(kind, name, plural, singular, short_names)
    }
}

impl KindInfo {
    /// The version that clients are told to prefer and that documents are written in.
    pub fn preferred_version(&self) -> &'static str {
        self.versions[0]
    }

    /// The version as the registry writes it, if it is served.
    pub fn served_version(&self, version: &str) -> Option<&'static str> {
        self.versions.iter().copied().find(|served| *served == version)
    }

    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The kind of a list of these.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.name)
    }
}

impl Kind {
    pub const ALL: [Self; 21] = [
        Self::Gateway,
        Self::VirtualService,
        Self::DestinationRule,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::WorkloadGroup,
        Self::Sidecar,
        Self::EnvoyFilter,
        Self::ProxyConfig,
        Self::PeerAuthentication,
        Self::RequestAuthentication,
        Self::AuthorizationPolicy,
        Self::Telemetry,
        Self::WasmPlugin,
        Self::TrafficExtension,
        Self::MeshConfig,
        Self::RateLimitPolicy,
        Self::BackendPolicy,
        Self::Namespace,
        Self::Secret,
        Self::Event,
    ];

    pub fn info(self) -> &'static KindInfo {
        &REGISTRY[self as usize]
    }

    /// As written in a document's `kind`.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// By the group and plural of a URL.
    pub fn from_plural(group: &str, plural: &str) -> Option<Self> {
        REGISTRY.iter().find(|info| info.group == group && info.plural == plural).map(|info| info.kind)
    }

    /// By the group and kind of a document.
    pub fn from_group_kind(group: &str, kind: &str) -> Option<Self> {
        REGISTRY.iter().find(|info| info.group == group && info.name == kind).map(|info| info.kind)
    }

    /// By a document's `apiVersion` and `kind`; the version must be one that is served.
    pub fn from_api_version(api_version: &str, kind: &str) -> Option<(Self, &'static str)> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let kind = Self::from_group_kind(group, kind)?;
        Some((kind, kind.info().served_version(version)?))
    }

    /// By any name a person types: kind, plural, singular or short name, each with an optional `.group`.
    pub fn from_any_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let (name, group) = name.split_once('.').map_or((name.as_str(), None), |(name, group)| (name, Some(group)));
        let named = |info: &&KindInfo| {
            info.plural == name
                || info.singular == name
                || info.short_names.contains(&name)
                || info.name.eq_ignore_ascii_case(name)
        };
        REGISTRY.iter().filter(|info| group.is_none_or(|group| info.group == group)).find(named).map(|info| info.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_in_the_order_of_the_kinds() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            assert_eq!(kind.info().kind, kind);
            assert_eq!(format!("{kind:?}"), kind.name());
            assert_eq!(Kind::from_plural(kind.info().group, kind.info().plural), Some(kind));
            assert_eq!(Kind::from_group_kind(kind.info().group, kind.name()), Some(kind));
        }
    }

    #[test]
    fn people_name_kinds_in_many_ways() {
        for name in ["vs", "VirtualService", "virtualservices", "virtualservice", "vs.networking.istio.io"] {
            assert_eq!(Kind::from_any_name(name), Some(Kind::VirtualService), "{name}");
        }
        assert_eq!(Kind::from_any_name("vs.security.istio.io"), None);
        assert_eq!(Kind::from_any_name("ns"), Some(Kind::Namespace));
        assert_eq!(Kind::from_any_name("telemetry"), Some(Kind::Telemetry));
        assert_eq!(Kind::from_any_name("pods"), None);
        assert_eq!(Kind::from_api_version("networking.istio.io/v1beta1", "Gateway"), Some((Kind::Gateway, "v1beta1")));
        assert_eq!(Kind::from_api_version("v1", "Secret"), Some((Kind::Secret, "v1")));
        assert_eq!(Kind::from_api_version("networking.istio.io/v2", "Gateway"), None);
        assert_eq!(Kind::from_api_version("gateway.networking.k8s.io/v1", "Gateway"), None);
    }
}
