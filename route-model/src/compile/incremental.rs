//! The compiler: everything the stages know, kept from one set to the next.

mod report;
mod sidecar;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::authentication::Authentications;
use super::authorization::{DRY_RUN, Policies};
use super::backend::BackendPolicies;
use super::clusters::{Clusters, DirtyTargets, Sources};
use super::destination_rule::DestinationRules;
use super::finding::Finding;
use super::gateway::{Plan, ServerPlace};
use super::groups::Group;
use super::limits::Limits;
use super::listeners::Listeners;
use super::mesh::Mesh;
use super::names::{MESH, is_visible, qualify_gateway, qualify_host};
use super::services::Services;
use super::sidecar::Sidecar;
use super::streams::Streams;
use super::targets::Targets;
use super::trusted_proxies::PROXY_CONFIG;
use super::virtual_service::{CompiledVirtualService, Context};
use super::{Changed, Compiled, ProxyRole, ProxyScope, SidecarScope, delegate, trusted_proxies};
use crate::kind::Kind;
use crate::kinds::{ServiceEntry, VirtualService};
use crate::meta::ResourceKey;
use crate::resource::{Resource, ResourceSet};
use crate::table::{ClusterId, HostPattern, ProxySettings, RouteTable};

/// Compiles set after set for one proxy scope and reuses what did not change.
#[derive(Debug)]
pub struct Compiler {
    scope: ProxyScope,
    /// For a sidecar, in place of what comes after the clusters here.
    sidecar: Option<Box<Sidecar>>,
    /// The set as it was compiled last.
    set: ResourceSet,
    mesh: Mesh,
    settings: Arc<ProxySettings>,
    services: Services,
    rules: DestinationRules,
    targets: Targets,
    clusters: Clusters,
    limits: Limits,
    backend: BackendPolicies,
    policies: Policies,
    authentications: Authentications,
    plan: Plan,
    plan_findings: Vec<Finding>,
    settings_findings: Vec<Finding>,
    groups: HashMap<Arc<str>, Group, RandomState>,
    listeners: Listeners,
    streams: Streams,
    virtual_services: HashMap<ResourceKey, Attached, RandomState>,
    /// The VirtualServices that name a Gateway (`namespace/name`), whether it exists or not.
    bound: HashMap<Arc<str>, BTreeSet<ResourceKey>, RandomState>,
    /// The VirtualServices that delegate to another, whether it exists or not.
    delegating: HashMap<ResourceKey, BTreeSet<ResourceKey>, RandomState>,
    /// The VirtualServices that name a target.
    users: HashMap<ClusterId, BTreeSet<ResourceKey>, RandomState>,
    /// By VirtualService.
    findings: BTreeMap<ResourceKey, Vec<Finding>>,
}

/// A VirtualService as it takes part.
#[derive(Debug, Default)]
struct Attached {
    compiled: Vec<Arc<CompiledVirtualService>>,
    /// The route configurations and hosts that it adds routes to.
    places: Vec<(Arc<str>, HostPattern)>,
    /// Some of its hosts are served nowhere.
    has_homeless_host: bool,
    hosts: Vec<HostPattern>,
    gateways: Vec<Arc<str>>,
    delegates: Vec<ResourceKey>,
}

/// What an update has to look at again.
#[derive(Default)]
struct Dirty {
    plan: bool,
    mesh: bool,
    /// The AuthorizationPolicies.
    policies: bool,
    /// Which tokens are accepted.
    authentication: bool,
    /// The routes of what is not HTTP.
    streams: bool,
    /// What a sidecar serves.
    sidecar: bool,
    /// To be compiled again.
    virtual_services: BTreeSet<ResourceKey>,
    /// The `namespace/name` of Gateways that were added, changed or removed.
    gateways: BTreeSet<Arc<str>>,
    /// To be reported on again.
    reports: BTreeSet<ResourceKey>,
    targets: DirtyTargets,
}

