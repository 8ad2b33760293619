//! What a workload calls.

use super::*;
use crate::compile::BoundService;
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

/// A VirtualService of namespace `shop`.
fn rules(name: &str, created: u32, hosts: &str, rest: &str) -> String {
    resource("VirtualService", "shop", name, created, &format!("{{hosts: {hosts}, {rest}}}"))
}

/// `http` rules that send everything to a subset of that name, whether it exists or not.
fn to(subset: &str) -> String {
    format!("http: [{{name: {subset}, route: [{{destination: {{host: {subset}.test, port: {{number: 80}}}}}}]}}]")
}

#[test]
fn of_the_virtual_services_for_a_host_the_most_specific_counts_and_then_the_oldest() {
    let web = |name: &str, created, host: &str| service("shop", name, created, host, &port(80, "http", "HTTP"), "");
    let services = web("a", 0, "[a.foo.test]") + &web("b", 1, "[b.foo.test]");
    let send = |rules: String, host: &str| {
        sidecar(&(services.clone() + &rules)).send("10.9.9.9:80", &format!("GET {host} /x"))
    };
    let wide = rules("wide", 0, "['*.foo.test']", &to("wide"));
    let wider = rules("wider", 0, "['*.test']", &to("wider"));
    let exact = rules("exact", 5, "[a.foo.test]", &to("exact"));
    let second = rules("second", 6, "[a.foo.test]", &to("second"));
    let missing = rules("missing", 0, "[a.foo.test]", "http: [{match: [{uri: {exact: /other}}], redirect: {uri: /}}]");
    let other_port = rules("elsewhere", 0, "[a.foo.test]", &to("x").replace("{name", "{match: [{port: 81}], name"));
    let raw = rules("raw", 0, "[a.foo.test]", "tcp: [{route: [{destination: {host: b.foo.test}}]}]");
    let edge = rules("edge", 0, "[a.foo.test]", &("gateways: [edge], ".to_owned() + &to("edge")));
    let both = rules("both", 0, "[a.foo.test]", &("gateways: [edge, mesh], ".to_owned() + &to("both")));
    let at_edge = rules(
        "at-edge",
        0,
        "[a.foo.test]",
        &("gateways: [edge, mesh], ".to_owned() + &to("x").replace("{name", "{match: [{gateways: [edge]}], name")),
    );
    let private = exact.replace("namespace: shop", "namespace: bank").replace("{hosts", "{exportTo: ['.'], hosts");
    let labels = |label: &str| {
        rules(
            "labels",
            0,
            "[a.foo.test]",
            &to("labels").replace("{name", &format!("{{match: [{{sourceLabels: {{app: {label}}}}}], name")),
        )
    };
    let (a, b) = ("outbound|80||a.foo.test by default", "outbound|80||b.foo.test by default");
    for (rules, host, want) in [
        (String::new(), "a.foo.test", a),
        (wide.clone(), "a.foo.test", "outbound|80||wide.test by wide"),
        (wide.clone() + &wider, "a.foo.test", "outbound|80||wide.test by wide"),
        (wide.clone() + &exact, "a.foo.test", "outbound|80||exact.test by exact"),
        (wide.clone() + &exact, "b.foo.test", "outbound|80||wide.test by wide"),
        (second.clone() + &exact, "a.foo.test", "outbound|80||exact.test by exact"),
        // Hosts that no service has are only known by themselves, and a wildcard that covers services not even so.
        (wide.clone(), "c.foo.test", "PassthroughCluster by allow_any"),
        // A VirtualService takes the service's place: nothing falls through to it.
        (missing.clone(), "a.foo.test", "404 no route in a.foo.test"),
        // One without a rule for the port leaves the service alone, or to the next.
        (other_port.clone(), "a.foo.test", a),
        (other_port + &exact, "a.foo.test", "outbound|80||exact.test by exact"),
        (raw, "a.foo.test", a),
        (edge, "a.foo.test", a),
        (both, "a.foo.test", "outbound|80||both.test by both"),
        (at_edge, "a.foo.test", a),
        (private, "a.foo.test", a),
        (labels("web"), "a.foo.test", "outbound|80||labels.test by labels"),
        (labels("other"), "a.foo.test", a),
        (exact, "b.foo.test", b),
    ] {
        assert_eq!(send(rules.clone(), host), want, "{host} {rules}");
    }
}

