//! The table itself.

use std::sync::LazyLock;

use super::Entry;
use super::State::{self, Never, NotYet, Since};
use crate::kind::Kind;

const V0_1: State = Since("0.1");

const fn entry(path: &'static str, state: State) -> Entry {
    Entry { path, state }
}

macro_rules! table {
    ($($path:literal => $state:expr,)*) => { &[$(entry($path, $state)),*] };
}

const TLS_LIBRARY: State =
    Never("Fairway speaks TLS 1.2 and 1.3; older versions are insecure, the bound is read as 1.2");

/// What says something to sidecars alone, and why.
const fn sidecars(reason: &'static str) -> State {
    State::Sidecars("0.1", reason)
}

const PASSTHROUGH: State =
    sidecars("the address that a client wanted to reach is known there alone; a gateway uses LEAST_REQUEST");
const BACKEND_UTILIZATION: State =
    Never("endpoints would have to report their load with every answer; LEAST_REQUEST, used instead, sees who is slow");
const ZONE_AWARE: State =
    Never("it divides by how many callers run in each zone, which a gateway does not know; use localityLbSetting");

pub(super) fn of(kind: Kind) -> &'static [Entry] {
    match kind {
        Kind::Gateway => GATEWAY,
        Kind::VirtualService => VIRTUAL_SERVICE,
        Kind::DestinationRule => &DESTINATION_RULE,
        Kind::ServiceEntry => SERVICE_ENTRY,
        Kind::WorkloadEntry => WORKLOAD_ENTRY,
        Kind::MeshConfig => MESH_CONFIG,
        Kind::RateLimitPolicy => RATE_LIMIT_POLICY,
        Kind::BackendPolicy => BACKEND_POLICY,
        Kind::AuthorizationPolicy => AUTHORIZATION_POLICY,
        Kind::EnvoyFilter => ENVOY_FILTER,
        Kind::RequestAuthentication => REQUEST_AUTHENTICATION,
        Kind::WorkloadGroup => WORKLOAD_GROUP,
        Kind::Sidecar => SIDECAR,
        Kind::PeerAuthentication => PEER_AUTHENTICATION,
        Kind::ProxyConfig | Kind::Telemetry | Kind::WasmPlugin | Kind::TrafficExtension => STORED,
        Kind::Namespace => NAMESPACE,
        Kind::Secret => SECRET,
        Kind::Event => EVENT,
    }
}

static STORED: &[Entry] = table! { "spec" => NotYet, };

static ENVOY_FILTER: &[Entry] =
    table! { "spec" => Never("it patches the configuration of Envoy, and Fairway is not built on Envoy"), };

static GATEWAY: &[Entry] = table! {
    "spec.selector" => V0_1,
    "spec.servers[].port.number" => V0_1,
    "spec.servers[].port.name" => V0_1,
    "spec.servers[].port.protocol" => V0_1,
    "spec.servers[].port.targetPort" => Never("deprecated in Istio, whose validation refuses it; Fairway refuses it too"),
    "spec.servers[].bind" => V0_1,
    "spec.servers[].hosts" => V0_1,
    "spec.servers[].name" => Never("a name for people: nothing goes by it, nor does it at Istio's gateways"),
    "spec.servers[].defaultEndpoint" => Never("gateways have no default endpoint; Istio's ignore it too"),
    "spec.servers[].tls.httpsRedirect" => V0_1,
    "spec.servers[].tls.mode" => V0_1,
    "spec.servers[].tls.mode=AUTO_PASSTHROUGH" => Never("it takes what sidecars of another network send, with the service in the server name; use PASSTHROUGH and `tls` rules"),
    "spec.servers[].tls.serverCertificate" => V0_1,
    "spec.servers[].tls.privateKey" => V0_1,
    "spec.servers[].tls.caCertificates" => V0_1,
    "spec.servers[].tls.caCrl" => V0_1,
    "spec.servers[].tls.credentialName" => V0_1,
    "spec.servers[].tls.credentialNames" => V0_1,
    "spec.servers[].tls.caCertCredentialName" => V0_1,
    "spec.servers[].tls.tlsCertificates" => V0_1,
    "spec.servers[].tls.subjectAltNames" => V0_1,
    "spec.servers[].tls.verifyCertificateSpki" => V0_1,
    "spec.servers[].tls.verifyCertificateHash" => V0_1,
    "spec.servers[].tls.minProtocolVersion" => V0_1,
    "spec.servers[].tls.minProtocolVersion=TLSV1_0" => TLS_LIBRARY,
    "spec.servers[].tls.minProtocolVersion=TLSV1_1" => TLS_LIBRARY,
    "spec.servers[].tls.maxProtocolVersion" => V0_1,
    "spec.servers[].tls.maxProtocolVersion=TLSV1_0" => TLS_LIBRARY,
    "spec.servers[].tls.maxProtocolVersion=TLSV1_1" => TLS_LIBRARY,
    "spec.servers[].tls.cipherSuites" => V0_1,
    "spec.servers[].tls.ecdhCurves" => V0_1,
    "spec.servers[].tls.ecdhCurves[]=P-521" => Never("not among the curves of the TLS library; P-384 is stronger than TLS needs"),
    "spec.servers[].tls.insecureSkipVerify" => V0_1,
};