impl Compiler {
    /// For a gateway, or for a sidecar of which nothing more is known.
    pub fn new(scope: ProxyScope) -> Self {
        let sidecar = (scope.role == ProxyRole::Sidecar).then(Box::default);
        Self {
            scope,
            sidecar,
            set: ResourceSet::default(),
            mesh: Mesh::default(),
            settings: Arc::default(),
            services: Services::default(),
            rules: DestinationRules::default(),
            targets: Targets::default(),
            clusters: Clusters::default(),
            limits: Limits::default(),
            backend: BackendPolicies::default(),
            policies: Policies::default(),
            authentications: Authentications::default(),
            plan: Plan::default(),
            plan_findings: Vec::new(),
            settings_findings: Vec::new(),
            groups: HashMap::default(),
            listeners: Listeners::default(),
            streams: Streams::default(),
            virtual_services: HashMap::default(),
            bound: HashMap::default(),
            delegating: HashMap::default(),
            users: HashMap::default(),
            findings: BTreeMap::new(),
        }
    }

    /// For a sidecar.
    pub fn sidecar(scope: ProxyScope, local: SidecarScope) -> Self {
        Self { sidecar: Some(Box::new(Sidecar::new(local))), ..Self::new(scope) }
    }

    pub fn scope(&self) -> &ProxyScope {
        &self.scope
    }

    /// Gives the same table as [`compile`](super::compile) on `set` (cluster ids aside), at the cost of what changed.
    pub fn update(&mut self, set: &ResourceSet, changed: &Changed) -> Compiled {
        let mut dirty = self.take_over(set, changed);
        if dirty.mesh {
            self.mesh = Mesh::of(&self.set);
            // Default visibility may differ for everything.
            dirty.targets.all = true;
            dirty.virtual_services.extend(self.set.of_kind(Kind::VirtualService).map(|resource| resource.key.clone()));
        }
        if dirty.policies || dirty.mesh {
            self.policies.update(&self.set, &self.scope, &self.mesh);
        }
        if let Some(sidecar) = self.sidecar.take() {
            return self.update_sidecar(sidecar, set, dirty);
        }
        if dirty.plan {
            self.replan(&mut dirty);
        }
        if dirty.plan || dirty.mesh {
            self.settle();
        }
        for key in &dirty.virtual_services {
            self.attach(key);
        }
        if dirty.plan || dirty.mesh || dirty.authentication {
            self.authenticate();
        }
        let mut routes_changed = self.build_groups();
        if dirty.plan || dirty.mesh || dirty.streams {
            let (proxy, mesh) = (&self.scope, &self.mesh);
            let context = Context { proxy, mesh, set: &self.set, limits: &self.limits, backend: &self.backend };
            routes_changed |= self.streams.update(&self.plan, &context, &mut self.targets);
        }
        if dirty.plan || routes_changed {
            let (groups, streams) = (&self.groups, &self.streams);
            self.listeners.update(
                &self.plan,
                |group| Some(groups.get(&group.name)?.routes().clone()),
                |group| streams.routes(group),
            );
        }
        let mut to_report = dirty.virtual_services;
        to_report.append(&mut dirty.reports);
        let sources = Sources {
            services: &self.services,
            rules: &self.rules,
            set: &self.set,
            mesh: &self.mesh,
            proxy: &self.scope,
            limits: &self.limits,
            sidecar: None,
        };
        for id in self.clusters.update(&mut self.targets, sources, &dirty.targets) {
            to_report.extend(self.users.get(&id).into_iter().flatten().cloned());
        }
        for key in to_report {
            self.report(&key);
        }
        Compiled {
            table: Arc::new(RouteTable {
                revision: set.revision,
                listeners: self.listeners.list().to_vec(),
                clusters: self.clusters.table(),
                settings: self.settings.clone(),
                limits: self.limits.table().to_vec(),
                authorization: self.policies.table().clone(),
            }),
            findings: self.all_findings(),
        }
    }

