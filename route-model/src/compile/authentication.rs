//! RequestAuthentications: which of them a proxy's requests are under, and their rules put together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use http::HeaderName;

use super::ProxyScope;
use super::attachment::{Attachment, gateway, selects};
use super::finding::{Finding, Severity};
use super::gateway::RouteGroup;
use super::names::qualified_name;
use crate::field::FieldPath;
use crate::kinds::request_authentication::JwtRule as WrittenRule;
use crate::kinds::{RequestAuthentication, TextDuration};
use crate::meta::ResourceKey;
use crate::request::claims::ClaimPath;
use crate::resource::ResourceSet;
use crate::table::authentication::{Authentication, HostAuthentication, JwtRule, KeySource, TokenPlace};
use crate::table::{HostIndex, HostPattern};

/// Istio's default time for a fetch of keys.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The policies of a set that are for a proxy.
#[derive(Debug, Default)]
pub(super) struct Authentications {
    /// For all requests.
    everywhere: BTreeSet<ResourceKey>,
    /// By the `namespace/name` of a Gateway, for its hosts.
    of_gateways: HashMap<Arc<str>, BTreeSet<ResourceKey>, RandomState>,
    rules: BTreeMap<ResourceKey, Vec<JwtRule>>,
    /// What was put together, by the policies it is of.
    made: HashMap<Vec<ResourceKey>, Arc<Authentication>, RandomState>,
    findings: Vec<Finding>,
}

impl Authentications {
    /// Reads all policies again.
    pub(super) fn update(&mut self, set: &ResourceSet, proxy: &ProxyScope, root_namespace: &str) {
        self.everywhere.clear();
        self.of_gateways.clear();
        self.rules.clear();
        self.findings.clear();
        for (resource, spec) in set.specs::<RequestAuthentication>() {
            let key = &resource.key;
            let targets = spec.target_ref.iter().chain(spec.target_refs.iter());
            let is_meant = match Attachment::of(&key.namespace, spec.selector.as_ref(), targets, proxy, root_namespace)
            {
                Attachment::Nowhere => false,
                Attachment::Proxy => {
                    self.everywhere.insert(key.clone());
                    true
                }
                Attachment::Gateways(gateways) => {
                    for gateway in &gateways {
                        self.of_gateways.entry(qualified_name(gateway)).or_default().insert(key.clone());
                    }
                    true
                }
            };
            self.report_place(key, spec, proxy, root_namespace, set);
            if is_meant {
                let rules = spec.jwt_rules.iter().enumerate().map(|(index, rule)| compiled(key, index, rule)).collect();
                self.rules.insert(key.clone(), rules);
                self.report_keys(key);
            }
        }
        // Equal ones stay the same allocation, so that what was learnt under them stays in force.
        let rules = &self.rules;
        self.made.retain(|policies, made| put_together(policies, rules) == **made);
    }

    /// Says what a policy names that is not there, and that it is for nobody.
    fn report_place(
        &mut self,
        key: &ResourceKey,
        spec: &RequestAuthentication,
        proxy: &ProxyScope,
        root_namespace: &str,
        set: &ResourceSet,
    ) {
        let mut report = |path, severity, reason, message| {
            self.findings.push(Finding { resource: key.clone(), path, severity, reason, message });
        };
        let single = spec.target_ref.iter().map(|target| (FieldPath::new("spec").field("targetRef"), target));
        let several = spec.target_refs.iter().enumerate();
        let several = several.map(|(index, target)| (FieldPath::new("spec").field("targetRefs").index(index), target));
        let mut has_targets = false;
        for (path, target) in single.chain(several) {
            has_targets = true;
            let message = match gateway(&key.namespace, target) {
                None => format!(
                    "{} of group `{}` is nothing that a gateway is made of; target a Gateway of networking.istio.io, or \
                     select the gateway by its labels",
                    *target.kind, *target.group
                ),
                Some(gateway) if set.get(&gateway).is_none() => {
                    format!("{gateway} does not exist, so nothing is verified there; create it or correct the name")
                }
                Some(_) => continue,
            };
            report(path, Severity::Unresolved, "TargetNotFound", message);
        }
        let home = &*key.namespace;
        let is_near = home == &*proxy.namespace || home == root_namespace;
        // Without a selector it is for what else runs there.
        let selector = spec.selector.as_ref().filter(|selector| !selector.match_labels.is_empty());
        if !has_targets && !is_near && selector.is_some() && selects(selector, proxy) {
            let message = format!(
                "it is for workloads of namespace {home}, and the gateway runs in {}, so no gateway looks at these \
                 tokens; write it in {} or in the root namespace {root_namespace}, or target a Gateway",
                proxy.namespace, proxy.namespace
            );
            report(FieldPath::new("spec"), Severity::Warning, "NotAtGateway", message);
        }
    }

    fn report_keys(&mut self, key: &ResourceKey) {
        for rule in &self.rules[key] {
            if rule.keys == KeySource::None {
                self.findings.push(Finding {
                    resource: key.clone(),
                    path: FieldPath::new("spec").field("jwtRules").index(rule.index),
                    severity: Severity::Unresolved,
                    reason: "NoKeys",
                    message:
                        "the issuer is no URL under which its keys could be found, so all its tokens are refused; \
                              write jwksUri or jwks"
                            .to_owned(),
                });
            }
        }
    }

