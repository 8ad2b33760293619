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
        self.attached.change(key, old, new, |spec: &BackendPolicy| &spec.target_refs)
    }

    /// The longest body that a request of a rule may have. `None`: there is no limit.
    pub(super) fn max_request_body(
        &self,
        gateway: &str,
        root: &ResourceKey,
        rule: &Rule<'_>,
        set: &ResourceSet,
        default: Option<u64>,
    ) -> Option<u64> {
        match self.request_bodies(gateway, root, rule, set).first() {
            Some((_, bytes)) => (*bytes > 0).then_some(*bytes),
            None => default,
        }
    }

    /// The policies that say how long a body may be (0: as long as it likes), and what they say. The first one counts:
    /// the closest, and of equally close ones that of the smallest number.
    pub(super) fn request_bodies(
        &self,
        gateway: &str,
        root: &ResourceKey,
        rule: &Rule<'_>,
        set: &ResourceSet,
    ) -> Vec<(&ResourceKey, u64)> {
        let spec = |policy: &ResourceKey| set.get(policy)?.spec::<BackendPolicy>();
        let policies = self.attached.of_rule(gateway, root, rule, |policy| Some(&**spec(policy)?.target_refs));
        let said = policies.into_iter().filter_map(|(level, policy)| {
            let bytes = *spec(policy)?.request_body.as_ref()?.max_bytes.get()?;
            Some((level, policy, bytes))
        });
        let mut said: Vec<_> = said.collect();
        // Without a limit is more than any.
        said.sort_by_key(|(level, _, bytes)| (std::cmp::Reverse(*level), bytes.wrapping_sub(1)));
        said.into_iter().map(|(_, policy, bytes)| (policy, bytes)).collect()
    }

    /// What there is to say about the policies.
    pub(super) fn findings(set: &ResourceSet) -> impl Iterator<Item = Finding> {
        set.specs::<BackendPolicy>()
            .flat_map(|(resource, spec)| target_findings(&resource.key, &spec.target_refs, "nothing is decided", set))
    }
}