    /// Brings the indexes over resources up to date.
    fn take_over(&mut self, set: &ResourceSet, changed: &Changed) -> Dirty {
        let keys: Vec<ResourceKey> = match changed {
            Changed::Keys(keys) => keys.clone(),
            Changed::Everything => {
                let gone = self.set.iter().filter(|resource| set.get(&resource.key).is_none());
                set.iter().chain(gone).map(|resource| resource.key.clone()).collect()
            }
        };
        self.set.revision = set.revision;
        let mut dirty = Dirty::default();
        for key in keys {
            let new = set.get(&key).cloned();
            let old = match &new {
                Some(new) => self.set.insert(new.clone()),
                None => self.set.remove(&key),
            };
            if !means_the_same(old.as_ref(), new.as_ref()) {
                self.note(&key, old.as_ref(), new.as_ref(), &mut dirty);
            }
        }
        dirty
    }

    fn note(&mut self, key: &ResourceKey, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>, dirty: &mut Dirty) {
        dirty.sidecar |= self::sidecar::is_concerned(key.kind, old, new);
        match key.kind {
            Kind::Gateway => {
                dirty.plan = true;
                dirty.gateways.insert(super::names::qualified_name(key));
            }
            Kind::Secret => {
                dirty.plan = true;
                dirty.targets.secrets = true;
            }
            Kind::MeshConfig if *key == Mesh::key() => dirty.mesh = true,
            Kind::ServiceEntry | Kind::WorkloadEntry => self.services.change(old, new, &mut dirty.targets.hosts),
            Kind::DestinationRule => dirty.targets.patterns.extend(self.rules.change(old, new)),
            Kind::VirtualService => {
                dirty.virtual_services.insert(key.clone());
                dirty.virtual_services.extend(self.delegating.get(key).into_iter().flatten().cloned());
                self.index_virtual_service(key, new);
                dirty.streams |= self.streams.note(key, new);
            }
            Kind::AuthorizationPolicy => dirty.policies = true,
            Kind::BackendPolicy => {
                for target in self.backend.change(key, old, new) {
                    self.limit_anew(target, dirty);
                }
            }
            Kind::RequestAuthentication => dirty.authentication = true,
            Kind::RateLimitPolicy => {
                for target in self.limits.change(key, old, new) {
                    self.limit_anew(target, dirty);
                }
            }
            _ => {}
        }
    }

    /// Has the routes compiled again that a policy on `target` is for. VirtualServices that are not known yet come with
    /// their own change.
    fn limit_anew(&self, target: ResourceKey, dirty: &mut Dirty) {
        match target.kind {
            Kind::VirtualService => {
                dirty.virtual_services.extend(self.delegating.get(&target).into_iter().flatten().cloned());
                if self.virtual_services.contains_key(&target) {
                    dirty.virtual_services.insert(target);
                }
            }
            Kind::Gateway => {
                let bound = self.bound.get(&super::names::qualified_name(&target));
                dirty.virtual_services.extend(bound.into_iter().flatten().cloned());
            }
            Kind::ServiceEntry => {
                let entry = self.set.get(&target).and_then(|resource| resource.spec::<ServiceEntry>());
                let hosts = entry.into_iter().flat_map(|entry| &entry.hosts);
                dirty.targets.hosts.extend(hosts.map(|host| Arc::from(host.to_ascii_lowercase())));
            }
            _ => {}
        }
    }

    /// Keeps track of the Gateways and delegates that a VirtualService names.
    fn index_virtual_service(&mut self, key: &ResourceKey, new: Option<&Arc<Resource>>) {
        let attached = self.virtual_services.entry(key.clone()).or_default();
        for gateway in attached.gateways.drain(..) {
            forget(&mut self.bound, &gateway, key);
        }
        for delegate in attached.delegates.drain(..) {
            forget(&mut self.delegating, &delegate, key);
        }
        let Some(spec) = new.and_then(|resource| resource.spec::<VirtualService>()) else { return };
        attached.hosts = hosts(spec, &key.namespace);
        attached.gateways = gateways(spec, &key.namespace);
        attached.delegates = delegate::delegates(key, spec).map(|(_, delegate)| delegate).collect();
        for gateway in &attached.gateways {
            self.bound.entry(gateway.clone()).or_default().insert(key.clone());
        }
        for delegate in &attached.delegates {
            self.delegating.entry(delegate.clone()).or_default().insert(key.clone());
        }
    }

