//! How services of the mesh are connected to, from sidecars and from gateways.

use super::super::{EDGE, bare, lines};
use super::*;
use crate::table::cluster::Discovery;
use crate::table::upstream_tls::{TlsSource, UpstreamTls};

/// A service `db.shop` of three workloads, of which the middle one has no proxy.
fn world(more: &str) -> String {
    let workload = |name: &str, address: &str, labels: &str, account: &str| {
        let spec = format!("{{address: {address}, labels: {{app: db, {labels}}}, serviceAccount: {account}}}");
        resource("WorkloadEntry", "shop", name, 0, &spec)
    };
    let entry =
        service("shop", "db", 0, "[db.test]", &port(80, "http", "HTTP"), "workloadSelector: {labels: {app: db}}");
    let rules = "{hosts: [db.test], gateways: [default/edge, mesh], http: [{match: [{uri: {prefix: /v2}}], route: \
                 [{destination: {host: db.test, subset: v2}}]}, {route: [{destination: {host: db.test}}]}]}";
    [
        EDGE,
        &entry.replace("endpoints: [{address: 10.0.0.1}], ", ""),
        &workload("w1", "10.0.0.1", "version: v1, security.istio.io/tlsMode: istio", "zebra"),
        &workload("w2", "10.0.0.2", "version: v1", "plain"),
        &workload("w3", "10.0.0.3", "version: v2, security.istio.io/tlsMode: istio", "''"),
        &resource("VirtualService", "shop", "db", 0, rules),
        more,
    ]
    .concat()
}

fn rule(policy: &str) -> String {
    let subsets = "subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]";
    resource("DestinationRule", "shop", "db", 0, &format!("{{host: db.test, {subsets}{policy}}}"))
}

/// `who resolution names sni` of a cluster's terms.
fn terms(tls: Option<&Arc<UpstreamTls>>) -> String {
    let Some(tls) = tls else { return "plain".to_owned() };
    assert!(!tls.automatic || (tls.mutual && tls.verify));
    let how = match (&tls.source, tls.automatic) {
        (TlsSource::Mesh, true) => "automatic",
        (TlsSource::Mesh, false) => "mesh",
        _ => "own",
    };
    let name = |name: &String| name.trim_start_matches("spiffe://cluster.local/ns/shop/sa/").to_owned();
    let names: Vec<_> = tls.subject_alt_names.iter().map(name).collect();
    format!("{how} by {} [{}] {}", tls.rule.kind.name(), names.join(" "), tls.sni.as_deref().unwrap_or("-"))
}

#[test]
fn endpoints_with_a_proxy_are_connected_to_by_mutual_tls_unless_a_rule_says_otherwise() {
    let whole = "automatic by ServiceEntry [default zebra] outbound_.80_._.db.test";
    let v2 = "automatic by ServiceEntry [default] outbound_.80_.v2_.db.test";
    let named = world(&rule("")).replace("resolution: STATIC", "resolution: STATIC, subjectAltNames: [spiffe://a]");
    for (yaml, service, subset) in [
        (world(&rule("")), whole, v2),
        (world(&rule(", trafficPolicy: {loadBalancer: {simple: RANDOM}}")), whole, v2),
        (world(&rule(", trafficPolicy: {tls: {mode: DISABLE}}")), "plain", "plain"),
        (
            world(&rule(", trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: DISABLE}}]}")),
            "plain",
            "plain",
        ),
        (world(&rule(", trafficPolicy: {portLevelSettings: [{port: {number: 81}, tls: {mode: DISABLE}}]}")), whole, v2),
        (
            world(&rule(", trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}")),
            "mesh by DestinationRule [default plain zebra] outbound_.80_._.db.test",
            "mesh by DestinationRule [default] outbound_.80_.v2_.db.test",
        ),
        (
            world(&rule(", trafficPolicy: {tls: {mode: ISTIO_MUTUAL, sni: x, subjectAltNames: [who]}}")),
            "mesh by DestinationRule [who] x",
            "mesh by DestinationRule [who] x",
        ),
        (
            world(&rule(", trafficPolicy: {tls: {mode: SIMPLE}}")),
            "own by DestinationRule [] -",
            "own by DestinationRule [] -",
        ),
        (
            named.clone(),
            "automatic by ServiceEntry [spiffe://a] outbound_.80_._.db.test",
            "automatic by ServiceEntry [spiffe://a] outbound_.80_.v2_.db.test",
        ),
        (
            named.replace("subsets:", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}, subsets:"),
            "mesh by DestinationRule [spiffe://a] outbound_.80_._.db.test",
            "mesh by DestinationRule [spiffe://a] outbound_.80_.v2_.db.test",
        ),
    ] {
        let edge = bare(&yaml);
        let gateway = Mesh { table: edge.table, findings: edge.findings };
        for (mesh, who) in [(sidecar(&yaml), "sidecar"), (gateway, "gateway")] {
            let cluster = |name: &str| terms(mesh.cluster(name).policy.tls.as_ref());
            assert_eq!(cluster("outbound|80||db.test"), service, "{who} {yaml}");
            assert_eq!(cluster("outbound|80|v2|db.test"), subset, "{who} {yaml}");
            let Discovery::Static(endpoints) = &mesh.cluster("outbound|80||db.test").discovery else {
                panic!("static")
            };
            assert_eq!(endpoints.iter().map(|endpoint| endpoint.in_mesh).collect::<Vec<_>>(), [true, false, true]);
        }
    }
}

