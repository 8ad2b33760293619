//! Updates give what a compilation from scratch gives, and leave alone what did not change.

use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::compile::{ApplicationPort, BoundService, Changed, Compiler, SidecarScope};
use crate::meta::{ResourceKey, Revision};

/// An object of a small world, in which most references meet something now and then.
fn object() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => gateway(),
        8 => virtual_services(),
        2 => destination_rule(),
        3 => service_entry(),
        1 => workload_entry(),
        1 => secret(),
        1 => mesh_config(),
        3 => rate_limit_policy(),
        3 => authorization_policy(),
        3 => backend_policy(),
        2 => request_authentication(),
        2 => sidecar(),
        2 => peer_authentication(),
    ]
}

fn named(kind: &str, namespace: &str, name: &str, created: u8, spec: Value) -> Value {
    let created = format!("2026-01-01T00:00:0{created}Z");
    json!({"kind": kind, "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created}, "spec": spec})
}

fn export_to() -> impl Strategy<Value = Value> {
    weighted(0.2, select(vec![".", "*", "istio-system", "a"])).prop_map(|to| json!(Vec::from_iter(to)))
}

/// Sets a field of an object if there is a value for it.
fn put(object: &mut Value, field: &str, value: Option<Value>) {
    if let Some(value) = value {
        object[field] = value;
    }
}

fn gateway() -> impl Strategy<Value = Value> {
    let server = (
        select(vec![80, 80, 81, 443, 443, 9000]),
        vec(select(vec!["*", "x.test", "*.test", "a/*", "./y.test", "y.test"]), 1..3),
        any::<bool>(),
        select(vec!["SIMPLE", "MUTUAL", "PASSTHROUGH"]),
        select(vec!["HTTPS", "TLS"]),
    );
    let server = server.prop_map(|(port, hosts, redirect, mode, protocol)| match port {
        9000 => json!({"port": {"number": 9000, "name": "tcp", "protocol": "TCP"}, "hosts": hosts}),
        443 => json!({"port": {"number": 443, "name": "https", "protocol": protocol}, "hosts": hosts,
                      "tls": {"mode": mode, "credentialName": "cert"}}),
        port => json!({"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": hosts,
                       "tls": {"httpsRedirect": redirect}}),
    });
    let names = (select(vec!["a", "b"]), select(vec!["g1", "g2"]), 0u8..3);
    let topology = weighted(0.3, Just(r#"{"gatewayTopology": {"proxyProtocol": {}}}"#));
    (names, vec(server, 1..3), weighted(0.1, Just("other")), topology).prop_map(
        |((namespace, name, created), servers, selector, topology)| {
            let selector = selector.map_or(json!({}), |other| json!({"istio": other}));
            let spec = json!({"selector": selector, "servers": servers});
            let mut gateway = named("Gateway", namespace, name, created, spec);
            let annotations = topology.map(|topology| json!({"proxy.istio.io/config": topology}));
            put(&mut gateway["metadata"], "annotations", annotations);
            gateway
        },
    )
}

fn rule() -> impl Strategy<Value = Value> {
    let path = select(vec!["/", "/a", "/a/b", "/A", ""]);
    let uri = (select(vec!["exact", "prefix", "regex"]), path).prop_map(|(how, path)| match how {
        "regex" => json!({"regex": format!("{path}.*")}),
        how => json!({how: path}),
    });
    let method = weighted(0.2, select(vec!["GET", "POST"]));
    let port = weighted(0.2, select(vec![80, 443]));
    let gateway = weighted(0.2, select(vec!["g1", "b/g2", "mesh"]));
    let entry = (of(uri), method, port, gateway).prop_map(|(uri, method, port, gateway)| {
        let mut entry = json!({});
        put(&mut entry, "uri", uri);
        put(&mut entry, "method", method.map(|method| json!({"exact": method})));
        put(&mut entry, "port", port.map(|port| json!(port)));
        put(&mut entry, "gateways", gateway.map(|gateway| json!([gateway])));
        entry
    });
    let host = select(vec!["s.test", "short", "10.0.0.1"]);
    let subset = weighted(0.4, select(vec!["v1", "v2"]));
    let destination = (host, of(select(vec![80, 90])), subset).prop_map(|(host, port, subset)| {
        let mut destination = json!({"host": host});
        put(&mut destination, "port", port.map(|port| json!({"number": port})));
        put(&mut destination, "subset", subset.map(|subset| json!(subset)));
        json!({"destination": destination, "weight": 1})
    });
    let action = prop_oneof![
        6 => vec(destination, 1..3).prop_map(|route| json!({"route": route})),
        1 => select(vec![301, 304]).prop_map(|code| json!({"redirect": {"uri": "/new", "redirectCode": code}})),
        1 => Just(json!({"directResponse": {"status": 200}})),
        2 => select(vec!["d1", "d2"]).prop_map(|name| json!({"delegate": {"name": name, "namespace": "a"}})),
    ];
    (vec(entry, 0..3), action, any::<bool>()).prop_map(|(entries, mut rule, is_named)| {
        rule["match"] = json!(entries);
        put(&mut rule, "name", is_named.then(|| json!("named")));
        rule
    })
}

/// A rule of `tls` or `tcp`.
fn stream_rule(tls: bool) -> impl Strategy<Value = Value> {
    let sni = select(vec!["x.test", "*.test", "y.test"]);
    let entry = (sni, weighted(0.2, select(vec![443, 9000])), weighted(0.3, Just("10.0.0.0/8")));
    let entry = entry.prop_map(move |(sni, port, subnet)| {
        let mut entry = json!({});
        put(&mut entry, "sniHosts", tls.then(|| json!([sni])));
        put(&mut entry, "port", port.map(|port| json!(port)));
        put(&mut entry, "destinationSubnets", subnet.map(|subnet| json!([subnet])));
        entry
    });
    let destination = (select(vec!["s.test", "short"]), weighted(0.3, Just("v1")), 0..3);
    let destination = destination.prop_map(|(host, subset, weight)| {
        let mut destination = json!({"host": host});
        put(&mut destination, "subset", subset.map(|subset| json!(subset)));
        json!({"destination": destination, "weight": weight})
    });
    (vec(entry, 0..3), vec(destination, 1..3)).prop_map(|(entries, route)| json!({"match": entries, "route": route}))
}

fn request_authentication() -> impl Strategy<Value = Value> {
    let names = (select(vec!["a", "istio-system"]), select(vec!["j1", "j2"]), select(vec!["i", "https://i.test"]));
    let selector = weighted(0.3, select(vec!["ingressgateway", "other"]));
    let target = weighted(0.4, select(vec!["g1", "g2"]));
    (names, selector, target, any::<bool>()).prop_map(|((namespace, name, issuer), selector, target, forward)| {
        let mut spec = json!({"jwtRules": [{"issuer": issuer, "forwardOriginalToken": forward}]});
        put(&mut spec, "selector", selector.map(|label| json!({"matchLabels": {"istio": label}})));
        let target = target.map(|name| json!([{"group": "networking.istio.io", "kind": "Gateway", "name": name}]));
        put(&mut spec, "targetRefs", target);
        named("RequestAuthentication", namespace, name, 0, spec)
    })
}

fn virtual_services() -> impl Strategy<Value = Value> {
    let names = (select(vec!["a", "b"]), select(vec!["v1", "v2", "v3"]), 0u8..3);
    let hosts = vec(select(vec!["x.test", "y.test", "*.test", "*", "short"]), 1..3);
    let gateways = vec(select(vec!["g1", "a/g2", "b/g1", "mesh"]), 0..3);
    let streams = (vec(stream_rule(true), 0..2), vec(stream_rule(false), 0..2));
    let root = (names, hosts, gateways, vec(rule(), 0..5), streams, export_to());
    let root = root.prop_map(|((namespace, name, created), hosts, gateways, http, (tls, tcp), export_to)| {
        let spec = json!({"hosts": hosts, "gateways": gateways, "http": http, "tls": tls, "tcp": tcp,
                          "exportTo": export_to});
        named("VirtualService", namespace, name, created, spec)
    });
    let delegate = (select(vec!["d1", "d2"]), vec(rule(), 1..3), export_to());
    let delegate = delegate.prop_map(|(name, http, export_to)| {
        named("VirtualService", "a", name, 0, json!({"http": http, "exportTo": export_to}))
    });
    prop_oneof![4 => root, 1 => delegate]
}

fn destination_rule() -> impl Strategy<Value = Value> {
    let names = (select(vec!["a", "b", "istio-system"]), select(vec!["r1", "r2"]), 0u8..3);
    let host = select(vec!["s.test", "*.test", "short"]);
    let subsets = vec(select(vec!["v1", "v2"]), 0..3);
    let tls = weighted(0.3, select(vec!["SIMPLE", "MUTUAL"]));
    let spec = (host, subsets, select(vec!["RANDOM", "ROUND_ROBIN"]), tls, export_to());
    (names, spec).prop_map(|((namespace, name, created), (host, subsets, balancer, tls, export_to))| {
        let subsets: Vec<_> = subsets.iter().map(|name| json!({"name": name, "labels": {"version": name}})).collect();
        let mut policy = json!({"loadBalancer": {"simple": balancer}});
        put(&mut policy, "tls", tls.map(|mode| json!({"mode": mode, "credentialName": "cert"})));
        let spec = json!({"host": host, "subsets": subsets, "trafficPolicy": policy, "exportTo": export_to});
        named("DestinationRule", namespace, name, created, spec)
    })
}

fn service_entry() -> impl Strategy<Value = Value> {
    let names = (select(vec!["a", "b"]), select(vec!["s1", "s2"]), 0u8..3);
    let host = select(vec!["s.test", "short.a.svc.cluster.local"]);
    let resolution = select(vec!["STATIC", "DNS", "NONE"]);
    let port = (select(vec![80, 90]), select(vec!["HTTP", "HTTP", "TCP", "TLS", ""]));
    let of_mesh = (weighted(0.3, select(vec!["10.9.0.1", "10.9.0.0/24"])), any::<bool>());
    let spec = (host, vec(port, 1..3), resolution, any::<bool>(), 1u8..4, export_to(), of_mesh);
    (names, spec).prop_map(|((namespace, name, created), spec)| {
        let (host, ports, resolution, selects, last, export_to, (address, internal)) = spec;
        let port =
            |(port, protocol): &(i32, &str)| json!({"number": port, "name": format!("p{port}"), "protocol": protocol});
        let ports: Vec<_> = ports.iter().map(port).collect();
        let mut spec = json!({"hosts": [host], "ports": ports, "resolution": resolution, "exportTo": export_to});
        put(&mut spec, "addresses", address.map(|address| json!([address])));
        put(&mut spec, "location", internal.then(|| json!("MESH_INTERNAL")));
        if selects {
            spec["workloadSelector"] = json!({"labels": {"app": "s"}});
        } else {
            spec["endpoints"] = json!([{"address": format!("10.0.0.{last}"), "labels": {"version": "v1"}}]);
        }
        named("ServiceEntry", namespace, name, created, spec)
    })
}

fn workload_entry() -> impl Strategy<Value = Value> {
    let names = (select(vec!["a", "b"]), select(vec!["w1", "w2"]));
    (names, 1u8..4, select(vec!["s", "other"]), any::<bool>()).prop_map(|((namespace, name), last, app, in_mesh)| {
        let mut labels = json!({"app": app, "version": "v2"});
        put(&mut labels, "security.istio.io/tlsMode", in_mesh.then(|| json!("istio")));
        named("WorkloadEntry", namespace, name, 0, json!({"address": format!("10.1.0.{last}"), "labels": labels}))
    })
}

fn secret() -> impl Strategy<Value = Value> {
    (select(vec!["a", "b", "istio-system"]), any::<bool>()).prop_map(|(namespace, whole)| {
        let mut data = json!({"tls.crt": "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"});
        let key = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        put(&mut data, "tls.key", whole.then(|| json!(key)));
        let ca = data["tls.crt"].clone();
        put(&mut data, "ca.crt", whole.then_some(ca));
        json!({"kind": "Secret", "metadata": {"name": "cert", "namespace": namespace}, "stringData": data})
    })
}

fn mesh_config() -> impl Strategy<Value = Value> {
    let undeclared = select(vec!["Resolve", "Refuse"]);
    let domain = select(vec!["", "corp"]);
    let settings = (undeclared, select(vec!["*", "."]), select(vec!["istio-system", "a"]), domain);
    settings.prop_map(|(undeclared, to, root, domain)| {
        let spec = json!({
            "undeclaredHosts": undeclared, "defaultVirtualServiceExportTo": [to], "rootNamespace": root,
            "trustDomain": domain, "maxRequestBodyBytes": domain.len(),
        });
        named("MeshConfig", "", "default", 0, spec)
    })
}

fn rate_limit_policy() -> impl Strategy<Value = Value> {
    let names = (select(vec!["a", "b"]), select(vec!["l1", "l2", "l3"]));
    let target = select(vec![
        json!({"kind": "Gateway", "name": "g1"}),
        json!({"kind": "VirtualService", "name": "v1"}),
        json!({"kind": "VirtualService", "name": "d1"}),
        json!({"kind": "VirtualService", "name": "v2", "sectionName": "named"}),
        json!({"kind": "ServiceEntry", "name": "s1"}),
    ]);
    let scope = select(vec!["Policy", "Route"]);
    (names, vec(target, 1..3), scope, 1..3).prop_map(|((namespace, name), targets, scope, requests)| {
        let limit = json!({"requests": requests, "per": "1s"});
        let spec = json!({"targetRefs": targets, "scope": scope, "rules": [{"name": "r", "limit": limit}]});
        named("RateLimitPolicy", namespace, name, 0, spec)
    })
}

fn backend_policy() -> impl Strategy<Value = Value> {
    let names = (select(vec!["a", "b"]), select(vec!["b1", "b2"]));
    let target = select(vec![
        json!({"kind": "Gateway", "name": "g1"}),
        json!({"kind": "VirtualService", "name": "v1"}),
        json!({"kind": "VirtualService", "name": "d1"}),
        json!({"kind": "VirtualService", "name": "v2", "sectionName": "named"}),
    ]);
    (names, vec(target, 1..3), 0..3).prop_map(|((namespace, name), targets, bytes)| {
        let spec = json!({"targetRefs": targets, "requestBody": {"maxBytes": bytes}});
        named("BackendPolicy", namespace, name, 0, spec)
    })
}

fn authorization_policy() -> impl Strategy<Value = Value> {
    let names = (select(vec!["a", "b", "istio-system"]), select(vec!["p1", "p2"]));
    let target = json!([{"group": "networking.istio.io", "kind": "Gateway", "name": "g1"}]);
    let selector = json!({"matchLabels": {"istio": "ingressgateway"}});
    let attached = weighted(0.6, select(vec![("targetRefs", target), ("selector", selector)]));
    let source = json!({"source": {"principals": ["cluster.local/ns/a/sa/b"]}});
    let operation = json!({"operation": {"paths": ["/a"]}});
    let rule = select(vec![json!({}), json!({"from": [source]}), json!({"to": [operation]})]);
    let action = select(vec!["ALLOW", "DENY", "AUDIT"]);
    let dry_run = weighted(0.3, select(vec!["true", "false"]));
    (names, attached, vec(rule, 1..3), action, dry_run).prop_map(
        |((namespace, name), attached, rules, action, dry_run)| {
            let mut object =
                named("AuthorizationPolicy", namespace, name, 0, json!({"action": action, "rules": rules}));
            if let Some((field, value)) = attached {
                object["spec"][field] = value;
            }
            if let Some(dry_run) = dry_run {
                object["metadata"]["annotations"] = json!({"istio.io/dry-run": dry_run});
            }
            object
        },
    )
}

fn sidecar() -> impl Strategy<Value = Value> {
    let names = (select(vec!["a", "b", "istio-system"]), select(vec!["c1", "c2"]), 0u8..3);
    let host = select(vec!["*/*", "./*", "a/s.test", "*/*.test", "~/*", "~b/*", "b/*.local"]);
    let egress = (weighted(0.3, select(vec![80, 90])), vec(host, 1..3)).prop_map(|(port, hosts)| {
        let mut egress = json!({"hosts": hosts});
        put(&mut egress, "port", port.map(|port| json!({"number": port, "name": "p", "protocol": "HTTP"})));
        egress
    });
    let ingress = select(vec![9080, 9100]).prop_map(
        |port| json!([{"port": {"number": port, "name": "http", "protocol": "HTTP"}, "defaultEndpoint": "127.0.0.1:1"}]),
    );
    let policy = weighted(0.4, select(vec!["ALLOW_ANY", "REGISTRY_ONLY"]));
    let selector = weighted(0.3, select(vec!["s", "other"]));
    (names, vec(egress, 0..3), weighted(0.3, ingress), policy, selector).prop_map(
        |((namespace, name, created), egress, ingress, policy, selector)| {
            let mut spec = json!({"egress": egress});
            put(&mut spec, "ingress", ingress);
            put(&mut spec, "outboundTrafficPolicy", policy.map(|mode| json!({"mode": mode})));
            put(&mut spec, "workloadSelector", selector.map(|app| json!({"labels": {"app": app}})));
            named("Sidecar", namespace, name, created, spec)
        },
    )
}

fn peer_authentication() -> impl Strategy<Value = Value> {
    let names = (select(vec!["a", "b", "istio-system"]), select(vec!["m1", "m2"]), 0u8..3);
    let mode = || select(vec!["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]);
    let selector = weighted(0.3, (select(vec!["s", "other"]), mode()));
    (names, mode(), selector).prop_map(|((namespace, name, created), mode, selector)| {
        let mut spec = json!({"mtls": {"mode": mode}});
        if let Some((app, mode)) = selector {
            spec["selector"] = json!({"matchLabels": {"app": app}});
            spec["portLevelMtls"] = json!({"9080": {"mode": mode}});
        }
        named("PeerAuthentication", namespace, name, created, spec)
    })
}

/// A sidecar of the small world.
fn sidecar_compiler() -> Compiler {
    let labels = [("app", "s"), ("istio", "ingressgateway")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    let address = |text: &str| text.parse().expect("an address");
    let port = |name: &str, port, listen| ApplicationPort { name: name.into(), port, listen };
    let bound = |host: &str, port, listen| BoundService { host: host.into(), port, listen: address(listen) };
    let local = SidecarScope {
        outbound: vec![address("127.0.0.1:15001")],
        inbound: vec![address("0.0.0.0:15006")],
        ports: vec![port("http", 9080, vec![address("0.0.0.0:19080")]), port("p80", 80, Vec::new())],
        services: vec![bound("short", 80, "127.0.0.1:8001"), bound("s.test", 90, "127.0.0.1:8002")],
    };
    Compiler::sidecar(ProxyScope { role: ProxyRole::Sidecar, namespace: "a".into(), labels: labels.into() }, local)
}

fn compilers() -> [fn() -> Compiler; 2] {
    [|| Compiler::new(scope()), sidecar_compiler]
}

#[derive(Clone, Debug)]
enum Edit {
    Put(Value),
    /// Takes the n-th resource away.
    Remove(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![4 => object().prop_map(Edit::Put), 1 => (0usize..20).prop_map(Edit::Remove)]
}

fn resource(object: &Value) -> Arc<Resource> {
    let kind = *Kind::ALL.iter().find(|kind| Some(kind.name()) == object["kind"].as_str()).expect("kind");
    Arc::new(Resource::from_object(kind, object).expect("a valid object"))
}

/// Applies edits to a set; the keys that they touch.
fn apply(set: &mut ResourceSet, edits: &[Edit]) -> Vec<ResourceKey> {
    let touch = |edit: &Edit| match edit {
        Edit::Put(object) => {
            let resource = resource(object);
            let key = resource.key.clone();
            set.insert(resource);
            Some(key)
        }
        Edit::Remove(n) => {
            let key = set.iter().nth(*n)?.key.clone();
            set.remove(&key);
            Some(key)
        }
    };
    edits.iter().filter_map(touch).collect()
}

fn dump_of(compiler: &Compiler, compiled: &Compiled) -> String {
    dump(compiled, |id| compiler.target(id).map_or_else(|| "unused".to_owned(), |target| format!("{target:?}")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_update_gives_what_a_compilation_gives(
        start in vec(object(), 0..25),
        batches in vec((vec(edit(), 1..4), proptest::bool::weighted(0.15)), 1..12),
        of in select(compilers().to_vec()),
    ) {
        let mut set: ResourceSet = start.iter().map(resource).collect();
        let mut compiler = of();
        compiler.update(&set, &Changed::Everything);
        for (n, (edits, everything)) in batches.iter().enumerate() {
            let keys = apply(&mut set, edits);
            set.revision = Revision(n as u64 + 1);
            let changed = if *everything { Changed::Everything } else { Changed::Keys(keys) };
            let updated = compiler.update(&set, &changed);
            let mut fresh = of();
            let compiled = fresh.update(&set, &Changed::Everything);
            let (updated, compiled) = (dump_of(&compiler, &updated), dump_of(&fresh, &compiled));
            if let Some(at) = updated.lines().zip(compiled.lines()).position(|(a, b)| a != b) {
                let part = |text: &str| text.lines().skip(at).take(12).collect::<Vec<_>>().join("\n");
                prop_assert!(false, "batch {}: updated\n{}\n\nfrom scratch\n{}", n, part(&updated), part(&compiled));
            }
            prop_assert_eq!(updated.len(), compiled.len());
        }
    }

    #[test]
    fn nothing_is_made_anew_for_a_set_that_means_the_same(
        start in vec(object(), 0..25),
        of in select(compilers().to_vec()),
    ) {
        let set: ResourceSet = start.iter().map(resource).collect();
        let again: ResourceSet = start.iter().map(resource).collect();
        let mut compiler = of();
        let before = compiler.update(&set, &Changed::Everything);
        let after = compiler.update(&again, &Changed::Everything);
        prop_assert_eq!(before.table.listeners.len(), after.table.listeners.len());
        for (a, b) in before.table.listeners.iter().zip(&after.table.listeners) {
            prop_assert!(Arc::ptr_eq(a, b));
        }
        for (a, b) in before.table.clusters.iter().zip(&after.table.clusters) {
            prop_assert!(a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr));
        }
    }
}

/// The host's routes in the table of a plain port 80.
fn host(table: &RouteTable, name: &str) -> Arc<crate::table::VirtualHost> {
    let listener = table.listeners.iter().find(|listener| listener.port == 80).expect("listener");
    let ListenerProtocol::Http(routes) = &listener.protocol else { panic!("not plain") };
    routes.hosts.find(name).expect("host").clone()
}

#[test]
fn an_edit_leaves_alone_what_it_does_not_touch() {
    let service = |address: &str| {
        format!(
            "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: t, namespace: default}}
spec:
  hosts: [t.test]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: {address}}}]
"
        )
    };
    let rules = |rule: &str| {
        let changing = to(&format!("[{{uri: {{exact: {rule}}}}}]"), "t");
        format!("[{}, {changing}]", to("[{uri: {exact: /kept}}]", "t"))
    };
    let yaml = |rule: &str, address: &str| {
        let a = virtual_service("a", 0, "[a.test]", &rules(rule));
        let b = virtual_service("b", 0, "[b.test]", &rules("/b"));
        [EDGE, &a, &b, &service(address)].concat()
    };
    let mut compiler = Compiler::new(scope());
    let mut table = |yaml: String| compiler.update(&set(&yaml), &Changed::Everything).table;
    let cluster = |table: &RouteTable| table.clusters[0].clone().expect("cluster");
    let first = table(yaml("/old", "10.0.0.1"));
    // A rule of one host: the other host, the clusters and the rule beside it stay.
    let second = table(yaml("/new", "10.0.0.1"));
    assert!(!Arc::ptr_eq(&host(&first, "a.test"), &host(&second, "a.test")));
    assert!(Arc::ptr_eq(&host(&first, "b.test"), &host(&second, "b.test")));
    assert!(Arc::ptr_eq(&host(&first, "a.test").routes()[0], &host(&second, "a.test").routes()[0]));
    assert!(Arc::ptr_eq(&cluster(&first), &cluster(&second)));
    // An endpoint: no route changes, nor does any listener.
    let third = table(yaml("/new", "10.0.0.2"));
    assert!(Arc::ptr_eq(&second.listeners[0], &third.listeners[0]));
    assert!(!Arc::ptr_eq(&cluster(&second), &cluster(&third)));
}
