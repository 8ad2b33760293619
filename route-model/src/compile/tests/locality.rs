//! Which endpoints are near, as `localityLbSetting` says.

use std::collections::BTreeMap;

use super::*;
use crate::table::cluster::{Discovery, EndpointAddress};
use crate::table::locality::Rank;

/// A service with one endpoint for each of these fields of a WorkloadEntry, its DestinationRule, and a route to it.
fn service(endpoints: &[&str], policy: &str) -> String {
    let endpoints: Vec<String> =
        (1..).zip(endpoints).map(|(n, fields)| format!("{{address: 10.0.0.{n}, {fields}}}")).collect();
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: s, namespace: default}}
spec:
  hosts: [s.test]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: s, namespace: default}}
spec:
  host: s.test
  trafficPolicy: {policy}
{}",
        endpoints.join(", "),
        virtual_service("a", 0, "['*']", "[{route: [{destination: {host: s.test}}]}]")
    )
}

fn compiled(yaml: &str, labels: &[(&str, &str)]) -> Edge {
    let mut scope = scope();
    scope.labels.extend(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    let (table, findings) = compile(&set(&format!("{EDGE}---{yaml}")), &scope);
    Edge { table, findings }
}

/// The endpoints by number, seen from a gateway with these labels.
fn ranks(yaml: &str, labels: &[(&str, &str)]) -> BTreeMap<u8, Rank> {
    let edge = compiled(yaml, labels);
    let cluster = edge.table.clusters.iter().flatten().next().expect("a cluster");
    let Discovery::Static(endpoints) = &cluster.discovery else { panic!("{:?}", cluster.discovery) };
    let number = |address: &EndpointAddress| match address {
        EndpointAddress::Ip(std::net::IpAddr::V4(ip), _) => ip.octets()[3],
        other => panic!("{other:?}"),
    };
    endpoints.iter().map(|endpoint| (number(&endpoint.address), endpoint.rank)).collect()
}

fn priorities(yaml: &str, labels: &[(&str, &str)]) -> Vec<u32> {
    ranks(yaml, labels).values().map(|rank| rank.priority).collect()
}

const HERE: &[(&str, &str)] = &[
    ("topology.kubernetes.io/region", "eu"),
    ("topology.kubernetes.io/zone", "a"),
    ("topology.istio.io/subzone", "1"),
    ("topology.istio.io/network", "n1"),
    ("version", "v1"),
];

const ENDPOINTS: [&str; 5] =
    ["locality: eu/a/1", "locality: eu/a/2", "locality: eu/b/1", "locality: us/a/1", "locality: asia/a/1"];

#[test]
fn near_endpoints_go_first_where_outlier_detection_can_take_them_out() {
    for (policy, expected) in [
        ("{outlierDetection: {}}", [0, 1, 2, 3, 3]),
        ("{loadBalancer: {simple: RANDOM}}", [0; 5]),
        ("{loadBalancer: {localityLbSetting: {enabled: true}}}", [0; 5]),
        ("{outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}}", [0; 5]),
        (
            "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: eu, to: asia}]}}}",
            [0, 1, 2, 4, 3],
        ),
        (
            "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: us, to: asia}]}}}",
            [0, 1, 2, 3, 3],
        ),
    ] {
        assert_eq!(priorities(&service(&ENDPOINTS, policy), HERE), expected, "{policy}");
    }
    // Numbers leave out none, and somebody who does not know where they are prefers nobody.
    let outlier = "{outlierDetection: {}}";
    assert_eq!(priorities(&service(&ENDPOINTS[2..4], outlier), HERE), [0, 1]);
    assert_eq!(priorities(&service(&ENDPOINTS, outlier), &[]), [0; 5]);
    assert_eq!(priorities(&service(&ENDPOINTS, outlier), &[("istio-locality", "us.a.1")]), [1, 1, 1, 0, 1]);
}

#[test]
fn an_endpoint_may_say_where_it_is_by_its_labels() {
    let labels = "labels: {topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: a}";
    let yaml = service(&["labels: {istio-locality: us.a}", labels, "locality: eu/a/1"], "{outlierDetection: {}}");
    assert_eq!(priorities(&yaml, HERE), [2, 1, 0]);
}

#[test]
fn the_mesh_has_a_default() {
    let mesh = |setting: &str| {
        format!(
            "\n---\napiVersion: fairway.dev/v1\nkind: MeshConfig\nmetadata: {{name: default}}\n\
             spec: {{localityLbSetting: {setting}}}\n"
        )
    };
    let outlier = "{outlierDetection: {}}";
    let off = format!("{}{}", service(&ENDPOINTS, outlier), mesh("{enabled: false}"));
    assert_eq!(priorities(&off, HERE), [0; 5]);
    let own = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: true}}}";
    let on = format!("{}{}", service(&ENDPOINTS, own), mesh("{enabled: false}"));
    assert_eq!(priorities(&on, HERE), [0, 1, 2, 3, 3]);
    let failover = format!("{}{}", service(&ENDPOINTS, outlier), mesh("{failover: [{from: eu, to: asia}]}"));
    assert_eq!(priorities(&failover, HERE), [0, 1, 2, 4, 3]);
}

