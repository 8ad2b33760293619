//! Which Gateways a proxy serves, how their servers merge, and which VirtualServices attach.

use super::*;

/// A Gateway with these servers (YAML flow list).
fn gateway(namespace: &str, name: &str, created: u32, servers: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-01T00:00:{created:02}Z'}}
spec: {{selector: {{istio: ingressgateway}}, servers: {servers}}}
"
    )
}

/// A VirtualService that sends all requests to a cluster of its name.
fn service(namespace: &str, name: &str, created: u32, hosts: &str, gateways: &str, more: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-02-01T00:00:{created:02}Z'}}
spec: {{hosts: {hosts}, gateways: {gateways}, http: [{}], {more}}}
",
        to("[]", name)
    )
}

const HTTP: &str = "[{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]";

fn check(yaml: &str, requests: &[(&str, &str)]) {
    let edge = bare(yaml);
    for (request, want) in requests {
        assert_eq!(edge.send(80, request, &[]), *want, "{request} of\n{yaml}");
    }
}

#[test]
fn the_selector_decides_who_serves_a_gateway() {
    for (selector, serves) in [
        ("{istio: ingressgateway}", true),
        ("{istio: ingressgateway, app: istio-ingressgateway}", true),
        ("{}", true),
        ("{istio: egressgateway}", false),
        ("{istio: ingressgateway, more: labels}", false),
    ] {
        let yaml = gateway("default", "edge", 0, HTTP).replace("{istio: ingressgateway}", selector);
        assert_eq!(bare(&yaml).table.listeners.len(), usize::from(serves), "{selector}");
    }
}

#[test]
fn no_gateway_is_for_a_sidecar() {
    let sidecar = ProxyScope { role: ProxyRole::Sidecar, ..scope() };
    for selector in ["{istio: ingressgateway}", "{}"] {
        let yaml = gateway("default", "edge", 0, HTTP).replace("{istio: ingressgateway}", selector);
        assert!(compile(&set(&yaml), &sidecar).0.listeners.is_empty(), "{selector}");
    }
}

#[test]
fn a_virtual_service_attaches_to_the_gateways_it_names() {
    for (name, attaches) in [
        ("edge", true),
        ("./edge", true),
        ("default/edge", true),
        ("edge.default", true),
        ("edge.default.svc.cluster.local", true),
        ("other/edge", false),
        ("mesh", false),
    ] {
        let yaml =
            gateway("default", "edge", 0, HTTP) + &service("default", "a", 0, "[h.test]", &format!("[{name}]"), "");
        check(&yaml, &[("GET h.test /", if attaches { "a" } else { "404 no host" })]);
    }
    // No gateways means the mesh.
    let yaml = gateway("default", "edge", 0, HTTP) + &service("default", "a", 0, "[h.test]", "[]", "");
    check(&yaml, &[("GET h.test /", "404 no host")]);
}

#[test]
fn visibility_is_that_of_the_gateways_namespace() {
    for (export_to, used) in [
        ("exportTo: ['*']", true),
        ("exportTo: [istio-system]", true),
        ("exportTo: ['.']", false),
        ("exportTo: [default]", false),
        ("", true),
    ] {
        let yaml = gateway("default", "edge", 0, HTTP) + &service("default", "a", 0, "[h.test]", "[edge]", export_to);
        check(&yaml, &[("GET h.test /", if used { "a" } else { "404 no host" })]);
    }
    let mesh = "
---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {defaultVirtualServiceExportTo: ['.']}
";
    let yaml = gateway("default", "edge", 0, HTTP) + &service("default", "a", 0, "[h.test]", "[edge]", "") + mesh;
    check(&yaml, &[("GET h.test /", "404 no host")]);
}

#[test]
fn the_narrower_of_server_host_and_service_host_is_served() {
    let server = |hosts: &str| {
        gateway(
            "default",
            "edge",
            0,
            &format!("[{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: {hosts}}}]"),
        )
    };
    let yaml = server("['*.foo.com']") + &service("default", "a", 0, "['*']", "[edge]", "");
    check(&yaml, &[("GET x.foo.com /", "a"), ("GET bar.com /", "404 no host"), ("GET foo.com /", "404 no host")]);
    let yaml =
        server("['*.foo.com', b.bar.com]") + &service("default", "a", 0, "[a.foo.com, '*.bar.com']", "[edge]", "");
    check(
        &yaml,
        &[
            ("GET a.foo.com /", "a"),
            ("GET b.foo.com /", "404 no host"),
            ("GET b.bar.com /", "a"),
            ("GET c.bar.com /", "404 no host"),
        ],
    );
}

