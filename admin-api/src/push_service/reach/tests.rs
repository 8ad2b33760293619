//! What gateways are sent, and that nothing they need is left out.

use std::fmt::Write as _;

use route_model::compile::{ProxyRole, compile};
use route_model::table::{Action, HttpRoutes, ListenerProtocol, RouteTable, StreamRoutes, TlsRoutes};
use serde_json::{Value, json};

use super::*;

pub(super) fn add(set: &mut ResourceSet, kind: Kind, name: &str, spec: Value) {
    let (namespace, name) = name.split_once('/').unwrap();
    let mut object = json!({"metadata": {"name": name, "namespace": namespace}});
    match spec {
        Value::Object(fields) if !kind.info().has_spec => object.as_object_mut().unwrap().extend(fields),
        spec => object["spec"] = spec,
    }
    set.insert(Arc::new(Resource::from_object(kind, &object).unwrap()));
}

fn edge() -> ProxyScope {
    let labels = [("istio", "ingressgateway"), ("app", "edge")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    ProxyScope { role: ProxyRole::Gateway, namespace: "istio-system".into(), labels: labels.into() }
}

fn reached(set: &ResourceSet) -> Vec<String> {
    of_gateway(set, &edge()).iter().map(|resource| resource.key.to_string()).collect()
}

pub(super) fn gateway(selector: Value, secret: &str) -> Value {
    let tls = json!({"mode": "SIMPLE", "credentialName": secret});
    let port = json!({"number": 443, "name": "https", "protocol": "HTTPS"});
    json!({"selector": selector, "servers": [{"port": port, "hosts": ["*"], "tls": tls}]})
}

pub(super) fn service(gateways: &[&str], host: &str) -> Value {
    json!({"hosts": ["*"], "gateways": gateways, "http": [{"route": [{"destination": {"host": host}}]}]})
}

#[test]
fn gateways_are_chosen_by_their_selectors_and_bring_their_secrets_only() {
    let mut set = ResourceSet::default();
    add(&mut set, Kind::Gateway, "shop/mine", gateway(json!({"istio": "ingressgateway"}), "cert"));
    add(&mut set, Kind::Gateway, "shop/all", gateway(json!({}), "second"));
    add(&mut set, Kind::Gateway, "shop/other", gateway(json!({"istio": "egressgateway"}), "third"));
    for name in ["shop/cert", "istio-system/cert", "shop/cert-cacert", "bank/cert", "istio-system/second", "shop/third"]
    {
        add(&mut set, Kind::Secret, name, json!({"type": "kubernetes.io/tls", "data": {}}));
    }
    assert_eq!(
        reached(&set),
        [
            "Gateway shop/all",
            "Gateway shop/mine",
            "Secret istio-system/cert",
            "Secret istio-system/second",
            "Secret shop/cert",
            "Secret shop/cert-cacert",
        ]
    );
}

#[test]
fn virtual_services_are_those_bound_and_visible_with_their_delegates() {
    let mut set = ResourceSet::default();
    add(&mut set, Kind::Gateway, "infra/edge", gateway(json!({}), ""));
    add(&mut set, Kind::VirtualService, "shop/slash", service(&["infra/edge"], "a"));
    add(&mut set, Kind::VirtualService, "shop/old", service(&["edge.infra.svc.cluster.local"], "a"));
    add(&mut set, Kind::VirtualService, "infra/short", service(&["mesh", "edge"], "a"));
    add(&mut set, Kind::VirtualService, "shop/mesh", service(&["mesh"], "a"));
    add(&mut set, Kind::VirtualService, "shop/none", service(&[], "a"));
    add(&mut set, Kind::VirtualService, "shop/elsewhere", service(&["edge"], "a"));
    let mut hidden = service(&["infra/edge"], "a");
    hidden["exportTo"] = json!(["."]);
    add(&mut set, Kind::VirtualService, "shop/hidden", hidden);
    let delegate = |name| json!([{"delegate": {"name": name, "namespace": "bank"}}]);
    for (name, target) in [("shop/root", "open"), ("shop/root2", "closed")] {
        let root = json!({"hosts": ["x.com"], "gateways": ["infra/edge"], "http": delegate(target)});
        add(&mut set, Kind::VirtualService, name, root);
    }
    let http = json!([{"route": [{"destination": {"host": "ledger"}}]}]);
    add(&mut set, Kind::VirtualService, "bank/open", json!({"http": http, "exportTo": ["shop"]}));
    add(&mut set, Kind::VirtualService, "bank/closed", json!({"http": http, "exportTo": ["."]}));
    add(&mut set, Kind::ServiceEntry, "bank/ledger", json!({"hosts": ["ledger.bank.svc.cluster.local"]}));
    assert_eq!(
        reached(&set),
        [
            "Gateway infra/edge",
            "VirtualService bank/open",
            "VirtualService infra/short",
            "VirtualService shop/old",
            "VirtualService shop/root",
            "VirtualService shop/root2",
            "VirtualService shop/slash",
            "ServiceEntry bank/ledger",
        ]
    );
}

#[test]
fn services_are_those_that_routes_lead_to() {
    let mut set = ResourceSet::default();
    add(&mut set, Kind::Gateway, "shop/edge", gateway(json!({}), ""));
    add(&mut set, Kind::VirtualService, "shop/a", service(&["edge"], "reviews"));
    add(&mut set, Kind::VirtualService, "shop/b", service(&["edge"], "api.Partner.example"));
    let full = "reviews.shop.svc.cluster.local";
    add(&mut set, Kind::DestinationRule, "shop/short", json!({"host": "reviews"}));
    add(&mut set, Kind::DestinationRule, "other/full", json!({"host": full}));
    add(&mut set, Kind::DestinationRule, "other/short", json!({"host": "reviews"}));
    add(&mut set, Kind::DestinationRule, "shop/wild", json!({"host": "*.svc.cluster.local"}));
    add(&mut set, Kind::DestinationRule, "shop/unused", json!({"host": "ratings"}));
    add(&mut set, Kind::DestinationRule, "shop/hidden", json!({"host": "reviews", "exportTo": ["."]}));
    let selector = json!({"labels": {"app": "reviews"}});
    add(&mut set, Kind::ServiceEntry, "shop/reviews", json!({"hosts": [full], "workloadSelector": selector}));
    add(&mut set, Kind::ServiceEntry, "any/partner", json!({"hosts": ["*.partner.example"]}));
    add(&mut set, Kind::ServiceEntry, "any/unused", json!({"hosts": ["unused.example"]}));
    add(&mut set, Kind::ServiceEntry, "any/nobody", json!({"hosts": [full], "exportTo": ["~"]}));
    let workload = |app| json!({"address": "10.0.0.1", "labels": {"app": app}});
    add(&mut set, Kind::WorkloadEntry, "shop/vm1", workload("reviews"));
    add(&mut set, Kind::WorkloadEntry, "shop/vm2", workload("ratings"));
    add(&mut set, Kind::WorkloadEntry, "other/vm3", workload("reviews"));
    let mut found = reached(&set);
    found.retain(|key| !key.starts_with("Gateway") && !key.starts_with("VirtualService"));
    assert_eq!(
        found,
        [
            "DestinationRule other/full",
            "DestinationRule shop/short",
            "DestinationRule shop/wild",
            "ServiceEntry any/partner",
            "ServiceEntry shop/reviews",
            "WorkloadEntry shop/vm1",
        ]
    );
}

#[test]
fn rules_bring_the_secrets_of_connections_that_this_proxy_makes() {
    let mut set = ResourceSet::default();
    add(&mut set, Kind::Gateway, "shop/edge", gateway(json!({}), ""));
    add(&mut set, Kind::VirtualService, "shop/a", service(&["edge"], "reviews"));
    let tls = |secret: &str| json!({"tls": {"mode": "MUTUAL", "credentialName": secret}});
    let mut policy = tls("top");
    policy["portLevelSettings"] =
        json!([{"port": {"number": 80}, "tls": {"mode": "SIMPLE", "credentialName": "kubernetes://port"}}]);
    let subsets = json!([{"name": "v1", "trafficPolicy": tls("subset")}]);
    add(
        &mut set,
        Kind::DestinationRule,
        "shop/used",
        json!({"host": "reviews", "trafficPolicy": policy, "subsets": subsets}),
    );
    let off = json!({"tls": {"mode": "DISABLE", "credentialName": "off"}});
    add(&mut set, Kind::DestinationRule, "shop/off", json!({"host": "reviews", "trafficPolicy": off}));
    add(&mut set, Kind::DestinationRule, "shop/unused", json!({"host": "ratings", "trafficPolicy": tls("unused")}));
    let selector = json!({"matchLabels": {"istio": "egressgateway"}});
    let others = json!({"host": "reviews", "workloadSelector": selector, "trafficPolicy": tls("others")});
    add(&mut set, Kind::DestinationRule, "shop/others", others);
    for name in [
        "shop/top",
        "istio-system/top-cacert",
        "shop/port",
        "shop/subset",
        "bank/top",
        "shop/off",
        "shop/unused",
        "shop/others",
    ] {
        add(&mut set, Kind::Secret, name, json!({"data": {}}));
    }
    let mut found = reached(&set);
    found.retain(|key| key.starts_with("Secret"));
    assert_eq!(found, ["Secret istio-system/top-cacert", "Secret shop/port", "Secret shop/subset", "Secret shop/top"]);
}

#[test]
fn rate_limits_are_those_of_what_is_served() {
    let mut set = ResourceSet::default();
    add(&mut set, Kind::Gateway, "shop/edge", gateway(json!({}), ""));
    add(&mut set, Kind::VirtualService, "shop/a", service(&["edge"], "a"));
    add(&mut set, Kind::VirtualService, "shop/mesh", service(&["mesh"], "a"));
    let policy = |kind, name| json!({"targetRefs": [{"kind": kind, "name": name}]});
    add(&mut set, Kind::RateLimitPolicy, "shop/gateway", policy("Gateway", "edge"));
    add(&mut set, Kind::RateLimitPolicy, "shop/service", policy("VirtualService", "a"));
    add(&mut set, Kind::RateLimitPolicy, "shop/mesh", policy("VirtualService", "mesh"));
    add(&mut set, Kind::RateLimitPolicy, "other/service", policy("VirtualService", "a"));
    let mut found = reached(&set);
    found.retain(|key| key.starts_with("RateLimitPolicy"));
    assert_eq!(found, ["RateLimitPolicy shop/gateway", "RateLimitPolicy shop/service"]);
}

#[test]
fn authorization_policies_are_those_for_the_proxy_and_its_gateways() {
    let mut set = ResourceSet::default();
    add(&mut set, Kind::Gateway, "shop/edge", gateway(json!({}), ""));
    add(&mut set, Kind::Gateway, "shop/other", gateway(json!({"istio": "egressgateway"}), ""));
    add(&mut set, Kind::MeshConfig, "/default", json!({"rootNamespace": "root"}));
    let selecting = |app: &str| json!({"selector": {"matchLabels": {"app": app}}});
    let target = |name: &str, group: &str| json!({"targetRefs": [{"group": group, "kind": "Gateway", "name": name}]});
    for (name, spec) in [
        ("istio-system/all", json!({})),
        ("istio-system/mine", selecting("edge")),
        ("istio-system/others", selecting("web")),
        ("root/all", json!({})),
        ("root/mine", selecting("edge")),
        ("shop/all", json!({})),
        ("shop/mine", selecting("edge")),
        ("shop/targeted", target("edge", "networking.istio.io")),
        ("shop/elsewhere", target("other", "networking.istio.io")),
        ("shop/missing", target("none", "networking.istio.io")),
        ("shop/foreign", target("edge", "gateway.networking.k8s.io")),
    ] {
        add(&mut set, Kind::AuthorizationPolicy, name, spec);
    }
    let mut found = reached(&set);
    found.retain(|key| key.starts_with("AuthorizationPolicy"));
    let want = ["istio-system/all", "istio-system/mine", "root/all", "root/mine", "shop/targeted"];
    assert_eq!(found, want.map(|name| format!("AuthorizationPolicy {name}")));
}

#[test]
fn the_meshs_defaults_hide_what_says_nothing_itself() {
    let mut set = ResourceSet::default();
    add(&mut set, Kind::Gateway, "shop/edge", gateway(json!({}), ""));
    add(&mut set, Kind::VirtualService, "shop/quiet", service(&["edge"], "a"));
    let mut loud = service(&["edge"], "a");
    loud["exportTo"] = json!(["istio-system"]);
    add(&mut set, Kind::VirtualService, "shop/loud", loud);
    add(&mut set, Kind::MeshConfig, "/default", json!({"defaultVirtualServiceExportTo": ["."]}));
    assert_eq!(reached(&set), ["Gateway shop/edge", "VirtualService shop/loud", "MeshConfig default"]);
}

/// What a table does, in words, so that tables of different sets can be compared.
fn meaning(set: &ResourceSet) -> String {
    let (table, _) = compile(set, &edge());
    let mut text = format!("{:?}\n", table.settings);
    for policy in table.authorization.policies() {
        let servers = || table.listeners.iter().flat_map(|listener| &listener.servers);
        if policy.is_for(servers().map(|server| &server.gateway)) {
            writeln!(text, "{policy:?}").unwrap();
        }
    }
    for listener in &table.listeners {
        writeln!(text, "{:?} {}: {:?}", listener.bind, listener.port, listener.servers).unwrap();
        match &listener.protocol {
            ListenerProtocol::Http(routes) => text.push_str(&routes_meaning(&table, routes)),
            ListenerProtocol::Tls(tls) => {
                for server in &tls.servers {
                    writeln!(text, "{:?} {:?}", server.server, server.terms).unwrap();
                    text.push_str(&match &server.routes {
                        TlsRoutes::Http(routes) => routes_meaning(&table, routes),
                        TlsRoutes::Tcp(routes) => streams_meaning(&table, routes),
                    });
                }
                for server in &tls.passthrough {
                    writeln!(text, "{:?}", server.server).unwrap();
                    text.push_str(&streams_meaning(&table, &server.routes));
                }
            }
            ListenerProtocol::Tcp(routes) => text.push_str(&streams_meaning(&table, routes)),
            sidecars => unreachable!("a gateway has no {sidecars:?}"),
        }
    }
    text
}

fn streams_meaning(table: &RouteTable, routes: &StreamRoutes) -> String {
    let mut text = String::new();
    for rule in routes.rules() {
        writeln!(text, "  {:?} {:?}", rule.origin, rule.sni).unwrap();
        for destination in &rule.destinations {
            writeln!(text, "    {:?}", table.cluster(destination.cluster)).unwrap();
        }
    }
    text
}

fn routes_meaning(table: &RouteTable, routes: &HttpRoutes) -> String {
    let mut hosts: Vec<_> = routes.hosts.iter().collect();
    hosts.sort_by_key(|(pattern, _)| pattern.as_str().to_owned());
    let mut text = String::new();
    for (pattern, host) in hosts {
        let tokens = routes.authentication.of_authority(pattern.as_str());
        writeln!(text, "  {} {tokens:?}", pattern.as_str()).unwrap();
        for route in host.routes() {
            writeln!(text, "    {:?} {:?}", route.origin, route.limits).unwrap();
            if let Action::Forward(forward) = &route.action {
                for destination in &forward.destinations {
                    writeln!(text, "      {:?}", table.cluster(destination.cluster)).unwrap();
                }
            }
        }
    }
    text
}

const NAMESPACES: [&str; 3] = ["istio-system", "shop", "bank"];

/// A resource out of a few numbers. Few names, so that much refers to much.
fn arbitrary(choice: [u8; 6]) -> (Kind, String, Value) {
    let [kind, namespace, name, a, b, c] = choice.map(usize::from);
    let pick = |list: &[Value], at: usize| list[at % list.len()].clone();
    let place = format!("{}/n{}", NAMESPACES[namespace % 3], name % 3);
    let export_to = [json!(null), json!(["."]), json!(["*"]), json!(["istio-system"]), json!(["shop"])];
    let hosts = [
        json!("svc0"),
        json!("svc1"),
        json!("svc0.shop.svc.cluster.local"),
        json!("svc1.bank.svc.cluster.local"),
        json!("API.example"),
        json!("*.svc.cluster.local"),
    ];
    match kind % 12 {
        0 => {
            let selectors = [json!({"istio": "ingressgateway"}), json!({}), json!({"istio": "egress"})];
            let tls = json!({"mode": "MUTUAL", "credentialName": format!("n{}", b % 3)});
            let port = json!({"number": 443, "name": "https", "protocol": "HTTPS"});
            let plain = json!({"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]});
            let secure = json!({"port": port, "hosts": ["a.example"], "tls": tls});
            (Kind::Gateway, place, json!({"selector": pick(&selectors, a), "servers": [plain, secure]}))
        }
        1 | 2 => {
            let gateways = [json!(["n0"]), json!(["shop/n1"]), json!(["mesh"]), json!(["n2.bank"]), json!(null)];
            let to = json!({"route": [{"destination": {"host": pick(&hosts[..5], b), "port": {"number": 80}}}]});
            let delegate = json!({"delegate": {"name": format!("n{}", c % 3), "namespace": NAMESPACES[b % 3]}});
            let gateways = pick(&gateways, a);
            let hosts = if gateways.is_null() { json!(null) } else { json!(["a.example"]) };
            let http = if c % 2 == 0 { json!([to]) } else { json!([delegate, to]) };
            let export_to = pick(&export_to, c);
            let spec = json!({"hosts": hosts, "gateways": gateways, "http": http, "exportTo": export_to});
            (Kind::VirtualService, place, spec)
        }
        3 => {
            let subsets = json!([{"name": "v1", "labels": {"v": "1"}}]);
            let tls = json!({"mode": "SIMPLE", "credentialName": format!("n{}", c % 3)});
            let policy = [json!(null), json!({"loadBalancer": {"simple": "RANDOM"}}), json!({"tls": tls})];
            let spec = json!({
                "host": pick(&hosts, a), "subsets": subsets, "exportTo": pick(&export_to, b),
                "trafficPolicy": pick(&policy, c),
            });
            (Kind::DestinationRule, place, spec)
        }
        4 => {
            let selector = [json!(null), json!({"labels": {"app": "x"}})];
            let spec = json!({
                "hosts": [pick(&hosts[2..5], a)], "exportTo": pick(&export_to, b), "resolution": "STATIC",
                "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
                "workloadSelector": pick(&selector, c),
            });
            (Kind::ServiceEntry, place, spec)
        }
        5 => {
            let labels = [json!({"app": "x"}), json!({"app": "y"})];
            let spec = json!({"address": format!("10.0.0.{}", b % 9), "labels": pick(&labels, a)});
            (Kind::WorkloadEntry, place, spec)
        }
        6 => {
            let kinds = ["Gateway", "VirtualService", "ServiceEntry"];
            let target = json!({"kind": kinds[a % 3], "name": format!("n{}", b % 3)});
            let rule = json!({"name": "r", "limit": {"requests": c + 1, "per": "1s"}});
            (Kind::RateLimitPolicy, place, json!({"targetRefs": [target], "rules": [rule]}))
        }
        9 => {
            let kind = ["Gateway", "VirtualService"][a % 2];
            let target = json!({"kind": kind, "name": format!("n{}", b % 3)});
            (Kind::BackendPolicy, place, json!({"targetRefs": [target], "requestBody": {"maxBytes": c + 1}}))
        }
        7 => {
            let ca = json!({"ca.crt": crate::base64(b"none"), "tls.crt": crate::base64(&[b'0' + (a % 9) as u8])});
            let suffix = if b % 2 == 0 { "" } else { CA_SUFFIX };
            (Kind::Secret, format!("{place}{suffix}"), json!({"data": ca}))
        }
        8 | 10 => {
            let group = ["networking.istio.io", "gateway.networking.k8s.io"][a / 3 % 2];
            let target = json!([{"group": group, "kind": "Gateway", "name": format!("n{}", b % 3)}]);
            let selectors = [json!({"app": "edge"}), json!({"app": "web"}), json!({})];
            let attached = match a % 3 {
                0 => json!({"targetRefs": target}),
                1 => json!({"selector": {"matchLabels": pick(&selectors, b)}}),
                _ => json!({}),
            };
            let name = format!("{}/n{}", NAMESPACES[c % 3], b % 3);
            if kind % 12 == 8 {
                return (Kind::AuthorizationPolicy, name, attached);
            }
            let mut tokens = attached;
            tokens["jwtRules"] = json!([{"issuer": format!("https://i{}.test", a % 4)}]);
            (Kind::RequestAuthentication, name, tokens)
        }
        _ => {
            let root = ["istio-system", "shop"][c % 2];
            let spec = json!({
                "rootNamespace": root,
                "defaultVirtualServiceExportTo": pick(&export_to, a),
                "defaultServiceExportTo": pick(&export_to, b),
                "defaultDestinationRuleExportTo": pick(&export_to, c),
            });
            (Kind::MeshConfig, "/default".to_owned(), spec)
        }
    }
}

proptest::proptest! {
    #[test]
    fn what_is_left_out_makes_no_difference(choices: Vec<[u8; 6]>) {
        let mut all = ResourceSet::default();
        for choice in choices {
            let (kind, name, spec) = arbitrary(choice);
            add(&mut all, kind, &name, spec);
        }
        let mut sent = ResourceSet::default();
        for resource in of_gateway(&all, &edge()) {
            sent.insert(resource);
        }
        proptest::prop_assert_eq!(meaning(&sent), meaning(&all));
    }
}
