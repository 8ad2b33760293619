//! What rules do to their traffic: retries, faults, mirrors, CORS.

use std::time::Duration;

use super::*;
use crate::table::cluster::LoadBalancer;
use crate::table::fault::{Abort, Fraction};
use crate::table::hash::{HashAlgorithm, HashKey};
use crate::table::retry::{RetryOn, RetryPolicy};
use crate::table::route::Forward;
use crate::table::upstream::{CircuitBreakers, RetryBudget, TcpKeepalive};

/// The route of the only rule, which goes to `a.test` and has these fields besides.
fn rule(fields: &str) -> (Edge, Arc<Route>) {
    let http = format!("[{{route: [{{destination: {{host: a.test, port: {{number: 80}}}}}}], {fields}}}]");
    let edge = edge(&virtual_service("v", 0, "['*']", &http));
    let route = edge.route(80, "GET h /");
    (edge, route)
}

fn forward(route: &Route) -> &Forward {
    match &route.action {
        Action::Forward(forward) => forward,
        other => panic!("{other:?}"),
    }
}

#[test]
fn retries_are_istios_default_unless_written() {
    let retry = |fields: &str| forward(&rule(fields).1).retry.as_deref().cloned();
    let default = (*RetryPolicy::mesh_default()).clone();
    assert_eq!(retry("timeout: 1s"), Some(default.clone()));
    assert_eq!(retry("retries: {}"), None);
    assert_eq!(retry("retries: {attempts: 0}"), None);
    assert_eq!(retry("retries: {attempts: 5}"), Some(RetryPolicy { attempts: 5, ..default.clone() }));
    let written = "retries: {attempts: 1, perTryTimeout: 2s, retryOn: '5xx, reset,429,retriable-headers', \
                   backoff: 1s, retryIgnorePreviousHosts: false, retryRemoteLocalities: true}";
    let policy = retry(written).unwrap();
    assert_eq!(policy.on, RetryOn::SERVER_ERROR | RetryOn::RESET);
    assert_eq!(policy.conditions(), "5xx,reset,429");
    assert_eq!((policy.per_try_timeout, policy.backoff), (Some(Duration::from_secs(2)), Duration::from_secs(1)));
    assert_eq!((policy.explicit, policy.avoid_previous, policy.remote_localities), (true, Some(false), true));
}

#[test]
fn faults_that_never_happen_are_none() {
    let fault = |fields: &str| rule(fields).1.fault.clone();
    assert_eq!(fault("fault: {abort: {httpStatus: 500}}"), None);
    assert_eq!(fault("fault: {delay: {fixedDelay: 1s, percentage: {value: 0}}}"), None);
    let both = fault(
        "fault: {delay: {fixedDelay: 7s, percentage: {value: 0.5}}, \
         abort: {grpcStatus: UNAVAILABLE, percentage: {value: 100}}}",
    )
    .unwrap();
    assert_eq!(both.delay, Some((Fraction::from_percent(0.5), Duration::from_secs(7))));
    assert_eq!(both.abort, Some((Fraction::ALWAYS, Abort::Grpc(14))));
    let old = fault("fault: {delay: {fixedDelay: 1s, percent: 10}}").unwrap();
    assert_eq!(old.delay, Some((Fraction::from_percent(10.0), Duration::from_secs(1))));
}

#[test]
fn mirrors_are_targets_like_others() {
    let mirrors = |fields: &str| {
        let (edge, route) = rule(fields);
        let name = |cluster| edge.table.cluster(cluster).map_or("none", |cluster| &*cluster.name).to_owned();
        let list = &forward(&route).mirrors;
        list.iter().map(|mirror| (name(mirror.cluster), mirror.fraction.percent())).collect::<Vec<_>>()
    };
    let to = |host: &str| format!("{{host: {host}.test, port: {{number: 80}}}}");
    let name = |host: &str| format!("outbound|80||{host}.test");
    assert_eq!(mirrors(&format!("mirror: {}", to("m"))), [(name("m"), 100.0)]);
    assert_eq!(mirrors(&format!("mirror: {}, mirrorPercentage: {{value: 0}}", to("m"))), []);
    assert_eq!(mirrors(&format!("mirror: {}, mirror_percent: 20", to("m"))), [(name("m"), 20.0)]);
    let several =
        format!("mirrors: [{{destination: {}, percentage: {{value: 1.5}}}}, {{destination: {}}}]", to("m"), to("n"));
    assert_eq!(mirrors(&several), [(name("m"), 1.5), (name("n"), 100.0)]);
}

