//! What a destination leads to: services, endpoints, subsets, policies.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::table::Cluster;
use crate::table::cluster::{Discovery, DnsEndpoint, Endpoint, EndpointAddress, LoadBalancer, UpstreamProtocol};

pub(super) fn entry(namespace: &str, name: &str, created: u32, spec: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-01T00:00:{created:02}Z'}}
spec: {{{spec}}}
"
    )
}

pub(super) fn rule(namespace: &str, name: &str, created: u32, spec: &str) -> String {
    entry(namespace, name, created, spec).replace("kind: ServiceEntry", "kind: DestinationRule")
}

fn workload(name: &str, labels: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, namespace: default, labels: {labels}}}
spec: {{{spec}}}
"
    )
}

/// A VirtualService of the namespace `default` with one destination.
pub(super) fn destination(destination: &str) -> String {
    virtual_service("a", 0, "['*']", &format!("[{{route: [{{destination: {destination}}}]}}]"))
}

/// The cluster that a request ends at, if there is one.
pub(super) fn cluster(edge: &Edge) -> Option<&Cluster> {
    let route = edge.route(80, "GET h /");
    let Action::Forward(forward) = &route.action else { panic!("forward") };
    edge.table.cluster(forward.destinations[0].cluster).map(Arc::as_ref)
}

/// The endpoints of a cluster as text.
fn endpoints(discovery: &Discovery) -> String {
    let address = |endpoint: &Endpoint| match &endpoint.address {
        EndpointAddress::Ip(ip, port) => format!("{ip}:{port}*{}", endpoint.weight),
        EndpointAddress::Unix(path) => format!("{path}*{}", endpoint.weight),
    };
    let name = |endpoint: &DnsEndpoint| format!("{}:{}*{}", endpoint.name, endpoint.port, endpoint.weight);
    let (kind, list): (&str, Vec<String>) = match discovery {
        Discovery::Static(list) => ("static", list.iter().map(address).collect()),
        Discovery::Dns(list) => ("dns", list.iter().map(name).collect()),
        Discovery::LogicalDns(endpoint) => ("logical", vec![name(endpoint)]),
        Discovery::Dynamic(names) => ("dynamic", vec![format!("*{}:{}", names.suffix, names.port)]),
        Discovery::Undeclared(list) => ("undeclared", list.iter().map(name).collect()),
        Discovery::Original => ("original", Vec::new()),
        Discovery::None => ("none", Vec::new()),
    };
    format!("{kind} {}", list.join(" ")).trim_end().to_owned()
}

fn check(yaml: &str, want: &str) {
    let edge = edge(yaml);
    let found = cluster(&edge).map_or("503 NC".to_owned(), |cluster| endpoints(&cluster.discovery));
    assert_eq!(found, want, "{yaml}");
}

const PORT: &str = "ports: [{number: 80, name: http, protocol: HTTP}]";

#[test]
fn endpoints_are_found_by_resolution() {
    let to = destination("{host: s.test, port: {number: 80}}");
    let spec = |more: &str| format!("hosts: [s.test], {PORT}, {more}");
    for (more, want) in [
        (
            "resolution: STATIC, endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2, weight: 3}, {address: 'fd00::1'}]",
            "static 10.0.0.1:80*1 10.0.0.2:80*3 fd00::1:80*1",
        ),
        (
            "resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {http: 8080}}, {address: 10.0.0.2, ports: {other: 1}}]",
            "static 10.0.0.1:8080*1 10.0.0.2:80*1",
        ),
        ("resolution: STATIC, endpoints: [{address: 'unix:///run/s.sock'}]", "static /run/s.sock*1"),
        ("resolution: STATIC", "static"),
        ("resolution: DNS", "dns s.test:80*1"),
        (
            "resolution: DNS, endpoints: [{address: a.test}, {address: b.test, ports: {http: 81}, weight: 2}]",
            "dns a.test:80*1 b.test:81*2",
        ),
        ("resolution: DNS_ROUND_ROBIN", "logical s.test:80*1"),
        ("resolution: DNS_ROUND_ROBIN, endpoints: [{address: a.test}]", "logical a.test:80*1"),
        ("resolution: NONE", "none"),
        ("", "none"),
    ] {
        check(&(to.clone() + &entry("default", "s", 0, &spec(more))), want);
    }
    // The service's port leads to the endpoints'.
    let ports = "hosts: [s.test], ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9080}], resolution: STATIC, endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2, ports: {http: 7}}]";
    check(&(to + &entry("default", "s", 0, ports)), "static 10.0.0.1:9080*1 10.0.0.2:7*1");
}