static VIRTUAL_SERVICE: &[Entry] = table! {
    "spec.hosts" => V0_1,
    "spec.gateways" => V0_1,
    "spec.exportTo" => V0_1,
    "spec.http[].name" => V0_1,
    "spec.http[].match[].name" => V0_1,
    "spec.http[].match[].uri" => V0_1,
    "spec.http[].match[].ignoreUriCase" => V0_1,
    "spec.http[].match[].scheme" => V0_1,
    "spec.http[].match[].method" => V0_1,
    "spec.http[].match[].authority" => V0_1,
    "spec.http[].match[].headers" => V0_1,
    "spec.http[].match[].withoutHeaders" => V0_1,
    "spec.http[].match[].queryParams" => V0_1,
    "spec.http[].match[].port" => V0_1,
    "spec.http[].match[].gateways" => V0_1,
    "spec.http[].match[].sourceLabels" => V0_1,
    "spec.http[].match[].sourceNamespace" => V0_1,
    "spec.http[].match[].statPrefix" => V0_1,
    "spec.http[].route[].destination.host" => V0_1,
    "spec.http[].route[].destination.subset" => V0_1,
    "spec.http[].route[].destination.port.number" => V0_1,
    "spec.http[].route[].weight" => V0_1,
    "spec.http[].route[].headers" => V0_1,
    "spec.http[].headers" => V0_1,
    "spec.http[].redirect" => V0_1,
    "spec.http[].directResponse" => V0_1,
    "spec.http[].delegate" => V0_1,
    "spec.http[].rewrite" => V0_1,
    "spec.http[].timeout" => V0_1,
    "spec.http[].retries" => V0_1,
    "spec.http[].fault" => V0_1,
    "spec.http[].mirror" => V0_1,
    "spec.http[].mirrors" => V0_1,
    "spec.http[].mirrorPercentage" => V0_1,
    "spec.http[].mirrorPercent" => V0_1,
    "spec.http[].mirror_percent" => V0_1,
    "spec.http[].corsPolicy" => V0_1,
    "spec.tls" => V0_1,
    "spec.tcp" => V0_1,
};

/// The blocks that a traffic policy and a port's settings share.
macro_rules! policy_blocks {
    ($at:literal) => {
        connection_pool!(
            $at,
            entry(concat!($at, ".loadBalancer.simple"), V0_1),
            entry(concat!($at, ".loadBalancer.simple=PASSTHROUGH"), PASSTHROUGH),
            entry(concat!($at, ".loadBalancer.consistentHash"), V0_1),
            entry(concat!($at, ".loadBalancer.backendUtilization"), BACKEND_UTILIZATION),
            entry(concat!($at, ".loadBalancer.localityLbSetting"), V0_1),
            entry(concat!($at, ".loadBalancer.zoneAwareLbSetting"), ZONE_AWARE),
            entry(concat!($at, ".loadBalancer.warmup"), V0_1),
            entry(concat!($at, ".loadBalancer.warmupDurationSecs"), V0_1),
            entry(concat!($at, ".outlierDetection"), V0_1),
            entry(concat!($at, ".tls"), V0_1),
        )
    };
}

macro_rules! connection_pool {
    ($at:literal, $($more:expr),* $(,)?) => {
        &[
            entry(concat!($at, ".connectionPool.tcp.connectTimeout"), V0_1),
            entry(concat!($at, ".connectionPool.tcp.maxConnections"), V0_1),
            entry(concat!($at, ".connectionPool.tcp.tcpKeepalive"), V0_1),
            entry(concat!($at, ".connectionPool.tcp.maxConnectionDuration"), V0_1),
            entry(concat!($at, ".connectionPool.tcp.idleTimeout"), V0_1),
            entry(concat!($at, ".connectionPool.http.idleTimeout"), V0_1),
            entry(concat!($at, ".connectionPool.http.h2UpgradePolicy"), V0_1),
            entry(concat!($at, ".connectionPool.http.useClientProtocol"), V0_1),
            entry(concat!($at, ".connectionPool.http.http1MaxPendingRequests"), V0_1),
            entry(concat!($at, ".connectionPool.http.http2MaxRequests"), V0_1),
            entry(concat!($at, ".connectionPool.http.maxRequestsPerConnection"), V0_1),
            entry(concat!($at, ".connectionPool.http.maxRetries"), V0_1),
            entry(concat!($at, ".connectionPool.http.maxConcurrentStreams"), V0_1),
            entry(concat!($at, ".connectionPool.http.http2KeepAlive"), V0_1),
            $($more),*
        ]
    };
}

