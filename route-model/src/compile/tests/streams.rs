//! Servers that do not speak HTTP: raw TCP, TLS passed through, and TCP inside terminated TLS.

use super::*;
use crate::table::StreamFacts;

const FILES: &str = "serverCertificate: /c, privateKey: /k";

/// A rule of `tls` or `tcp` to clusters by weight.
fn rule(matches: &str, to: &[(&str, u32)]) -> String {
    let to: Vec<_> = to
        .iter()
        .map(|(to, weight)| format!("{{destination: {{host: {to}.test, port: {{number: 9}}}}, weight: {weight}}}"))
        .collect();
    format!("{{match: {matches}, route: [{}]}}", to.join(", "))
}

impl Edge {
    /// Where a connection goes: clusters and their shares.
    fn connect(&self, port: u16, sni: Option<&str>, source: &str, destination: &str) -> String {
        let Some(listener) = self.table.listeners.iter().find(|listener| listener.port == port) else {
            return "no listener".to_owned();
        };
        let (how, routes) = match &listener.protocol {
            ListenerProtocol::Http(_) => return "http".to_owned(),
            ListenerProtocol::Tcp(routes) => ("tcp", routes),
            ListenerProtocol::Tls(tls) => match tls.by_sni.find_sni(sni) {
                None => return "no handshake".to_owned(),
                Some(TlsChoice::PassThrough(index)) => ("passthrough", &tls.passthrough[*index as usize].routes),
                Some(TlsChoice::Terminate(index)) => match &tls.servers[*index as usize].routes {
                    TlsRoutes::Http(_) => return "https".to_owned(),
                    TlsRoutes::Tcp(routes) => ("terminate", routes),
                },
            },
            _ => return "a sidecar's".to_owned(),
        };
        let [source, destination] = [source, destination].map(|ip| ip.parse().expect("an address"));
        let Some(rule) = routes.find(&StreamFacts { sni, destination, source }) else { return format!("{how} closed") };
        let name = |id| self.table.cluster(id).map_or("?", |cluster| cluster.key.host.trim_end_matches(".test"));
        let to: Vec<_> = rule.destinations.iter().map(|to| format!("{}:{}", name(to.cluster), to.weight)).collect();
        format!("{how} {}", to.join(" "))
    }

    /// The findings, but that the clusters of these tests are nobody's.
    fn told(&self) -> Vec<String> {
        self.finding_lines().into_iter().filter(|line| !line.contains("HostNotDeclared")).collect()
    }

    fn tls(&self, sni: &str) -> String {
        self.connect(443, Some(sni).filter(|sni| !sni.is_empty()), "127.0.0.1", "127.0.0.1")
    }
}

#[test]
fn raw_ports_of_every_protocol_go_by_the_first_rule_that_holds() {
    for protocol in ["TCP", "MONGO", "redis", "MYSQL"] {
        let rules = [
            rule("[{port: 81}]", &[("other", 1)]),
            rule("[{destinationSubnets: [10.0.0.0/8], sourceSubnet: 192.0.2.0/24}]", &[("both", 1)]),
            rule("[{gateways: [else]}, {sourceLabels: {app: else}}]", &[("never", 1)]),
            rule("[{port: 9000, gateways: [edge]}]", &[("a", 90), ("b", 10), ("c", 0)]),
        ];
        let yaml = gateway(&[(9000, protocol, "['*']", "")])
            + &service("s", 0, "['*']", &format!("tcp: [{}]", rules.join(", ")));
        let edge = bare(&yaml);
        assert_eq!(edge.connect(9000, None, "127.0.0.1", "10.0.0.1"), "tcp a:90 b:10");
        assert_eq!(edge.connect(9000, None, "192.0.2.9", "10.0.0.1"), "tcp both:1");
        assert_eq!(edge.connect(9000, None, "192.0.2.9", "11.0.0.1"), "tcp a:90 b:10");
    }
}

#[test]
fn a_single_destination_takes_all_whatever_its_weight_and_none_is_refused() {
    let yaml = gateway(&[(9000, "TCP", "['*']", ""), (9001, "TCP", "['*']", "")])
        + &service("s", 0, "['*']", &format!("tcp: [{}]", rule("[{port: 9000}]", &[("a", 0)])))
        + &service("t", 1, "['*']", &format!("tcp: [{}]", rule("[{port: 9001}]", &[("a", 0), ("b", 0)])));
    let edge = bare(&yaml);
    assert_eq!(edge.connect(9000, None, "127.0.0.1", "127.0.0.1"), "tcp a:1");
    assert_eq!(edge.connect(9001, None, "127.0.0.1", "127.0.0.1"), "tcp closed");
    assert_eq!(edge.told(), ["Rejected NoDestination VirtualService default/t spec.tcp[0].route"]);
}

#[test]
fn the_oldest_virtual_service_has_a_raw_port_for_itself() {
    let tcp = |to: &str| format!("tcp: [{}]", rule("[{sourceSubnet: 192.0.2.0/24}]", &[(to, 1)]));
    let yaml = gateway(&[(9000, "TCP", "['*']", "")])
        + &service("young", 2, "[a.test]", &tcp("young"))
        + &service("old", 1, "[b.test]", &tcp("old"));
    let edge = bare(&yaml);
    assert_eq!(edge.connect(9000, None, "192.0.2.1", "127.0.0.1"), "tcp old:1");
    // What the oldest does not take is nobody's.
    assert_eq!(edge.connect(9000, None, "192.0.3.1", "127.0.0.1"), "tcp closed");
    assert_eq!(edge.told(), ["Warning ServerTaken VirtualService default/young spec.tcp[0]"]);
}

