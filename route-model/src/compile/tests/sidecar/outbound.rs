//! What a workload calls.

use super::*;
use crate::table::Speaks;
use crate::table::cluster::Discovery;

#[test]
fn a_service_is_known_by_the_forms_of_its_name() {
    let yaml = [
        service(
            "shop",
            "reviews",
            0,
            "[reviews.shop.svc.cluster.local]",
            &port(9080, "http", "HTTP"),
            "addresses: [10.1.0.1]",
        ),
        service("bank", "ledger", 1, "[ledger.bank.svc.cluster.local]", &port(9080, "http", "HTTP"), ""),
        service("bank", "api", 2, "[api.example.com]", &port(9080, "http", "HTTP"), ""),
    ]
    .concat();
    let mesh = sidecar(&yaml);
    let (reviews, ledger, api) = (
        "outbound|9080||reviews.shop.svc.cluster.local by default",
        "outbound|9080||ledger.bank.svc.cluster.local by default",
        "outbound|9080||api.example.com by default",
    );
    for (host, want) in [
        ("reviews.shop.svc.cluster.local", reviews),
        ("reviews.shop.svc.cluster.local.", reviews),
        ("reviews.shop.svc", reviews),
        ("reviews.shop:9080", reviews),
        ("Reviews", reviews),
        ("10.1.0.1:9080", reviews),
        ("ledger.bank", ledger),
        ("ledger", "PassthroughCluster by allow_any"),
        ("api.example.com", api),
        ("example.com", "PassthroughCluster by allow_any"),
    ] {
        assert_eq!(mesh.send("10.9.9.9:9080", &format!("GET {host} /")), want, "{host}");
    }
    // Another port is not the service's.
    assert_eq!(mesh.send("10.1.0.1:80", "GET reviews /"), "PassthroughCluster by allow_any");
    let unknown = mesh.outbound().find(address("10.1.0.1:80"));
    assert_eq!(unknown.speaks, Speaks::Detect);
    assert_eq!(mesh.connect("10.1.0.1:80", None), "PassthroughCluster");
    assert_eq!(mesh.cluster("PassthroughCluster").discovery, Discovery::Original);
    assert_eq!(mesh.outbound().find(address("10.9.9.9:9080")).speaks, Speaks::Http);
}
