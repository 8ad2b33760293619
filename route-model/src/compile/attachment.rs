//! Where a security policy applies: what it selects or is attached to.

use super::ProxyScope;
use crate::kind::Kind;
use crate::kinds::selector::{LabelSelector, TargetRef};
use crate::meta::ResourceKey;

/// What of a proxy a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// Other workloads.
    Nowhere,
    /// Everything that the proxy serves.
    Proxy,
    /// What these Gateways' servers take. Whether the proxy serves them is another question.
    Gateways(Vec<ResourceKey>),
}

impl Attachment {
    /// Of a policy in `namespace`. A policy of the root namespace is for the workloads of all namespaces.
    pub fn of<'t>(
        namespace: &str,
        selector: Option<&LabelSelector>,
        targets: impl Iterator<Item = &'t TargetRef>,
        scope: &ProxyScope,
        root_namespace: &str,
    ) -> Self {
        let mut targets = targets.peekable();
        if targets.peek().is_some() {
            let gateways: Vec<_> = targets.filter_map(|target| gateway(namespace, target)).collect();
            return if gateways.is_empty() { Self::Nowhere } else { Self::Gateways(gateways) };
        }
        if (namespace == &*scope.namespace || namespace == root_namespace) && selects(selector, scope) {
            Self::Proxy
        } else {
            Self::Nowhere
        }
    }
}

/// Whether the labels fit, wherever the policy is.
pub(super) fn selects(selector: Option<&LabelSelector>, scope: &ProxyScope) -> bool {
    selector
        .is_none_or(|selector| selector.match_labels.iter().all(|(key, value)| scope.labels.get(key) == Some(value)))
}

/// The Gateway of `networking.istio.io` that a reference names; those of other groups are none of a proxy's.
pub(super) fn gateway(namespace: &str, target: &TargetRef) -> Option<ResourceKey> {
    (*target.group == "networking.istio.io" && *target.kind == "Gateway")
        .then(|| ResourceKey::new(Kind::Gateway, namespace, target.name.as_str()))
}
