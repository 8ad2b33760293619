//! What sidecars are sent: what they share with the others of their namespace, and what they have beside it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use route_model::compile::ProxyRole;
use serde_json::{Value, json};

use super::super::tests::{add, gateway, service};
use super::*;

fn sidecar(namespace: &str, app: &str) -> ProxyScope {
    let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
    ProxyScope { role: ProxyRole::Sidecar, namespace: namespace.into(), labels }
}

fn keys(resources: &[Arc<Resource>]) -> Vec<String> {
    resources.iter().map(|resource| resource.key.to_string()).collect()
}

/// What is common to a proxy's namespace, and its own.
fn parts(set: &ResourceSet, scope: &ProxyScope) -> [Vec<String>; 2] {
    let view = MeshView::of(&Arc::new(set.clone()));
    let chosen = view.sidecar_of(scope);
    let (common, shared) = view.common(&scope.namespace, chosen.as_ref());
    let own = view.own(scope, &shared);
    assert!(common.is_sorted_by_key(|resource| &resource.key) && own.is_sorted_by_key(|resource| &resource.key));
    [keys(&common), keys(&own)]
}

/// All that a proxy is sent.
fn reached(set: &ResourceSet, scope: &ProxyScope) -> Vec<String> {
    let mut all = parts(set, scope).concat();
    all.sort_unstable();
    all
}

fn host(name: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    format!("{name}.{namespace}.svc.cluster.local")
}

/// A service of the host that its name says, with an endpoint.
fn add_service(set: &mut ResourceSet, name: &str) {
    let app = name.split_once('/').unwrap().1;
    let selector = json!({"labels": {"app": app}});
    add(set, Kind::ServiceEntry, name, json!({"hosts": [host(name)], "workloadSelector": selector}));
    let endpoint = format!("{name}-1");
    add(set, Kind::WorkloadEntry, &endpoint, json!({"address": "10.0.0.1", "labels": {"app": app}}));
}

fn selecting(app: &str) -> Value {
    json!({"selector": {"matchLabels": {"app": app}}})
}

#[test]
fn a_sidecar_is_sent_what_is_for_the_mesh_and_visible() {
    let mut set = ResourceSet::default();
    add(&mut set, Kind::Gateway, "shop/edge", gateway(json!({}), "cert"));
    add(&mut set, Kind::Secret, "shop/cert", json!({"type": "kubernetes.io/tls", "data": {}}));
    let to = |gateways: &[&str]| json!({"gateways": gateways, "hosts": ["reviews"], "http": service(&[], "reviews")["http"]});
    add(&mut set, Kind::VirtualService, "shop/everywhere", to(&[]));
    add(&mut set, Kind::VirtualService, "shop/both", to(&["edge", "mesh"]));
    add(&mut set, Kind::VirtualService, "shop/edge-only", to(&["edge"]));
    let private = |host: &str, to: &str| json!({"hosts": [host], "exportTo": [to]});
    add(&mut set, Kind::ServiceEntry, "shop/reviews", private("reviews.shop.svc.cluster.local", "."));
    add(&mut set, Kind::ServiceEntry, "bank/vault", private("vault.bank.svc.cluster.local", "."));
    add(&mut set, Kind::ServiceEntry, "bank/rates", private("rates.bank.svc.cluster.local", "*"));
    let tls = json!({"tls": {"mode": "SIMPLE", "credentialName": "cert"}});
    add(
        &mut set,
        Kind::DestinationRule,
        "shop/rates",
        json!({"host": "*.bank.svc.cluster.local", "trafficPolicy": tls}),
    );
    add(&mut set, Kind::DestinationRule, "bank/hidden", json!({"host": "rates", "exportTo": ["."]}));
    assert_eq!(
        reached(&set, &sidecar("shop", "web")),
        [
            "DestinationRule shop/rates",
            "ServiceEntry bank/rates",
            "ServiceEntry shop/reviews",
            "VirtualService shop/both",
            "VirtualService shop/everywhere",
        ]
    );
}

