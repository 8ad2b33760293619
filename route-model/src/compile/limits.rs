//! RateLimitPolicies: compiled each on its own, and found by what they are for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use super::attached::{AttachedPolicies, target_findings};
use super::delegate::Rule;
use super::finding::{Finding, Severity};
use super::matches::predicates;
use crate::field::FieldPath;
use crate::kinds::TextDuration;
use crate::kinds::rate_limit_policy::{self, KeyPart, Mode, RateLimitPolicy, Scope};
use crate::meta::ResourceKey;
use crate::request::claims::ClaimPath;
use crate::request::headers::Headers;
use crate::resource::{Resource, ResourceSet};
use crate::verdict::limits::{self, LimitId, LimitPolicy, LimitRule, Rate, Refusal, RouteLimits};

/// All policies of a set.
#[derive(Debug, Default)]
pub(super) struct Limits {
    policies: BTreeMap<ResourceKey, Arc<LimitPolicy>>,
    attached: AttachedPolicies,
    table: Vec<Option<Arc<LimitPolicy>>>,
    free: Vec<LimitId>,
}

impl Limits {
    /// Takes a policy over. Answers what has other limits now.
    pub(super) fn change(
        &mut self,
        key: &ResourceKey,
        old: Option<&Arc<Resource>>,
        new: Option<&Arc<Resource>>,
    ) -> Vec<ResourceKey> {
        let affected = self.attached.change(key, old, new, |spec: &RateLimitPolicy| &spec.target_refs);
        let before = self.policies.remove(key);
        let Some(spec) = new.and_then(|resource| resource.spec::<RateLimitPolicy>()) else {
            if let Some(before) = before {
                self.table[before.id.index()] = None;
                self.free.push(before.id);
            }
            return affected;
        };
        let id = before.map(|before| before.id).or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.table.push(None);
            LimitId(self.table.len() as u32 - 1)
        });
        let policy = Arc::new(compiled(id, key, spec));
        self.table[id.index()] = Some(policy.clone());
        self.policies.insert(key.clone(), policy);
        affected
    }

    /// Indexed by [`LimitId`].
    pub(super) fn table(&self) -> &[Option<Arc<LimitPolicy>>] {
        &self.table
    }

    /// The policies of a rule, of a VirtualService that is bound to a Gateway (`namespace/name`).
    pub(super) fn of_rule(
        &self,
        gateway: &str,
        root: &ResourceKey,
        rule: &Rule<'_>,
        set: &ResourceSet,
    ) -> Option<Arc<RouteLimits>> {
        if self.policies.is_empty() {
            return None;
        }
        let spec = |policy: &ResourceKey| set.get(policy)?.spec::<RateLimitPolicy>();
        let keys = self.attached.of_rule(gateway, root, rule, |policy| Some(&**spec(policy)?.target_refs));
        let keys = keys.into_iter().map(|(_, key)| key).collect();
        self.together(keys, || {
            if rule.http.name.is_empty() {
                format!("{root} {}", rule.index)
            } else {
                format!("{root} {}", *rule.http.name)
            }
        })
    }

    /// The policies of a service that these ServiceEntries declare, for requests to this host and port of it.
    pub(super) fn of_service<'a>(
        &self,
        declared_by: impl Iterator<Item = &'a ResourceKey>,
        host: &str,
        port: u16,
    ) -> Option<Arc<RouteLimits>> {
        self.of_entries(declared_by, || format!("{host}:{port}"))
    }

    /// The policies of ServiceEntries, for requests to what has this name.
    pub(super) fn of_entries<'a>(
        &self,
        entries: impl Iterator<Item = &'a ResourceKey>,
        whose: impl FnOnce() -> String,
    ) -> Option<Arc<RouteLimits>> {
        if self.policies.is_empty() {
            return None;
        }
        self.together(entries.flat_map(|entry| self.attached.of_target(entry)).collect(), whose)
    }

    fn together(&self, mut keys: Vec<&ResourceKey>, whose: impl FnOnce() -> String) -> Option<Arc<RouteLimits>> {
        // One that is for the route in two ways counts its requests once.
        let mut seen = BTreeSet::new();
        keys.retain(|key| seen.insert(*key));
        let policies: Box<[_]> = keys.into_iter().filter_map(|key| self.policies.get(key).cloned()).collect();
        (!policies.is_empty()).then(|| Arc::new(RouteLimits { route: whose().into(), policies }))
    }

    /// What there is to say about the policies.
    pub(super) fn findings(&self, set: &ResourceSet) -> Vec<Finding> {
        let specs = self.policies.keys().filter_map(|key| Some((key, set.get(key)?.spec::<RateLimitPolicy>()?)));
        specs.flat_map(|(key, spec)| policy_findings(key, spec, set)).collect()
    }
}

