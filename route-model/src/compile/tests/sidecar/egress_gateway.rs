//! The way out of the mesh through a gateway, as Istio's documentation sets it up.

use super::super::bare;
use super::*;
use crate::table::upstream_tls::TlsSource;

#[test]
fn requests_leave_through_the_gateway_that_the_rules_name() {
    let outside = service("shop", "cnn", 0, "[cnn.test]", &port(80, "http", "HTTP"), "").replace("STATIC", "DNS");
    let server = "{servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [cnn.test], tls: {mode: ISTIO_MUTUAL}}]}";
    let gateway = "egress.istio-system.svc.cluster.local";
    let rules = "{hosts: [cnn.test], exportTo: ['*'], gateways: [istio-system/egress, mesh], http: [
      {name: to-gateway, match: [{gateways: [mesh], port: 80}],
       route: [{destination: {host: egress.istio-system.svc.cluster.local, subset: cnn, port: {number: 443}}}]},
      {name: out, match: [{gateways: [istio-system/egress], port: 443}],
       route: [{destination: {host: cnn.test, port: {number: 80}}}]}]}";
    let rule =
        "{host: egress.istio-system.svc.cluster.local, subsets: [{name: cnn, trafficPolicy: {portLevelSettings: [
      {port: {number: 443}, tls: {mode: ISTIO_MUTUAL, sni: cnn.test}}]}}]}";
    let yaml = [
        resource("Gateway", "istio-system", "egress", 0, server),
        service("istio-system", "egress", 0, &format!("[{gateway}]"), &port(443, "https", "HTTPS"), ""),
        outside,
        resource("VirtualService", "shop", "cnn", 0, rules),
        resource("DestinationRule", "shop", "egress", 0, rule),
    ]
    .concat();
    let mesh = sidecar(&yaml);
    assert_eq!(mesh.send("10.9.9.9:80", "GET cnn.test /"), format!("outbound|443|cnn|{gateway} by to-gateway"));
    let tls = mesh.cluster(&format!("outbound|443|cnn|{gateway}")).policy.tls.as_ref().expect("TLS");
    assert_eq!((&tls.source, tls.automatic, tls.sni.as_deref()), (&TlsSource::Mesh, false, Some("cnn.test")));

    let edge = bare(&yaml);
    assert_eq!(edge.send_tls(443, "cnn.test", "GET cnn.test /"), "cnn");
    assert_eq!(edge.send_tls(443, "other.test", "GET other.test /"), "no handshake");
}
