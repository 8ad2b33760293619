//! What of all resources a proxy can reach: all that it is sent.
//!
//! A gateway reaches what is routed through it; a sidecar what is for the mesh and visible in its namespace, and no
//! secrets. Generous where it costs little (a DestinationRule whose host may be meant, a VirtualService whose hosts no server
//! admits), strict where it matters: other namespaces' secrets never leave the control plane.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use route_model::compile::attachment::Attachment;
use route_model::compile::names::{MESH, is_visible, qualify_gateway, qualify_host};
use route_model::compile::{ProxyRole, ProxyScope};
use route_model::kind::Kind;
use route_model::kinds::destination_rule::ClientTlsMode;
use route_model::kinds::rate_limit_policy::TargetKind;
use route_model::kinds::selector::{LabelSelector, TargetRef};
use route_model::kinds::value::StringMap;
use route_model::kinds::{
    AuthorizationPolicy, BackendPolicy, DestinationRule, Gateway, MeshConfig, RateLimitPolicy, RequestAuthentication,
    Secret, ServiceEntry, VirtualService, WorkloadEntry, WorkloadGroup,
};
use route_model::meta::ResourceKey;
use route_model::resource::{Resource, ResourceSet, SpecType};

/// Istio keeps a CA apart from the certificate that goes with it under this suffix.
const CA_SUFFIX: &str = "-cacert";

/// The resources that a proxy of this scope can reach, by key.
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
    reached.workload_groups();
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
        if self.scope.role == ProxyRole::Sidecar {
            return;
        }
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

    /// Whether a VirtualService is for the proxy: for one of its Gateways, or for the mesh.
    fn is_bound(&self, home: &str, service: &VirtualService) -> bool {
        match self.scope.role {
            ProxyRole::Gateway => service.gateways.iter().any(|name| {
                let name = qualify_gateway(name, home);
                let key =
                    name.split_once('/').map(|(namespace, name)| ResourceKey::new(Kind::Gateway, namespace, name));
                key.is_some_and(|key| self.found.contains_key(&key))
            }),
            // Without any gateway it is for the mesh.
            ProxyRole::Sidecar => service.gateways.is_empty() || service.gateways.iter().any(|name| name == MESH),
        }
    }

    /// The VirtualServices that are for the proxy and visible to it, and their delegates.
    fn virtual_services(&mut self, default: &[String]) {
        for (resource, service) in self.specs::<VirtualService>() {
            let home = &*resource.key.namespace;
            if !self.is_bound(home, service) || !self.is_visible(resource, &service.export_to, default) {
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
            routes.chain(mirrors).chain(rule.mirror.as_deref())
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

    /// How sidecars are to probe their applications: what their groups say.
    fn workload_groups(&mut self) {
        if self.scope.role != ProxyRole::Sidecar {
            return;
        }
        for (resource, group) in self.specs::<WorkloadGroup>() {
            if group.probe.is_some() && resource.key.namespace == self.scope.namespace {
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

    /// Whether a route leads to a service of this name or pattern, in lower case. Any may be called from a workload.
    fn is_destination(&self, host: &str) -> bool {
        if self.scope.role == ProxyRole::Sidecar {
            return true;
        }
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
            if self.scope.role == ProxyRole::Gateway && self.is_for_this_proxy(&resource.key.namespace, rule) {
                for name in credentials(rule) {
                    self.secrets(&resource.key.namespace, name);
                }
            }
        }
    }

    /// The services that routes lead to, and the workloads they select.
    fn service_entries(&mut self, default: &[String]) {
        let mut selectors = Selectors::default();
        for (resource, entry) in self.specs::<ServiceEntry>() {
            let meant = entry.hosts.iter().any(|host| self.is_destination(&host.to_ascii_lowercase()));
            if meant && self.is_visible(resource, &entry.export_to, default) {
                self.add(resource);
                if let Some(selector) = &entry.workload_selector {
                    selectors.add(&resource.key.namespace, &selector.labels);
                }
            }
        }
        if selectors.is_empty() {
            return;
        }
        for (resource, workload) in self.specs::<WorkloadEntry>() {
            if selectors.select(resource, workload) {
                self.add(resource);
            }
        }
    }
}

/// The selectors of services. Each is found by one of its labels, so that a workload need not be held against all.
#[derive(Default)]
struct Selectors<'a> {
    /// Those without labels, by namespace.
    all: HashSet<&'a str, RandomState>,
    /// By namespace, and by their first label.
    labelled: HashMap<(&'a str, &'a str, &'a str), Vec<&'a StringMap>, RandomState>,
}

impl<'a> Selectors<'a> {
    fn add(&mut self, namespace: &'a str, labels: &'a StringMap) {
        match labels.iter().next() {
            None => drop(self.all.insert(namespace)),
            Some((key, value)) => self.labelled.entry((namespace, key, value)).or_default().push(labels),
        }
    }

    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.labelled.is_empty()
    }

    /// The labels of the object go before those of its spec.
    fn select(&self, resource: &Resource, workload: &WorkloadEntry) -> bool {
        let namespace = &*resource.key.namespace;
        let own = &resource.meta.labels;
        let label = |key: &str| own.get(key).or_else(|| (*workload.labels).get(key));
        let selects = |labels: &&StringMap| labels.iter().all(|(key, value)| label(key) == Some(value));
        let mut keys = own.keys().chain(workload.labels.keys());
        self.all.contains(namespace)
            || keys.any(|key| {
                let value = label(key).map_or("", String::as_str);
                let candidates = self.labelled.get(&(namespace, key.as_str(), value));
                candidates.is_some_and(|candidates| candidates.iter().any(selects))
            })
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
mod tests;
