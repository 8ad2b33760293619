//! Authorization: who may do what, by the AuthorizationPolicies of a proxy.
//!
//! In Istio's order: what a CUSTOM rule takes is denied (external authorization is not in force yet), before anybody looks
//! at tokens; then what a DENY rule takes; where there is an ALLOW policy, what none of its rules takes. AUDIT and dry-run
//! policies decide nothing.
//! A rule is met through an `index`, so that a request is held against few of thousands.

mod addresses;
mod facts;
mod index;
mod term;
mod text;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

pub use self::addresses::AddressSet;
pub use self::facts::{Attribute, Facts};
pub use self::term::{Check, Term, Which};
pub use self::text::TextSet;

use self::index::Index;
pub use crate::kinds::authorization_policy::Action;
use crate::meta::ResourceKey;

/// The policies of a proxy.
#[derive(Clone, Default)]
pub struct Authorization {
    /// In the order of their names.
    policies: Box<[Arc<Policy>]>,
    http: Scopes,
    tcp: Scopes,
    /// There are CUSTOM policies in force.
    external: bool,
}

/// An AuthorizationPolicy, ready to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub resource: ResourceKey,
    pub action: Action,
    /// `istio.io/dry-run`: what it would do is counted, and done to nobody.
    pub dry_run: bool,
    /// Only for what these Gateways' servers take; empty: for the whole proxy.
    pub gateways: Box<[ResourceKey]>,
    /// For requests.
    pub http: Box<[Arc<Rule>]>,
    /// For connections that are not HTTP to the proxy, which show less.
    pub tcp: Box<[Arc<Rule>]>,
}

/// One of `from`, one of `to`, and all of `when`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Index in `spec.rules`.
    pub number: usize,
    /// The response code details of a request that it denies: `rbac_access_denied_matched_policy[ns[…]-policy[…]-rule[…]]`.
    pub denial: Arc<str>,
    /// Alternatives, of each of which all must hold. Empty: everything does.
    pub from: Box<[Box<[Term]>]>,
    pub to: Box<[Box<[Term]>]>,
    pub when: Box<[Term]>,
}

/// The response code details of a request that no ALLOW rule takes.
pub const NOT_ALLOWED: &str = "rbac_access_denied_matched_policy[none]";

/// What the policies say about a request or connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdict<'t> {
    /// `None`: it may pass.
    pub denied: Option<Denial<'t>>,
    /// The ALLOW rule that lets it pass.
    pub allowed: Option<Match<'t>>,
    pub audited: Option<Match<'t>>,
    /// What the policies on trial would do.
    pub trial_denied: Option<Denial<'t>>,
    pub trial_allowed: Option<Match<'t>>,
}

/// Why something is denied.
#[derive(Clone, Copy, Debug)]
pub enum Denial<'t> {
    /// A DENY or CUSTOM rule takes it.
    By(Match<'t>),
    /// There are ALLOW policies, and no rule of theirs takes it.
    NotAllowed,
}

/// A rule that takes a request.
#[derive(Clone, Copy, Debug)]
pub struct Match<'t> {
    /// Index into [`Authorization::policies`].
    pub policy: usize,
    pub rule: &'t Arc<Rule>,
}

/// The policies of the whole proxy, and those of single Gateways.
#[derive(Clone, Debug, Default)]
struct Scopes {
    whole: Indexes,
    gateways: HashMap<ResourceKey, Indexes, RandomState>,
}

#[derive(Clone, Debug, Default)]
struct Indexes {
    custom: Index,
    deny: Index,
    audit: Index,
    allow: Index,
    /// There is an ALLOW policy, be it without rules.
    allows: bool,
    trial_deny: Index,
    trial_allow: Index,
    trial_allows: bool,
}