#[test]
fn a_host_that_only_a_virtual_service_knows_is_served_on_port_80() {
    let mesh = sidecar(
        &[
            rules("own", 0, "[own]", &to("own")),
            rules("wild", 1, "['*.wild.test']", &to("wild")),
            service("shop", "api", 0, "[api.test]", &port(8080, "http", "HTTP"), ""),
        ]
        .concat(),
    );
    for (to, host, want) in [
        ("10.9.9.9:80", "own", "outbound|80||own.test by own"),
        ("10.9.9.9:80", "own.shop.svc.cluster.local", "outbound|80||own.test by own"),
        ("10.9.9.9:80", "a.wild.test", "outbound|80||wild.test by wild"),
        ("10.9.9.9:8080", "own", "PassthroughCluster by allow_any"),
    ] {
        assert_eq!(mesh.send(to, &format!("GET {host} /")), want, "{to} {host}");
    }
}

#[test]
fn unknown_hosts_pass_through_or_are_refused() {
    let mesh_config =
        |mode: &str| resource("MeshConfig", "", "default", 0, &format!("{{outboundTrafficPolicy: {{mode: {mode}}}}}"));
    let own = |policy: &str| resource("Sidecar", "shop", "default", 0, &format!("{{outboundTrafficPolicy: {policy}}}"));
    let api = service("shop", "api", 0, "[api.test]", &port(80, "http", "HTTP"), "")
        + &service("shop", "proxy", 0, "[proxy.test]", &port(3128, "tcp", "TCP"), "");
    let (passed, refused) = ("PassthroughCluster by allow_any", "502 by block_all");
    let proxy = "{mode: ALLOW_ANY, egressProxy: {host: proxy.test, port: {number: 3128}}}";
    for (policies, http, bytes) in [
        (String::new(), passed, "PassthroughCluster"),
        (mesh_config("REGISTRY_ONLY"), refused, "closed"),
        (mesh_config("ALLOW_ANY"), passed, "PassthroughCluster"),
        (own("{mode: REGISTRY_ONLY}"), refused, "closed"),
        // The zero value.
        (own("{}"), refused, "closed"),
        (mesh_config("REGISTRY_ONLY") + &own("{mode: ALLOW_ANY}"), passed, "PassthroughCluster"),
        (own(proxy), "outbound|3128||proxy.test by allow_any", "outbound|3128||proxy.test"),
    ] {
        let mesh = sidecar(&(api.clone() + &policies));
        // On a port with services and on one without.
        for to in ["10.9.9.9:80", "10.9.9.9:81"] {
            assert_eq!(mesh.send(to, "GET unknown.test /"), http, "{to} {policies}");
        }
        assert_eq!(mesh.connect("10.9.9.9:81", None), bytes, "{policies}");
        assert_eq!(mesh.connect("10.9.9.9:81", Some("unknown.test")), bytes, "{policies}");
        assert_eq!(mesh.send("10.9.9.9:80", "GET api.test /"), "outbound|80||api.test by default", "{policies}");
    }
}

#[test]
fn a_port_speaks_what_its_services_declare() {
    for (ports, speaks, http, bytes) in [
        (&[("http", "HTTP")][..], Speaks::Http, "outbound|90||s0.test", "only HTTP"),
        (&[("x", "GRPC-WEB")], Speaks::Http, "outbound|90||s0.test", "only HTTP"),
        (&[("grpc-web-x", "")], Speaks::Http, "outbound|90||s0.test", "only HTTP"),
        (&[("x", "TCP")], Speaks::Bytes, "404 no host", "outbound|90||s0.test"),
        (&[("mongo", "")], Speaks::Bytes, "404 no host", "outbound|90||s0.test"),
        (&[("x", "")], Speaks::Detect, "outbound|90||s0.test", "outbound|90||s0.test"),
        (&[("x", "HTTPS")], Speaks::Tls, "404 no host", "PassthroughCluster"),
        (&[("x", "UDP")], Speaks::Detect, "PassthroughCluster", "PassthroughCluster"),
        (&[("a", "HTTP"), ("b", "TCP")], Speaks::Detect, "outbound|90||s0.test", "outbound|90||s1.test"),
        (&[("a", "TLS"), ("b", "TCP")], Speaks::Detect, "404 no host", "outbound|90||s1.test"),
        (&[("a", "TCP"), ("b", "TCP")], Speaks::Bytes, "404 no host", "outbound|90||s0.test"),
    ] {
        let services = (0u32..).zip(ports).map(|(n, (name, protocol))| {
            service("shop", &format!("s{n}"), n, &format!("[s{n}.test]"), &port(90, name, protocol), "")
        });
        let mesh = sidecar(&services.collect::<String>());
        let found = mesh.outbound().find(address("10.9.9.9:90"));
        assert_eq!(found.speaks, speaks, "{ports:?}");
        let sent = mesh.send("10.9.9.9:90", "GET s0.test /");
        assert_eq!(sent.split(" by ").next(), Some(http), "{ports:?}");
        assert_eq!(mesh.connect("10.9.9.9:90", None), bytes, "{ports:?}");
    }
}