static DESTINATION_RULE: LazyLock<Vec<Entry>> = LazyLock::new(|| {
    let own: &[Entry] = table! {
        "spec.host" => V0_1,
        "spec.exportTo" => V0_1,
        "spec.workloadSelector" => V0_1,
        "spec.subsets[].name" => V0_1,
        "spec.subsets[].labels" => V0_1,
        "spec.trafficPolicy.tunnel" => V0_1,
        "spec.trafficPolicy.proxyProtocol" => V0_1,
        "spec.trafficPolicy.retryBudget" => V0_1,
        "spec.trafficPolicy.portLevelSettings[].port" => V0_1,
        "spec.subsets[].trafficPolicy.tunnel" => V0_1,
        "spec.subsets[].trafficPolicy.proxyProtocol" => V0_1,
        "spec.subsets[].trafficPolicy.retryBudget" => V0_1,
        "spec.subsets[].trafficPolicy.portLevelSettings[].port" => V0_1,
    };
    [
        own,
        policy_blocks!("spec.trafficPolicy"),
        policy_blocks!("spec.trafficPolicy.portLevelSettings[]"),
        policy_blocks!("spec.subsets[].trafficPolicy"),
        policy_blocks!("spec.subsets[].trafficPolicy.portLevelSettings[]"),
    ]
    .concat()
});

static SERVICE_ENTRY: &[Entry] = table! {
    "spec.hosts" => V0_1,
    "spec.addresses" => sidecars("they catch traffic by its address; a gateway is reached by its own and goes by names"),
    "spec.ports" => V0_1,
    "spec.location" => V0_1,
    "spec.resolution" => V0_1,
    "spec.resolution=NONE" => sidecars("the address that a client wanted to reach is known there alone; a gateway answers 503"),
    "spec.endpoints[].address" => V0_1,
    "spec.endpoints[].ports" => V0_1,
    "spec.endpoints[].labels" => V0_1,
    "spec.endpoints[].weight" => V0_1,
    "spec.endpoints[].network" => V0_1,
    "spec.endpoints[].locality" => V0_1,
    "spec.endpoints[].serviceAccount" => V0_1,
    "spec.workloadSelector" => V0_1,
    "spec.exportTo" => V0_1,
    "spec.subjectAltNames" => V0_1,
};

static WORKLOAD_ENTRY: &[Entry] = table! {
    "spec.address" => V0_1,
    "spec.ports" => V0_1,
    "spec.labels" => V0_1,
    "spec.weight" => V0_1,
    "spec.network" => V0_1,
    "spec.locality" => V0_1,
    "spec.serviceAccount" => V0_1,
};

static WORKLOAD_GROUP: &[Entry] = table! {
    "spec.metadata" => V0_1,
    "spec.template" => V0_1,
    "spec.template.address" => Never("each workload has the address that its sidecar registers"),
    "spec.probe" => V0_1,
};

static MESH_CONFIG: &[Entry] = table! {
    "spec.rootNamespace" => V0_1,
    "spec.trustDomain" => V0_1,
    "spec.trustDomainAliases" => V0_1,
    "spec.outboundTrafficPolicy" => sidecars("it is about what leaves a workload; for gateways there is undeclaredHosts"),
    "spec.defaultServiceExportTo" => V0_1,
    "spec.defaultVirtualServiceExportTo" => V0_1,
    "spec.defaultDestinationRuleExportTo" => V0_1,
    "spec.connectTimeout" => V0_1,
    "spec.dnsRefreshRate" => V0_1,
    "spec.numTrustedProxies" => V0_1,
    "spec.maxRequestBodyBytes" => V0_1,
    "spec.localityLbSetting" => V0_1,
    "spec.undeclaredHosts" => V0_1,
};

static AUTHORIZATION_POLICY: &[Entry] = table! {
    "spec.selector" => V0_1,
    "spec.targetRef" => V0_1,
    "spec.targetRefs" => V0_1,
    "spec.rules" => V0_1,
    "spec.action" => V0_1,
    "spec.provider" => NotYet,
};

