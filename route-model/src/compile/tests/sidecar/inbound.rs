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

fn ingress(listeners: &str) -> String {
    let pool = "inboundConnectionPool: {tcp: {maxConnections: 7}, http: {http2MaxRequests: 9}}";
    resource("Sidecar", "shop", "default", 0, &format!("{{ingress: {listeners}, {pool}}}"))
}

#[test]
fn ingress_listeners_take_the_place_of_the_ports_that_were_given() {
    let listener = |port: u16, endpoint: &str, more: &str| {
        format!("{{port: {{number: {port}, name: p, protocol: GRPC}}, defaultEndpoint: '{endpoint}'{more}}}")
    };
    let pool = ", connectionPool: {tcp: {maxConnections: 3, connectTimeout: 2s}, http: {idleTimeout: 5s}}";
    let listeners = [
        listener(9080, "127.0.0.1:8080", ""),
        listener(9081, "0.0.0.0:8081", pool),
        listener(9082, "[::]:8082", ""),
        listener(9083, "unix:///run/app", ""),
        listener(9084, "", ""),
    ]
    .join(", ");
    let mut local = local();
    local.ports[3].listen = vec![address("0.0.0.0:19200")];
    let mesh = of(&ingress(&format!("[{listeners}]")), &local);
    let ip = |text: &str| {
        let address = address(text);
        EndpointAddress::Ip(address.ip(), address.port())
    };
    for (port, endpoint, connections) in [
        (9080, ip("127.0.0.1:8080"), 7),
        (9081, ip("127.0.0.1:8081"), 3),
        (9082, ip("[::1]:8082"), 7),
        (9083, EndpointAddress::Unix("/run/app".into()), 7),
        (9084, ip("127.0.0.1:9084"), 7),
        // Given, with a listener of its own.
        (9200, ip("127.0.0.1:9200"), 7),
    ] {
        let cluster = mesh.cluster(&format!("inbound|{port}||"));
        assert_eq!(cluster.discovery, Discovery::Static([Endpoint::new(endpoint, 1)].into()), "{port}");
        assert_eq!(cluster.policy.limits.connections, connections, "{port}");
        let protocol = if port == 9200 { UpstreamProtocol::Http1 } else { UpstreamProtocol::Http2 };
        assert_eq!(cluster.protocol, protocol, "{port}");
    }
    let times = mesh.cluster("inbound|9081||");
    assert_eq!((times.connect_timeout.as_secs(), times.idle_timeout.as_secs()), (2, 5));
    assert_eq!(mesh.cluster("inbound|9080||").policy.limits.requests, 9);
    // Given, and not listed.
    assert!(Arc::ptr_eq(mesh.port(9100), &mesh.inbound().other));
    let listeners: Vec<_> = mesh
        .table
        .listeners
        .iter()
        .filter_map(|listener| match &listener.protocol {
            ListenerProtocol::Inbound { port, .. } => Some((listener.port, *port)),
            _ => None,
        })
        .collect();
    assert_eq!(listeners, [(15006, None), (19200, Some(9200))]);
}

#[test]
fn an_ingress_listener_without_capture_has_an_address_of_its_own() {
    let listener = |port: u16, bind: &str| {
        format!(
            "{{port: {{number: {port}, name: http, protocol: HTTP}}, captureMode: NONE, defaultEndpoint: '127.0.0.1:80'{bind}}}"
        )
    };
    let mesh = sidecar(&ingress(&format!("[{}, {}]", listener(7000, ""), listener(7001, ", bind: 10.0.0.1"))));
    for (port, bind) in [(7000, "0.0.0.0:1"), (7001, "10.0.0.1:1")] {
        let listener = mesh.table.listeners.iter().find(|listener| listener.port == port).expect("a listener");
        assert_eq!(listener.bind, Some(address(bind).ip()));
        let ListenerProtocol::Inbound { port: Some(of), inbound } = &listener.protocol else { panic!("inbound") };
        assert!(*of == port && Arc::ptr_eq(inbound, mesh.inbound()));
        assert_eq!(mesh.request(&mesh.port(port).routes.http, "GET x /"), format!("inbound|{port}|| by default"));
    }
}