#[test]
fn connections_go_by_address_by_network_or_by_server_name() {
    let tls = port(443, "tls", "TLS");
    let mesh = sidecar(
        &[
            service("shop", "vip", 0, "[vip.test]", &port(5432, "db", "TCP"), "addresses: [10.1.0.1, 'fd00::1']"),
            service("shop", "twin", 1, "[twin.test]", &port(5432, "db", "TCP"), "addresses: [10.1.0.1, 10.1.0.2]"),
            service("shop", "net", 2, "[net.test]", &port(5432, "db", "TCP"), "addresses: [10.2.0.0/16]"),
            service("shop", "any", 3, "[any.test]", &port(5432, "db", "TCP"), ""),
            service("shop", "late", 4, "[late.test]", &port(5432, "db", "TCP"), ""),
            service("shop", "name", 5, "[name.test]", &tls, ""),
            service("shop", "wild", 6, "['*.wild.test']", &tls, "")
                .replace("STATIC", "NONE")
                .replace("endpoints: [{address: 10.0.0.1}]", "exportTo: ['*']"),
            service("shop", "tlsvip", 7, "[tlsvip.test]", &tls, "addresses: [10.3.0.1]"),
            service("shop", "tlsnet", 8, "[tlsnet.test]", &tls, "addresses: [10.4.0.0/16]"),
        ]
        .concat(),
    );
    for (to, sni, want) in [
        ("10.1.0.1:5432", None, "outbound|5432||vip.test"),
        ("[fd00::1]:5432", None, "outbound|5432||vip.test"),
        ("[::ffff:10.1.0.1]:5432", None, "outbound|5432||vip.test"),
        ("10.1.0.2:5432", None, "outbound|5432||twin.test"),
        ("10.2.3.4:5432", None, "outbound|5432||net.test"),
        ("10.9.9.9:5432", None, "outbound|5432||any.test"),
        ("10.9.9.9:443", Some("name.test"), "outbound|443||name.test"),
        ("10.9.9.9:443", Some("a.wild.test"), "outbound|443||*.wild.test"),
        ("10.9.9.9:443", Some("other.test"), "PassthroughCluster"),
        ("10.9.9.9:443", None, "PassthroughCluster"),
        // An address is enough.
        ("10.3.0.1:443", Some("other.test"), "outbound|443||tlsvip.test"),
        ("10.9.9.9:443", Some("tlsvip.test"), "PassthroughCluster"),
        // A network is not.
        ("10.4.0.1:443", Some("tlsnet.test"), "outbound|443||tlsnet.test"),
        ("10.4.0.1:443", Some("other.test"), "PassthroughCluster"),
        ("10.9.9.9:443", Some("tlsnet.test"), "PassthroughCluster"),
    ] {
        assert_eq!(mesh.connect(to, sni), want, "{to} {sni:?}");
    }
    assert_eq!(super::super::lines(&mesh.findings), ["Warning PortTaken ServiceEntry shop/late spec.ports"]);
    assert_eq!(mesh.cluster("outbound|443||*.wild.test").discovery, Discovery::Original);
}