#[test]
fn workload_entries_of_the_namespace_are_selected_by_labels() {
    let base = destination("{host: s.test, port: {number: 80}}")
        + &entry(
            "default",
            "s",
            0,
            &format!("hosts: [s.test], {PORT}, resolution: STATIC, workloadSelector: {{labels: {{app: s}}}}"),
        );
    check(&base, "static");
    let both = base.clone()
        + &workload("w1", "{}", "address: 10.0.0.1, labels: {app: s}")
        + &workload("w2", "{app: s}", "address: 10.0.0.2, weight: 2")
        + &workload("w3", "{}", "address: 10.0.0.3, labels: {app: other}")
        // Labels of the metadata go before those of the spec.
        + &workload("w4", "{app: other}", "address: 10.0.0.4, labels: {app: s}")
        + &workload("w5", "{}", "address: 10.0.0.5, labels: {app: s}").replace("namespace: default", "namespace: other");
    check(&both, "static 10.0.0.1:80*1 10.0.0.2:80*2");
}

#[test]
fn the_port_is_the_one_named_or_the_only_one_or_the_listeners() {
    let service = |ports: &str| {
        let list: Vec<_> =
            ports.split_whitespace().map(|p| format!("{{number: {p}, name: p{p}, protocol: HTTP}}")).collect();
        entry(
            "default",
            "s",
            0,
            &format!(
                "hosts: [s.test], ports: [{}], resolution: STATIC, endpoints: [{{address: 10.0.0.1}}]",
                list.join(", ")
            ),
        )
    };
    for (ports, port, want) in [
        ("9080", "", "static 10.0.0.1:9080*1"),
        ("9080 80", "", "static 10.0.0.1:80*1"),
        ("9080 9081", "", "503 NC"),
        ("9080 9081", ", port: {number: 9081}", "static 10.0.0.1:9081*1"),
        ("9080", ", port: {number: 80}", "503 NC"),
    ] {
        check(&(destination(&format!("{{host: s.test{port}}}")) + &service(ports)), want);
    }
    // Ports may be spread over ServiceEntries of one namespace.
    let spread = service("80") + &service("90").replace("name: s,", "name: s2,");
    check(&(destination("{host: s.test, port: {number: 90}}") + &spread), "static 10.0.0.1:90*1");
}

#[test]
fn a_service_of_the_rules_namespace_goes_before_the_oldest() {
    let service = |namespace: &str, created: u32, address: &str, more: &str| {
        entry(
            namespace,
            "s",
            created,
            &format!("hosts: [s.test], {PORT}, resolution: STATIC, endpoints: [{{address: {address}}}]{more}"),
        )
    };
    let to = destination("{host: s.test}");
    let others = service("old", 1, "10.0.0.1", "") + &service("young", 2, "10.0.0.2", "");
    check(&(to.clone() + &others), "static 10.0.0.1:80*1");
    check(&(to.clone() + &others + &service("default", 3, "10.0.0.3", "")), "static 10.0.0.3:80*1");
    // Visible means to the gateway.
    check(&(to.clone() + &others + &service("default", 3, "10.0.0.3", ", exportTo: ['.']")), "static 10.0.0.1:80*1");
    check(&(to.clone() + &service("default", 3, "10.0.0.3", ", exportTo: [istio-system]")), "static 10.0.0.3:80*1");
    check(&(to + &service("default", 3, "10.0.0.3", ", exportTo: ['~']")), "503 NC");
}