#[test]
fn a_mirror_to_nowhere_is_found_where_it_is_written() {
    let services = "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: m, namespace: default}
spec: {hosts: [m.test], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
";
    let http = "[{route: [{destination: {host: m.test}}], mirrors: [{destination: {host: m.test, subset: v9}}]}]";
    let edge = edge(&format!("{services}{}", virtual_service("v", 0, "['*']", http)));
    assert_eq!(
        edge.finding_lines(),
        ["Unresolved SubsetNotFound VirtualService default/v spec.http[0].mirrors[0].destination.subset"]
    );
}

#[test]
fn cors_lists_are_joined_once() {
    let (_, route) = rule(
        "corsPolicy: {allowOrigins: [{exact: 'https://a'}, {regex: 'https://.*[.]b'}], allowOrigin: ['*'], \
         allowMethods: [GET, PUT], allowHeaders: [x-a, x-b], exposeHeaders: [x-c], maxAge: 24h, \
         allowCredentials: true, unmatchedPreflights: IGNORE}",
    );
    let cors = route.cors.as_deref().unwrap();
    assert_eq!(cors.origins.len(), 3);
    assert_eq!(cors.methods.as_ref().unwrap(), "GET,PUT");
    assert_eq!(cors.headers.as_ref().unwrap(), "x-a,x-b");
    assert_eq!(cors.expose.as_ref().unwrap(), "x-c");
    assert_eq!(cors.max_age.as_ref().unwrap(), "86400");
    assert!(cors.credentials && cors.ignore_unmatched);
}

/// The cluster of a service whose DestinationRule has this `trafficPolicy`.
fn cluster(policy: &str) -> Arc<crate::table::Cluster> {
    let service = "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: default}
spec: {hosts: [a.test], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a, namespace: default}
spec: {host: a.test, trafficPolicy: ";
    let route = virtual_service("v", 0, "['*']", "[{route: [{destination: {host: a.test}}]}]");
    let edge = edge(&format!("{service}{policy}}}\n{route}"));
    let target = forward(&edge.route(80, "GET h /")).destinations[0].cluster;
    Arc::clone(edge.table.cluster(target).unwrap())
}

#[test]
fn ceilings_are_none_unless_written() {
    assert_eq!(cluster("{loadBalancer: {simple: RANDOM}}").policy.limits, CircuitBreakers::default());
    let written = cluster(
        "{connectionPool: {tcp: {maxConnections: 1, maxConnectionDuration: 5m, tcpKeepalive: {probes: 3, time: 10s}},
          http: {http1MaxPendingRequests: 2, http2MaxRequests: 3, maxRetries: 4, maxRequestsPerConnection: 5,
          maxConcurrentStreams: 6, http2KeepAlive: {interval: 7s}}}, retryBudget: {percent: 25}}",
    );
    let limits = &written.policy.limits;
    assert_eq!((limits.connections, limits.pending, limits.requests, limits.retries), (1, 2, 3, 4));
    assert_eq!(limits.retry_budget, Some(RetryBudget { percent: 25.0, minimum: 3 }));
    let connections = &written.policy.connections;
    assert_eq!((connections.max_requests, connections.max_streams), (Some(5), Some(6)));
    assert_eq!(connections.max_duration, Some(Duration::from_mins(5)));
    assert_eq!(connections.ping, Some((Duration::from_secs(7), Duration::from_secs(7))));
    let keepalive = TcpKeepalive { probes: Some(3), time: Some(Duration::from_secs(10)), interval: None };
    assert_eq!(connections.keepalive, Some(keepalive));
}

#[test]
fn outlier_detection_is_off_unless_the_block_is_there() {
    assert_eq!(cluster("{loadBalancer: {simple: RANDOM}}").policy.outlier, None);
    let default = cluster("{outlierDetection: {}}").policy.outlier.clone().unwrap();
    assert_eq!((default.consecutive_5xx, default.consecutive_gateway_errors, default.local_failures), (5, 0, None));
    assert_eq!((default.interval.as_secs(), default.base_ejection_time.as_secs()), (10, 30));
    assert_eq!((default.max_ejection_percent, default.min_health_percent), (10, 0));
    let written = cluster(
        "{outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 2, maxEjectionPercent: 100,
          splitExternalLocalOriginErrors: true, minHealthPercent: 30, interval: 1s, baseEjectionTime: 2s}}",
    );
    let written = written.policy.outlier.as_ref().unwrap();
    assert_eq!((written.consecutive_5xx, written.consecutive_gateway_errors, written.local_failures), (0, 2, Some(5)));
    assert_eq!((written.max_ejection_percent, written.min_health_percent), (100, 30));
}

#[test]
fn requests_are_hashed_by_what_is_written() {
    let hash = |policy: &str| match &cluster(&format!("{{loadBalancer: {{consistentHash: {policy}}}}}")).load_balancer {
        LoadBalancer::Hash(hash) => (**hash).clone(),
        other => panic!("{other:?}"),
    };
    let header = hash("{httpHeaderName: X-User}");
    assert_eq!(header.key, HashKey::Header(HeaderName::from_static("x-user")));
    assert_eq!(header.algorithm, HashAlgorithm::Ring(1024));
    assert_eq!(hash("{useSourceIp: true, maglev: {}}").algorithm, HashAlgorithm::Maglev(65_537));
    assert_eq!(hash("{httpQueryParameterName: q, ringHash: {minimumRingSize: 7}}").algorithm, HashAlgorithm::Ring(7));
    let cookie = hash("{httpCookie: {name: at, ttl: 0s, path: /, attributes: [{name: SameSite, value: Lax}]}}");
    let HashKey::Cookie(cookie) = cookie.key else { panic!("{cookie:?}") };
    assert_eq!((&*cookie.name, cookie.ttl), ("at", Some(Duration::ZERO)));
}
