//! What sidecars reach: what is for the mesh, visible in their namespace, and brought in by the Sidecar that is theirs.
//!
//! Most of it is the same for all workloads of a namespace, so it is worked out for the namespace (and the Sidecar)
//! once; what differs is what selects a workload by its labels. No secrets but those of its own connections.

use std::collections::HashSet;
use std::sync::Arc;

use foldhash::fast::RandomState;
use route_model::compile::ProxyScope;
use route_model::compile::names::{MESH, is_visible, qualify_host};
use route_model::kind::Kind;
use route_model::kinds::selector::LabelSelector;
use route_model::kinds::{
    AuthorizationPolicy, BackendPolicy, DestinationRule, MeshConfig, RateLimitPolicy, RequestAuthentication,
    ServiceEntry, Sidecar, VirtualService, WorkloadEntry, WorkloadGroup,
};
use route_model::meta::ResourceKey;
use route_model::resource::{Resource, ResourceSet};

use super::egress::{Imports, covers, overlaps};
use super::workloads::{Selecting, Workloads};
use super::{credentials, delegates, destinations, has_labels, secrets, target_key};

/// The resources as sidecars see them, worked out once for all of them.
#[derive(Debug)]
pub(in super::super) struct MeshView {
    set: Arc<ResourceSet>,
    /// In the set's order; places are positions in this list.
    resources: Vec<Arc<Resource>>,
    mesh: Option<usize>,
    /// What is bound to the mesh.
    rules: Vec<Rules>,
    destination_rules: Vec<Policy>,
    services: Vec<Service>,
    /// The places in `services` of those that select workloads.
    serving: Selecting,
    sidecars: Vec<usize>,
    peers: Vec<usize>,
    /// WorkloadGroups that say how to probe applications.
    probes: Vec<usize>,
    /// AuthorizationPolicies and RequestAuthentications for all workloads of their namespaces.
    security: Vec<usize>,
    /// Those for some of them.
    selective_security: Selecting,
    selective_rules: Selecting,
    /// Fairway's policies, and what each is attached to.
    attached: Vec<(usize, Vec<usize>)>,
}

/// What all workloads of a namespace that have the same Sidecar reach.
#[derive(Debug, Default)]
pub(in super::super) struct Common {
    /// Which of the view's resources.
    marks: Vec<bool>,
}

/// A VirtualService with its delegates.
#[derive(Debug)]
struct Rules {
    at: usize,
    hosts: Vec<Arc<str>>,
    delegates: Vec<usize>,
    destinations: Vec<Arc<str>>,
}

/// A DestinationRule.
#[derive(Debug)]
struct Policy {
    at: usize,
    host: Arc<str>,
}

/// A ServiceEntry with the WorkloadEntries that it selects.
#[derive(Debug)]
struct Service {
    at: usize,
    hosts: Vec<Arc<str>>,
    workloads: Vec<usize>,
}

