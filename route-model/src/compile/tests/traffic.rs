//! What rules do to their traffic: retries, faults, mirrors, CORS.

use std::time::Duration;

use super::*;
use crate::table::fault::{Abort, Fraction};
use crate::table::retry::{RetryOn, RetryPolicy};
use crate::table::route::Forward;

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
    assert_eq!((policy.explicit, policy.avoid_previous, policy.remote_localities), (true, false, true));
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
