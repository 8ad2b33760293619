//! What of all resources a proxy can reach: all that it is sent.
//!
//! A gateway reaches what is routed through it; a sidecar ([`sidecars`]) what is for the mesh and brought in for it.
//! Generous where it costs little (a DestinationRule whose host may be meant, a VirtualService whose hosts no server
//! admits), strict where it matters: other namespaces' secrets never leave the control plane.

mod egress;
mod sidecars;
#[cfg(test)]
mod tests;
mod workloads;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use route_model::compile::ProxyScope;
use route_model::compile::attachment::Attachment;
use route_model::compile::names::{is_visible, qualify_gateway, qualify_host};
use route_model::kind::Kind;
use route_model::kinds::destination_rule::ClientTlsMode;
use route_model::kinds::rate_limit_policy::{self, TargetKind};
use route_model::kinds::selector::{LabelSelector, TargetRef};
use route_model::kinds::value::StringMap;
use route_model::kinds::{
    AuthorizationPolicy, BackendPolicy, DestinationRule, Gateway, MeshConfig, RateLimitPolicy, RequestAuthentication,
    Secret, ServiceEntry, VirtualService, WorkloadEntry,
};
use route_model::meta::ResourceKey;
use route_model::resource::{Resource, ResourceSet, SpecType};

pub(super) use self::sidecars::{Common, MeshView};
use self::workloads::Workloads;

/// Istio keeps a CA apart from the certificate that goes with it under this suffix.
const CA_SUFFIX: &str = "-cacert";

/// The resources that a gateway of this scope can reach, by key.
pub(super) fn of_gateway(set: &ResourceSet, scope: &ProxyScope) -> Vec<Arc<Resource>> {
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
            if !has_labels(self.scope, &gateway.selector) {
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

    fn secrets(&mut self, home: &str, name: &str) {
        for secret in secrets(self.set, &self.scope.namespace, home, name) {
            self.add(secret);
        }
    }

    /// Whether a VirtualService is for one of the proxy's Gateways.
    fn is_bound(&self, home: &str, service: &VirtualService) -> bool {
        service.gateways.iter().any(|name| {
            let name = qualify_gateway(name, home);
            let key = name.split_once('/').map(|(namespace, name)| ResourceKey::new(Kind::Gateway, namespace, name));
            key.is_some_and(|key| self.found.contains_key(&key))
        })
    }

    /// The VirtualServices that are for the proxy and visible to it, and their delegates.
    fn virtual_services(&mut self, default: &[String]) {
        for (resource, service) in self.specs::<VirtualService>() {
            let home = &*resource.key.namespace;
            if !self.is_bound(home, service) || !self.is_visible(resource, &service.export_to, default) {
                continue;
            }
            self.add(resource);
            self.hosts.extend(destinations(home, service));
            for (delegate, spec) in delegates(self.set, home, service, default) {
                self.add(delegate);
                self.hosts.extend(destinations(&delegate.key.namespace, spec));
            }
        }
    }

    /// Fairway's policies on Gateways, VirtualServices and delegates that are found.
    fn attached(&mut self) {
        let limits = self.specs::<RateLimitPolicy>().map(|(resource, policy)| (resource, &policy.target_refs));
        let backend = self.specs::<BackendPolicy>().map(|(resource, policy)| (resource, &policy.target_refs));
        for (resource, targets) in limits.chain(backend) {
            if targets.iter().any(|to| self.found.contains_key(&target_key(&resource.key.namespace, to))) {
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
            namespace == &*self.scope.namespace && has_labels(self.scope, &selector.match_labels)
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
                selectors.extend(entry.workload_selector.as_ref().map(|it| (&*resource.key.namespace, &*it.labels)));
            }
        }
        if selectors.is_empty() {
            return;
        }
        let listed: Vec<_> = self.specs::<WorkloadEntry>().collect();
        let workloads: Workloads<'_> = listed.iter().enumerate().map(|(at, (r, spec))| (at, *r, *spec)).collect();
        for at in selectors.into_iter().flat_map(|(namespace, labels)| workloads.selected(namespace, labels)) {
            self.add(listed[at].0);
        }
    }
}

fn has_labels(scope: &ProxyScope, wanted: &StringMap) -> bool {
    wanted.iter().all(|(key, value)| scope.labels.get(key) == Some(value))
}

/// The secret of a name and its CA, in the proxy's namespace and in that of the resource which names it.
fn secrets<'s>(set: &'s ResourceSet, namespace: &str, home: &str, name: &str) -> Vec<&'s Arc<Resource>> {
    let name = name.strip_prefix("kubernetes://").unwrap_or(name);
    let names = [name, &format!("{name}{CA_SUFFIX}")];
    let keys = names.into_iter().flat_map(|name| [namespace, home].map(|ns| ResourceKey::new(Secret::KIND, ns, name)));
    keys.filter_map(|key| set.get(&key)).collect()
}

/// The delegates of a VirtualService in the namespace `home` that are visible there; to the proxy they need not be.
fn delegates<'s, 'r>(
    set: &'s ResourceSet,
    home: &'r str,
    service: &'r VirtualService,
    default: &'r [String],
) -> impl Iterator<Item = (&'s Arc<Resource>, &'s VirtualService)> + use<'s, 'r> {
    service.http.iter().filter_map(|rule| rule.delegate.as_ref()).filter_map(move |delegate| {
        let namespace = if delegate.namespace.is_empty() { home } else { &delegate.namespace };
        let found = set.get(&ResourceKey::new(Kind::VirtualService, namespace, delegate.name.as_str()))?;
        let spec = found.spec::<VirtualService>()?;
        is_visible(&spec.export_to, default, namespace, home).then_some((found, spec))
    })
}

/// The services that the routes of a VirtualService lead to.
fn destinations<'s>(home: &'s str, service: &'s VirtualService) -> impl Iterator<Item = Arc<str>> + 's {
    let http = service.http.iter().flat_map(|rule| {
        let routes = rule.route.iter().filter_map(|route| route.destination.as_ref());
        let mirrors = rule.mirrors.iter().filter_map(|mirror| mirror.destination.as_ref());
        routes.chain(mirrors).chain(rule.mirror.as_deref())
    });
    let tls = service.tls.iter().flat_map(|rule| &rule.route).filter_map(|route| route.destination.as_ref());
    let tcp = service.tcp.iter().flat_map(|rule| &rule.route).filter_map(|route| route.destination.as_ref());
    http.chain(tls).chain(tcp).map(move |destination| qualify_host(&destination.host, home))
}

/// What a policy of Fairway's in a namespace names.
fn target_key(home: &Arc<str>, to: &rate_limit_policy::TargetRef) -> ResourceKey {
    let kind = match *to.kind {
        TargetKind::VirtualService => Kind::VirtualService,
        TargetKind::Gateway => Kind::Gateway,
        TargetKind::ServiceEntry => Kind::ServiceEntry,
    };
    ResourceKey::new(kind, home.clone(), to.name.as_str())
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