#[test]
fn a_policy_may_name_the_port_that_others_see() {
    let mut local = local();
    local.ports[0].listen = vec![address("0.0.0.0:19080")];
    for (port, want) in [(9080, MutualTls::Strict), (19080, MutualTls::Strict), (9090, MutualTls::Permissive)] {
        let spec = format!("{{selector: {{matchLabels: {{app: web}}}}, portLevelMtls: {{{port}: {{mode: STRICT}}}}}}");
        let mesh = of(&resource("PeerAuthentication", "shop", "own", 0, &spec), &local);
        assert_eq!(mesh.port(9080).mutual_tls, want, "{port}");
    }
}

#[test]
fn services_that_select_the_workload_say_what_its_ports_are() {
    let selecting = |ports: &str, app: &str| {
        let selector = format!("workloadSelector: {{labels: {{app: {app}}}}}");
        let entry = service("shop", "s", 0, "[s.test]", ports, &selector);
        entry.replace("endpoints: [{address: 10.0.0.1}], ", "")
    };
    let target = |name: &str, protocol: &str, target: u16| {
        format!("[{{number: 80, name: {name}, protocol: '{protocol}', targetPort: {target}}}]")
    };
    let listed = ingress("[{port: {number: 1, name: http, protocol: HTTP}}]");
    let at = |address: &str, port| {
        Discovery::Static([Endpoint::new(EndpointAddress::Ip(self::address(address).ip(), port), 1)].into())
    };
    let (http1, http2) = (UpstreamProtocol::Http1, UpstreamProtocol::Http2);
    for (resources, number, want) in [
        // A port that the sidecar was not told of is where clients wanted to reach it.
        (selecting(&target("x", "HTTP", 7000), "web"), 7000, Some((Speaks::Http, http1, Discovery::Original))),
        (selecting(&target("x", "GRPC", 7000), "web"), 7000, Some((Speaks::Http, http2, Discovery::Original))),
        (selecting(&target("x", "TCP", 7000), "web"), 7000, Some((Speaks::Bytes, http1, Discovery::Original))),
        (selecting(&port(7000, "x", ""), "web"), 7000, Some((Speaks::Detect, http1, Discovery::Original))),
        (selecting(&target("x", "HTTP", 7000), "other"), 7000, None),
        (selecting(&target("x", "HTTP", 7000), "web") + &listed, 7000, None),
        // Of one that it was told of its name goes first, and says nothing here.
        (selecting(&target("x", "GRPC", 9100), "web"), 9100, Some((Speaks::Http, http2, at("127.0.0.1:1", 9100)))),
        (selecting(&target("other", "GRPC", 7000), "web"), 9100, Some((Speaks::Http, http2, at("127.0.0.1:1", 9100)))),
        (selecting(&target("other", "GRPC", 7000), "web"), 7000, None),
        (selecting(&target("x", "GRPC", 9080), "web"), 9080, Some((Speaks::Http, http1, at("127.0.0.1:1", 9080)))),
    ] {
        let mesh = sidecar(&resources);
        let found = mesh.inbound().ports.get(&number).map(|port| {
            let cluster = mesh.cluster(&format!("inbound|{number}||"));
            (port.routes.speaks, cluster.protocol, cluster.discovery.clone())
        });
        assert_eq!(found, want, "{number} {resources}");
    }
}

