//! `networking.istio.io` EnvoyFilter: patches of Envoy's configuration. Kept and shown; Fairway is no Envoy.

use serde_json::Value;

use super::selector::{TargetRef, WorkloadSelector};
use super::value::{StringMap, Written, choice, message};

message! {
    /// The spec of an EnvoyFilter.
    pub struct EnvoyFilter {
        /// Excludes `targetRefs`.
        pub workload_selector: Option<WorkloadSelector>,
        pub target_refs: Written<Vec<TargetRef>>,
        pub config_patches: Written<Vec<ConfigPatch>>,
        /// Lower ones are applied first.
        pub priority: Written<i32>,
    }

    pub struct ConfigPatch {
        pub apply_to: Written<ApplyTo>,
        pub r#match: Option<PatchMatch>,
        pub patch: Option<Patch>,
    }

    /// What is patched. At most one of `listener`, `routeConfiguration`, `cluster` and `waypoint`.
    pub struct PatchMatch {
        pub context: Written<PatchContext>,
        pub proxy: Option<ProxyMatch>,
        pub listener: Option<ListenerMatch>,
        pub route_configuration: Option<RouteConfigurationMatch>,
        pub cluster: Option<ClusterMatch>,
        pub waypoint: Option<WaypointMatch>,
    }

    pub struct ProxyMatch {
        /// A regular expression.
        pub proxy_version: Written<String>,
        pub metadata: Written<StringMap>,
    }

    pub struct ListenerMatch {
        pub port_number: Written<u32>,
        pub port_name: Written<String>,
        pub filter_chain: Option<FilterChainMatch>,
        pub listener_filter: Written<String>,
        pub name: Written<String>,
    }

    pub struct FilterChainMatch {
        pub name: Written<String>,
        pub sni: Written<String>,
        pub transport_protocol: Written<String>,
        pub application_protocols: Written<String>,
        pub filter: Option<FilterMatch>,
        pub destination_port: Written<u32>,
        pub transport_socket: Written<String>,
    }

    pub struct FilterMatch {
        pub name: Written<String>,
        pub sub_filter: Option<SubFilterMatch>,
    }

    pub struct SubFilterMatch {
        pub name: Written<String>,
    }

    pub struct RouteConfigurationMatch {
        pub port_number: Written<u32>,
        pub port_name: Written<String>,
        pub gateway: Written<String>,
        pub vhost: Option<VirtualHostMatch>,
        pub name: Written<String>,
    }

    pub struct VirtualHostMatch {
        pub name: Written<String>,
        pub domain_name: Written<String>,
        pub route: Option<RouteMatch>,
    }

    pub struct RouteMatch {
        pub name: Written<String>,
        pub action: Written<RouteAction>,
    }

    pub struct ClusterMatch {
        pub port_number: Written<u32>,
        pub service: Written<String>,
        pub subset: Written<String>,
        pub name: Written<String>,
    }

    pub struct WaypointMatch {
        pub filter: Option<FilterMatch>,
        pub port_number: Written<u32>,
        pub route: Option<WaypointRouteMatch>,
    }

    pub struct WaypointRouteMatch {
        pub name: Written<String>,
    }

    pub struct Patch {
        pub operation: Written<PatchOperation>,
        /// Free-form: a piece of Envoy's configuration.
        pub value: Option<Value>,
        pub filter_class: Written<FilterClass>,
    }
}

choice! {
    pub enum ApplyTo {
        Invalid,
        Listener,
        FilterChain,
        NetworkFilter,
        HttpFilter,
        RouteConfiguration,
        VirtualHost,
        HttpRoute,
        Cluster,
        ExtensionConfig,
        Bootstrap,
        ListenerFilter,
    }

    pub enum PatchContext {
        Any,
        SidecarInbound,
        SidecarOutbound,
        Gateway,
        Waypoint,
    }

    pub enum RouteAction {
        Any,
        Route,
        Redirect,
        DirectResponse,
    }

    pub enum PatchOperation {
        Invalid,
        Merge,
        Add,
        Remove,
        InsertBefore,
        InsertAfter,
        InsertFirst,
        Replace,
        MergeAndReplaceList,
    }

    pub enum FilterClass {
        Unspecified,
        Authn,
        Authz,
        Stats,
    }
}
