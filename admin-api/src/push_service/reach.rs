//! What of all resources a gateway can reach: all that it is sent.
//!
//! Generous where it costs little (a DestinationRule whose host may be meant, a VirtualService whose hosts no server
//! admits), strict where it matters: other namespaces' secrets never leave the control plane.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use route_model::compile::ProxyScope;
use route_model::compile::attachment::Attachment;
use route_model::compile::names::{is_visible, qualify_gateway, qualify_host};
use route_model::kind::Kind;
use route_model::kinds::destination_rule::ClientTlsMode;
use route_model::kinds::rate_limit_policy::TargetKind;
use route_model::kinds::selector::{LabelSelector, TargetRef};
use route_model::kinds::{
    AuthorizationPolicy, BackendPolicy, DestinationRule, Gateway, MeshConfig, RateLimitPolicy, RequestAuthentication,
    Secret, ServiceEntry, VirtualService, WorkloadEntry,
};
use route_model::meta::ResourceKey;
use route_model::resource::{Resource, ResourceSet, SpecType};

/// Istio keeps a CA apart from the certificate that goes with it under this suffix.
const CA_SUFFIX: &str = "-cacert";

/// The resources that a gateway of this scope can reach, by key.
pub(super) fn reach(set: &ResourceSet, scope: &ProxyScope) -> Vec<Arc<Resource>> {
    let mut reached = Reached { set, scope, found: BTreeMap::new(), hosts: HashSet::default() };
    let mesh = set.get(&ResourceKey::new(Kind::MeshConfig, "", "default"));
    let settings = mesh.and_then(|mesh| mesh.spec::<MeshConfig>());
    let default = |pick: fn(&MeshConfig) -> &[String]| settings.map_or(&[][..], pick);
    if let Some(mesh) = mesh {
        reached.add(mesh);
    }
    reached.gateways();
    reached.virtual_services(default(|mesh| &mesh.default_virtual_service_export_to));
    reached.destination_rules(default(|mesh| &mesh.default_destination_rule_export_to));
    reached.service_entries(default(|mesh| &mesh.default_service_export_to));
    reached.attached();
    let root_namespace = settings
        .map_or_else(|| MeshConfig::default().root_namespace().to_owned(), |mesh| mesh.root_namespace().to_owned());
    reached.authorization(&root_namespace);
    reached.authentication(&root_namespace);
    reached.found.into_values().cloned().collect()
}

struct Reached<'a> {
    set: &'a ResourceSet,
    scope: &'a ProxyScope,
    found: BTreeMap<&'a ResourceKey, &'a Arc<Resource>>,
    /// The services that routes lead to.
    hosts: HashSet<Arc<str>, RandomState>,
}