    /// Merges the Gateways anew. Route groups whose servers did not change keep their hosts; the VirtualServices of all
    /// others are attached again.
    fn replan(&mut self, dirty: &mut Dirty) {
        let before = std::mem::replace(&mut self.plan, Plan::new(&self.set, &self.scope));
        self.plan_findings = std::mem::take(&mut self.plan.findings);
        self.plan_findings.extend(self.listeners.read_terms(&self.plan, &self.set, &self.scope));
        let appeared = |gateway: &&Arc<str>| {
            before.gateways.contains_key(*gateway) != self.plan.gateways.contains_key(*gateway)
                || !self.plan.gateways.contains_key(*gateway)
        };
        let of_gateway = |gateway: &Arc<str>| self.bound.get(gateway).into_iter().flatten().cloned();
        dirty.reports.extend(dirty.gateways.iter().filter(appeared).flat_map(of_gateway));
        let gateways: HashSet<_> = before.offers.keys().chain(self.plan.offers.keys()).collect();
        let differs = |gateway: &&Arc<str>| before.offers.get(*gateway) != self.plan.offers.get(*gateway);
        dirty.reports.extend(gateways.into_iter().filter(differs).flat_map(of_gateway));

        let mut groups_before = std::mem::take(&mut self.groups);
        let mut regrouped = HashSet::default();
        let mut affected = BTreeSet::new();
        for planned in self.plan.groups() {
            let known = groups_before.remove(&planned.name);
            let group = match known {
                Some(known) if known.plan == *planned => known,
                known => {
                    let servers = known.iter().flat_map(|known| &known.plan.servers).chain(&planned.servers);
                    affected.extend(servers.map(|server| server.gateway.clone()));
                    regrouped.insert(planned.name.clone());
                    Group::new(planned.clone(), known)
                }
            };
            self.groups.insert(planned.name.clone(), group);
        }
        for (name, gone) in groups_before {
            affected.extend(gone.plan.servers.iter().map(|server| server.gateway.clone()));
            regrouped.insert(name);
        }
        let bound = affected.iter().filter_map(|gateway| self.bound.get(gateway)).flatten();
        let concerned = bound.filter(|key| !dirty.virtual_services.contains(*key) && self.concerns(key, &regrouped));
        let concerned: BTreeSet<_> = concerned.cloned().collect();
        for key in concerned {
            if self.reattach(&key, &regrouped) {
                dirty.reports.insert(key);
            }
        }
    }

    /// Finds the settings of the mesh and of its Gateways.
    fn settle(&mut self) {
        let mut settings = self.mesh.settings();
        let (numbers, findings) = trusted_proxies::of_listeners(&self.plan, settings.num_trusted_proxies);
        settings.num_trusted_proxies_of = numbers;
        self.settings_findings = findings;
        if *self.settings != settings {
            self.settings = Arc::new(settings);
        }
    }

    /// Whether a VirtualService has anything to do with route groups, as they were or as they are. Of ten thousand that
    /// hang on a Gateway most have not, so this comes before any work.
    fn concerns(&self, key: &ResourceKey, groups: &HashSet<Arc<str>, RandomState>) -> bool {
        self.virtual_services.get(key).is_some_and(|attached| {
            attached.has_homeless_host
                || attached.places.iter().any(|(group, _)| groups.contains(group))
                // One without routes leaves no trace in any group.
                || attached.compiled.iter().any(|compiled| compiled.routes().next().is_none())
                || self.servers(attached).any(|server| {
                    groups.contains(&server.group)
                        && self.groups.get(&server.group).is_some_and(|group| {
                            attached.hosts.iter().any(|host| group.admits(server.index, host, &key.namespace))
                        })
                })
        })
    }

