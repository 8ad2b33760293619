//! BackendPolicies: what requests may ask of the services behind a gateway.

use std::sync::Arc;

use super::attached::{AttachedPolicies, target_findings};
use super::delegate::Rule;
use super::finding::Finding;
use crate::kinds::BackendPolicy;
use crate::meta::ResourceKey;
use crate::resource::{Resource, ResourceSet};

/// All policies of a set.
#[derive(Debug, Default)]
pub(super) struct BackendPolicies {
    attached: AttachedPolicies,
}

impl BackendPolicies {
    /// Takes a policy over. Answers what has other policies now.
    pub(super) fn change(
        &mut self,
        key: &ResourceKey,
        old: Option<&Arc<Resource>>,
        new: Option<&Arc<Resource>>,
    ) -> Vec<ResourceKey> {
        let targets = |resource: Option<&Arc<Resource>>| {
            resource.and_then(|resource| resource.spec::<BackendPolicy>()).map(|spec| spec.target_refs.to_vec())
        };
        self.attached.change(key, targets(old).as_deref(), targets(new).as_deref())
    }

    /// The longest body that a request of a rule may have, by the closest policy that says so; of equally close ones
    /// the smallest. `None`: there is no limit.
    pub(super) fn max_request_body(
        &self,
        gateway: &str,
        root: &ResourceKey,
        rule: &Rule<'_>,
        set: &ResourceSet,
        default: Option<u64>,
    ) -> Option<u64> {
        let spec = |policy: &ResourceKey| set.get(policy)?.spec::<BackendPolicy>();
        let policies = self.attached.of_rule(gateway, root, rule, |policy| Some(&**spec(policy)?.target_refs));
        let said = policies.iter().filter_map(|(level, policy)| {
            let bytes = *spec(policy)?.request_body.as_ref()?.max_bytes.get()?;
            Some((*level, if bytes == 0 { u64::MAX } else { bytes }))
        });
        let closest = said.max_by(|(a, one), (b, other)| a.cmp(b).then(other.cmp(one)));
        match closest {
            Some((_, bytes)) => (bytes != u64::MAX).then_some(bytes),
            None => default,
        }
    }

    /// What there is to say about the policies.
    pub(super) fn findings(set: &ResourceSet) -> impl Iterator<Item = Finding> {
        set.specs::<BackendPolicy>()
            .flat_map(|(resource, spec)| target_findings(&resource.key, &spec.target_refs, "nothing is decided", set))
    }
}