impl Authorization {
    /// `policies` in any order.
    pub fn new(mut policies: Vec<Arc<Policy>>) -> Self {
        policies.sort_by(|a, b| a.resource.cmp(&b.resource));
        let http = Scopes::new(&policies, |policy| &policy.http);
        let tcp = Scopes::new(&policies, |policy| &policy.tcp);
        let external = policies.iter().any(|policy| policy.action == Action::Custom && !policy.dry_run);
        Self { policies: policies.into(), http, tcp, external }
    }

    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Whether there is a CUSTOM policy, be it for one Gateway.
    pub fn has_external(&self) -> bool {
        self.external
    }

    /// Whether any policy is for what the servers of one of these Gateways take.
    pub fn concerns<'g>(&self, mut gateways: impl Iterator<Item = &'g ResourceKey>) -> bool {
        let Self { http, tcp, .. } = self;
        self.policies.iter().any(|policy| policy.gateways.is_empty())
            || gateways.any(|gateway| http.gateways.contains_key(gateway) || tcp.gateways.contains_key(gateway))
    }

    /// What all policies say about a request, or about a connection where the facts have no head. `gateways` are those
    /// whose server took it, each once. Allocates nothing.
    ///
    /// For a request whose tokens are looked at, ask [`judge_external`](Self::judge_external) before and
    /// [`judge_own`](Self::judge_own) after that.
    pub fn judge<'t, 'g>(&'t self, gateways: impl Iterator<Item = &'g ResourceKey>, facts: &Facts<'_>) -> Verdict<'t> {
        let sets = self.sets(gateways, facts);
        match external(&sets, facts) {
            Some(found) => Verdict { denied: Some(Denial::By(found)), ..Verdict::default() },
            None => own(&sets, facts),
        }
    }

    /// The CUSTOM rule that takes a request or connection, which is denied then and shown to no other policy.
    pub fn judge_external<'t, 'g>(
        &'t self,
        gateways: impl Iterator<Item = &'g ResourceKey>,
        facts: &Facts<'_>,
    ) -> Option<Match<'t>> {
        external(&self.sets(gateways, facts), facts)
    }

    /// What the policies of all other actions say.
    pub fn judge_own<'t, 'g>(
        &'t self,
        gateways: impl Iterator<Item = &'g ResourceKey>,
        facts: &Facts<'_>,
    ) -> Verdict<'t> {
        own(&self.sets(gateways, facts), facts)
    }

    /// The policies of the whole proxy, and those of these Gateways.
    fn sets<'t, 'g>(&'t self, gateways: impl Iterator<Item = &'g ResourceKey>, facts: &Facts<'_>) -> Sets<'t> {
        let scopes = if facts.head.is_some() { &self.http } else { &self.tcp };
        let of_gateways = gateways.filter_map(|gateway| scopes.gateways.get(gateway));
        let targeted = (!scopes.gateways.is_empty()).then_some(of_gateways);
        std::iter::once(&scopes.whole).chain(targeted.into_iter().flatten()).collect()
    }
}

/// Those that are asked about one request.
type Sets<'t> = SmallVec<[&'t Indexes; 4]>;

fn external<'t>(sets: &Sets<'t>, facts: &Facts<'_>) -> Option<Match<'t>> {
    sets.iter().find_map(|indexes| indexes.custom.find(facts))
}

fn own<'t>(sets: &Sets<'t>, facts: &Facts<'_>) -> Verdict<'t> {
    let first = |pick: fn(&Indexes) -> &Index| sets.iter().find_map(|indexes| pick(indexes).find(facts));
    let mut verdict = Verdict {
        audited: first(|indexes| &indexes.audit),
        trial_denied: first(|indexes| &indexes.trial_deny).map(Denial::By),
        ..Verdict::default()
    };
    if verdict.trial_denied.is_none() && sets.iter().any(|indexes| indexes.trial_allows) {
        verdict.trial_allowed = first(|indexes| &indexes.trial_allow);
        verdict.trial_denied = verdict.trial_allowed.is_none().then_some(Denial::NotAllowed);
    }
    verdict.denied = first(|indexes| &indexes.deny).map(Denial::By);
    if verdict.denied.is_none() && sets.iter().any(|indexes| indexes.allows) {
        verdict.allowed = first(|indexes| &indexes.allow);
        verdict.denied = verdict.allowed.is_none().then_some(Denial::NotAllowed);
    }
    verdict
}