impl MeshView {
    pub(in super::super) fn of(set: &Arc<ResourceSet>) -> Self {
        let resources: Vec<Arc<Resource>> = set.iter().cloned().collect();
        let mut view = Self {
            set: set.clone(),
            mesh: None,
            rules: Vec::new(),
            destination_rules: Vec::new(),
            services: Vec::new(),
            serving: Selecting::default(),
            sidecars: Vec::new(),
            peers: Vec::new(),
            probes: Vec::new(),
            security: Vec::new(),
            selective_security: Selecting::default(),
            selective_rules: Selecting::default(),
            attached: Vec::new(),
            resources: Vec::new(),
        };
        let workloads = resources.iter().enumerate();
        let workloads = workloads.filter_map(|(at, resource)| Some((at, resource, resource.spec::<WorkloadEntry>()?)));
        let workloads: Workloads<'_> = workloads.collect();
        let place = |key: &ResourceKey| resources.binary_search_by(|resource| resource.key.cmp(key)).ok();
        let default = mesh_config(set).map_or(&[][..], |mesh| &mesh.default_virtual_service_export_to);
        for (at, resource) in resources.iter().enumerate() {
            let home = &resource.key.namespace;
            match resource.key.kind {
                Kind::MeshConfig if *resource.key.name == *"default" => view.mesh = Some(at),
                Kind::VirtualService => {
                    let Some(spec) = resource.spec::<VirtualService>().filter(|spec| is_for_mesh(spec)) else {
                        continue;
                    };
                    let found: Vec<_> = delegates(set, home, spec, default).collect();
                    let mut to: Vec<Arc<str>> = destinations(home, spec).collect();
                    to.extend(found.iter().flat_map(|(delegate, spec)| destinations(&delegate.key.namespace, spec)));
                    view.rules.push(Rules {
                        at,
                        hosts: spec.hosts.iter().map(|host| qualify_host(host, home)).collect(),
                        delegates: found.iter().filter_map(|(delegate, _)| place(&delegate.key)).collect(),
                        destinations: to,
                    });
                }
                Kind::DestinationRule => {
                    let Some(spec) = resource.spec::<DestinationRule>() else { continue };
                    match &spec.workload_selector {
                        Some(selector) => view.selective_rules.add(home, &selector.match_labels, at),
                        None => view.destination_rules.push(Policy { at, host: qualify_host(&spec.host, home) }),
                    }
                }
                Kind::ServiceEntry => {
                    let Some(spec) = resource.spec::<ServiceEntry>() else { continue };
                    let selector = spec.workload_selector.as_ref();
                    if let Some(selector) = selector.filter(|selector| !selector.labels.is_empty()) {
                        view.serving.add(home, &selector.labels, view.services.len());
                    }
                    view.services.push(Service {
                        at,
                        hosts: spec.hosts.iter().map(|host| host.to_ascii_lowercase().into()).collect(),
                        workloads: selector
                            .map_or_else(Vec::new, |selector| workloads.selected(home, &selector.labels)),
                    });
                }
                Kind::WorkloadGroup if resource.spec::<WorkloadGroup>().is_some_and(|group| group.probe.is_some()) => {
                    view.probes.push(at);
                }
                Kind::Sidecar => view.sidecars.push(at),
                Kind::PeerAuthentication => view.peers.push(at),
                Kind::AuthorizationPolicy | Kind::RequestAuthentication => match selection(resource) {
                    Some(Some(selector)) if !selector.match_labels.is_empty() => {
                        view.selective_security.add(home, &selector.match_labels, at);
                    }
                    Some(_) => view.security.push(at),
                    None => {}
                },
                Kind::RateLimitPolicy => {
                    let Some(spec) = resource.spec::<RateLimitPolicy>() else { continue };
                    let targets = spec.target_refs.iter().filter_map(|to| place(&target_key(home, to)));
                    view.attached.push((at, targets.collect()));
                }
                Kind::BackendPolicy => {
                    let Some(spec) = resource.spec::<BackendPolicy>() else { continue };
                    let targets = spec.target_refs.iter().filter_map(|to| place(&target_key(home, to)));
                    view.attached.push((at, targets.collect()));
                }
                _ => {}
            }
        }
        Self { resources, ..view }
    }

    /// The Sidecar that says what a workload reaches: one that selects it, else its namespace's, else the mesh's. Of
    /// several the oldest.
    pub(in super::super) fn sidecar_of(&self, scope: &ProxyScope) -> Option<ResourceKey> {
        let candidates = self.sidecars.iter().filter_map(|at| {
            let resource = &self.resources[*at];
            let selector = resource.spec::<Sidecar>()?.workload_selector.as_ref().filter(|s| !s.labels.is_empty());
            let here = resource.key.namespace == scope.namespace;
            let rank = match selector {
                Some(selector) if here && has_labels(scope, &selector.labels) => 0,
                None if here => 1,
                None if *resource.key.namespace == *self.root_namespace() => 2,
                _ => return None,
            };
            Some((rank, resource.meta.creation_timestamp.as_str(), &resource.key))
        });
        candidates.min().map(|(_, _, key)| key.clone())
    }

    /// What all workloads of a namespace that have this Sidecar reach; the resources are in the set's order.
    pub(in super::super) fn common(
        &self,
        namespace: &str,
        sidecar: Option<&ResourceKey>,
    ) -> (Vec<Arc<Resource>>, Common) {
        let common = Common { marks: self.marked(namespace, sidecar) };
        (self.listed(&common.marks), common)
    }