#[test]
fn a_namespace_before_a_server_host_admits_services_of_it_only() {
    let server = |host: &str| {
        gateway(
            "infra",
            "edge",
            0,
            &format!("[{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: ['{host}']}}]"),
        )
    };
    for (host, shop, infra) in [
        ("h.test", true, true),
        ("*/h.test", true, true),
        ("shop/h.test", true, false),
        ("./h.test", false, true),
        ("shop/*", true, false),
        ("other/*", false, false),
    ] {
        for (namespace, admitted) in [("shop", shop), ("infra", infra)] {
            let yaml = server(host) + &service(namespace, "a", 0, "[h.test]", "[infra/edge]", "");
            check(&yaml, &[("GET h.test /", if admitted { "a" } else { "404 no host" })]);
        }
    }
}

#[test]
fn plain_servers_of_a_port_share_routes() {
    let yaml = gateway("default", "one", 1, HTTP)
        + &gateway("default", "two", 2, "[{port: {number: 80, name: grpc, protocol: GRPC}, hosts: ['*.test']}]")
        + &service("default", "a", 0, "[a.test]", "[one]", "")
        + &service("default", "b", 0, "[b.test]", "[two]", "")
        // Of one host at two Gateways, the older Gateway's come first.
        + &service("default", "c1", 1, "[c.test]", "[two]", "")
        + &service("default", "c2", 2, "[c.test]", "[one]", "");
    let edge = bare(&yaml);
    assert_eq!(edge.table.listeners.len(), 1);
    assert_eq!(
        edge.table.listeners[0].servers.iter().map(|s| s.gateway.to_string()).collect::<Vec<_>>(),
        ["Gateway default/one", "Gateway default/two"]
    );
    assert_eq!(edge.routes(80, None).map(|routes| &*routes.name), Some("http.80"));
    check(&yaml, &[("GET a.test /", "a"), ("GET b.test /", "b"), ("GET c.test /", "c2")]);
}

#[test]
fn a_service_that_two_servers_lead_to_a_host_counts_once() {
    let servers = "[{port: {number: 80, name: a, protocol: HTTP}, hosts: [h.test]}, {port: {number: 80, name: b, protocol: HTTP}, hosts: ['*.test']}]";
    let edge = bare(&(gateway("default", "edge", 0, servers) + &service("default", "a", 0, "[h.test]", "[edge]", "")));
    let host = edge.routes(80, None).and_then(|routes| routes.hosts.find("h.test").cloned()).expect("host");
    assert_eq!(host.routes().len(), 1);
    assert_eq!(edge.finding_lines().iter().filter(|line| line.contains("Shadowed")).count(), 0);
}

#[test]
fn addresses_and_protocols_that_clash_lose_the_later_server() {
    let tls = "{number: 80, name: https, protocol: HTTPS}, hosts: [s.test], tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}";
    let yaml = gateway("default", "old", 1, HTTP) + &gateway("default", "young", 2, &format!("[{{port: {tls}}}]"));
    let edge = bare(&yaml);
    assert_eq!(edge.table.listeners.len(), 1);
    assert_eq!(edge.finding_lines(), ["Rejected PortConflict Gateway default/young spec.servers[0].port"]);
    // Another address is another listener.
    let edge = bare(&yaml.replace("port: {number: 80, name: https", "bind: 10.0.0.1, port: {number: 80, name: https"));
    assert_eq!(
        edge.table.listeners.iter().map(|l| (l.bind.map(|b| b.to_string()), l.port)).collect::<Vec<_>>(),
        [(None, 80), (Some("10.0.0.1".to_owned()), 80)]
    );
    assert_eq!(edge.finding_lines(), Vec::<String>::new());
}

#[test]
fn what_cannot_be_served_yet_is_said_and_the_rest_applies() {
    let edge = bare(&gateway(
        "default",
        "edge",
        0,
        "[{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']},
          {port: {number: 81, name: udp, protocol: UDP}, hosts: ['*']},
          {port: {number: 82, name: pass, protocol: TLS}, hosts: ['*'], tls: {mode: AUTO_PASSTHROUGH}},
          {port: {number: 83, name: what, protocol: NOPE}, hosts: ['*']},
          {port: {number: 84, name: bind, protocol: HTTP}, bind: nonsense, hosts: ['*']},
          {port: {number: 0, name: unix, protocol: HTTP}, bind: 'unix:///x', hosts: ['*']}]",
    ));
    assert_eq!(edge.table.listeners.iter().map(|listener| listener.port).collect::<Vec<_>>(), [80]);
    assert_eq!(
        edge.finding_lines(),
        [
            "Rejected NotSupported Gateway default/edge spec.servers[1].port.protocol",
            "Rejected NotSupported Gateway default/edge spec.servers[2].tls.mode",
            "Rejected UnknownProtocol Gateway default/edge spec.servers[3].port.protocol",
            "Rejected InvalidBind Gateway default/edge spec.servers[4].bind",
            "Rejected NotSupported Gateway default/edge spec.servers[5].bind",
        ]
    );
}