#[test]
fn undeclared_hosts_are_names_in_dns() {
    check(
        &destination("{host: reviews, port: {number: 9080}}"),
        "undeclared reviews:9080*1 reviews.default.svc.cluster.local:9080*1",
    );
    check(&destination("{host: Api.Example.com, port: {number: 443}}"), "undeclared api.example.com:443*1");
    check(&destination("{host: 10.0.0.9, port: {number: 80}}"), "undeclared 10.0.0.9:80*1");
    // Without a port nothing can be connected to.
    check(&destination("{host: reviews}"), "503 NC");
    let refuse = "
---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {undeclaredHosts: Refuse}
";
    check(&(destination("{host: reviews, port: {number: 9080}}") + refuse), "503 NC");
}

#[test]
fn subsets_select_endpoints_by_label() {
    let service = entry(
        "default",
        "s",
        0,
        &format!(
            "hosts: [s.test], {PORT}, resolution: STATIC, endpoints: [{{address: 10.0.0.1, labels: {{version: v1}}}}, {{address: 10.0.0.2, labels: {{version: v2, tier: a}}}}]"
        ),
    );
    let rules = rule(
        "default",
        "s",
        0,
        "host: s.test, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2, tier: a}}, {name: all}, {name: none, labels: {version: v9}}]",
    );
    for (subset, want) in [
        ("v1", "static 10.0.0.1:80*1"),
        ("v2", "static 10.0.0.2:80*1"),
        ("all", "static 10.0.0.1:80*1 10.0.0.2:80*1"),
        ("none", "static"),
        ("undeclared", "503 NC"),
    ] {
        let to = destination(&format!("{{host: s.test, subset: {subset}}}"));
        check(&(to.clone() + &service + &rules), want);
        check(&(to + &service), "503 NC");
    }
    let edge = edge(&(destination("{host: s.test, subset: v1}") + &service + &rules));
    let cluster = cluster(&edge).expect("cluster");
    assert_eq!(&*cluster.name, "outbound|80|v1|s.test");
    assert_eq!((&*cluster.service_name, &*cluster.service_namespace), ("s.test", "default"));
}

#[test]
fn the_first_level_with_a_destination_rule_wins() {
    let to = destination("{host: s.test, subset: v1}")
        + &entry(
            "home",
            "s",
            0,
            &format!(
                "hosts: [s.test], {PORT}, resolution: STATIC, endpoints: [{{address: 10.0.0.1, labels: {{v: one}}}}, {{address: 10.0.0.2, labels: {{v: two}}}}, {{address: 10.0.0.3, labels: {{v: three}}}}]"
            ),
        );
    let subset = |namespace: &str, host: &str, label: &str, more: &str| {
        rule(
            namespace,
            &format!("r-{label}"),
            0,
            &format!("host: '{host}', subsets: [{{name: v1, labels: {{v: {label}}}}}]{more}"),
        )
    };
    let (one, two, three) = ("static 10.0.0.1:80*1", "static 10.0.0.2:80*1", "static 10.0.0.3:80*1");
    for (rules, want) in [
        // The service's namespace.
        (subset("home", "s.test", "one", ""), one),
        (subset("home", "s.test", "one", ", exportTo: ['.']"), "503 NC"),
        (subset("home", "s.test", "one", ", exportTo: [istio-system]"), one),
        // The root namespace, where the gateway runs: its public rules come last …
        (subset("home", "s.test", "one", "") + &subset("istio-system", "s.test", "two", ""), one),
        (subset("istio-system", "s.test", "two", ""), two),
        // … its private ones first.
        (subset("home", "s.test", "one", "") + &subset("istio-system", "s.test", "two", ", exportTo: ['.']"), two),
        // A stranger's rule is none.
        (subset("other", "s.test", "one", ""), "503 NC"),
        // Inside a level the exact host hides the wildcard, and the longer one the shorter.
        (subset("home", "*.test", "one", "") + &subset("home", "s.test", "two", ""), two),
        (subset("home", "*", "one", "") + &subset("home", "*.test", "three", ""), three),
        // Across levels it does not count.
        (subset("istio-system", "*.test", "one", ", exportTo: ['.']") + &subset("home", "s.test", "two", ""), one),
        // A rule for certain clients goes before one for all, if this proxy is one of them.
        (
            subset("istio-system", "s.test", "one", ", exportTo: ['.']")
                + &subset(
                    "istio-system",
                    "s.test",
                    "two",
                    ", workloadSelector: {matchLabels: {istio: ingressgateway}}",
                ),
            two,
        ),
        (
            subset("istio-system", "s.test", "one", ", exportTo: ['.']")
                + &subset("istio-system", "s.test", "two", ", workloadSelector: {matchLabels: {istio: other}}"),
            one,
        ),
    ] {
        check(&(to.clone() + &rules), want);
    }
    // In another namespace than the root's, the gateway's own rules come first, whoever they are exported to.
    let yaml = to + &subset("home", "s.test", "one", "") + &subset("edge", "*.test", "two", "");
    let (table, _) = compile(&set(&format!("{EDGE}---{yaml}")), &ProxyScope { namespace: "edge".into(), ..scope() });
    let edge = Edge { table, findings: Vec::new() };
    assert_eq!(cluster(&edge).map(|cluster| endpoints(&cluster.discovery)), Some(two.to_owned()));
}