#[test]
fn requests_are_under_the_limits_of_the_services_that_lead_there() {
    let selecting = |namespace: &str, name: &str, ports: &str, app: &str| {
        let selector = format!("workloadSelector: {{labels: {{app: {app}}}}}");
        let entry = service(namespace, name, 0, &format!("[{name}.test]"), ports, &selector);
        entry.replace("endpoints: [{address: 10.0.0.1}], ", "")
    };
    let limit = |name: &str, service: &str| {
        let rules = "rules: [{name: r, limit: {requests: 1, per: 1s}}]";
        let spec = format!("{{targetRefs: [{{kind: ServiceEntry, name: {service}}}], {rules}}}");
        resource("RateLimitPolicy", "shop", name, 0, &spec)
    };
    let target = |number: u16, name: &str, target: u16| {
        format!("[{{number: {number}, name: {name}, protocol: HTTP, targetPort: {target}}}]")
    };
    for (services, name, want) in [
        (selecting("shop", "s", &port(9080, "x", "HTTP"), "web"), "s.test", true),
        (selecting("shop", "s", &target(80, "x", 9080), "web"), "s.test", true),
        // By the name of the port.
        (selecting("shop", "s", &port(80, "http-web", "HTTP"), "web"), "s.test", true),
        (selecting("shop", "s", &port(80, "http", "HTTP"), "web"), "inbound|9080||", false),
        (selecting("shop", "s", &port(9080, "x", "HTTP"), "other"), "inbound|9080||", false),
        (selecting("bank", "s", &port(9080, "x", "HTTP"), "web"), "inbound|9080||", false),
        (service("shop", "s", 0, "[s.test]", &port(9080, "x", "HTTP"), ""), "inbound|9080||", false),
    ] {
        let mesh = sidecar(&(services.clone() + &limit("l", "s")));
        let cluster = mesh.cluster("inbound|9080||");
        assert_eq!((cluster.limits.is_some(), &*cluster.service_name), (want, name), "{services}");
        assert!(mesh.cluster("inbound|9090||").limits.is_none());
        // Where they are called they are not asked too.
        let mut outbound = mesh.table.clusters.iter().flatten().filter(|cluster| cluster.name.starts_with("outbound"));
        assert!(outbound.all(|cluster| cluster.limits.is_none()), "{services}");
    }
}

#[test]
fn tokens_are_looked_at_in_requests_to_the_workload_alone() {
    let api = service("shop", "api", 0, "[api.test]", &port(80, "http", "HTTP"), "");
    let policy = |namespace: &str, rest: &str| {
        let spec = format!("{{{rest}jwtRules: [{{issuer: 'https://i.test', jwks: '{{}}'}}]}}");
        resource("RequestAuthentication", namespace, "tokens", 0, &spec)
    };
    let web = "selector: {matchLabels: {app: web}}, ";
    for (policies, want) in [
        (String::new(), 0),
        (policy("shop", ""), 1),
        (policy("shop", web), 1),
        (policy("istio-system", web), 1),
        (policy("bank", web), 0),
        (policy("shop", "selector: {matchLabels: {app: other}}, "), 0),
        (policy("shop", "") + &policy("istio-system", ""), 2),
        (policy("shop", "targetRefs: [{group: networking.istio.io, kind: Gateway, name: edge}], "), 0),
    ] {
        let mesh = sidecar(&(api.clone() + &policies));
        let rules = |routes: &HttpRoutes| {
            let authentication = routes.authentication.of_authority("any.host");
            authentication.map_or(0, |authentication| authentication.rules.len())
        };
        assert_eq!(rules(&mesh.port(9080).routes.http), want, "{policies}");
        assert_eq!(rules(&mesh.port(4000).routes.http), want, "{policies}");
        assert_eq!(rules(&mesh.outbound().find(address("10.9.9.9:80")).http), 0, "{policies}");
    }
}

#[test]
fn policies_of_the_workload_are_in_the_table() {
    let policy = |namespace: &str, rest: &str| {
        resource("AuthorizationPolicy", namespace, "policy", 0, &format!("{{{rest}action: DENY, rules: [{{}}]}}"))
    };
    for (policy, want) in [
        (policy("shop", ""), true),
        (policy("shop", "selector: {matchLabels: {app: web}}, "), true),
        (policy("istio-system", ""), true),
        (policy("bank", ""), false),
        (policy("shop", "selector: {matchLabels: {app: other}}, "), false),
    ] {
        assert_eq!(!sidecar(&policy).table.authorization.is_empty(), want, "{policy}");
    }
}
