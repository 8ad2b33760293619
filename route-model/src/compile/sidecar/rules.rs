//! The VirtualServices that are for the mesh, by what they are for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::egress::{Egress, Visible};
use crate::compile::incremental::hosts;
use crate::compile::names::{MESH, Seniority, is_visible};
use crate::compile::virtual_service::Context;
use crate::kinds::VirtualService;
use crate::resource::Resource;
use crate::table::HostPattern;

/// A VirtualService that the sidecar's workload is under.
pub(super) struct MeshService<'a> {
    pub(super) resource: &'a Arc<Resource>,
    pub(super) spec: &'a VirtualService,
    pub(super) hosts: Vec<HostPattern>,
}

/// All of them, oldest first.
pub(super) struct MeshRules<'a> {
    pub(super) list: Vec<MeshService<'a>>,
    exact: HashMap<HostPattern, Vec<usize>, RandomState>,
    /// Most specific first.
    wildcard: Vec<(HostPattern, Vec<usize>)>,
}

impl<'a> MeshRules<'a> {
    pub(super) fn new(egress: &Egress<'a>, context: &Context<'a>) -> Self {
        let viewer = &context.proxy.namespace;
        let default = context.mesh.virtual_service_export_to();
        let mut found: Vec<(Seniority, MeshService<'a>)> = Vec::new();
        for (resource, spec) in context.set.specs::<VirtualService>() {
            let home = &resource.key.namespace;
            let for_mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|name| name == MESH);
            if spec.hosts.is_empty() || !for_mesh || !is_visible(&spec.export_to, default, home, viewer) {
                continue;
            }
            let hosts = hosts(spec, home);
            if hosts.iter().any(|host| egress.brings_rules_for(home, host)) {
                found.push((Seniority::of(resource), MeshService { resource, spec, hosts }));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let list: Vec<_> = found.into_iter().map(|(_, service)| service).collect();
        let mut exact: HashMap<HostPattern, Vec<usize>, RandomState> = HashMap::default();
        let mut wildcard: HashMap<HostPattern, Vec<usize>, RandomState> = HashMap::default();
        for (index, service) in list.iter().enumerate() {
            for host in &service.hosts {
                let by_host = if host.suffix().is_none() { &mut exact } else { &mut wildcard };
                by_host.entry(host.clone()).or_default().push(index);
            }
        }
        let mut wildcard: Vec<_> = wildcard.into_iter().collect();
        wildcard.sort_by(|a, b| a.0.cmp_specific_first(&b.0));
        Self { list, exact, wildcard }
    }

    /// Those with the most specific host that covers this one, oldest first.
    pub(super) fn of_host(&self, host: &HostPattern) -> impl Iterator<Item = &MeshService<'a>> {
        let found = self.exact.get(host).or_else(|| {
            self.wildcard.iter().find(|(pattern, _)| host.is_subset_of(pattern)).map(|(_, services)| services)
        });
        found.into_iter().flatten().map(|index| &self.list[*index])
    }

    /// Those with a host that covers this one or is covered by it, oldest first.
    pub(super) fn touching(&self, host: &HostPattern) -> impl Iterator<Item = &MeshService<'a>> {
        self.list.iter().filter(move |service| service.hosts.iter().any(|own| own.narrower(host).is_some()))
    }

    /// The hosts that no service has: whole names that none is called by, and wildcards that cover none.
    pub(super) fn other_hosts(&self, visible: &[Visible<'_>]) -> Vec<HostPattern> {
        let known: HashSet<&HostPattern> = visible.iter().map(|service| &service.pattern).collect();
        let is_served = |host: &HostPattern| match host.suffix() {
            None => known.contains(host),
            Some(_) => known.iter().any(|service| service.is_subset_of(host)),
        };
        let mut seen = HashSet::new();
        let hosts = self.list.iter().filter(|service| !service.spec.http.is_empty()).flat_map(|service| &service.hosts);
        hosts.filter(|host| seen.insert(*host) && !is_served(host)).cloned().collect()
    }
}