#[test]
fn rules_of_one_host_and_namespace_are_merged() {
    let service = entry(
        "default",
        "s",
        0,
        &format!(
            "hosts: [s.test], {PORT}, resolution: STATIC, endpoints: [{{address: 10.0.0.1, labels: {{v: one}}}}, {{address: 10.0.0.2, labels: {{v: two}}}}]"
        ),
    );
    let rules = rule(
        "default",
        "young",
        2,
        "host: s.test, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: a, labels: {v: two}}, {name: b, labels: {v: two}}]",
    ) + &rule("default", "old", 1, "host: s.test, subsets: [{name: a, labels: {v: one}}]");
    for (subset, want) in [("a", "static 10.0.0.1:80*1"), ("b", "static 10.0.0.2:80*1")] {
        let edge = edge(&(destination(&format!("{{host: s.test, subset: {subset}}}")) + &service + &rules));
        let cluster = cluster(&edge).expect("cluster");
        assert_eq!(endpoints(&cluster.discovery), want);
        // The policy of the first rule that has one.
        assert_eq!(cluster.load_balancer, LoadBalancer::Random);
    }
}

#[test]
fn policies_are_inherited_block_by_block() {
    let service = entry(
        "default",
        "s",
        0,
        "hosts: [s.test], ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: h2, protocol: HTTP2}, {number: 82, name: grpc, protocol: grpc}], resolution: STATIC, endpoints: [{address: 10.0.0.1}]",
    );
    let policies = rule(
        "default",
        "s",
        0,
        "host: s.test,
         trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {connectTimeout: 3s}, http: {idleTimeout: 7s}},
           portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: RANDOM}}]},
         subsets: [{name: plain}, {name: own, trafficPolicy: {connectionPool: {http: {useClientProtocol: true}}}},
           {name: port, trafficPolicy: {loadBalancer: {simple: RANDOM}, portLevelSettings: [{port: {number: 80}, connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}]}}]",
    );
    let (default, hour) = (Duration::from_secs(10), Duration::from_hours(1));
    let (three, seven) = (Duration::from_secs(3), Duration::from_secs(7));
    use LoadBalancer::{LeastRequest, Random, RoundRobin};
    use UpstreamProtocol::{Client, Http1, Http2};
    for (to, want) in [
        ("port: {number: 80}", (RoundRobin, three, seven, Http1)),
        // A port's settings replace all blocks.
        ("port: {number: 81}", (Random, default, hour, Http2)),
        ("port: {number: 82}", (RoundRobin, three, seven, Http2)),
        ("port: {number: 80}, subset: plain", (RoundRobin, three, seven, Http1)),
        ("port: {number: 81}, subset: plain", (Random, default, hour, Http2)),
        // A subset's block replaces the whole block.
        ("port: {number: 80}, subset: own", (RoundRobin, default, hour, Client)),
        ("port: {number: 80}, subset: port", (LeastRequest, default, hour, Http2)),
        ("port: {number: 82}, subset: port", (Random, three, seven, Http2)),
    ] {
        let edge = edge(&(destination(&format!("{{host: s.test, {to}}}")) + &service + &policies));
        let cluster = cluster(&edge).expect("cluster");
        assert_eq!(
            (cluster.load_balancer.clone(), cluster.connect_timeout, cluster.idle_timeout, cluster.protocol),
            want,
            "{to}"
        );
    }
}

