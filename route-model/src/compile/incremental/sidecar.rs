//! The updates of a compiler that works for a sidecar.

use std::sync::Arc;

use super::{Compiler, Dirty};
use crate::compile::Compiled;
use crate::compile::clusters::Sources;
use crate::compile::sidecar::{Sidecar, Sources as Made};
use crate::compile::virtual_service::Context;
use crate::kind::Kind;
use crate::kinds::ServiceEntry;
use crate::resource::{Resource, ResourceSet};
use crate::table::RouteTable;

impl Compiler {
    /// Gives a sidecar's table.
    pub(super) fn update_sidecar(
        &mut self,
        mut sidecar: Box<Sidecar>,
        set: &ResourceSet,
        mut dirty: Dirty,
    ) -> Compiled {
        if dirty.mesh {
            self.settle();
        }
        if dirty.mesh || dirty.authentication {
            self.authentications.update(&self.set, &self.scope, self.mesh.root_namespace());
        }
        if dirty.mesh || dirty.authentication || dirty.sidecar || !sidecar.is_started() {
            let (proxy, mesh) = (&self.scope, &self.mesh);
            let context = Context { proxy, mesh, set: &self.set, limits: &self.limits, backend: &self.backend };
            dirty.targets.hosts.extend(sidecar.update(Made {
                context,
                services: &self.services,
                authentications: &mut self.authentications,
                targets: &mut self.targets,
            }));
        }
        let sources = Sources {
            services: &self.services,
            rules: &self.rules,
            set: &self.set,
            mesh: &self.mesh,
            proxy: &self.scope,
            limits: &self.limits,
            sidecar: Some(&sidecar),
        };
        self.clusters.update(&mut self.targets, sources, &dirty.targets);
        let mut findings: Vec<_> = sidecar.findings().iter().chain(self.clusters.findings()).cloned().collect();
        findings.sort();
        findings.dedup();
        let table = RouteTable {
            revision: set.revision,
            listeners: sidecar.listeners().to_vec(),
            clusters: self.clusters.table(),
            settings: self.settings.clone(),
            limits: self.limits.table().to_vec(),
            authorization: self.policies.table().clone(),
        };
        self.sidecar = Some(sidecar);
        Compiled { table: Arc::new(table), findings }
    }
}

/// Whether a change of a resource of a kind may be one of what a sidecar serves, and not of clusters alone.
pub(super) fn is_concerned(kind: Kind, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>) -> bool {
    match kind {
        Kind::VirtualService
        | Kind::Sidecar
        | Kind::PeerAuthentication
        | Kind::RateLimitPolicy
        | Kind::BackendPolicy => true,
        Kind::ServiceEntry => !old.zip(new).is_some_and(|(old, new)| differ_in_endpoints_alone(old, new)),
        _ => false,
    }
}

/// Whether the same services are declared, with other endpoints.
fn differ_in_endpoints_alone(old: &Resource, new: &Resource) -> bool {
    let (Some(old_spec), Some(new_spec)) = (old.spec::<ServiceEntry>(), new.spec::<ServiceEntry>()) else {
        return false;
    };
    old.meta.creation_timestamp == new.meta.creation_timestamp
        && ServiceEntry { endpoints: new_spec.endpoints.clone(), ..old_spec.clone() } == *new_spec
}