fn policy_findings(key: &ResourceKey, spec: &RateLimitPolicy, set: &ResourceSet) -> Vec<Finding> {
    let finding =
        |path: FieldPath, severity, reason, message| Finding { resource: key.clone(), path, severity, reason, message };
    let mut findings = Vec::new();
    findings.extend(target_findings(key, &spec.target_refs, "nothing is limited", set));
    for (index, rule) in spec.rules.iter().enumerate() {
        let path = FieldPath::new("spec").field("rules").index(index);
        for (at, entry) in rule.r#match.iter().enumerate() {
            if let Err(bad) = predicates(Some(entry)) {
                let path = FieldPath::new(&format!("{path}.match[{at}].{}", bad.field));
                let message = format!("{}; the entry is left out", bad.error);
                findings.push(finding(path, Severity::Rejected, "InvalidRegex", message));
            }
        }
    }
    findings
}

fn compiled(id: LimitId, key: &ResourceKey, spec: &RateLimitPolicy) -> LimitPolicy {
    LimitPolicy {
        id,
        resource: key.clone(),
        enforced: *spec.mode == Mode::Enforce,
        per_route: *spec.scope == Scope::Route,
        rules: spec.rules.iter().filter_map(rule).collect(),
        refusal: refusal(spec.response.as_ref()),
    }
}

/// `None`: every match of the rule is broken, or there is no limit; validation keeps such rules from being stored.
fn rule(rule: &rate_limit_policy::Rule) -> Option<LimitRule> {
    let limit = rule.limit.as_ref()?;
    let per = limit.per.as_ref().map(TextDuration::get).filter(|per| !per.is_zero())?;
    let rate = Rate { requests: (*limit.requests).max(1), per, burst: limit.burst().max(1) };
    let matches: Box<[_]> = rule.r#match.iter().filter_map(|entry| predicates(Some(entry)).ok()).collect();
    if matches.is_empty() && !rule.r#match.is_empty() {
        return None;
    }
    Some(LimitRule {
        name: rule.name.as_str().into(),
        matches,
        key: rule.key.iter().filter_map(key_part).collect(),
        rate,
        cost: rule.cost.get().copied().unwrap_or(1).max(1),
        cost_header: (!rule.cost_header.is_empty()).then(|| rule.cost_header.parse().ok()).flatten(),
        advertised: advertised(&rule.name, rate),
    })
}

/// An item of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10, section 3): quota and window in seconds. Of
/// a window that is no number of whole seconds the quota is that of the next one.
fn advertised(name: &str, rate: Rate) -> HeaderValue {
    let window = rate.per.as_secs() + u64::from(rate.per.subsec_nanos() > 0);
    let exact = Duration::from_secs(window).as_nanos() * u128::from(rate.requests) / rate.per.as_nanos();
    HeaderValue::from_str(&format!("\"{name}\";q={exact};w={window}")).unwrap_or(HeaderValue::from_static(""))
}

fn key_part(part: &KeyPart) -> Option<limits::KeyPart> {
    let bits = |written: Option<&u32>, absent: u8| written.and_then(|bits| u8::try_from(*bits).ok()).unwrap_or(absent);
    Some(if let Some(ip) = &part.client_ip {
        limits::KeyPart::ClientIp {
            v4: bits(ip.prefix_v4.get(), 32).min(32),
            v6: bits(ip.prefix_v6.get(), 64).min(128),
        }
    } else if part.header.is_written() {
        limits::KeyPart::Header(part.header.parse().ok()?)
    } else if part.cookie.is_written() {
        limits::KeyPart::Cookie(part.cookie.as_str().into())
    } else if part.claim.is_written() {
        limits::KeyPart::Claim(ClaimPath::parse(&part.claim))
    } else if part.path.is_some() {
        limits::KeyPart::Path
    } else if part.method.is_some() {
        limits::KeyPart::Method
    } else {
        return None;
    })
}

fn refusal(response: Option<&rate_limit_policy::Response>) -> Refusal {
    let status = response.and_then(|response| u16::try_from(*response.status.get()?).ok());
    let mut headers = Headers::new();
    for (name, value) in response.into_iter().flat_map(|response| &response.headers) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    let body = response.and_then(|response| response.body.get());
    Refusal {
        status: status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::TOO_MANY_REQUESTS),
        headers,
        body: body.map_or(Bytes::from_static(b"local_rate_limited"), |body| Bytes::copy_from_slice(body.as_bytes())),
    }
}