/// Everything is made from the policies.
impl PartialEq for Authorization {
    fn eq(&self, other: &Self) -> bool {
        self.policies == other.policies
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("policies", &self.policies).finish_non_exhaustive()
    }
}

impl Policy {
    /// Whether the policy is for what one of these Gateways takes.
    pub fn is_for<'g>(&self, mut gateways: impl Iterator<Item = &'g ResourceKey>) -> bool {
        self.gateways.is_empty() || gateways.any(|gateway| self.gateways.contains(gateway))
    }
}

impl Rule {
    pub fn takes(&self, facts: &Facts<'_>) -> bool {
        let one_of = |alternatives: &[Box<[Term]>]| {
            alternatives.is_empty() || alternatives.iter().any(|all| all.iter().all(|term| term.holds(facts)))
        };
        self.when.iter().all(|term| term.holds(facts)) && one_of(&self.to) && one_of(&self.from)
    }

    /// Why the rule does not take a request, in words; of alternatives the first is spoken of. `None`: it does.
    pub fn failure(&self, facts: &Facts<'_>) -> Option<String> {
        for alternatives in [&self.from, &self.to] {
            let mut failures = alternatives.iter().map(|all| all.iter().find(|term| !term.holds(facts)));
            if alternatives.is_empty() || failures.clone().any(|failure| failure.is_none()) {
                continue;
            }
            return failures.next().flatten().map(|term| term.failure(facts));
        }
        self.when.iter().find(|term| !term.holds(facts)).map(|term| term.failure(facts))
    }
}

impl Denial<'_> {
    /// The response code details, as Envoy has them.
    pub fn details(&self) -> Option<&Arc<str>> {
        match self {
            Self::By(found) => Some(&found.rule.denial),
            Self::NotAllowed => None,
        }
    }
}

impl Scopes {
    fn new(policies: &[Arc<Policy>], rules: fn(&Policy) -> &[Arc<Rule>]) -> Self {
        let whole = Indexes::new(policies, rules, |policy| policy.gateways.is_empty());
        let mut gateways: Vec<&ResourceKey> = policies.iter().flat_map(|policy| &policy.gateways).collect();
        gateways.sort_unstable();
        gateways.dedup();
        let gateways = gateways.into_iter().map(|gateway| {
            (gateway.clone(), Indexes::new(policies, rules, |policy| policy.gateways.contains(gateway)))
        });
        Self { whole, gateways: gateways.collect() }
    }
}

impl Indexes {
    fn new(policies: &[Arc<Policy>], rules: fn(&Policy) -> &[Arc<Rule>], belongs: impl Fn(&Policy) -> bool) -> Self {
        let of = |action, dry_run| {
            let chosen = policies.iter().enumerate().filter(move |(_, policy)| {
                policy.action == action && (policy.dry_run == dry_run || matches!(action, Action::Audit))
            });
            chosen.filter(|(_, policy)| belongs(policy))
        };
        let index = |action, dry_run| {
            Index::new(of(action, dry_run).flat_map(|(at, policy)| rules(policy).iter().map(move |rule| (at, rule))))
        };
        Self {
            custom: index(Action::Custom, false),
            deny: index(Action::Deny, false),
            audit: index(Action::Audit, false),
            allow: index(Action::Allow, false),
            allows: of(Action::Allow, false).next().is_some(),
            trial_deny: index(Action::Deny, true),
            trial_allow: index(Action::Allow, true),
            trial_allows: of(Action::Allow, true).next().is_some(),
        }
    }
}