    /// The policies that are for what a Gateway (`namespace/name`) takes, with their rules.
    pub(super) fn of_gateway(&self, gateway: &str) -> impl Iterator<Item = (&ResourceKey, &[JwtRule])> {
        let own = self.of_gateways.get(gateway);
        let all = self.rules.iter().filter(move |(policy, _)| {
            self.everywhere.contains(*policy) || own.is_some_and(|own| own.contains(*policy))
        });
        all.map(|(policy, rules)| (policy, rules.as_slice()))
    }

    /// What requests to a sidecar's workload are under.
    pub(super) fn of_workload(&mut self) -> HostAuthentication {
        let otherwise = self.made(self.everywhere.iter().cloned().collect());
        HostAuthentication { hosts: HostIndex::default(), otherwise }
    }

    /// What the requests of a route configuration are under.
    pub(super) fn of_group(&mut self, group: &RouteGroup) -> HostAuthentication {
        let otherwise = self.made(self.everywhere.iter().cloned().collect());
        if !group.servers.iter().any(|server| self.of_gateways.contains_key(&server.gateway)) {
            return HostAuthentication { hosts: HostIndex::default(), otherwise };
        }
        let patterns: BTreeSet<HostPattern> =
            group.servers.iter().flat_map(|server| &server.hosts).map(|host| host.pattern.clone()).collect();
        let mut hosts = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            let serves = |server: &&super::gateway::PlannedServer| {
                server.hosts.iter().any(|host| pattern.is_subset_of(&host.pattern))
            };
            let gateways = group.servers.iter().filter(serves).map(|server| &server.gateway);
            let of_gateways = gateways.filter_map(|gateway| self.of_gateways.get(gateway)).flatten();
            let policies: BTreeSet<_> = self.everywhere.iter().chain(of_gateways).cloned().collect();
            hosts.push((pattern, self.made(policies.into_iter().collect())));
        }
        HostAuthentication { hosts: HostIndex::new(hosts), otherwise }
    }

    /// Policies as one; `None` for none, and for such as have no rules.
    fn made(&mut self, policies: Vec<ResourceKey>) -> Option<Arc<Authentication>> {
        if let Some(made) = self.made.get(&policies) {
            return Some(made.clone());
        }
        let made = put_together(&policies, &self.rules);
        if made.rules.is_empty() {
            return None;
        }
        let made = Arc::new(made);
        self.made.insert(policies, made.clone());
        Some(made)
    }

    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

fn put_together(policies: &[ResourceKey], rules: &BTreeMap<ResourceKey, Vec<JwtRule>>) -> Authentication {
    let mut rules: Vec<JwtRule> = policies.iter().filter_map(|policy| rules.get(policy)).flatten().cloned().collect();
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    let written = rules.iter().flat_map(|rule| {
        rule.payload_header.iter().chain(rule.claim_headers.iter().map(|(name, _)| name)).map(HeaderName::as_str)
    });
    let written: BTreeSet<&str> = written.collect();
    let written = written.into_iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect();
    Authentication { written, rules: rules.into() }
}

fn compiled(policy: &ResourceKey, index: usize, rule: &WrittenRule) -> JwtRule {
    let names = |list: &[String]| -> Box<[Box<str>]> { list.iter().map(|name| Box::from(name.as_str())).collect() };
    let claims = rule.output_claim_to_headers.iter();
    JwtRule {
        policy: policy.clone(),
        index,
        issuer: (!rule.issuer.is_empty()).then(|| rule.issuer.as_str().into()),
        audiences: names(&rule.audiences),
        keys: key_source(rule),
        places: places(rule),
        payload_header: rule.output_payload_to_header.parse().ok(),
        claim_headers: claims
            .filter_map(|output| Some((output.header.parse().ok()?, ClaimPath::dotted(&output.claim))))
            .collect(),
        forward: *rule.forward_original_token,
        timeout: rule.timeout.as_ref().map(TextDuration::get).filter(|time| !time.is_zero()).unwrap_or(TIMEOUT),
        space_delimited: names(&rule.space_delimited_claims),
    }
}

fn key_source(rule: &WrittenRule) -> KeySource {
    if !rule.jwks.is_empty() {
        return KeySource::Inline(rule.jwks.as_str().into());
    }
    for url in [&*rule.jwks_uri, &*rule.jwks_uri_snake] {
        if !url.is_empty() {
            return KeySource::Url(url.as_str().into());
        }
    }
    if KeySource::is_url(&rule.issuer) {
        let issuer = rule.issuer.trim_end_matches('/');
        return KeySource::Discovery(format!("{issuer}/.well-known/openid-configuration").into());
    }
    KeySource::None
}

fn places(rule: &WrittenRule) -> Box<[TokenPlace]> {
    let headers = rule.from_headers.iter().filter_map(|from| {
        Some(TokenPlace::Header { name: from.name.parse().ok()?, prefix: from.prefix.as_str().into() })
    });
    let params = rule.from_params.iter().map(|name| TokenPlace::Param(name.as_str().into()));
    let cookies = rule.from_cookies.iter().map(|name| TokenPlace::Cookie(name.as_str().into()));
    let places: Box<[TokenPlace]> = headers.chain(params).chain(cookies).collect();
    if places.is_empty() { Box::new([TokenPlace::Bearer, TokenPlace::Param("access_token".into())]) } else { places }
}