#[test]
fn a_sidecar_is_told_how_to_probe_by_the_groups_of_its_namespace() {
    let mut set = ResourceSet::default();
    let template = json!({"template": {"ports": {"http": 8080}}});
    let probed = json!({"template": {}, "probe": {"tcpSocket": {"port": 8080}}});
    add(&mut set, Kind::WorkloadGroup, "shop/probed", probed.clone());
    add(&mut set, Kind::WorkloadGroup, "shop/plain", template);
    add(&mut set, Kind::WorkloadGroup, "bank/probed", probed);
    assert_eq!(reached(&set, &sidecar("shop", "web")), ["WorkloadGroup shop/probed"]);
}

#[test]
fn the_meshs_defaults_hide_what_says_nothing_itself() {
    let mut set = ResourceSet::default();
    add_service(&mut set, "bank/rates");
    add_service(&mut set, "shop/reviews");
    add(&mut set, Kind::MeshConfig, "/default", json!({"defaultServiceExportTo": ["."]}));
    assert_eq!(
        reached(&set, &sidecar("shop", "web")),
        ["MeshConfig default", "ServiceEntry shop/reviews", "WorkloadEntry shop/reviews-1"]
    );
}

#[test]
fn a_sidecar_resource_is_chosen_by_workload_then_namespace_then_mesh() {
    let mut set = ResourceSet::default();
    let to = |host: &str| json!({"egress": [{"hosts": [host]}]});
    let chosen = |set: &ResourceSet, namespace: &str, app: &str| {
        MeshView::of(&Arc::new(set.clone())).sidecar_of(&sidecar(namespace, app)).map(|key| key.to_string())
    };
    assert_eq!(chosen(&set, "shop", "web"), None);
    add(&mut set, Kind::Sidecar, "istio-system/mesh", to("./*"));
    let for_web = |host: &str| json!({"workloadSelector": {"labels": {"app": "web"}}, "egress": [{"hosts": [host]}]});
    add(&mut set, Kind::Sidecar, "istio-system/not-for-others", for_web("./*"));
    assert_eq!(chosen(&set, "shop", "web").unwrap(), "Sidecar istio-system/mesh");
    add(&mut set, Kind::Sidecar, "shop/b", to("*/*"));
    add(&mut set, Kind::Sidecar, "shop/a", to("*/*"));
    assert_eq!(chosen(&set, "shop", "web").unwrap(), "Sidecar shop/a");
    add(&mut set, Kind::Sidecar, "shop/z-web", for_web("*/*"));
    assert_eq!(chosen(&set, "shop", "web").unwrap(), "Sidecar shop/z-web");
    assert_eq!(chosen(&set, "shop", "api").unwrap(), "Sidecar shop/a");
    assert_eq!(chosen(&set, "bank", "web").unwrap(), "Sidecar istio-system/mesh");
    add(&mut set, Kind::MeshConfig, "/default", json!({"rootNamespace": "root"}));
    assert_eq!(chosen(&set, "bank", "web"), None);
}

#[test]
fn egress_brings_in_services_rules_and_where_they_lead() {
    let mut set = ResourceSet::default();
    for name in ["shop/web", "shop/reviews", "bank/rates", "bank/vault"] {
        add_service(&mut set, name);
        let short = name.split_once('/').unwrap().1;
        add(&mut set, Kind::DestinationRule, name, json!({"host": short}));
    }
    add(&mut set, Kind::DestinationRule, "bank/wide", json!({"host": "*.bank.svc.cluster.local"}));
    let rules = |host: &str, to: &str| json!({"hosts": [host], "http": [{"route": [{"destination": {"host": to}}]}]});
    add(&mut set, Kind::VirtualService, "shop/reviews", rules("reviews", &host("bank/rates")));
    add(&mut set, Kind::VirtualService, "shop/web", rules("web", "web"));
    let limit = |name| json!({"targetRefs": [{"kind": "ServiceEntry", "name": name}]});
    add(&mut set, Kind::RateLimitPolicy, "bank/rates", limit("rates"));
    add(&mut set, Kind::RateLimitPolicy, "bank/vault", limit("vault"));
    let mutual = json!({"mtls": {"mode": "DISABLE"}});
    add(&mut set, Kind::PeerAuthentication, "bank/all", mutual.clone());
    add(&mut set, Kind::PeerAuthentication, "other/all", mutual);
    let egress = json!({"egress": [{"hosts": [format!("./{}", host("shop/reviews"))]}]});
    add(&mut set, Kind::Sidecar, "shop/default", egress);
    assert_eq!(
        reached(&set, &sidecar("shop", "client")),
        [
            "DestinationRule bank/rates",
            "DestinationRule bank/wide",
            "DestinationRule shop/reviews",
            "PeerAuthentication bank/all",
            "RateLimitPolicy bank/rates",
            "ServiceEntry bank/rates",
            "ServiceEntry shop/reviews",
            "Sidecar shop/default",
            "VirtualService shop/reviews",
            "WorkloadEntry bank/rates-1",
            "WorkloadEntry shop/reviews-1",
        ]
    );
    // What a workload serves itself is its own business whatever it calls.
    let [common, own] = parts(&set, &sidecar("shop", "web"));
    assert_eq!(common, parts(&set, &sidecar("shop", "client"))[0]);
    assert_eq!(own, ["ServiceEntry shop/web", "WorkloadEntry shop/web-1"]);
    assert_eq!(parts(&set, &sidecar("shop", "reviews"))[1], Vec::<String>::new(), "it is in common already");
}

