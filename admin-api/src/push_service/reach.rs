//! What of all resources a gateway can reach: all that it is sent.
//!
//! Generous where it costs little (a DestinationRule whose host may be meant, a VirtualService whose hosts no server
//! admits), strict where it matters: other namespaces' secrets never leave the control plane.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use route_model::compile::ProxyScope;
use route_model::kind::Kind;
use route_model::kinds::{
    DestinationRule, Gateway, MeshConfig, Secret, ServiceEntry, VirtualService, WorkloadEntry, virtual_service,
};
use route_model::meta::ResourceKey;
use route_model::resource::{Resource, ResourceSet, SpecType};

/// Istio keeps the CA for client certificates apart from the server's own secret under this suffix.
const CA_SUFFIX: &str = "-cacert";

/// The resources that a gateway of this scope can reach, by key.
pub(super) fn reach(set: &ResourceSet, scope: &ProxyScope) -> Vec<Arc<Resource>> {
    let mut reached = Reached { set, scope, found: BTreeMap::new(), hosts: HashSet::default() };
    let mesh = set.of_kind(Kind::MeshConfig).find_map(|resource| resource.spec::<MeshConfig>());
    let default = |pick: fn(&MeshConfig) -> &[String]| mesh.map_or(&[][..], pick);
    reached.all_of(Kind::MeshConfig);
    reached.gateways();
    reached.virtual_services(default(|mesh| &mesh.default_virtual_service_export_to));
    reached.destination_rules(default(|mesh| &mesh.default_destination_rule_export_to));
    reached.service_entries(default(|mesh| &mesh.default_service_export_to));
    reached.found.into_values().cloned().collect()
}

struct Reached<'a> {
    set: &'a ResourceSet,
    scope: &'a ProxyScope,
    found: BTreeMap<&'a ResourceKey, &'a Arc<Resource>>,
    /// The services that routes lead to, as written and in full.
    hosts: HashSet<Cow<'a, str>, RandomState>,
}

impl<'a> Reached<'a> {
    fn add(&mut self, resource: &'a Arc<Resource>) {
        self.found.insert(&resource.key, resource);
    }

    fn all_of(&mut self, kind: Kind) {
        self.found.extend(self.set.of_kind(kind).map(|resource| (&resource.key, resource)));
    }

    fn specs<T: SpecType>(&self) -> impl Iterator<Item = (&'a Arc<Resource>, &'a T)> + use<'a, T> {
        self.set.of_kind(T::KIND).filter_map(|resource| Some((resource, resource.spec::<T>()?)))
    }

    fn is_visible(&self, resource: &Resource, export_to: &[String], default: &[String]) -> bool {
        is_visible(export_to, default, &resource.key.namespace, &self.scope.namespace)
    }

    /// The Gateways that select the proxy, and their secrets: in the proxy's namespace and in the Gateway's own.
    fn gateways(&mut self) {
        for (resource, gateway) in self.specs::<Gateway>() {
            if !gateway.selector.iter().all(|(key, value)| self.scope.labels.get(key) == Some(value)) {
                continue;
            }
            self.add(resource);
            for tls in gateway.servers.iter().filter_map(|server| server.tls.as_ref()) {
                let names = tls.credential_names.iter().chain([&*tls.credential_name, &*tls.ca_cert_credential_name]);
                for name in names.filter(|name| !name.is_empty()) {
                    self.secret(&resource.key.namespace, name);
                    self.secret(&resource.key.namespace, &format!("{name}{CA_SUFFIX}"));
                }
            }
        }
    }

    fn secret(&mut self, gateway_namespace: &Arc<str>, name: &str) {
        for namespace in [&self.scope.namespace, gateway_namespace] {
            let secret = self.set.get(&ResourceKey::new(Secret::KIND, namespace.clone(), name));
            if let Some(secret) = secret {
                self.add(secret);
            }
        }
    }

    /// The VirtualServices that name one of the Gateways and are visible to the proxy, and their delegates.
    fn virtual_services(&mut self, default: &[String]) {
        for (resource, service) in self.specs::<VirtualService>() {
            let home = &*resource.key.namespace;
            let bound = service.gateways.iter().any(|name| {
                let (namespace, name) = gateway_name(name, home);
                self.found.contains_key(&ResourceKey::new(Kind::Gateway, namespace, name))
            });
            if !bound || !self.is_visible(resource, &service.export_to, default) {
                continue;
            }
            self.add(resource);
            self.destinations(home, service);
            for delegate in service.http.iter().filter_map(|rule| rule.delegate.as_ref()) {
                let namespace = if delegate.namespace.is_empty() { home } else { &delegate.namespace };
                let key = ResourceKey::new(Kind::VirtualService, namespace, delegate.name.as_str());
                let Some(delegate) = self.set.get(&key) else { continue };
                let Some(spec) = delegate.spec::<VirtualService>() else { continue };
                // To the root's namespace, not to the proxy's.
                if is_visible(&spec.export_to, default, namespace, home) {
                    self.add(delegate);
                    self.destinations(&delegate.key.namespace, spec);
                }
            }
        }
    }

    fn destinations(&mut self, home: &str, service: &'a VirtualService) {
        let http = service.http.iter().flat_map(|rule| {
            let routes = rule.route.iter().filter_map(|route| route.destination.as_ref());
            let mirrors = rule.mirrors.iter().filter_map(|mirror| mirror.destination.as_ref());
            routes.chain(mirrors).chain(&rule.mirror)
        });
        let tls = service.tls.iter().flat_map(|rule| &rule.route).filter_map(|route| route.destination.as_ref());
        let tcp = service.tcp.iter().flat_map(|rule| &rule.route).filter_map(|route| route.destination.as_ref());
        for destination in http.chain(tls).chain(tcp) {
            self.destination(home, destination);
        }
    }

    fn destination(&mut self, home: &str, destination: &'a virtual_service::Destination) {
        let host = destination.host.as_str();
        self.hosts.insert(lower(host));
        if let Some(full) = full_name(host, home) {
            self.hosts.insert(Cow::Owned(full));
        }
    }

    /// Whether a route leads to a service of this name or pattern.
    fn is_destination(&self, host: &str) -> bool {
        let host = lower(host);
        match host.strip_prefix('*') {
            None => self.hosts.contains(&host),
            Some(suffix) => self.hosts.iter().any(|known| known.len() > suffix.len() && known.ends_with(suffix)),
        }
    }

    fn destination_rules(&mut self, default: &[String]) {
        for (resource, rule) in self.specs::<DestinationRule>() {
            let meant = match full_name(&rule.host, &resource.key.namespace) {
                Some(full) => self.is_destination(&full),
                None => self.is_destination(&rule.host),
            };
            if meant && self.is_visible(resource, &rule.export_to, default) {
                self.add(resource);
            }
        }
    }

    /// The services that routes lead to, and the workloads they select.
    fn service_entries(&mut self, default: &[String]) {
        let mut selectors = Vec::new();
        for (resource, entry) in self.specs::<ServiceEntry>() {
            let meant = entry.hosts.iter().any(|host| self.is_destination(host));
            if meant && self.is_visible(resource, &entry.export_to, default) {
                self.add(resource);
                if let Some(selector) = &entry.workload_selector {
                    selectors.push((&resource.key.namespace, &*selector.labels));
                }
            }
        }
        if selectors.is_empty() {
            return;
        }
        for (resource, workload) in self.specs::<WorkloadEntry>() {
            let selected = selectors.iter().any(|(namespace, labels)| {
                // Istio looks at the labels in the spec and at those of the object.
                let has = |(key, value): (&String, &String)| {
                    (*workload.labels).get(key).or_else(|| resource.meta.labels.get(key)) == Some(value)
                };
                **namespace == resource.key.namespace && labels.iter().all(has)
            });
            if selected {
                self.add(resource);
            }
        }
    }
}

fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// The service that a host without a dot names in a resource of this namespace.
fn full_name(host: &str, home: &str) -> Option<String> {
    let is_short = !host.is_empty() && !host.contains(['.', '*', ':']);
    is_short.then(|| format!("{}.{home}.svc.cluster.local", host.to_ascii_lowercase()))
}

/// Namespace and name of a Gateway as a VirtualService names it: `name`, `./name`, `namespace/name`, or the old
/// `name.namespace[.svc…]`.
fn gateway_name<'n>(name: &'n str, home: &'n str) -> (&'n str, &'n str) {
    match name.split_once('/') {
        Some((".", name)) => (home, name),
        Some(qualified) => qualified,
        None => match name.split_once('.') {
            Some((name, rest)) => (rest.split_once('.').map_or(rest, |(namespace, _)| namespace), name),
            None => (home, name),
        },
    }
}

/// `exportTo` of a resource in `home`, seen from `viewer`; an empty list means the mesh's default, else everybody.
fn is_visible(export_to: &[String], default: &[String], home: &str, viewer: &str) -> bool {
    let list = if export_to.is_empty() { default } else { export_to };
    list.is_empty()
        || list.iter().any(|to| match to.as_str() {
            "*" => true,
            "." => home == viewer,
            "~" => false,
            namespace => namespace == viewer,
        })
}

#[cfg(test)]
mod tests {
    use route_model::compile::ProxyRole;
    use serde_json::{Value, json};

    use super::*;

    fn add(set: &mut ResourceSet, kind: Kind, name: &str, spec: Value) {
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
        reach(set, &edge()).iter().map(|resource| resource.key.to_string()).collect()
    }

    fn gateway(selector: Value, secret: &str) -> Value {
        let tls = json!({"mode": "SIMPLE", "credentialName": secret});
        let port = json!({"number": 443, "name": "https", "protocol": "HTTPS"});
        json!({"selector": selector, "servers": [{"port": port, "hosts": ["*"], "tls": tls}]})
    }

    fn service(gateways: &[&str], host: &str) -> Value {
        json!({"hosts": ["*"], "gateways": gateways, "http": [{"route": [{"destination": {"host": host}}]}]})
    }

    #[test]
    fn gateways_are_chosen_by_their_selectors_and_bring_their_secrets_only() {
        let mut set = ResourceSet::default();
        add(&mut set, Kind::Gateway, "shop/mine", gateway(json!({"istio": "ingressgateway"}), "cert"));
        add(&mut set, Kind::Gateway, "shop/all", gateway(json!({}), "second"));
        add(&mut set, Kind::Gateway, "shop/other", gateway(json!({"istio": "egressgateway"}), "third"));
        for name in
            ["shop/cert", "istio-system/cert", "shop/cert-cacert", "bank/cert", "istio-system/second", "shop/third"]
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
}
