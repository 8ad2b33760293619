//! What the authorization policies say.

use super::{ExplainedPolicy, Explanation, Outcome};
use crate::meta::ResourceKey;
use crate::table::RouteTable;
use crate::verdict::authorization::{Action, Denial, Facts, Policy, Rule};

/// Up to so many policies are all listed; of more only those that take the request.
const MAX_LISTED: usize = 200;
/// Of so many rules of a policy it is told why they do not take the request.
const MAX_RULES: usize = 10;

/// Lists the policies that apply and are asked now, with what they say. An outcome: they deny it.
pub(super) fn explain<'g>(
    table: &RouteTable,
    gateways: impl Iterator<Item = &'g ResourceKey> + Clone,
    facts: &Facts<'_>,
    stage: Stage,
    explanation: &mut Explanation,
) -> Option<Outcome> {
    let authorization = &table.authorization;
    let asked = |policy: &&Policy| match stage {
        Stage::All => true,
        Stage::BeforeTokens => policy.action == Action::Custom,
        Stage::AfterTokens => policy.action != Action::Custom,
    };
    let applying: Vec<&Policy> = authorization
        .policies()
        .iter()
        .map(|policy| &**policy)
        .filter(asked)
        .filter(|policy| policy.is_for(gateways.clone()))
        .collect();
    let crowded = applying.len() > MAX_LISTED;
    let explained = applying.into_iter().map(|policy| policy_verdict(policy, facts));
    explanation.policies.extend(explained.filter(|policy| !crowded || policy.rule.is_some()));
    let denial = match stage {
        Stage::All => authorization.judge(gateways, facts).denied?,
        Stage::BeforeTokens => Denial::By(authorization.judge_external(gateways, facts)?),
        Stage::AfterTokens => authorization.judge_own(gateways, facts).denied?,
    };
    let reason = match denial {
        Denial::By(found) => {
            let policy = &authorization.policies()[found.policy];
            let why = if policy.action == Action::Custom { " (no external provider is asked yet)" } else { "" };
            format!("{} spec.rules[{}] denies it{why}", policy.resource, found.rule.number)
        }
        Denial::NotAllowed => "no rule of the ALLOW policies takes it".to_owned(),
    };
    let connection = facts.head.is_none();
    let reason = if connection { format!("{reason}, so the connection is closed") } else { reason };
    Some(Outcome::Refused { status: (!connection).then_some(403), reason })
}

/// Which policies are asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// All at once, as nobody looks at tokens.
    All,
    /// Those of action CUSTOM.
    BeforeTokens,
    AfterTokens,
}

fn policy_verdict(policy: &Policy, facts: &Facts<'_>) -> ExplainedPolicy {
    let rules = if facts.head.is_some() { &policy.http } else { &policy.tcp };
    let taking = rules.iter().find(|rule| rule.takes(facts));
    let failure = |rule: &Rule| Some(format!("rules[{}]: {}", rule.number, rule.failure(facts)?));
    ExplainedPolicy {
        policy: policy.resource.clone(),
        action: match policy.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
            Action::Audit => "AUDIT",
            Action::Custom => "CUSTOM",
        }
        .to_owned(),
        dry_run: policy.dry_run,
        rule: taking.map(|rule| rule.number),
        failures: match taking {
            Some(_) => Vec::new(),
            None => rules.iter().take(MAX_RULES).filter_map(|rule| failure(rule)).collect(),
        },
    }
}
