//! What stays where it is when something changes.

use super::*;
use crate::compile::{Changed, Compiler};
use crate::kind::Kind;
use crate::meta::ResourceKey;

fn workload(name: &str, address: &str) -> String {
    resource("WorkloadEntry", "shop", name, 0, &format!("{{address: {address}, labels: {{app: reviews}}}}"))
}

fn world(rule: &str, address: &str, inline: &str) -> String {
    let selected = "workloadSelector: {labels: {app: reviews}}";
    let reviews =
        service("shop", "reviews", 0, "[reviews.shop.svc.cluster.local]", &port(80, "http", "HTTP"), selected);
    let rules = format!(
        "{{hosts: [reviews], http: [{{match: [{{uri: {{exact: /kept}}}}], route: [{{destination: {{host: reviews}}}}]}}, \
         {{match: [{{uri: {{exact: {rule}}}}}], route: [{{destination: {{host: reviews}}}}]}}]}}"
    );
    [
        reviews.replace("endpoints: [{address: 10.0.0.1}], ", ""),
        service("shop", "db", 1, "[db.test]", &port(5432, "db", "TCP"), "").replace("10.0.0.1", inline),
        resource("VirtualService", "shop", "reviews", 0, &rules),
        workload("r1", address),
    ]
    .concat()
}

/// Compiles one set after the other, told what changed.
fn updates(sets: &[String], changed: &[ResourceKey]) -> Vec<Arc<RouteTable>> {
    let mut compiler = Compiler::sidecar(scope(), local());
    let keys = Changed::Keys(changed.to_vec());
    let change = |first: bool| if first { Changed::Everything } else { keys.clone() };
    sets.iter().enumerate().map(|(n, yaml)| compiler.update(&set(yaml), &change(n == 0)).table).collect()
}

#[test]
fn endpoints_alone_change_clusters_alone() {
    let (entry, service) =
        (ResourceKey::new(Kind::WorkloadEntry, "shop", "r1"), ResourceKey::new(Kind::ServiceEntry, "shop", "db"));
    let tables = updates(
        &[
            world("/a", "10.0.0.1", "10.0.1.1"),
            world("/a", "10.0.0.2", "10.0.1.1"),
            world("/a", "10.0.0.2", "10.0.1.2"),
        ],
        &[entry, service],
    );
    for (before, after) in tables.iter().zip(&tables[1..]) {
        let pairs = before.listeners.iter().zip(&after.listeners);
        assert!(pairs.clone().all(|(a, b)| Arc::ptr_eq(a, b)) && !before.listeners.is_empty());
        let differ = before.clusters.iter().zip(&after.clusters).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 1);
    }
}

#[test]
fn a_rule_leaves_alone_what_it_does_not_touch() {
    let changed = [ResourceKey::new(Kind::VirtualService, "shop", "reviews")];
    let tables = updates(&[world("/a", "10.0.0.1", "10.0.1.1"), world("/b", "10.0.0.1", "10.0.1.1")], &changed);
    let [before, after] = &tables[..] else { panic!("two tables") };
    let [x, y] = [before, after].map(|table| Mesh { table: (**table).clone(), findings: Vec::new() });
    assert!(Arc::ptr_eq(x.inbound(), y.inbound()));
    let (x, y) = (x.outbound(), y.outbound());
    assert!(!Arc::ptr_eq(x, y) && Arc::ptr_eq(&x.by_port[&5432], &y.by_port[&5432]));
    assert!(Arc::ptr_eq(&x.unknown, &y.unknown));
    let host = |outbound: &Outbound| outbound.by_port[&80].http.hosts.find("reviews").expect("host").clone();
    assert!(Arc::ptr_eq(&host(x).routes()[0], &host(y).routes()[0]));
    assert!(!Arc::ptr_eq(&host(x).routes()[1], &host(y).routes()[1]));
}