#[test]
fn policies_with_selectors_are_for_whom_they_select_alone() {
    let mut set = ResourceSet::default();
    for (name, spec) in [
        ("istio-system/all", json!({})),
        ("istio-system/web", selecting("web")),
        ("shop/all", json!({})),
        ("shop/empty", json!({"selector": {}})),
        ("shop/web", selecting("web")),
        ("shop/api", selecting("api")),
        ("bank/all", json!({})),
        ("shop/edge", json!({"targetRefs": [{"group": "networking.istio.io", "kind": "Gateway", "name": "edge"}]})),
    ] {
        add(&mut set, Kind::AuthorizationPolicy, name, spec);
    }
    add(&mut set, Kind::RequestAuthentication, "shop/web", selecting("web"));
    let [common, own] = parts(&set, &sidecar("shop", "web"));
    assert_eq!(
        common,
        ["istio-system/all", "shop/all", "shop/empty"].map(|name| format!("AuthorizationPolicy {name}"))
    );
    assert_eq!(
        own,
        ["RequestAuthentication shop/web", "AuthorizationPolicy istio-system/web", "AuthorizationPolicy shop/web"]
    );
}

#[test]
fn a_sidecar_is_sent_no_secrets_but_those_of_its_own_connections() {
    let mut set = ResourceSet::default();
    add_service(&mut set, "bank/rates");
    let tls = |secret: &str| json!({"tls": {"mode": "MUTUAL", "credentialName": secret}});
    let rule = |app: Value, secret: &str| json!({"host": host("bank/rates"), "workloadSelector": app, "trafficPolicy": tls(secret)});
    let of = |app: &str| json!({"matchLabels": {"app": app}});
    // Istio uses no credentials of rules for all workloads, and none of another namespace's rules.
    add(&mut set, Kind::DestinationRule, "shop/all", rule(Value::Null, "everybodys"));
    add(&mut set, Kind::DestinationRule, "shop/web", rule(of("web"), "webs"));
    add(&mut set, Kind::DestinationRule, "shop/api", rule(of("api"), "apis"));
    add(&mut set, Kind::DestinationRule, "bank/web", rule(of("web"), "banks"));
    for name in ["everybodys", "webs", "webs-cacert", "apis", "banks"] {
        add(&mut set, Kind::Secret, &format!("shop/{name}"), json!({"data": {}}));
        add(&mut set, Kind::Secret, &format!("bank/{name}"), json!({"data": {}}));
    }
    let [common, own] = parts(&set, &sidecar("shop", "web"));
    assert_eq!(common, ["DestinationRule shop/all", "ServiceEntry bank/rates", "WorkloadEntry bank/rates-1"]);
    assert_eq!(own, ["DestinationRule shop/web", "Secret shop/webs", "Secret shop/webs-cacert"]);
}

