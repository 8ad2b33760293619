//! Derived status: what the compiler found, what the proxies acknowledged, as `status.conditions` of a resource.
//!
//! Nothing of it is stored. [`derive`] is pure; the book that keeps the result and tells watchers is in
//! [`status_book`](super::status_book).

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use foldhash::fast::RandomState;
use jiff::Timestamp;
use route_model::compile::{Finding, Severity};
use route_model::field::FieldError;
use route_model::kind::Kind;
use route_model::meta::{ResourceKey, Revision};
use serde_json::{Value, json};

/// What one proxy runs, as it last said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyAck {
    pub node: Arc<str>,
    pub connected: bool,
    /// The newest revision that the proxy runs.
    pub acked: Revision,
    /// What of that revision it could not put in force.
    pub issues: Vec<ProxyIssue>,
    /// What is meant for it.
    pub reach: Reach,
}

/// Some resources.
pub(crate) type Keys = HashSet<ResourceKey, RandomState>;

/// The resources that proxies of one scope are sent, as of a revision. Cheap to clone.
#[derive(Clone, Default)]
pub struct Reach {
    revision: Revision,
    /// What other scopes have too.
    common: Arc<Keys>,
    own: Arc<Keys>,
}

impl Reach {
    pub fn new(revision: Revision, keys: impl IntoIterator<Item = ResourceKey>) -> Self {
        Self { revision, common: Arc::new(keys.into_iter().collect()), own: Arc::default() }
    }

    /// Of what a scope has in common with others, and of what it has beside that.
    pub(crate) fn of_both(revision: Revision, common: &Arc<Keys>, own: &Arc<Keys>) -> Self {
        Self { revision, common: common.clone(), own: own.clone() }
    }

    /// Whether a resource is among them that is as it is since this revision; unknown when that is too new to say.
    pub(crate) fn contains(&self, key: &ResourceKey, since: Revision) -> Option<bool> {
        (self.revision >= since).then(|| self.common.contains(key) || self.own.contains(key))
    }

    /// The same of what other scopes have too.
    pub(crate) fn common_contains(&self, key: &ResourceKey, since: Revision) -> Option<bool> {
        (self.revision >= since).then(|| self.common.contains(key))
    }

    /// Whether these are, by their making, the same as others at the same revision, apart from what each has alone.
    pub(crate) fn has_same_common(&self, other: &Self) -> bool {
        self.revision == other.revision && Arc::ptr_eq(&self.common, &other.common)
    }

    /// What others do not have.
    pub(crate) fn own(&self) -> &Keys {
        &self.own
    }
}

impl PartialEq for Reach {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Arc<Keys>, b: &Arc<Keys>| Arc::ptr_eq(a, b) || a == b;
        self.revision == other.revision && same(&self.common, &other.common) && same(&self.own, &other.own)
    }
}

impl Eq for Reach {}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reach({} resources at revision {})", self.common.len() + self.own.len(), self.revision)
    }
}

/// A resource, or a part of it, that a proxy could not put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyIssue {
    pub resource: ResourceKey,
    /// CamelCase, fit for a condition's `reason`: `PortInUse`, `CertificateKeyMismatch` …
    pub reason: String,
    pub message: String,
}

/// All proxies that are known, connected or not. The sender replaces the list with every acknowledgement.
pub type Acks = tokio::sync::watch::Receiver<Arc<[ProxyAck]>>;

/// One condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) kind: ConditionKind,
    /// Unknown while nothing has looked at the resource yet.
    pub(crate) holds: Option<bool>,
    pub(crate) reason: String,
    pub(crate) message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConditionKind {
    /// The resource is valid and can be in force.
    Accepted,
    /// What it refers to exists.
    ResolvedRefs,
    /// Every connected proxy that it is meant for runs it, and there is one.
    Programmed,
}

impl ConditionKind {
    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
        }
    }
}