#[test]
fn labels_may_set_the_order() {
    let policy = |labels: &str| {
        format!("{{outlierDetection: {{}}, loadBalancer: {{localityLbSetting: {{failoverPriority: {labels}}}}}}}")
    };
    let endpoints = [
        "network: n1, locality: eu/a, labels: {version: v1}",
        "network: n1, locality: eu/b, labels: {version: v1}",
        "network: n1, locality: us/a, labels: {version: v2}",
        "network: n2, locality: eu/a, labels: {version: v1}",
        "network: n2, locality: us/a, labels: {version: v1}",
    ];
    for (labels, expected) in [
        ("[topology.kubernetes.io/region, topology.kubernetes.io/zone]", [0, 1, 2, 0, 2]),
        ("[version]", [0, 0, 1, 0, 0]),
        ("['version=v2']", [1, 1, 0, 1, 1]),
        // Another network is farther than all else.
        ("[topology.istio.io/network, topology.kubernetes.io/region]", [0, 0, 1, 2, 3]),
        ("[topology.kubernetes.io/region, topology.istio.io/network]", [0, 0, 2, 1, 2]),
    ] {
        assert_eq!(priorities(&service(&endpoints, &policy(labels)), HERE), expected, "{labels}");
    }
}

#[test]
fn traffic_can_be_divided_between_localities() {
    let policy = |distribute: &str| format!("{{loadBalancer: {{localityLbSetting: {{distribute: [{distribute}]}}}}}}");
    let endpoints =
        ["locality: eu/a/1", "locality: eu/a/2, weight: 3", "locality: eu/b", "locality: us/a", "locality: us/a"];
    let shares = |distribute: &str, labels: &[(&str, &str)]| -> BTreeMap<u8, u32> {
        let ranks = ranks(&service(&endpoints, &policy(distribute)), labels);
        ranks.iter().map(|(endpoint, rank)| (*endpoint, rank.share.0)).collect()
    };
    let found = shares("{from: eu/a/*, to: {eu/a/*: 80, us/a: 20}}", HERE);
    // What is listed nowhere gets nothing.
    assert_eq!(found, BTreeMap::from([(1, 20), (2, 60), (4, 20), (5, 20)]));
    // The first that says `from` here counts, and the closest description of where to.
    let found = shares("{from: us, to: {eu: 100}}, {from: '*', to: {'*': 10, eu/a/1: 90}}", HERE);
    assert_eq!(found, BTreeMap::from([(1, 90), (2, 5), (3, 2), (4, 4), (5, 4)]));
    // Nobody speaks of here: no difference.
    assert_eq!(shares("{from: us, to: {eu: 100}}", HERE).values().sum::<u32>(), 5);
    let nowhere = service(&endpoints, &policy("{from: eu, to: {mars: 100}}"));
    assert_eq!(ranks(&nowhere, HERE).len(), 0);
    assert!(compiled(&nowhere, HERE).findings.iter().any(|finding| finding.reason == "NoEndpoints"));
}

#[test]
fn what_a_gateway_cannot_know_is_said() {
    let reasons = |policy: &str, labels: &[(&str, &str)]| -> Vec<&str> {
        compiled(&service(&ENDPOINTS, policy), labels).findings.iter().map(|finding| finding.reason).collect()
    };
    let failover = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: eu, to: asia}]}}}";
    assert_eq!(reasons(failover, &[]), ["LocalityUnknown"]);
    assert!(reasons(failover, HERE).is_empty());
    assert!(reasons("{outlierDetection: {}}", &[]).is_empty());
    assert_eq!(reasons("{loadBalancer: {simple: PASSTHROUGH}}", HERE), ["NotSupported"]);
}