    /// Compiles a VirtualService again and puts it where it belongs now.
    fn attach(&mut self, key: &ResourceKey) {
        let mut attached = self.virtual_services.remove(key).unwrap_or_default();
        for (group, domain) in attached.places.drain(..) {
            if let Some(group) = self.groups.get_mut(&group) {
                group.detach(&domain, key);
            }
        }
        let before = std::mem::take(&mut attached.compiled);
        let servers: Vec<_> = self.servers(&attached).cloned().collect();
        self.place(key, &mut attached, &servers, &before);
        self.drop_compiled(key, before, &attached);
        if self.set.get(key).is_some() {
            self.virtual_services.insert(key.clone(), attached);
        }
    }

    /// Puts a VirtualService that did not change into groups that did, which are empty or gone. Whether there may be
    /// something else to say about it now.
    fn reattach(&mut self, key: &ResourceKey, regrouped: &HashSet<Arc<str>, RandomState>) -> bool {
        let Some(mut attached) = self.virtual_services.remove(key) else { return false };
        let places_before = attached.places.clone();
        let compiled_before: Vec<_> = attached.compiled.iter().map(Arc::as_ptr).collect();
        attached.places.retain(|(group, _)| !regrouped.contains(group));
        let servers: Vec<_> =
            self.servers(&attached).filter(|server| regrouped.contains(&server.group)).cloned().collect();
        self.place(key, &mut attached, &servers, &[]);
        let in_force = |compiled: &Arc<CompiledVirtualService>| {
            let servers = self.plan.servers_of(&compiled.binding.gateway);
            servers.iter().filter(|server| server.binding == compiled.binding).any(|server| {
                let group = self.groups.get(&server.group);
                group.is_some_and(|group| {
                    attached.hosts.iter().any(|host| group.admits(server.index, host, &key.namespace))
                })
            })
        };
        let (kept, dropped) = attached.compiled.iter().cloned().partition(in_force);
        attached.compiled = kept;
        self.drop_compiled(key, dropped, &attached);
        let moved = attached.has_homeless_host
            || attached.places != places_before
            || !attached.compiled.iter().map(Arc::as_ptr).eq(compiled_before);
        self.virtual_services.insert(key.clone(), attached);
        moved
    }

    /// The servers of a VirtualService's Gateways.
    fn servers<'a>(&'a self, attached: &'a Attached) -> impl Iterator<Item = &'a ServerPlace> {
        attached.gateways.iter().flat_map(|gateway| self.plan.servers_of(gateway))
    }

    /// Adds a VirtualService's routes to the hosts of servers, compiled for each binding once. What `before` holds is
    /// compiled from the VirtualService as it was.
    fn place(
        &mut self,
        key: &ResourceKey,
        attached: &mut Attached,
        servers: &[ServerPlace],
        before: &[Arc<CompiledVirtualService>],
    ) {
        let Some(resource) = self.set.get(key).cloned() else { return };
        let Some(spec) = resource.spec::<VirtualService>() else { return };
        let (proxy, mesh) = (&self.scope, &self.mesh);
        let context = Context { proxy, mesh, set: &self.set, limits: &self.limits, backend: &self.backend };
        if spec.hosts.is_empty()
            || !is_visible(&spec.export_to, mesh.virtual_service_export_to(), &key.namespace, &proxy.namespace)
        {
            return;
        }
        for server in servers {
            let Some(group) = self.groups.get_mut(&server.group) else { continue };
            let domains = group.intersect(server.index, &attached.hosts, &key.namespace);
            if domains.is_empty() {
                continue;
            }
            let known = attached.compiled.iter().find(|compiled| compiled.binding == server.binding);
            let compiled = if let Some(known) = known {
                known.clone()
            } else {
                let previous = before.iter().find(|compiled| compiled.binding == server.binding).map(Arc::as_ref);
                let binding = server.binding.clone();
                let compiled =
                    CompiledVirtualService::new(&resource, spec, binding, &context, &mut self.targets, previous);
                for id in compiled.target_ids() {
                    self.users.entry(id).or_default().insert(key.clone());
                }
                let compiled = Arc::new(compiled);
                attached.compiled.push(compiled.clone());
                compiled
            };
            // A VirtualService without a rule for this gateway and port makes no host here.
            if compiled.routes().next().is_none() {
                continue;
            }
            for domain in domains {
                group.attach(&domain, server.index, &compiled);
                attached.places.push((server.group.clone(), domain));
            }
        }
        attached.places.sort();
        let has_home = |host: &HostPattern| attached.places.iter().any(|(_, domain)| domain.narrower(host).is_some());
        attached.has_homeless_host = !attached.hosts.iter().all(has_home);
    }

