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

    /// One patch and where it applies.
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

    /// The proxies that are patched.
    pub struct ProxyMatch {
        /// A regular expression.
        pub proxy_version: Written<String>,
        pub metadata: Written<StringMap>,
    }

    /// The listeners that are patched, and what in them.
    pub struct ListenerMatch {
        pub port_number: Written<u32>,
        pub port_name: Written<String>,
        pub filter_chain: Option<FilterChainMatch>,
        pub listener_filter: Written<String>,
        pub name: Written<String>,
    }

    /// The filter chains that are patched, and what in them.
    pub struct FilterChainMatch {
        pub name: Written<String>,
        pub sni: Written<String>,
        pub transport_protocol: Written<String>,
        pub application_protocols: Written<String>,
        pub filter: Option<FilterMatch>,
        pub destination_port: Written<u32>,
        pub transport_socket: Written<String>,
    }

    /// A network filter, and a filter in it.
    pub struct FilterMatch {
        pub name: Written<String>,
        pub sub_filter: Option<SubFilterMatch>,
    }

    /// An HTTP filter of the connection manager.
    pub struct SubFilterMatch {
        pub name: Written<String>,
    }

    /// The route configurations that are patched, and what in them.
    pub struct RouteConfigurationMatch {
        pub port_number: Written<u32>,
        pub port_name: Written<String>,
        pub gateway: Written<String>,
        pub vhost: Option<VirtualHostMatch>,
        pub name: Written<String>,
    }

    /// The virtual hosts that are patched, and what in them.
    pub struct VirtualHostMatch {
        pub name: Written<String>,
        pub domain_name: Written<String>,
        pub route: Option<RouteMatch>,
    }

    /// The routes that are patched.
    pub struct RouteMatch {
        pub name: Written<String>,
        pub action: Written<RouteAction>,
    }

    /// The clusters that are patched.
    pub struct ClusterMatch {
        pub port_number: Written<u32>,
        pub service: Written<String>,
        pub subset: Written<String>,
        pub name: Written<String>,
    }

    /// What of a waypoint is patched. Only with context `WAYPOINT`.
    pub struct WaypointMatch {
        pub filter: Option<FilterMatch>,
        pub port_number: Written<u32>,
        pub route: Option<WaypointRouteMatch>,
    }

    /// The routes of a waypoint that are patched.
    pub struct WaypointRouteMatch {
        pub name: Written<String>,
    }

    /// What is done.
    pub struct Patch {
        pub operation: Written<PatchOperation>,
        /// Free-form: a piece of Envoy's configuration.
        pub value: Option<Value>,
        pub filter_class: Written<FilterClass>,
    }
}

choice! {
    /// The part of the configuration that is patched. `INVALID` is what an absent one means.
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

    /// The kind of proxy and direction.
    pub enum PatchContext {
        Any,
        SidecarInbound,
        SidecarOutbound,
        Gateway,
        Waypoint,
    }

    /// What the route does.
    pub enum RouteAction {
        Any,
        Route,
        Redirect,
        DirectResponse,
    }

    /// How the value is put in. `INVALID` is what an absent one means.
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

    /// Where an added filter stands among Istio's own.
    pub enum FilterClass {
        Unspecified,
        Authn,
        Authz,
        Stats,
    }
}