impl<'a> Reached<'a> {
    fn add(&mut self, resource: &'a Arc<Resource>) {
        self.found.insert(&resource.key, resource);
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
                    self.secrets(&resource.key.namespace, name);
                }
            }
        }
    }

    /// The secret of a name and its CA, in the proxy's namespace and in that of the resource which names it.
    fn secrets(&mut self, home: &Arc<str>, name: &str) {
        let name = name.strip_prefix("kubernetes://").unwrap_or(name);
        for name in [name, &format!("{name}{CA_SUFFIX}")] {
            for namespace in [&self.scope.namespace, home] {
                if let Some(secret) = self.set.get(&ResourceKey::new(Secret::KIND, namespace.clone(), name)) {
                    self.add(secret);
                }
            }
        }
    }

    /// The VirtualServices that name one of the Gateways and are visible to the proxy, and their delegates.
    fn virtual_services(&mut self, default: &[String]) {
        for (resource, service) in self.specs::<VirtualService>() {
            let home = &*resource.key.namespace;
            let bound = service.gateways.iter().any(|name| {
                let name = qualify_gateway(name, home);
                let key =
                    name.split_once('/').map(|(namespace, name)| ResourceKey::new(Kind::Gateway, namespace, name));
                key.is_some_and(|key| self.found.contains_key(&key))
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

    fn destinations(&mut self, home: &str, service: &VirtualService) {
        let http = service.http.iter().flat_map(|rule| {
            let routes = rule.route.iter().filter_map(|route| route.destination.as_ref());
            let mirrors = rule.mirrors.iter().filter_map(|mirror| mirror.destination.as_ref());
            routes.chain(mirrors).chain(&rule.mirror)
        });
        let tls = service.tls.iter().flat_map(|rule| &rule.route).filter_map(|route| route.destination.as_ref());
        let tcp = service.tcp.iter().flat_map(|rule| &rule.route).filter_map(|route| route.destination.as_ref());
        for destination in http.chain(tls).chain(tcp) {
            self.hosts.insert(qualify_host(&destination.host, home));
        }
    }

    /// Fairway's policies on Gateways, VirtualServices and delegates that are found.
    fn attached(&mut self) {
        let limits = self.specs::<RateLimitPolicy>().map(|(resource, policy)| (resource, &policy.target_refs));
        let backend = self.specs::<BackendPolicy>().map(|(resource, policy)| (resource, &policy.target_refs));
        for (resource, targets) in limits.chain(backend) {
            let meant = targets.iter().any(|to| {
                let kind = match *to.kind {
                    TargetKind::VirtualService => Kind::VirtualService,
                    TargetKind::Gateway => Kind::Gateway,
                    TargetKind::ServiceEntry => Kind::ServiceEntry,
                };
                let target = ResourceKey::new(kind, resource.key.namespace.clone(), to.name.as_str());
                self.found.contains_key(&target)
            });
            if meant {
                self.add(resource);
            }
        }
    }

    fn authorization(&mut self, root_namespace: &str) {
        for (resource, policy) in self.specs::<AuthorizationPolicy>() {
            let targets = policy.target_ref.iter().chain(&*policy.target_refs);
            self.secure(resource, policy.selector.as_ref(), targets, root_namespace);
        }
    }

    fn authentication(&mut self, root_namespace: &str) {
        for (resource, policy) in self.specs::<RequestAuthentication>() {
            let targets = policy.target_ref.iter().chain(&*policy.target_refs);
            self.secure(resource, policy.selector.as_ref(), targets, root_namespace);
        }
    }

    /// Adds a policy that is for the proxy, or for Gateways that are found.
    fn secure<'t>(
        &mut self,
        resource: &'a Arc<Resource>,
        selector: Option<&LabelSelector>,
        targets: impl Iterator<Item = &'t TargetRef>,
        root_namespace: &str,
    ) {
        let meant = match Attachment::of(&resource.key.namespace, selector, targets, self.scope, root_namespace) {
            Attachment::Nowhere => false,
            Attachment::Proxy => true,
            Attachment::Gateways(gateways) => gateways.iter().any(|gateway| self.found.contains_key(gateway)),
        };
        if meant {
            self.add(resource);
        }
    }

    /// Whether a route leads to a service of this name or pattern, in lower case.
    fn is_destination(&self, host: &str) -> bool {
        match host.strip_prefix('*') {
            None => self.hosts.contains(host),
            Some(suffix) => self.hosts.iter().any(|known| known.len() > suffix.len() && known.ends_with(suffix)),
        }
    }

    /// Whether the proxy is one of the clients that a rule is for.
    fn is_for_this_proxy(&self, namespace: &str, rule: &DestinationRule) -> bool {
        rule.workload_selector.as_ref().is_none_or(|selector| {
            namespace == &*self.scope.namespace
                && selector.match_labels.iter().all(|(key, value)| self.scope.labels.get(key) == Some(value))
        })
    }

    fn destination_rules(&mut self, default: &[String]) {
        for (resource, rule) in self.specs::<DestinationRule>() {
            let meant = self.is_destination(&qualify_host(&rule.host, &resource.key.namespace));
            if !meant || !self.is_visible(resource, &rule.export_to, default) {
                continue;
            }
            self.add(resource);
            if self.is_for_this_proxy(&resource.key.namespace, rule) {
                for name in credentials(rule) {
                    self.secrets(&resource.key.namespace, name);
                }
            }
        }
    }

    /// The services that routes lead to, and the workloads they select.
    fn service_entries(&mut self, default: &[String]) {
        let mut selectors = Vec::new();
        for (resource, entry) in self.specs::<ServiceEntry>() {
            let meant = entry.hosts.iter().any(|host| self.is_destination(&host.to_ascii_lowercase()));
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
                // The labels of the object go before those of its spec.
                let has = |(key, value): (&String, &String)| {
                    resource.meta.labels.get(key).or_else(|| (*workload.labels).get(key)) == Some(value)
                };
                **namespace == resource.key.namespace && labels.iter().all(has)
            });
            if selected {
                self.add(resource);
            }
        }
    }
}

/// The secrets that a rule's connections are made with.
fn credentials(rule: &DestinationRule) -> impl Iterator<Item = &str> {
    let subsets = rule.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
    let policies = rule.traffic_policy.iter().chain(subsets);
    let blocks = policies.flat_map(|policy| {
        policy.tls.iter().chain(policy.port_level_settings.iter().filter_map(|settings| settings.tls.as_ref()))
    });
    let used = blocks.filter(|tls| matches!(*tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual));
    used.map(|tls| tls.credential_name.as_str()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use route_model::compile::{ProxyRole, compile};
    use route_model::table::{Action, HttpRoutes, ListenerProtocol, RouteTable, StreamRoutes, TlsRoutes};
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
        assert_eq!(
            found,
            ["Secret istio-system/top-cacert", "Secret shop/port", "Secret shop/subset", "Secret shop/top"]
        );
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
        let target =
            |name: &str, group: &str| json!({"targetRefs": [{"group": group, "kind": "Gateway", "name": name}]});
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
            writeln!(text, "  {}", pattern.as_str()).unwrap();
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
        match kind % 11 {
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
            8 => {
                let group = ["networking.istio.io", "gateway.networking.k8s.io"][a / 3 % 2];
                let target = json!([{"group": group, "kind": "Gateway", "name": format!("n{}", b % 3)}]);
                let selectors = [json!({"app": "edge"}), json!({"app": "web"}), json!({})];
                let attached = match a % 3 {
                    0 => json!({"targetRefs": target}),
                    1 => json!({"selector": {"matchLabels": pick(&selectors, b)}}),
                    _ => json!({}),
                };
                let namespace = ["istio-system", "shop", "bank"][c % 3];
                (Kind::AuthorizationPolicy, format!("{namespace}/n{}", b % 3), attached)
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
            for resource in reach(&all, &edge()) {
                sent.insert(resource);
            }
            proptest::prop_assert_eq!(meaning(&sent), meaning(&all));
        }
    }
}
