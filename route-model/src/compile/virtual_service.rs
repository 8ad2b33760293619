//! From a VirtualService to the routes that it adds to each of its hosts.

use std::sync::Arc;

use super::ProxyScope;
use super::backend::BackendPolicies;
use super::delegate::{delegates, expand};
use super::finding::Finding;
use super::limits::Limits;
use super::matches::MatchScope;
use super::mesh::Mesh;
use super::names::Seniority;
use super::rule::{CompiledRoute, CompiledRule, RuleScope, TargetField, compile_rule};
use super::targets::Targets;
use crate::field::FieldPath;
use crate::kind::Kind;
use crate::kinds::VirtualService;
use crate::meta::ResourceKey;
use crate::resource::{Resource, ResourceSet};
use crate::table::ClusterId;

/// What decides how a VirtualService compiles, beside itself and its delegates.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Binding {
    /// The `namespace/name` of the Gateway that it is attached to.
    pub(super) gateway: Arc<str>,
    /// As written in the Gateway.
    pub(super) port: u16,
    pub(super) tls: bool,
}

/// A VirtualService compiled for one binding.
#[derive(Debug)]
pub(super) struct CompiledVirtualService {
    pub(super) binding: Binding,
    pub(super) resource: Arc<Resource>,
    pub(super) seniority: Seniority,
    /// By rule, up to the first that takes everything.
    rules: Vec<Arc<CompiledRule>>,
    /// The rules stand where `spec.http` has them: there are no delegates.
    plain: bool,
    /// Where each rule was written.
    places: Vec<Option<(ResourceKey, usize)>>,
}

impl CompiledVirtualService {
    /// Compiles, taking over from `previous` the rules that did not change. Counts a use of every target.
    pub(super) fn new(
        resource: &Arc<Resource>,
        spec: &VirtualService,
        binding: Binding,
        context: &Context<'_>,
        targets: &mut Targets,
        previous: Option<&Self>,
    ) -> Self {
        let key = &resource.key;
        let plain = delegates(key, spec).next().is_none();
        let before = previous.filter(|previous| plain && previous.plain);
        let old_rules = before.and_then(|previous| previous.resource.spec::<VirtualService>());
        let matches = MatchScope { gateway: &binding.gateway, port: binding.port, proxy: context.proxy };
        let gateway = binding.gateway.split_once('/');
        let gateway = gateway.map(|(namespace, name)| Arc::new(ResourceKey::new(Kind::Gateway, namespace, name)));
        let scope = RuleScope { matches, tls: binding.tls, gateway: &gateway, max_request_body: None };
        let mut rules: Vec<Arc<CompiledRule>> = Vec::with_capacity(spec.http.len());
        let mut places = Vec::new();
        let (default_export_to, default_body) =
            (context.mesh.virtual_service_export_to(), context.mesh.max_request_body());
        for (i, rule) in expand(key, spec, context.set, default_export_to).rules.into_iter().enumerate() {
            let unchanged = old_rules.and_then(|old| (*old.http).get(i)).is_some_and(|old| *old == *rule.http);
            let limits = context.limits.of_rule(&binding.gateway, key, &rule, context.set);
            let max_request_body =
                context.backend.max_request_body(&binding.gateway, key, &rule, context.set, default_body);
            let known = before.filter(|_| unchanged).and_then(|before| before.rules.get(i));
            let known = known.filter(|known| known.limits == limits && known.max_request_body == max_request_body);
            let scope = RuleScope { max_request_body, ..scope };
            let compiled = if let Some(known) = known {
                known.targets.iter().for_each(|target| targets.retain(target.id));
                known.clone()
            } else {
                let previous = rules.last().map(|rule| &**rule);
                Arc::new(compile_rule(&rule, key, &scope, limits, previous, targets))
            };
            let ends = compiled.ends;
            rules.push(compiled);
            if !plain {
                places.push(rule.delegate);
            }
            if ends {
                break;
            }
        }
        Self { binding, resource: resource.clone(), seniority: Seniority::of(resource), rules, plain, places }
    }

    pub(super) fn key(&self) -> &ResourceKey {
        &self.resource.key
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = &CompiledRoute> {
        self.rules.iter().flat_map(|rule| &rule.routes)
    }

    /// How many rules, from the first, can take a request; those that follow a rule that takes all cannot.
    pub(super) fn rule_count(&self) -> usize {
        self.rules.len()
    }

    pub(super) fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.rules.iter().flat_map(|rule| &rule.findings)
    }

    pub(super) fn target_ids(&self) -> impl Iterator<Item = ClusterId> {
        self.rules.iter().flat_map(|rule| &rule.targets).map(|target| target.id)
    }

    /// The targets and the fields that name them.
    pub(super) fn targets(&self) -> impl Iterator<Item = (ClusterId, TargetPlace<'_>)> {
        self.rules.iter().enumerate().flat_map(move |(rule, compiled)| {
            let delegate = self.places.get(rule).and_then(Option::as_ref);
            let (resource, rule) = delegate.map_or((self.key(), rule), |(key, rule)| (key, *rule));
            compiled.targets.iter().map(move |target| (target.id, TargetPlace { resource, rule, field: target.field }))
        })
    }

    /// Ends the uses that were counted.
    pub(super) fn release(&self, targets: &mut Targets) {
        self.target_ids().for_each(|id| targets.release(id));
    }
}

/// The field of a resource that names a target, below `spec.http[rule]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetPlace<'a> {
    pub(super) resource: &'a ResourceKey,
    rule: usize,
    field: TargetField,
}

impl TargetPlace<'_> {
    pub(super) fn path(&self) -> FieldPath {
        FieldPath::new(&format!("spec.http[{}].{}", self.rule, self.field))
    }
}

/// What a VirtualService is compiled with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) proxy: &'a ProxyScope,
    pub(super) set: &'a ResourceSet,
    pub(super) limits: &'a Limits,
    pub(super) backend: &'a BackendPolicies,
    pub(super) mesh: &'a Mesh,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("proxy", self.proxy).finish_non_exhaustive()
    }
}
