//! What stands before a gateway.

use super::*;

fn gateway(name: &str, created: u32, annotation: Option<&str>, ports: &[u16]) -> String {
    let annotations =
        annotation.map_or_else(String::new, |text| format!(", annotations: {{proxy.istio.io/config: '{text}'}}"));
    let server = |port: &u16| format!("{{port: {{number: {port}, name: p{port}, protocol: HTTP}}, hosts: ['*']}}");
    let servers: Vec<_> = ports.iter().map(server).collect();
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: default, creationTimestamp: '2026-01-01T00:00:{created:02}Z'{annotations}}}
spec: {{selector: {{istio: ingressgateway}}, servers: [{}]}}
",
        servers.join(", ")
    )
}

/// The ports whose connections begin with a PROXY header.
fn announced(edge: &Edge) -> Vec<u16> {
    edge.table.listeners.iter().filter(|listener| listener.proxy_protocol).map(|listener| listener.port).collect()
}

#[test]
fn a_gateways_annotation_is_for_all_of_its_ports() {
    for (annotation, want, line) in [
        (None, vec![], None),
        (Some(r#"{"gatewayTopology": {"proxyProtocol": {}}}"#), vec![80, 81], None),
        (Some(r#"{"gatewayTopology": {"numTrustedProxies": 1}, "concurrency": 2}"#), vec![], None),
        (Some("gatewayTopology: {proxyProtocol: {}}"), vec![], Some("InvalidProxyConfig")),
        (Some(r#"{"gatewayTopology": {"proxyProtocol": true}}"#), vec![], Some("InvalidProxyConfig")),
    ] {
        let edge = bare(&gateway("edge", 0, annotation, &[80, 81]));
        assert_eq!(announced(&edge), want, "{annotation:?}");
        let line = line
            .map(|reason| format!("Warning {reason} Gateway default/edge metadata.annotations[proxy.istio.io/config]"));
        assert_eq!(edge.finding_lines(), Vec::from_iter(line), "{annotation:?}");
    }
}

#[test]
fn the_oldest_gateway_of_a_port_says_what_stands_before_it() {
    let topology = Some(r#"{"gatewayTopology": {"proxyProtocol": {}}}"#);
    let edge = bare(&(gateway("old", 0, topology, &[80]) + &gateway("young", 1, None, &[80, 81])));
    assert_eq!(announced(&edge), [80]);
    assert_eq!(
        edge.finding_lines(),
        ["Warning TopologyConflict Gateway default/young metadata.annotations[proxy.istio.io/config]"]
    );
    assert_eq!(
        edge.findings[0].message,
        "connections to port 80 begin with a PROXY header, because Gateway default/old, which comes first, says so; \
         annotate both in the same way, or use another port"
    );
}
