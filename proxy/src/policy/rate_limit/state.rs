//! The state of rate limits, which outlives tables: what an edit does not touch goes on where it was.

use std::collections::HashMap;
use std::sync::Arc;

use route_model::meta::ResourceKey;
use route_model::verdict::limits::LimitPolicy;

use super::bucket::Gcra;
use super::buckets::{Buckets, MAX_KEYS};
use crate::telemetry::rate_limits::{LimitCounts, LimitSeries};

/// A policy of a table with its state.
#[derive(Debug)]
pub(crate) struct PolicyState {
    pub(super) policy: Arc<LimitPolicy>,
    /// As in the policy.
    pub(super) rules: Box<[RuleState]>,
}

#[derive(Debug)]
pub(super) struct RuleState {
    pub(super) gcra: Gcra,
    pub(super) kept: Kept,
}

/// What stays while a rule of this name does.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) buckets: Arc<Buckets>,
    pub(super) counts: Arc<LimitCounts>,
}

/// The states of all rules, from table to table.
#[derive(Debug, Default)]
pub(crate) struct LimitStates {
    kept: HashMap<Identity, Kept, foldhash::fast::RandomState>,
}

/// Policy, rule, and whether its buckets are of each route apart.
type Identity = (ResourceKey, Box<str>, bool);

impl LimitStates {
    /// The states for a table's policies. `previous` is what was made for the table before.
    pub(crate) fn states(
        &mut self,
        policies: &[Option<Arc<LimitPolicy>>],
        previous: &[Option<Arc<PolicyState>>],
    ) -> Box<[Option<Arc<PolicyState>>]> {
        let mut states = Vec::with_capacity(policies.len());
        for (index, policy) in policies.iter().enumerate() {
            let before = previous.get(index).and_then(Option::as_ref);
            states.push(match (policy, before) {
                (Some(policy), Some(before)) if Arc::ptr_eq(policy, &before.policy) => Some(Arc::clone(before)),
                (Some(policy), _) => Some(Arc::new(self.state(policy))),
                (None, _) => None,
            });
        }
        let used: std::collections::HashSet<_> =
            policies.iter().flatten().flat_map(|policy| identities(policy)).collect();
        self.kept.retain(|identity, _| used.contains(identity));
        states.into()
    }

    fn state(&mut self, policy: &Arc<LimitPolicy>) -> PolicyState {
        let rules = policy.rules.iter().zip(identities(policy)).map(|(rule, identity)| {
            let new = || Kept { buckets: Arc::new(Buckets::new(MAX_KEYS)), counts: Arc::default() };
            let kept = self.kept.entry(identity).or_insert_with(new).clone();
            RuleState { gcra: Gcra::new(rule.rate), kept }
        });
        PolicyState { rules: rules.collect(), policy: Arc::clone(policy) }
    }

    /// What there is to count.
    pub(crate) fn series(&self) -> Vec<LimitSeries> {
        let series = self.kept.iter().map(|((policy, rule, _), kept)| LimitSeries {
            policy: format!("{}/{}", policy.namespace, policy.name),
            rule: rule.clone(),
            counts: Arc::clone(&kept.counts),
        });
        let mut series: Vec<_> = series.collect();
        series.sort_by(|a, b| (&a.policy, &a.rule).cmp(&(&b.policy, &b.rule)));
        series
    }
}

fn identities(policy: &LimitPolicy) -> impl Iterator<Item = Identity> {
    policy.rules.iter().map(|rule| (policy.resource.clone(), rule.name.clone(), policy.per_route))
}