#[test]
fn one_port_mixes_what_is_passed_through_and_what_is_terminated() {
    let simple = format!("mode: SIMPLE, {FILES}");
    let yaml = gateway(&[
        (443, "TLS", "['*.pass.test', x.test]", "mode: PASSTHROUGH"),
        (443, "HTTPS", "[web.test]", &simple),
        (443, "TLS", "[db.test]", &simple),
        (443, "HTTPS", "['*.test']", "mode: PASSTHROUGH"),
    ]) + &service(
        "pass",
        0,
        "['*.pass.test', x.test]",
        &format!(
            "tls: [{}, {}, {}]",
            rule("[{sniHosts: ['*.pass.test']}]", &[("wide", 1)]),
            rule("[{sniHosts: [a.pass.test], port: 443}, {sniHosts: [x.test]}]", &[("narrow", 1)]),
            rule("[{sniHosts: [a.pass.test]}]", &[("late", 1)]),
        ),
    ) + &service("db", 0, "[db.test]", &format!("tcp: [{}]", rule("[]", &[("db", 1)])))
        + &service("web", 0, "[web.test]", &format!("http: [{}]", to("[]", "web")));
    let edge = bare(&yaml);
    for (sni, want) in [
        ("a.pass.test", "passthrough narrow:1"),
        ("A.Pass.test", "passthrough narrow:1"),
        ("b.pass.test", "passthrough wide:1"),
        ("x.test", "passthrough narrow:1"),
        ("web.test", "https"),
        ("db.test", "terminate db:1"),
        ("other.test", "passthrough closed"),
        ("elsewhere", "no handshake"),
        ("", "no handshake"),
    ] {
        assert_eq!(edge.tls(sni), want, "{sni}");
    }
    assert_eq!(edge.send_tls(443, "web.test", "GET web.test /"), "web");
    let ListenerProtocol::Tls(tls) = &edge.table.listeners[0].protocol else { panic!("not TLS") };
    let http: Vec<_> = tls.servers.iter().map(|server| server.terms.http).collect();
    assert_eq!(http, [true, false], "only HTTP is negotiated as such");
    assert_eq!(edge.told(), Vec::<String>::new());
}

#[test]
fn names_of_several_virtual_services_meet_on_one_server() {
    let tls = |sni: &str, to: &str| format!("tls: [{}]", rule(&format!("[{{sniHosts: [{sni}]}}]"), &[(to, 1)]));
    let yaml = gateway(&[(443, "TLS", "['*.test']", "mode: PASSTHROUGH")])
        + &service("wide", 0, "['*.test']", &tls("'*.test'", "wide"))
        + &service("a", 1, "[a.test]", &tls("a.test", "a"))
        + &service("again", 2, "[a.test]", &tls("a.test", "again"));
    let edge = bare(&yaml);
    assert_eq!([edge.tls("a.test"), edge.tls("b.test")], ["passthrough a:1", "passthrough wide:1"]);
}

#[test]
fn rules_that_no_server_looks_at_and_ports_that_are_taken_are_found() {
    let tls = format!("tls: [{}]", rule("[{sniHosts: [a.test]}]", &[("a", 1)]));
    let yaml = gateway(&[(9000, "TCP", "[a.test]", ""), (9000, "TCP", "[b.test]", ""), (9000, "HTTP", "['*']", "")])
        + &service("tls", 0, "[a.test]", &tls)
        + &service("web", 0, "[a.test]", &format!("http: [{}]", to("[]", "a")))
        + &service("stray", 0, "[c.test]", &format!("tcp: [{}]", rule("[]", &[("a", 1)])));
    assert_eq!(
        bare(&yaml).told(),
        [
            "Rejected PortConflict Gateway default/edge spec.servers[1].port",
            "Rejected PortConflict Gateway default/edge spec.servers[2].port",
            "Unresolved HostNotServed VirtualService default/stray spec.hosts[0]",
            "Warning RulesNotUsed VirtualService default/tls spec.tls",
            "Warning RulesNotUsed VirtualService default/web spec.http",
        ]
    );
}

#[test]
fn a_destination_that_is_not_there_is_found_where_it_is_written() {
    let mesh = "
---
kind: MeshConfig
apiVersion: fairway.dev/v1
metadata: {name: default}
spec: {undeclaredHosts: Refuse}
";
    let yaml = gateway(&[(9000, "TCP", "['*']", "")])
        + &service("s", 0, "['*']", &format!("tcp: [{}]", rule("[]", &[("a", 1)])))
        + mesh;
    let edge = bare(&yaml);
    assert_eq!(edge.connect(9000, None, "127.0.0.1", "127.0.0.1"), "tcp ?:1");
    let lines = edge.finding_lines();
    assert!(lines[0].contains("VirtualService default/s spec.tcp[0].route[0].destination.host"), "{lines:?}");
}

#[test]
fn connections_that_ask_for_no_name_lead_to_no_host_of_a_wildcard() {
    let wildcard = "
---
kind: ServiceEntry
metadata: {name: w, namespace: default}
spec: {hosts: ['*.w.test'], resolution: DYNAMIC_DNS, ports: [{number: 9, name: tcp, protocol: TCP}]}
";
    let to = "{route: [{destination: {host: '*.w.test', port: {number: 9}}}]}";
    for (protocol, tls, told) in [("TCP", "", true), ("TLS", FILES, false)] {
        let tls = if tls.is_empty() { String::new() } else { format!("mode: SIMPLE, {tls}") };
        let yaml =
            gateway(&[(9000, protocol, "['*']", &tls)]) + &service("s", 0, "['*']", &format!("tcp: [{to}]")) + wildcard;
        let lines = bare(&yaml).told();
        let line = "Warning NameUnknown VirtualService default/s spec.tcp[0].route[0].destination.host";
        assert_eq!(lines.iter().any(|found| found == line), told, "{lines:?}");
    }
}