    /// What this workload reaches beside what is common, in the set's order.
    pub(in super::super) fn own(&self, scope: &ProxyScope, common: &Common) -> Vec<Arc<Resource>> {
        let mut own: Vec<usize> = self.selective_security.of(&scope.namespace, scope).collect();
        if *self.root_namespace() != *scope.namespace {
            own.extend(self.selective_security.of(self.root_namespace(), scope));
        }
        // How its own connections are made, and what with.
        for at in self.selective_rules.of(&scope.namespace, scope) {
            own.push(at);
            let Some(spec) = self.resources[at].spec::<DestinationRule>() else { continue };
            let found = credentials(spec).flat_map(|name| secrets(&self.set, &scope.namespace, &scope.namespace, name));
            own.extend(found.map(|secret| self.place(secret)));
        }
        // Others call its services although it may not reach them itself.
        let unreached = |at: &usize| !common.marks.get(self.services[*at].at).is_some_and(|marked| *marked);
        let serves: Vec<usize> = self.serving.of(&scope.namespace, scope).filter(unreached).collect();
        if !serves.is_empty() {
            let services = serves.iter().map(|at| &self.services[*at]);
            let mut marks = common.marks.clone();
            for service in services.flat_map(|service| service.workloads.iter().chain([&service.at])) {
                marks[*service] = true;
            }
            self.attach(&mut marks);
            own.extend((0..marks.len()).filter(|at| marks[*at] && !common.marks[*at]));
        }
        own.sort_unstable();
        own.dedup();
        own.into_iter().map(|at| self.resources[at].clone()).collect()
    }

    fn marked(&self, namespace: &str, sidecar: Option<&ResourceKey>) -> Vec<bool> {
        let mut marks = vec![false; self.resources.len()];
        let mesh = self.mesh.and_then(|at| self.resources[at].spec::<MeshConfig>());
        if let Some(at) = self.mesh {
            marks[at] = true;
        }
        let chosen = sidecar.and_then(|key| self.set.get(key));
        if let Some(sidecar) = chosen {
            marks[self.place(sidecar)] = true;
        }
        let imports = Imports::of(chosen.and_then(|sidecar| sidecar.spec::<Sidecar>()), namespace);
        let default = |pick: fn(&MeshConfig) -> &[String]| mesh.map_or(&[][..], pick);
        let reaches =
            self.routes(&mut marks, namespace, &imports, default(|mesh| &mesh.default_virtual_service_export_to));
        let called =
            self.called(&mut marks, namespace, &imports, &reaches, default(|mesh| &mesh.default_service_export_to));
        self.towards(&mut marks, namespace, &called, default(|mesh| &mesh.default_destination_rule_export_to));
        self.attach(&mut marks);
        for at in &self.security {
            let resource = &self.resources[*at];
            let home = &*resource.key.namespace;
            if home == namespace || home == self.root_namespace() {
                marks[*at] = true;
            }
        }
        for at in self.probes.iter().filter(|at| *self.resources[**at].key.namespace == *namespace) {
            marks[*at] = true;
        }
        // Who calls has to know what the other end takes.
        for at in &self.peers {
            let home = &*self.resources[*at].key.namespace;
            if home == namespace || home == self.root_namespace() || called.namespaces.contains(home) {
                marks[*at] = true;
            }
        }
        marks
    }