/// What is known about one resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) key: &'a ResourceKey,
    /// Of this resource alone.
    pub(crate) findings: &'a [Finding],
    /// Why its row is not in force, and the generation that is instead.
    pub(crate) quarantine: Option<(&'a [FieldError], Option<i64>)>,
    /// A revision that holds the resource's current generation.
    pub(crate) since: Revision,
    pub(crate) proxies: &'a [ProxyAck],
}

/// `Accepted`, `ResolvedRefs` and `Programmed`, in this order.
pub(crate) fn derive(facts: Facts<'_>) -> [Condition; 3] {
    let accepted = accepted(facts);
    let programmed = programmed(facts, &accepted);
    [accepted, resolved_refs(facts), programmed]
}

/// The conditions of a resource that is not compiled yet.
pub(crate) fn pending() -> [Condition; 3] {
    [ConditionKind::Accepted, ConditionKind::ResolvedRefs, ConditionKind::Programmed].map(|kind| Condition {
        kind,
        holds: None,
        reason: "Pending".to_owned(),
        message: "the change has not been compiled yet".to_owned(),
    })
}

fn accepted(facts: Facts<'_>) -> Condition {
    let condition = |holds, reason: &str, message| Condition {
        kind: ConditionKind::Accepted,
        holds: Some(holds),
        reason: reason.to_owned(),
        message,
    };
    if let Some((errors, live)) = facts.quarantine {
        let mut message = joined(errors.iter());
        match live {
            Some(generation) => _ = write!(message, "; generation {generation}, the last valid one, stays in force"),
            None => message.push_str("; no form of it is in force"),
        }
        return condition(false, "Invalid", message);
    }
    let of = |severity| facts.findings.iter().filter(move |f| f.severity == severity);
    if let Some(first) = of(Severity::Rejected).next() {
        return condition(false, first.reason, joined(of(Severity::Rejected).map(located)));
    }
    match of(Severity::Warning).count() {
        0 => condition(true, "Accepted", "the resource is valid".to_owned()),
        _ => condition(
            true,
            "Accepted",
            format!("the resource is valid, but: {}", joined(of(Severity::Warning).map(located))),
        ),
    }
}

fn resolved_refs(facts: Facts<'_>) -> Condition {
    let unresolved = || facts.findings.iter().filter(|f| f.severity == Severity::Unresolved);
    let (holds, reason, message) = match unresolved().next() {
        Some(first) => (false, first.reason, joined(unresolved().map(located))),
        None => (true, "ResolvedRefs", "everything that the resource refers to exists".to_owned()),
    };
    Condition { kind: ConditionKind::ResolvedRefs, holds: Some(holds), reason: reason.to_owned(), message }
}

fn programmed(facts: Facts<'_>, accepted: &Condition) -> Condition {
    let condition = |holds, reason: &str, message: String| Condition {
        kind: ConditionKind::Programmed,
        holds: Some(holds),
        reason: reason.to_owned(),
        message,
    };
    if accepted.holds == Some(false) {
        return condition(false, &accepted.reason, accepted.message.clone());
    }
    let meant_for = |p: &&ProxyAck| p.reach.contains(facts.key, facts.since) != Some(false);
    let in_scope = || facts.proxies.iter().filter(|p| p.connected).filter(meant_for);
    if in_scope().next().is_none() {
        let why =
            if facts.proxies.iter().any(|p| p.connected) { nobody(facts.key.kind) } else { "no proxy is connected" };
        return condition(false, "NoProxies", why.to_owned());
    }
    let behind: Vec<&str> = in_scope().filter(|p| p.acked < facts.since).map(|p| &*p.node).collect();
    if !behind.is_empty() {
        let message = format!("waiting for {} to acknowledge revision {}", joined(behind.iter()), facts.since);
        return condition(false, "Pending", message);
    }
    let issues =
        || in_scope().flat_map(|p| p.issues.iter().map(move |i| (p, i))).filter(|(_, i)| i.resource == *facts.key);
    match issues().next() {
        Some((_, first)) => {
            let texts = issues().map(|(proxy, issue)| format!("{}: {}", proxy.node, issue.message));
            condition(false, &first.reason, joined(texts))
        }
        None => condition(true, "Programmed", "every connected proxy in its scope runs this generation".to_owned()),
    }
}