#[test]
fn delegates_come_with_what_delegates_to_them() {
    let mut set = ResourceSet::default();
    let delegate = |name| json!([{"delegate": {"name": name, "namespace": "bank"}}]);
    for (name, target) in [("shop/one", "open"), ("shop/two", "closed")] {
        add(&mut set, Kind::VirtualService, name, json!({"hosts": ["x.example"], "http": delegate(target)}));
    }
    let http = json!([{"route": [{"destination": {"host": "ledger"}}]}]);
    add(&mut set, Kind::VirtualService, "bank/open", json!({"http": http, "exportTo": ["shop"]}));
    add(&mut set, Kind::VirtualService, "bank/closed", json!({"http": http, "exportTo": ["."]}));
    add(&mut set, Kind::VirtualService, "bank/unused", json!({"http": http}));
    add_service(&mut set, "bank/ledger");
    let egress = json!({"egress": [{"hosts": ["*/x.example"]}]});
    add(&mut set, Kind::Sidecar, "shop/default", egress);
    assert_eq!(
        reached(&set, &sidecar("shop", "web")),
        [
            "ServiceEntry bank/ledger",
            "Sidecar shop/default",
            "VirtualService bank/open",
            "VirtualService shop/one",
            "VirtualService shop/two",
            "WorkloadEntry bank/ledger-1",
        ]
    );
}

const NAMESPACES: [&str; 3] = ["istio-system", "shop", "bank"];

/// A resource out of a few numbers. Few names, so that much refers to much.
fn arbitrary(choice: [u8; 5]) -> (Kind, String, Value) {
    let [kind, namespace, name, a, b] = choice.map(usize::from);
    let pick = |list: &[Value], at: usize| list[at % list.len()].clone();
    let place = format!("{}/n{}", NAMESPACES[namespace % 3], name % 3);
    let export_to = [json!(null), json!(["."]), json!(["*"]), json!(["shop"])];
    let hosts = [json!(host("shop/n0")), json!(host("bank/n1")), json!("*.svc.cluster.local"), json!("n0")];
    let app = json!({"app": format!("n{}", b % 3)});
    match kind % 8 {
        0 => {
            let http = json!([{"route": [{"destination": {"host": pick(&hosts[..2], b)}}]}]);
            (
                Kind::VirtualService,
                place,
                json!({"hosts": [pick(&hosts, a)], "http": http, "exportTo": pick(&export_to, b)}),
            )
        }
        1 => {
            let selector = [json!(null), json!({"matchLabels": app})];
            let tls = json!({"tls": {"mode": "SIMPLE", "credentialName": "n0"}});
            let spec = json!({"host": pick(&hosts, a), "workloadSelector": pick(&selector, b), "trafficPolicy": tls});
            (Kind::DestinationRule, place, spec)
        }
        2 => {
            let spec =
                json!({"hosts": [host(&place)], "exportTo": pick(&export_to, a), "workloadSelector": {"labels": app}});
            (Kind::ServiceEntry, place, spec)
        }
        3 => (Kind::WorkloadEntry, place, json!({"address": "10.0.0.1", "labels": app})),
        4 => {
            let egress = [json!("*/*"), json!("./*"), json!("~/*"), json!(format!("*/{}", host("bank/n1")))];
            let selector = [json!(null), json!({"labels": app})];
            (
                Kind::Sidecar,
                place,
                json!({"workloadSelector": pick(&selector, b), "egress": [{"hosts": [pick(&egress, a)]}]}),
            )
        }
        5 => {
            let selector = [json!(null), json!({"matchLabels": app})];
            (Kind::AuthorizationPolicy, place, json!({"selector": pick(&selector, a)}))
        }
        6 => (Kind::Secret, place, json!({"data": {}})),
        _ => {
            let kind = ["VirtualService", "ServiceEntry"][a % 2];
            let target = json!({"kind": kind, "name": format!("n{}", b % 3)});
            (Kind::RateLimitPolicy, place, json!({"targetRefs": [target]}))
        }
    }
}

proptest! {
    /// Nothing is in both layers, and nothing that is another namespace's alone is in either.
    #[test]
    fn layers_are_apart_and_other_namespaces_keep_what_is_theirs(choices: Vec<[u8; 5]>) {
        let mut set = ResourceSet::default();
        for choice in choices {
            let (kind, name, spec) = arbitrary(choice);
            add(&mut set, kind, &name, spec);
        }
        for app in ["n0", "n1"] {
            let [common, own] = parts(&set, &sidecar("shop", app));
            prop_assert!(own.iter().all(|key| !common.contains(key)), "{common:?} {own:?}");
            let foreign = |key: &String| key.starts_with("Secret") && !key.starts_with("Secret shop/");
            prop_assert!(!common.iter().chain(&own).any(foreign), "{own:?}");
            prop_assert!(!common.iter().any(|key| key.starts_with("Secret")), "{common:?}");
        }
    }
}