    /// Ends the uses of what is not in force any more.
    fn drop_compiled(&mut self, key: &ResourceKey, dropped: Vec<Arc<CompiledVirtualService>>, attached: &Attached) {
        let kept: HashSet<ClusterId, RandomState> =
            attached.compiled.iter().flat_map(|compiled| compiled.target_ids()).collect();
        for compiled in dropped {
            for id in compiled.target_ids().filter(|id| !kept.contains(id)) {
                forget(&mut self.users, &id, key);
            }
            compiled.release(&mut self.targets);
        }
    }

    /// Finds out anew which tokens are accepted where.
    fn authenticate(&mut self) {
        self.authentications.update(&self.set, &self.scope, self.mesh.root_namespace());
        for group in self.groups.values_mut() {
            group.authenticate(self.authentications.of_group(&group.plan));
        }
    }

    /// Builds the hosts that were touched; whether any route configuration came out different.
    fn build_groups(&mut self) -> bool {
        let mut changed = false;
        for group in self.groups.values_mut() {
            let before = group.routes().clone();
            changed |= !Arc::ptr_eq(group.build(), &before);
        }
        changed
    }

    /// What a cluster id stands for, for tests that compare tables of different compilers.
    #[cfg(test)]
    pub(super) fn target(&self, id: ClusterId) -> Option<&super::targets::Target> {
        self.targets.get(id)
    }
}

/// The Gateways that a VirtualService names, `mesh` aside.
pub(super) fn gateways(spec: &VirtualService, namespace: &str) -> Vec<Arc<str>> {
    let mut gateways = Vec::with_capacity(spec.gateways.len());
    for name in spec.gateways.iter().filter(|name| *name != MESH) {
        let name = qualify_gateway(name, namespace);
        if !gateways.contains(&name) {
            gateways.push(name);
        }
    }
    gateways
}

pub(super) fn hosts(spec: &VirtualService, namespace: &str) -> Vec<HostPattern> {
    spec.hosts.iter().map(|host| HostPattern::new(&qualify_host(host, namespace))).collect()
}

/// Whether two states of a resource compile to the same: status and bookkeeping do not count.
fn means_the_same(old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>) -> bool {
    match (old, new) {
        (None, None) => true,
        (Some(old), Some(new)) => {
            Arc::ptr_eq(old, new)
                || (old.spec == new.spec
                    && old.meta.labels == new.meta.labels
                    && annotations(old).eq(annotations(new))
                    && old.meta.creation_timestamp == new.meta.creation_timestamp)
        }
        _ => false,
    }
}

/// The values of the annotations that mean something.
fn annotations(resource: &Resource) -> impl Iterator<Item = Option<&String>> {
    [DRY_RUN, PROXY_CONFIG].into_iter().map(|name| resource.meta.annotations.get(name))
}

fn forget<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, BTreeSet<ResourceKey>, RandomState>,
    key: &K,
    user: &ResourceKey,
) {
    if let Some(users) = map.get_mut(key) {
        users.remove(user);
        if users.is_empty() {
            map.remove(key);
        }
    }
}