/// Why none of the connected proxies is sent a resource of this kind.
fn nobody(kind: Kind) -> &'static str {
    match kind {
        Kind::Gateway => "no connected proxy has the labels that the selector asks for",
        Kind::VirtualService => "it is bound to no Gateway of a connected proxy, or not exported to one's namespace",
        Kind::RateLimitPolicy | Kind::BackendPolicy => "none of its targets is served by a connected proxy",
        Kind::AuthorizationPolicy => {
            "it selects no connected proxy, is not in the proxy's namespace or the root namespace, and targets no Gateway \
             of one"
        }
        Kind::RequestAuthentication => {
            "it is for no connected proxy: by its namespace and selector, or by the Gateways that it targets"
        }
        Kind::DestinationRule | Kind::ServiceEntry | Kind::WorkloadEntry => {
            "no route of a connected proxy leads to it, or it is not exported to one's namespace"
        }
        _ => "no connected proxy acts on it",
    }
}

/// Texts beyond this many are only counted.
const MAX_TEXTS: usize = 8;

fn joined<T: std::fmt::Display>(texts: impl Iterator<Item = T>) -> String {
    let mut all = String::new();
    let mut more = 0;
    for (index, text) in texts.enumerate() {
        match index {
            0 => _ = write!(all, "{text}"),
            1..MAX_TEXTS => _ = write!(all, "; {text}"),
            _ => more += 1,
        }
    }
    if more > 0 {
        _ = write!(all, "; and {more} more");
    }
    all
}

/// `spec.http[0].route[1]: subset v3 is not defined …`
pub(crate) fn located(finding: &Finding) -> String {
    if finding.path.as_str().is_empty() {
        finding.message.clone()
    } else {
        format!("{}: {}", finding.path, finding.message)
    }
}

/// `status` of an object with this generation.
pub(crate) fn to_value(conditions: &[(Condition, Timestamp)], generation: i64) -> Value {
    let conditions = conditions.iter().map(|(condition, since)| {
        let status = match condition.holds {
            None => "Unknown",
            Some(true) => "True",
            Some(false) => "False",
        };
        json!({
            "type": condition.kind.name(),
            "status": status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": whole_seconds(*since),
            "observedGeneration": generation,
        })
    });
    json!({"conditions": conditions.collect::<Vec<_>>(), "observedGeneration": generation})
}