#[test]
fn nothing_is_part_of_the_mesh_without_a_proxy_or_from_outside() {
    let tls = |yaml: &str| {
        let mesh = sidecar(yaml);
        (terms(mesh.cluster("outbound|80||db.test").policy.tls.as_ref()), lines(&mesh.findings))
    };
    let plain = ("plain".to_owned(), Vec::new());
    assert_eq!(tls(&world(&rule("")).replace("tlsMode: istio", "tlsMode: disabled")), plain);
    let external = world(&rule("")).replace("MESH_INTERNAL", "MESH_EXTERNAL");
    let said = "Warning EndpointsInMesh ServiceEntry shop/db spec.location".to_owned();
    assert_eq!(tls(&external), ("plain".to_owned(), vec![said]));
    let disabled = external.replace("subsets:", "trafficPolicy: {tls: {mode: DISABLE}}, subsets:");
    assert_eq!(tls(&disabled), plain);
}

#[test]
fn the_trust_domain_is_the_meshs() {
    let yaml = world(&rule("")) + &resource("MeshConfig", "", "default", 0, "{trustDomain: corp.example}");
    let mesh = sidecar(&yaml);
    let tls = mesh.cluster("outbound|80|v2|db.test").policy.tls.as_ref().expect("TLS");
    assert_eq!(*tls.subject_alt_names, ["spiffe://corp.example/ns/shop/sa/default".to_owned()]);

    let aliased = yaml.replace("corp.example}", "corp.example, trustDomainAliases: [old.example, corp.example]}");
    let mesh = sidecar(&aliased);
    let tls = mesh.cluster("outbound|80|v2|db.test").policy.tls.as_ref().expect("TLS");
    let both = ["corp.example", "old.example"].map(|domain| format!("spiffe://{domain}/ns/shop/sa/default"));
    assert_eq!(*tls.subject_alt_names, both);
}

#[test]
fn requests_share_connections_where_http_is_spoken_unless_told_not_to() {
    let upgrade =
        |policy: &str| rule(&format!(", trafficPolicy: {{connectionPool: {{http: {{h2UpgradePolicy: {policy}}}}}}}"));
    let of_port = |name: &str, protocol: &str| {
        world(&rule("")).replace("name: http, protocol: 'HTTP'", &format!("name: {name}, protocol: '{protocol}'"))
    };
    for (yaml, want) in [
        (world(&rule("")), true),
        (world(&upgrade("DEFAULT")), true),
        (world(&upgrade("UPGRADE")), true),
        (world(&upgrade("DO_NOT_UPGRADE")), false),
        (of_port("x", "GRPC"), true),
        (of_port("x", ""), true),
        (of_port("x", "TCP"), false),
        (of_port("x", "TLS"), false),
        (of_port("mysql", ""), false),
    ] {
        assert_eq!(sidecar(&yaml).cluster("outbound|80||db.test").multiplexed, want, "{yaml}");
    }
}

#[test]
fn the_clients_own_rule_comes_first_and_passthrough_is_to_where_it_was_going() {
    let mine = resource(
        "DestinationRule",
        "bank",
        "db",
        0,
        "{host: db.test, trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}}",
    );
    let yaml = world(&rule("")) + &mine;
    assert!(matches!(sidecar(&yaml).cluster("outbound|80||db.test").discovery, Discovery::Static(_)));
    // To a client in that namespace another rule is in force, which has no subsets.
    let client = ProxyScope { namespace: "bank".into(), ..scope() };
    let (table, _) = compile_sidecar(&set(&yaml), &client, &local());
    let mesh = Mesh { table, findings: Vec::new() };
    assert_eq!(mesh.cluster("outbound|80||db.test").discovery, Discovery::Original);
    assert!(mesh.table.clusters.iter().flatten().all(|cluster| cluster.key.subset.is_none()));
}
