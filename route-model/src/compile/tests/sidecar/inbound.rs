//! What others open to the workload.

use super::*;
use crate::table::cluster::{Discovery, Endpoint, EndpointAddress, UpstreamProtocol};
use crate::table::{InboundPort, MutualTls, Speaks};

impl Mesh {
    /// What is served on a port of the workload.
    fn port(&self, number: u16) -> &Arc<InboundPort> {
        self.inbound().find(number)
    }
}

#[test]
fn a_port_speaks_what_its_name_says_and_leads_to_the_application() {
    let mesh = sidecar("");
    for (number, speaks, request, bytes, protocol) in [
        (9080, Speaks::Http, "inbound|9080|| by default", "only HTTP", UpstreamProtocol::Http1),
        (9090, Speaks::Http, "inbound|9090|| by default", "only HTTP", UpstreamProtocol::Http2),
        (9100, Speaks::Detect, "inbound|9100|| by default", "inbound|9100||", UpstreamProtocol::Http1),
        (9200, Speaks::Bytes, "404 no host", "inbound|9200||", UpstreamProtocol::Http1),
    ] {
        let routes = &mesh.port(number).routes;
        assert_eq!(routes.speaks, speaks, "{number}");
        assert_eq!(mesh.request(&routes.http, "GET any.host /"), request, "{number}");
        assert_eq!(mesh.stream(routes, address("10.0.0.9:1"), None), bytes, "{number}");
        let cluster = mesh.cluster(&format!("inbound|{number}||"));
        let endpoint = Endpoint::new(EndpointAddress::Ip(address("127.0.0.1:1").ip(), number), 1);
        assert_eq!(cluster.discovery, Discovery::Static([endpoint].into()));
        assert_eq!(cluster.protocol, protocol, "{number}");
    }
    let other = mesh.port(4000);
    assert_eq!((other.mutual_tls, other.routes.speaks), (MutualTls::Permissive, Speaks::Detect));
    assert_eq!(mesh.request(&other.routes.http, "GET any.host /"), "InboundPassthroughCluster by default");
    assert_eq!(mesh.stream(&other.routes, address("10.0.0.9:4000"), None), "InboundPassthroughCluster");
    assert_eq!(mesh.cluster("InboundPassthroughCluster").discovery, Discovery::Original);
}

#[test]
fn the_narrowest_policy_that_says_anything_says_what_a_workload_takes() {
    use MutualTls::{Disable, Permissive, Strict};
    let mode = |mode: &str| format!("mtls: {{mode: {mode}}}");
    let policy = |namespace: &str, name: &str, created: u32, spec: &str| {
        resource("PeerAuthentication", namespace, name, created, &format!("{{{spec}}}"))
    };
    let web = "selector: {matchLabels: {app: web}}";
    let of_web = |created: u32, name: &str, rest: &str| policy("shop", name, created, &format!("{web}, {rest}"));
    let root = |said: &str| policy("istio-system", "root", 0, &mode(said));
    let home = |said: &str| policy("shop", "home", 0, &mode(said));
    for (number, (policies, port, others)) in [
        (String::new(), Permissive, Permissive),
        (root("STRICT"), Strict, Strict),
        (root("UNSET"), Permissive, Permissive),
        (policy("istio-system", "selecting", 0, &format!("{web}, {}", mode("STRICT"))), Permissive, Permissive),
        (policy("bank", "elsewhere", 0, &mode("STRICT")), Permissive, Permissive),
        (root("STRICT") + &home("DISABLE"), Disable, Disable),
        (root("STRICT") + &home("UNSET"), Strict, Strict),
        (home("STRICT") + &of_web(0, "own", &mode("PERMISSIVE")), Permissive, Permissive),
        (home("STRICT") + &of_web(0, "own", "mtls: {mode: UNSET}"), Strict, Strict),
        (home("STRICT") + &of_web(0, "own", "portLevelMtls: {9080: {mode: DISABLE}}"), Disable, Strict),
        (
            home("STRICT") + &of_web(0, "own", "portLevelMtls: {9080: {mode: UNSET}, 1: {mode: DISABLE}}"),
            Strict,
            Strict,
        ),
        (of_web(0, "own", &(mode("STRICT") + ", portLevelMtls: {9080: {mode: PERMISSIVE}}")), Permissive, Strict),
        // Of equals the older, and then the first by name.
        (of_web(1, "a", &mode("DISABLE")) + &of_web(0, "b", &mode("STRICT")), Strict, Strict),
        (of_web(0, "b", &mode("DISABLE")) + &of_web(0, "a", &mode("STRICT")), Strict, Strict),
        (
            policy("shop", "other", 0, "selector: {matchLabels: {app: other}}, mtls: {mode: STRICT}"),
            Permissive,
            Permissive,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mesh = sidecar(&policies);
        assert_eq!((mesh.port(9080).mutual_tls, mesh.port(4000).mutual_tls), (port, others), "{number}: {policies}");
        assert_eq!(mesh.port(9090).mutual_tls, others, "{number}: {policies}");
    }
}
