//! `networking.istio.io` VirtualService: routes.

use std::collections::BTreeMap;

use super::string_match::StringMatch;
use super::value::{Base64, Double, StringMap, TextDuration, Written, choice, message};

message! {
    /// The spec of a VirtualService. Without hosts it is one that others delegate to.
    pub struct VirtualService {
        pub hosts: Written<Vec<String>>,
        /// `name`, `./name` or `namespace/name` of Gateways; `mesh` stands for all sidecars and is the default.
        pub gateways: Written<Vec<String>>,
        /// In list order, the first that matches wins.
        pub http: Written<Vec<HttpRoute>>,
        pub tls: Written<Vec<TlsRoute>>,
        pub tcp: Written<Vec<TcpRoute>>,
        /// Namespaces that see this resource: `.`, `*` or names; none: the mesh's default.
        pub export_to: Written<Vec<String>>,
    }

    /// A rule for HTTP. What few rules have is boxed: gateways hold many thousands of them.
    pub struct HttpRoute {
        pub name: Written<String>,
        /// Alternatives; none: every request.
        pub r#match: Written<Vec<HttpMatch>>,
        pub route: Written<Vec<HttpDestination>>,
        pub redirect: Option<Box<Redirect>>,
        pub direct_response: Option<Box<DirectResponse>>,
        pub delegate: Option<Box<Delegate>>,
        pub rewrite: Option<Box<Rewrite>>,
        /// From the end of the request to the end of the response, retries included; absent: no limit.
        pub timeout: Option<TextDuration>,
        pub retries: Option<Box<Retries>>,
        pub fault: Option<Box<Fault>>,
        pub mirror: Option<Box<Destination>>,
        pub mirrors: Written<Vec<Mirror>>,
        /// Deprecated forms of `mirrorPercentage`.
        #[serde(rename = "mirror_percent")]
        pub mirror_percent_snake: Written<u32>,
        pub mirror_percent: Written<u32>,
        /// Absent: 100.
        pub mirror_percentage: Option<Percent>,
        pub cors_policy: Option<Box<CorsPolicy>>,
        pub headers: Option<Box<Headers>>,
    }

    /// Conditions that must all hold.
    pub struct HttpMatch {
        pub name: Written<String>,
        /// Over the normalised path without the query.
        pub uri: Option<StringMatch>,
        pub scheme: Option<StringMatch>,
        pub method: Option<StringMatch>,
        /// Over Host or `:authority` as the client wrote it, port included.
        pub authority: Option<StringMatch>,
        pub headers: Written<BTreeMap<String, StringMatch>>,
        /// The Gateway server's port.
        pub port: Written<u32>,
        /// Labels of the proxy.
        pub source_labels: Written<StringMap>,
        /// Replaces the VirtualService's own list for this match.
        pub gateways: Written<Vec<String>>,
        pub query_params: Written<BTreeMap<String, StringMatch>>,
        /// For exact and prefix.
        pub ignore_uri_case: Written<bool>,
        pub without_headers: Written<BTreeMap<String, StringMatch>>,
        pub source_namespace: Written<String>,
        pub stat_prefix: Written<String>,
    }

    /// A weighted destination of requests, with header operations of its own.
    pub struct HttpDestination {
        pub destination: Option<Destination>,
        /// Relative; ignored when there is one destination.
        pub weight: Written<i32>,
        pub headers: Option<Box<Headers>>,
    }

    /// A service, or a subset of one.
    pub struct Destination {
        /// A service; without a dot it is one of the VirtualService's namespace.
        pub host: Written<String>,
        /// The name of a subset in the host's DestinationRule.
        pub subset: Written<String>,
        pub port: Option<PortSelector>,
    }

    /// A service port by its number; without one the service must have exactly one port, or that of the request.
    pub struct PortSelector {
        pub number: Written<u32>,
    }

    /// Operations on headers, of the request on its way up and of the response on its way down.
    pub struct Headers {
        pub request: Option<HeaderOperations>,
        pub response: Option<HeaderOperations>,
    }

    /// Keys are header names. Removes come first, then sets, then adds.
    pub struct HeaderOperations {
        pub set: Written<StringMap>,
        pub add: Written<StringMap>,
        pub remove: Written<Vec<String>>,
    }

    /// An answer that sends the client elsewhere.
    pub struct Redirect {
        /// Replaces the whole path.
        pub uri: Written<String>,
        /// Replaces the matched prefix.
        pub prefix_rewrite: Written<String>,
        pub authority: Written<String>,
        pub port: Written<u32>,
        pub derive_port: Written<RedirectPortSelection>,
        pub scheme: Written<String>,
        /// 0: 301.
        pub redirect_code: Written<u32>,
    }

    /// An answer without an upstream. The status is from 200 to 599.
    pub struct DirectResponse {
        pub status: Written<u32>,
        pub body: Option<HttpBody>,
    }

    /// At most one of the two.
    pub struct HttpBody {
        pub string: Written<String>,
        pub bytes: Written<Base64>,
    }

    /// The VirtualService whose rules take this rule's place.
    pub struct Delegate {
        pub name: Written<String>,
        /// Empty: the root VirtualService's namespace.
        pub namespace: Written<String>,
    }

    /// Changes to the request line on its way up.
    pub struct Rewrite {
        /// The matched prefix, or with another match the whole path, becomes this.
        pub uri: Written<String>,
        pub authority: Written<String>,
        pub uri_regex_rewrite: Option<RegexRewrite>,
    }

    /// Every match in the path is replaced.
    pub struct RegexRewrite {
        /// RE2 syntax; matches anywhere in the path.
        pub r#match: Written<String>,
        /// `\1` stands for the first group.
        pub rewrite: Written<String>,
    }

    /// How failed tries are repeated.
    pub struct Retries {
        /// Beside the first try. `retries: {}` thus means none, unlike an absent `retries`.
        pub attempts: Written<i32>,
        pub per_try_timeout: Option<TextDuration>,
        /// Conditions and status codes, separated by commas.
        pub retry_on: Written<String>,
        pub retry_remote_localities: Written<bool>,
        pub retry_ignore_previous_hosts: Written<bool>,
        pub backoff: Option<TextDuration>,
    }

    /// Faults that are made on purpose, both independent of each other.
    pub struct Fault {
        pub delay: Option<FaultDelay>,
        pub abort: Option<FaultAbort>,
    }

    /// A delay before the request goes on.
    pub struct FaultDelay {
        /// Deprecated form of `percentage`.
        pub percent: Written<i32>,
        pub fixed_delay: Option<TextDuration>,
        pub exponential_delay: Option<TextDuration>,
        /// Absent: 0, the delay never happens.
        pub percentage: Option<Percent>,
    }

    /// An answer in place of the upstream's. At most one of the three statuses.
    pub struct FaultAbort {
        pub http_status: Written<i32>,
        pub grpc_status: Written<String>,
        pub http2_error: Written<String>,
        /// Absent: 0, the abort never happens.
        pub percentage: Option<Percent>,
    }

    /// 0 to 100.
    pub struct Percent {
        pub value: Written<Double>,
    }

    /// A copy of requests to another destination, whose answer is dropped.
    pub struct Mirror {
        pub destination: Option<Destination>,
        /// Absent: 100.
        pub percentage: Option<Percent>,
    }

    /// Which origins may use the service from a browser.
    pub struct CorsPolicy {
        /// Deprecated: exact origins.
        pub allow_origin: Written<Vec<String>>,
        pub allow_origins: Written<Vec<StringMatch>>,
        pub allow_methods: Written<Vec<String>>,
        pub allow_headers: Written<Vec<String>>,
        pub expose_headers: Written<Vec<String>>,
        pub max_age: Option<TextDuration>,
        pub allow_credentials: Written<bool>,
        pub unmatched_preflights: Written<UnmatchedPreflights>,
    }

    /// A rule for TLS connections that are passed through.
    pub struct TlsRoute {
        pub r#match: Written<Vec<TlsMatch>>,
        pub route: Written<Vec<RouteDestination>>,
    }

    /// Conditions on a TLS connection that must all hold.
    pub struct TlsMatch {
        pub sni_hosts: Written<Vec<String>>,
        /// IP addresses and CIDRs.
        pub destination_subnets: Written<Vec<String>>,
        pub port: Written<u32>,
        pub source_labels: Written<StringMap>,
        pub gateways: Written<Vec<String>>,
        pub source_namespace: Written<String>,
    }

    /// A rule for TCP connections.
    pub struct TcpRoute {
        pub r#match: Written<Vec<TcpMatch>>,
        pub route: Written<Vec<RouteDestination>>,
    }

    /// Conditions on a connection that must all hold.
    pub struct TcpMatch {
        pub destination_subnets: Written<Vec<String>>,
        pub port: Written<u32>,
        pub source_subnet: Written<String>,
        pub source_labels: Written<StringMap>,
        pub gateways: Written<Vec<String>>,
        pub source_namespace: Written<String>,
    }

    /// A weighted destination of connections.
    pub struct RouteDestination {
        pub destination: Option<Destination>,
        pub weight: Written<i32>,
    }
}

choice! {
    /// The port of a redirect: the default one of the scheme, or the one that the request came to.
    pub enum RedirectPortSelection {
        FromProtocolDefault,
        FromRequestPort,
    }

    /// What becomes of a preflight request whose origin is not allowed.
    pub enum UnmatchedPreflights {
        Unspecified,
        Forward,
        Ignore,
    }
}
