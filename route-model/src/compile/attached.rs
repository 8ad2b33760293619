//! Fairway's own policies by what they are attached to.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::delegate::Rule;
use super::finding::{Finding, Severity};
use crate::field::FieldPath;
use crate::kind::Kind;
use crate::kinds::VirtualService;
use crate::kinds::rate_limit_policy::{TargetKind, TargetRef};
use crate::meta::ResourceKey;
use crate::resource::{Resource, ResourceSet, SpecType};

/// The policies of one kind, by their targets.
#[derive(Debug, Default)]
pub(super) struct AttachedPolicies {
    by_target: HashMap<ResourceKey, BTreeSet<ResourceKey>, RandomState>,
}

/// How close a policy is to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Gateway,
    VirtualService,
    Rule,
}

impl AttachedPolicies {
    /// Takes over a policy's targets, which `refs` finds in it. Answers what has other policies now.
    pub(super) fn change<T: SpecType>(
        &mut self,
        policy: &ResourceKey,
        old: Option<&Arc<Resource>>,
        new: Option<&Arc<Resource>>,
        refs: impl Fn(&T) -> &[TargetRef],
    ) -> Vec<ResourceKey> {
        let targets = |resource: Option<&Arc<Resource>>| -> Vec<ResourceKey> {
            let spec = resource.and_then(|resource| resource.spec::<T>());
            spec.into_iter().flat_map(&refs).map(|to| target(policy, to)).collect()
        };
        let (old, new) = (targets(old), targets(new));
        for target in &old {
            if let Some(policies) = self.by_target.get_mut(target) {
                policies.remove(policy);
                if policies.is_empty() {
                    self.by_target.remove(target);
                }
            }
        }
        for target in &new {
            self.by_target.entry(target.clone()).or_default().insert(policy.clone());
        }
        old.into_iter().chain(new).collect()
    }

    /// The policies that name a target, in order.
    pub(super) fn of_target(&self, target: &ResourceKey) -> impl Iterator<Item = &ResourceKey> {
        self.by_target.get(target).into_iter().flatten()
    }

    /// The policies of a rule, of a VirtualService that is bound to a Gateway (`namespace/name`): those of the Gateway
    /// first, those of the rule last; one that is for it in two ways comes twice. `refs` knows a policy's targets.
    pub(super) fn of_rule<'a>(
        &self,
        gateway: &str,
        root: &ResourceKey,
        rule: &Rule<'_>,
        refs: impl Fn(&ResourceKey) -> Option<&'a [TargetRef]>,
    ) -> Vec<(Level, &ResourceKey)> {
        let mut found: Vec<(Level, &ResourceKey)> = Vec::new();
        if self.by_target.is_empty() {
            return found;
        }
        let of = |target: &ResourceKey| self.by_target.get(target).into_iter().flatten();
        if let Some((namespace, name)) = gateway.split_once('/') {
            let gateway = ResourceKey::new(Kind::Gateway, namespace, name);
            found.extend(of(&gateway).map(|policy| (Level::Gateway, policy)));
        }
        let services = || std::iter::once(root).chain(rule.delegate.as_ref().map(|(delegate, _)| delegate));
        for level in [Level::VirtualService, Level::Rule] {
            for service in services() {
                let is_for = |policy: &ResourceKey| {
                    refs(policy).into_iter().flatten().any(|to| {
                        let section = &*to.section_name;
                        let named = if level == Level::Rule {
                            *section == *rule.http.name && !section.is_empty()
                        } else {
                            section.is_empty()
                        };
                        named && target(policy, to) == *service
                    })
                };
                found.extend(of(service).filter(|policy| is_for(policy)).map(|policy| (level, policy)));
            }
        }
        found
    }
}

/// What a reference of a policy names.
pub(super) fn target(policy: &ResourceKey, to: &TargetRef) -> ResourceKey {
    let kind = match *to.kind {
        TargetKind::VirtualService => Kind::VirtualService,
        TargetKind::Gateway => Kind::Gateway,
        TargetKind::ServiceEntry => Kind::ServiceEntry,
    };
    ResourceKey::new(kind, policy.namespace.clone(), to.name.as_str())
}

/// What there is to say about a policy's targets; `idle`: what does not happen where one is missing.
pub(super) fn target_findings(
    policy: &ResourceKey,
    targets: &[TargetRef],
    idle: &str,
    set: &ResourceSet,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |path, reason, message| {
        let severity = Severity::Unresolved;
        findings.push(Finding { resource: policy.clone(), path, severity, reason, message });
    };
    for (index, to) in targets.iter().enumerate() {
        let path = FieldPath::new("spec").field("targetRefs").index(index);
        let target = target(policy, to);
        let Some(resource) = set.get(&target) else {
            let message = format!("{target} does not exist, so {idle} there; create it or correct the name");
            add(path, "TargetNotFound", message);
            continue;
        };
        if let Some(service) = resource.spec::<VirtualService>()
            && !to.section_name.is_empty()
            && !service.http.iter().any(|rule| *rule.name == *to.section_name)
        {
            let message = format!(
                "no rule of {target} has the name `{}`, so {idle} there; name a rule's http[].name",
                *to.section_name
            );
            add(path.field("sectionName"), "SectionNotFound", message);
        }
    }
    findings
}