#[test]
fn the_mesh_has_defaults() {
    let mesh = "
---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {connectTimeout: 2s, numTrustedProxies: 3, dnsRefreshRate: 5s, rootNamespace: root}
";
    let found = edge(&(destination("{host: 10.0.0.1, port: {number: 80}}") + mesh));
    assert_eq!(cluster(&found).map(|cluster| cluster.connect_timeout), Some(Duration::from_secs(2)));
    assert_eq!(
        (found.table.settings.num_trusted_proxies, found.table.settings.dns_refresh_rate),
        (3, Duration::from_secs(5))
    );
    assert_eq!(edge("").table.settings.connect_timeout, Duration::from_secs(10));
}

#[test]
fn destinations_that_mean_one_upstream_share_it() {
    let service = entry(
        "default",
        "s",
        0,
        &format!(
            "hosts: [s.default.svc.cluster.local], {PORT}, resolution: STATIC, endpoints: [{{address: 10.0.0.1}}]"
        ),
    );
    let rules = "[{match: [{uri: {exact: /1}}], route: [{destination: {host: s}}]}, {route: [{destination: {host: s.default.svc.cluster.local, port: {number: 80}}}]}]";
    let edge = edge(&(virtual_service("a", 0, "['*']", rules) + &service));
    let clusters: Vec<_> = edge.table.clusters.iter().flatten().collect();
    assert_eq!(clusters.len(), 2);
    assert!(Arc::ptr_eq(clusters[0], clusters[1]));
    assert!(
        matches!(&clusters[0].discovery, Discovery::Static(list) if list[0].address == EndpointAddress::Ip(IpAddr::from([10, 0, 0, 1]), 80))
    );
}

#[test]
fn a_wildcard_can_be_resolved_name_by_name() {
    let to = destination("{host: '*.apps.test', port: {number: 80}}");
    let spec = |more: &str| format!("hosts: ['*.Apps.test'], {PORT}, {more}");
    let dynamic = edge(&(to.clone() + &entry("default", "s", 0, &spec("resolution: DYNAMIC_DNS"))));
    assert_eq!(dynamic.finding_lines(), [""; 0]);
    let Some(Discovery::Dynamic(names)) = cluster(&dynamic).map(|cluster| &cluster.discovery) else {
        panic!("{:?}", cluster(&dynamic))
    };
    assert_eq!((&*names.suffix, names.port), (".apps.test", 80));
    for (name, takes) in [
        ("a.apps.test", true),
        ("a.b.apps.test", true),
        ("my_app-1.apps.test", true),
        ("apps.test", false),
        (".apps.test", false),
        ("a..apps.test", false),
        ("a.apps.test.evil", false),
        ("169.254.169.254", false),
        ("a/b.apps.test", false),
        ("A.apps.test", false),
    ] {
        assert_eq!(names.takes(name), takes, "{name}");
    }
    assert!(!names.takes(&format!("{}.apps.test", "a".repeat(64))));
    assert!(!names.takes(&format!("{}apps.test", "a.".repeat(130))));
    // What only a sidecar knows is said, with what to do instead.
    let none = edge(&(to + &entry("default", "s", 0, &spec("resolution: NONE"))));
    let finding = none.findings.iter().find(|finding| finding.reason == "NoEndpoints").expect("a finding");
    assert!(finding.message.contains("DYNAMIC_DNS"), "{}", finding.message);
}
