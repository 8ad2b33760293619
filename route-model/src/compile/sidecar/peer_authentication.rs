//! PeerAuthentications: which connections a workload takes.

use crate::compile::names::Seniority;
use crate::compile::virtual_service::Context;
use crate::kinds::peer_authentication::{MutualTls as Written, MutualTlsMode, PeerAuthentication};
use crate::table::MutualTls;

/// The policies in force for a workload: the oldest of each level.
#[derive(Debug, Default)]
pub(super) struct PeerAuthentications<'a> {
    workload: Option<&'a PeerAuthentication>,
    namespace: Option<&'a PeerAuthentication>,
    mesh: Option<&'a PeerAuthentication>,
}

impl<'a> PeerAuthentications<'a> {
    /// As in Istio a selector in the root namespace selects nothing.
    pub(super) fn of(context: &Context<'a>) -> Self {
        let (own, root) = (&*context.proxy.namespace, context.mesh.root_namespace());
        let mut all: Vec<_> = context.set.specs::<PeerAuthentication>().collect();
        all.sort_by_cached_key(|(resource, _)| Seniority::of(resource));
        let mut found = Self::default();
        for (resource, policy) in all {
            let home = &*resource.key.namespace;
            let labels = policy.selector.as_ref().map(|selector| &selector.match_labels);
            let level = match labels.filter(|labels| !labels.is_empty()) {
                None if home == root => &mut found.mesh,
                None if home == own => &mut found.namespace,
                Some(labels)
                    if home == own
                        && home != root
                        && labels.iter().all(|(key, value)| context.proxy.labels.get(key) == Some(value)) =>
                {
                    &mut found.workload
                }
                _ => continue,
            };
            level.get_or_insert(policy);
        }
        found
    }

    /// What the whole workload takes: as the narrowest policy says that says anything.
    pub(super) fn mode(&self) -> MutualTls {
        let mut levels = [self.workload, self.namespace, self.mesh].into_iter().flatten();
        levels.find_map(|policy| said(policy.mtls.as_ref())).unwrap_or_default()
    }

    /// What is said of a port of the workload itself.
    pub(super) fn said_of_port(&self, port: u16) -> Option<MutualTls> {
        let mut ports = self.workload?.port_level_mtls.iter();
        let (_, mode) = ports.find(|(number, _)| number.parse() == Ok(port))?;
        said(Some(mode))
    }
}

fn said(written: Option<&Written>) -> Option<MutualTls> {
    match *written?.mode {
        MutualTlsMode::Unset => None,
        MutualTlsMode::Disable => Some(MutualTls::Disable),
        MutualTlsMode::Permissive => Some(MutualTls::Permissive),
        MutualTlsMode::Strict => Some(MutualTls::Strict),
    }
}