#[test]
fn tls_and_tcp_rules_lead_connections_elsewhere() {
    let services = [
        service(
            "shop",
            "db",
            0,
            "[db.test]",
            "[{number: 5432, name: a, protocol: TCP}, {number: 5433, name: b, protocol: TCP}]",
            "addresses: [10.1.0.1]",
        ),
        service("shop", "old", 1, "[old.test]", &port(5432, "db", "TCP"), "addresses: [10.1.0.2]"),
        service("shop", "web", 2, "['*.web.test']", &port(443, "tls", "TLS"), "")
            .replace("STATIC", "NONE")
            .replace("endpoints: [{address: 10.0.0.1}]", "exportTo: ['*']"),
    ]
    .concat();
    let to = |host: &str| format!("route: [{{destination: {{host: {host}, port: {{number: 5432}}}}}}]");
    let tcp = |name: &str, created, matches: &str, host: &str| {
        rules(name, created, "[db.test]", &format!("tcp: [{{match: {matches}, {}}}]", to(host)))
    };
    let tls =
        |matches: &str| rules("web", 0, "['*.web.test']", &format!("tls: [{{match: {matches}, {}}}]", to("old.test")));
    let (db, old, web) = ("outbound|5432||db.test", "outbound|5432||old.test", "outbound|443||*.web.test");
    for (rules, to, sni, want) in [
        (String::new(), "10.1.0.1:5432", None, db),
        (tcp("a", 0, "[]", "old.test"), "10.1.0.1:5432", None, old),
        (tcp("a", 0, "[]", "old.test"), "10.1.0.1:5433", None, old),
        (tcp("a", 0, "[{port: 5433}]", "old.test"), "10.1.0.1:5432", None, db),
        (tcp("a", 0, "[{port: 5433}]", "old.test"), "10.1.0.1:5433", None, old),
        (tcp("a", 0, "[{destinationSubnets: [10.1.0.0/31]}]", "old.test"), "10.1.0.1:5432", None, old),
        (tcp("a", 0, "[{destinationSubnets: [10.1.0.2/31]}]", "old.test"), "10.1.0.1:5432", None, db),
        (tcp("a", 0, "[{sourceLabels: {app: other}}]", "old.test"), "10.1.0.1:5432", None, db),
        // All conditions must hold, whatever `gateways` says.
        (tcp("a", 0, "[{gateways: [mesh], sourceLabels: {app: other}}]", "old.test"), "10.1.0.1:5432", None, db),
        (tcp("a", 0, "[{gateways: [mesh], sourceLabels: {app: web}}]", "old.test"), "10.1.0.1:5432", None, old),
        // The oldest that takes all takes all.
        (tcp("a", 1, "[]", "new.test") + &tcp("b", 0, "[]", "old.test"), "10.1.0.1:5432", None, old),
        (tls("[{sniHosts: [a.web.test]}]"), "10.9.9.9:443", Some("a.web.test"), old),
        // A rule for some names of a service leaves the others to nobody.
        (tls("[{sniHosts: [a.web.test]}]"), "10.9.9.9:443", Some("b.web.test"), "PassthroughCluster"),
        (tls("[{sniHosts: [a.web.test], port: 444}]"), "10.9.9.9:443", Some("a.web.test"), web),
    ] {
        let mesh = sidecar(&(services.clone() + &rules));
        assert_eq!(mesh.connect(to, sni), want, "{to} {sni:?} {rules}");
    }
}

#[test]
fn a_listener_that_stands_for_a_service_leads_any_host_there() {
    let bound = |host: &str, port, listen: &str| BoundService { host: host.into(), port, listen: address(listen) };
    let mut local = local();
    local.services = vec![
        bound("reviews", 80, "127.0.0.1:8001"),
        bound("db.test", 5432, "127.0.0.1:8002"),
        bound("nobody", 80, "127.0.0.1:8003"),
        bound("short", 80, "127.0.0.1:8004"),
    ];
    let mesh = of(
        &[
            service("shop", "reviews", 0, "[reviews.shop.svc.cluster.local]", &port(80, "http", "HTTP"), ""),
            service("shop", "db", 0, "[db.test]", &port(5432, "db", "TCP"), "addresses: [10.1.0.1]"),
            service("shop", "short", 0, "[short]", &port(80, "x", ""), ""),
            rules(
                "reviews",
                0,
                "[reviews]",
                "http: [{match: [{uri: {prefix: /v1}}], name: v1, route: [{destination: {host: v1}}]}]",
            ),
        ]
        .concat(),
        &local,
    );
    let routes = |port: u16| {
        let listener = mesh.table.listeners.iter().find(|listener| listener.port == port).expect("a listener");
        assert_eq!(listener.bind, Some(address("127.0.0.1:1").ip()));
        match &listener.protocol {
            ListenerProtocol::Service(routes) => routes,
            other => panic!("{other:?}"),
        }
    };
    let nobody = "outbound|80||nobody.shop.svc.cluster.local";
    for (port, speaks, http, bytes) in [
        (8001, Speaks::Http, "503 NC by v1", "only HTTP"),
        (8002, Speaks::Bytes, "404 no host", "outbound|5432||db.test"),
        (8003, Speaks::Detect, &*format!("{nobody} by default"), nobody),
        (8004, Speaks::Detect, "outbound|80||short by default", "outbound|80||short"),
    ] {
        let routes = routes(port);
        assert_eq!(routes.speaks, speaks, "{port}");
        assert_eq!(mesh.request(&routes.http, "GET whatever:1 /v1"), http, "{port}");
        assert_eq!(mesh.stream(routes, address("127.0.0.1:1"), None), bytes, "{port}");
    }
    assert_eq!(mesh.request(&routes(8001).http, "GET reviews /v2"), "404 no route in reviews.shop.svc.cluster.local");
    let ports: Vec<_> = mesh.table.listeners.iter().map(|listener| listener.port).collect();
    assert_eq!(ports, [8001, 8002, 8003, 8004, 15001, 15006]);
}