#[test]
fn https_redirect_is_of_the_host() {
    let servers =
        "[{port: {number: 80, name: a, protocol: HTTP}, hosts: [r.test, '*.w.test'], tls: {httpsRedirect: true}},
                    {port: {number: 80, name: b, protocol: HTTP}, hosts: [plain.test, n.test]}]";
    let yaml = gateway("default", "edge", 0, servers)
        + &service("default", "a", 0, "[r.test, plain.test, x.w.test]", "[edge]", "");
    check(
        &yaml,
        &[
            ("GET r.test /", "301 https"),
            ("GET x.w.test /", "301 https"),
            // Also without any VirtualService.
            ("GET y.w.test /", "301 https"),
            ("GET plain.test /", "a"),
            ("GET n.test /", "404 no host"),
        ],
    );
    // A request that a trusted hop received over TLS is served.
    let edge = bare(&yaml);
    let routes = edge.routes(80, None).expect("routes");
    assert_eq!(edge.lookup(routes, "https", "GET r.test /", &[]), "a");
    // Of two servers that share a host, one that redirects is enough.
    let servers = "[{port: {number: 80, name: a, protocol: HTTP}, hosts: [r.test]}, {port: {number: 80, name: b, protocol: HTTP}, hosts: [r.test], tls: {httpsRedirect: true}}]";
    check(
        &(gateway("default", "edge", 0, servers) + &service("default", "a", 0, "[r.test]", "[edge]", "")),
        &[("GET r.test /", "301 https")],
    );
}

#[test]
fn a_gateway_says_how_many_proxies_are_before_it() {
    let config = |number: &str| format!("annotations: {{proxy.istio.io/config: '{number}'}}");
    let with = |name: &str, port: u16, annotations: &str| {
        let servers = format!("[{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]");
        gateway("default", name, 0, &servers)
            .replace("namespace: default,", &format!("namespace: default, {annotations},"))
    };
    let topology =
        |number: &str| config(&format!("{{\"gatewayTopology\": {{\"numTrustedProxies\": {number}}}, \"x\": 1}}"));
    let mesh = "
---
apiVersion: fairway.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {numTrustedProxies: 2}
";
    let gateways = with("one", 80, &topology("1"))
        + &with("mesh", 81, "labels: {}")
        + &with("three", 82, &topology("3"))
        + &with("four", 82, &topology("4"))
        + &with("five", 83, &topology("5"))
        + &with("plain", 83, "labels: {}")
        + &with("none", 84, &topology("0"))
        + &with("odd", 85, &config("gatewayTopology: 3"))
        + &with("many", 86, &topology("101"))
        + mesh;
    let edge = bare(&gateways);
    let settings = &edge.table.settings;
    let hops: Vec<_> =
        edge.table.listeners.iter().map(|listener| (listener.port, settings.trusted_hops(listener))).collect();
    assert_eq!(hops, [(80, 1), (81, 2), (82, 3), (83, 2), (84, 0), (85, 2), (86, 2)]);
    let at = "metadata.annotations[proxy.istio.io/config]";
    let mut lines = edge.finding_lines();
    lines.sort();
    assert_eq!(
        lines,
        [
            format!("Warning InvalidProxyConfig Gateway default/many {at}"),
            format!("Warning InvalidProxyConfig Gateway default/odd {at}"),
            format!("Warning TrustedProxiesDiffer Gateway default/five {at}"),
            format!("Warning TrustedProxiesDiffer Gateway default/four {at}"),
        ]
    );
    // An edit of the annotation alone counts.
    let mut compiler = super::super::Compiler::new(scope());
    let mut hops = |number: &str| {
        let set = set(&with("one", 80, &topology(number)));
        let table = compiler.update(&set, &super::super::Changed::Everything).table;
        table.settings.trusted_hops(&table.listeners[0])
    };
    assert_eq!((hops("1"), hops("2")), (1, 2));
}