const APPLICATION_PROTOCOL: State = Never("what the application speaks is told by the protocol of its port");

static SIDECAR: &[Entry] = table! {
    "spec.workloadSelector" => V0_1,
    "spec.ingress[].port" => V0_1,
    "spec.ingress[].bind" => V0_1,
    "spec.ingress[].captureMode" => V0_1,
    "spec.ingress[].defaultEndpoint" => V0_1,
    "spec.ingress[].tls" => Never("a sidecar shows the mesh's certificate; for clients outside the mesh there are gateways"),
    "spec.ingress[].connectionPool" => V0_1,
    "spec.ingress[].connectionPool.http.h2UpgradePolicy" => APPLICATION_PROTOCOL,
    "spec.ingress[].connectionPool.http.useClientProtocol" => APPLICATION_PROTOCOL,
    "spec.inboundConnectionPool" => V0_1,
    "spec.inboundConnectionPool.http.h2UpgradePolicy" => APPLICATION_PROTOCOL,
    "spec.inboundConnectionPool.http.useClientProtocol" => APPLICATION_PROTOCOL,
    "spec.egress" => V0_1,
    "spec.outboundTrafficPolicy" => V0_1,
};

static PEER_AUTHENTICATION: &[Entry] = table! {
    "spec.selector" => V0_1,
    "spec.mtls" => V0_1,
    "spec.portLevelMtls" => V0_1,
};

static NAMESPACE: &[Entry] = table! { "spec.finalizers" => V0_1, };

static SECRET: &[Entry] = table! {
    "type" => V0_1,
    "data" => V0_1,
    "stringData" => V0_1,
    "immutable" => V0_1,
};

/// Events are for people: to be stored and read is all there is to them.
static EVENT: &[Entry] = table! {
    "action" => V0_1,
    "count" => V0_1,
    "eventTime" => V0_1,
    "firstTimestamp" => V0_1,
    "involvedObject" => V0_1,
    "lastTimestamp" => V0_1,
    "message" => V0_1,
    "reason" => V0_1,
    "related" => V0_1,
    "reportingComponent" => V0_1,
    "reportingInstance" => V0_1,
    "series" => V0_1,
    "source" => V0_1,
    "type" => V0_1,
};

static BACKEND_POLICY: &[Entry] = table! {
    "spec.targetRefs" => V0_1,
    "spec.requestBody" => V0_1,
};

static REQUEST_AUTHENTICATION: &[Entry] = table! {
    "spec.selector" => V0_1,
    "spec.targetRef" => V0_1,
    "spec.targetRefs" => V0_1,
    "spec.jwtRules[].issuer" => V0_1,
    "spec.jwtRules[].audiences" => V0_1,
    "spec.jwtRules[].jwksUri" => V0_1,
    "spec.jwtRules[].jwks_uri" => V0_1,
    "spec.jwtRules[].jwks" => V0_1,
    "spec.jwtRules[].fromHeaders" => V0_1,
    "spec.jwtRules[].fromParams" => V0_1,
    "spec.jwtRules[].fromCookies" => V0_1,
    "spec.jwtRules[].outputPayloadToHeader" => V0_1,
    "spec.jwtRules[].outputClaimToHeaders" => V0_1,
    "spec.jwtRules[].forwardOriginalToken" => V0_1,
    "spec.jwtRules[].timeout" => V0_1,
    "spec.jwtRules[].spaceDelimitedClaims" => V0_1,
    "spec.jwtRules[].presence" => Never("Istio does not read it either; require a token by an AuthorizationPolicy"),
};

static RATE_LIMIT_POLICY: &[Entry] = table! {
    "spec.targetRefs" => V0_1,
    "spec.scope" => V0_1,
    "spec.mode" => V0_1,
    "spec.rules[].name" => V0_1,
    "spec.rules[].match" => V0_1,
    "spec.rules[].match[].port" => Never("says where, which targetRefs do; refused"),
    "spec.rules[].match[].gateways" => Never("says where, which targetRefs do; refused"),
    "spec.rules[].match[].sourceLabels" => Never("says where, which targetRefs do; refused"),
    "spec.rules[].match[].sourceNamespace" => Never("says where, which targetRefs do; refused"),
    "spec.rules[].match[].statPrefix" => Never("a rate limit's metrics are named by policy and rule"),
    "spec.rules[].key" => V0_1,
    "spec.rules[].limit" => V0_1,
    "spec.rules[].cost" => V0_1,
    "spec.rules[].costHeader" => V0_1,
    "spec.response" => V0_1,
};