    /// The rules for the mesh that are visible and brought in; answers where they lead.
    fn routes(&self, marks: &mut [bool], namespace: &str, imports: &Imports<'_>, default: &[String]) -> Hosts<'_> {
        let mut to = Hosts::default();
        for rules in &self.rules {
            let resource = &self.resources[rules.at];
            let Some(spec) = resource.spec::<VirtualService>() else { continue };
            let home = &*resource.key.namespace;
            if !is_visible(&spec.export_to, default, home, namespace)
                || !rules.hosts.iter().any(|host| imports.rules(home, host))
            {
                continue;
            }
            marks[rules.at] = true;
            rules.delegates.iter().for_each(|at| marks[*at] = true);
            rules.destinations.iter().for_each(|host| to.add(host));
        }
        to
    }

    /// The services that are visible and brought in, by name or by a route, with their endpoints.
    fn called<'v>(
        &'v self,
        marks: &mut [bool],
        namespace: &str,
        imports: &Imports<'_>,
        routes: &Hosts<'v>,
        default: &[String],
    ) -> Called<'v> {
        let mut called = Called { all: imports.is_all(), hosts: routes.clone(), namespaces: HashSet::default() };
        for service in &self.services {
            let resource = &self.resources[service.at];
            let Some(spec) = resource.spec::<ServiceEntry>() else { continue };
            let home = &*resource.key.namespace;
            let wanted = |host: &Arc<str>| imports.services(home, host) || routes.some_in(host);
            if !is_visible(&spec.export_to, default, home, namespace) || !service.hosts.iter().any(wanted) {
                continue;
            }
            marks[service.at] = true;
            service.workloads.iter().for_each(|at| marks[*at] = true);
            called.namespaces.insert(home);
            if !called.all {
                service.hosts.iter().for_each(|host| called.hosts.add(host));
            }
        }
        called
    }

    /// The rules for calls to these services.
    fn towards(&self, marks: &mut [bool], namespace: &str, called: &Called<'_>, default: &[String]) {
        for Policy { at, host } in &self.destination_rules {
            let resource = &self.resources[*at];
            let Some(spec) = resource.spec::<DestinationRule>() else { continue };
            if (called.all || called.hosts.meets(host))
                && is_visible(&spec.export_to, default, &resource.key.namespace, namespace)
            {
                marks[*at] = true;
            }
        }
    }

    /// What is attached to something that is marked.
    fn attach(&self, marks: &mut [bool]) {
        for (at, targets) in &self.attached {
            if targets.iter().any(|target| marks[*target]) {
                marks[*at] = true;
            }
        }
    }

    fn root_namespace(&self) -> &str {
        const DEFAULT: &str = "istio-system";
        let mesh = self.mesh.and_then(|at| self.resources[at].spec::<MeshConfig>());
        mesh.map_or(DEFAULT, MeshConfig::root_namespace)
    }

    fn place(&self, resource: &Resource) -> usize {
        self.resources.partition_point(|other| other.key < resource.key)
    }

    fn listed(&self, marks: &[bool]) -> Vec<Arc<Resource>> {
        let marked = self.resources.iter().zip(marks).filter(|(_, marked)| **marked);
        marked.map(|(resource, _)| resource.clone()).collect()
    }
}

fn mesh_config(set: &ResourceSet) -> Option<&MeshConfig> {
    set.get(&ResourceKey::new(Kind::MeshConfig, "", "default"))?.spec()
}

/// Without any gateway it is for the mesh. Who names no hosts is a delegate.
fn is_for_mesh(spec: &VirtualService) -> bool {
    !spec.hosts.is_empty() && (spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == MESH))
}

/// What a policy for workloads selects by; none if it is for targets.
#[expect(clippy::option_option, reason = "a policy may select all")]
fn selection(resource: &Resource) -> Option<Option<&LabelSelector>> {
    let (selector, target, targets) = if let Some(spec) = resource.spec::<AuthorizationPolicy>() {
        (&spec.selector, &spec.target_ref, &spec.target_refs)
    } else {
        let spec = resource.spec::<RequestAuthentication>()?;
        (&spec.selector, &spec.target_ref, &spec.target_refs)
    };
    (target.is_none() && targets.is_empty()).then_some(selector.as_ref())
}

/// Names of services.
#[derive(Clone, Debug, Default)]
struct Hosts<'a> {
    exact: HashSet<&'a str, RandomState>,
    wildcards: HashSet<&'a str, RandomState>,
}

impl<'a> Hosts<'a> {
    fn add(&mut self, host: &'a str) {
        if host.starts_with('*') {
            self.wildcards.insert(host)
        } else {
            self.exact.insert(host)
        };
    }

    /// Whether one of them is this name, or of this pattern.
    fn some_in(&self, pattern: &str) -> bool {
        self.exact.contains(pattern)
            || (pattern.starts_with('*') && self.exact.iter().chain(&self.wildcards).any(|host| covers(pattern, host)))
    }

    /// The same, or the other way round.
    fn meets(&self, pattern: &str) -> bool {
        self.some_in(pattern) || self.wildcards.iter().any(|host| overlaps(pattern, host))
    }
}

/// What a sidecar's workload may call.
struct Called<'a> {
    /// Everything that is visible.
    all: bool,
    hosts: Hosts<'a>,
    namespaces: HashSet<&'a str, RandomState>,
}

#[cfg(test)]
mod tests;