/// RFC 3339 in UTC with whole seconds, as Kubernetes writes times.
pub(crate) fn whole_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use route_model::field::{FieldCause, FieldPath};

    use super::*;

    fn key() -> ResourceKey {
        ResourceKey::new(Kind::VirtualService, "shop", "a")
    }

    fn proxy(node: &str, acked: u64) -> ProxyAck {
        let reach = Reach::new(Revision(acked), [key()]);
        ProxyAck { node: node.into(), connected: true, acked: Revision(acked), issues: Vec::new(), reach }
    }

    fn finding(severity: Severity, reason: &'static str) -> Finding {
        Finding {
            resource: key(),
            path: FieldPath::new("spec.gateways[0]"),
            severity,
            reason,
            message: "gateway shop/x does not exist".to_owned(),
        }
    }

    fn derived(findings: &[Finding], proxies: &[ProxyAck]) -> [(Option<bool>, String); 3] {
        let facts = Facts { key: &key(), findings, quarantine: None, since: Revision(5), proxies };
        derive(facts).map(|c| (c.holds, c.reason))
    }

    #[test]
    fn programmed_follows_the_acknowledgements() {
        let programmed = |proxies: &[ProxyAck]| derived(&[], proxies)[2].clone();
        let no = |reason: &str| (Some(false), reason.to_owned());
        assert_eq!(programmed(&[]), no("NoProxies"));
        assert_eq!(programmed(&[ProxyAck { connected: false, ..proxy("a", 9) }]), no("NoProxies"));
        assert_eq!(programmed(&[proxy("a", 5), proxy("b", 4)]), no("Pending"));
        assert_eq!(programmed(&[proxy("a", 5), proxy("b", 7)]), (Some(true), "Programmed".to_owned()));
        let issue = |resource| ProxyIssue { resource, reason: "PortInUse".into(), message: "port 80 is in use".into() };
        let troubled = ProxyAck { issues: vec![issue(key())], ..proxy("b", 5) };
        assert_eq!(programmed(&[proxy("a", 5), troubled]), no("PortInUse"));
        let other = ProxyAck { issues: vec![issue(ResourceKey::new(Kind::Gateway, "shop", "a"))], ..proxy("b", 5) };
        assert_eq!(programmed(&[other]).0, Some(true));
    }

    #[test]
    fn programmed_is_about_the_proxies_that_it_is_meant_for() {
        let programmed = |proxies: &[ProxyAck]| derived(&[], proxies)[2].clone();
        let elsewhere = |acked: u64| ProxyAck { reach: Reach::new(Revision(acked), []), ..proxy("b", acked) };
        assert_eq!(programmed(&[elsewhere(7)]), (Some(false), "NoProxies".to_owned()));
        assert_eq!(programmed(&[proxy("a", 5), elsewhere(5)]).0, Some(true));
        assert_eq!(programmed(&[proxy("a", 4), elsewhere(5)]).1, "Pending");
        assert_eq!(programmed(&[elsewhere(4)]).1, "Pending", "nobody has looked yet whether it is meant for this one");
    }

    #[test]
    fn findings_become_conditions_by_their_severity() {
        let up_to_date = [proxy("a", 5)];
        let [accepted, refs, programmed] = derived(&[finding(Severity::Warning, "RuleShadowed")], &up_to_date);
        assert_eq!((accepted.0, refs.0, programmed.0), (Some(true), Some(true), Some(true)));
        let [accepted, refs, programmed] = derived(&[finding(Severity::Unresolved, "GatewayNotFound")], &up_to_date);
        assert_eq!((accepted.0, refs, programmed.0), (Some(true), (Some(false), "GatewayNotFound".into()), Some(true)));
        let [accepted, _, programmed] = derived(&[finding(Severity::Rejected, "HostConflict")], &up_to_date);
        assert_eq!(accepted, (Some(false), "HostConflict".to_owned()));
        assert_eq!(programmed, accepted);
    }

    #[test]
    fn a_quarantined_row_says_what_is_in_force() {
        let errors = [FieldError::new(FieldPath::new("spec.hosts"), FieldCause::Required, "hosts are required")];
        let facts = Facts {
            key: &key(),
            findings: &[],
            quarantine: Some((&errors, Some(3))),
            since: Revision(5),
            proxies: &[proxy("a", 5)],
        };
        let [accepted, _, programmed] = derive(facts);
        assert_eq!((accepted.holds, accepted.reason.as_str()), (Some(false), "Invalid"));
        assert!(accepted.message.contains("spec.hosts: hosts are required; generation 3"), "{}", accepted.message);
        assert_eq!(programmed.holds, Some(false));
    }

    #[test]
    fn messages_are_bounded() {
        let many: Vec<_> = (0..20).map(|_| finding(Severity::Unresolved, "X")).collect();
        let facts = Facts { key: &key(), findings: &many, quarantine: None, since: Revision(5), proxies: &[] };
        assert!(derive(facts)[1].message.ends_with("and 12 more"));
    }
}
