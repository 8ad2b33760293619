//! AuthorizationPolicies: those that are for a proxy, compiled.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::ProxyScope;
use super::attachment::{self, Attachment};
use super::finding::{Finding, Severity};
use super::mesh::Mesh;
use crate::field::FieldPath;
use crate::kinds::AuthorizationPolicy;
use crate::kinds::authorization_policy::{self, Condition, Operation, Source};
use crate::kinds::selector::TargetRef;
use crate::matching::HeaderField;
use crate::meta::ResourceKey;
use crate::request::claims::ClaimPath;
use crate::resource::{Resource, ResourceSet};
use crate::table::stream::Subnet;
use crate::verdict::authorization::{
    Action, AddressSet, Attribute, Authorization, Check, Policy, Rule, Term, TextSet, Which,
};

/// Whether a policy only shows what it would do.
pub(super) const DRY_RUN: &str = "istio.io/dry-run";

/// The trust domain that stands for the mesh's own, whatever its name is.
const LOCAL_TRUST_DOMAIN: &str = "cluster.local";

/// The policies of the last table.
#[derive(Debug, Default)]
pub(super) struct Policies {
    table: Arc<Authorization>,
    compiled: HashMap<ResourceKey, (Arc<Resource>, Arc<Policy>), RandomState>,
    trust_domains: Vec<String>,
}

impl Policies {
    pub(super) fn table(&self) -> &Arc<Authorization> {
        &self.table
    }

    /// Finds and compiles the policies of a set anew; those that did not change stay the same allocation.
    pub(super) fn update(&mut self, set: &ResourceSet, scope: &ProxyScope, mesh: &Mesh) {
        let mut before = std::mem::take(&mut self.compiled);
        let trust_domains = mesh.trust_domains();
        if self.trust_domains != trust_domains {
            before.clear();
            self.trust_domains = trust_domains.into_iter().map(str::to_owned).collect();
        }
        for resource in set.of_kind(crate::kind::Kind::AuthorizationPolicy) {
            let Some(spec) = resource.spec::<AuthorizationPolicy>() else { continue };
            let gateways = match attached(&resource.key, spec, scope, mesh) {
                Attachment::Nowhere => continue,
                Attachment::Proxy => Vec::new(),
                Attachment::Gateways(gateways) => gateways,
            };
            let known = before.remove(&resource.key).filter(|(known, _)| Arc::ptr_eq(known, resource));
            let policy = match known {
                Some((_, policy)) => policy,
                None => Arc::new(
                    Reader { key: &resource.key, trust_domains: &self.trust_domains }.policy(resource, spec, gateways),
                ),
            };
            self.compiled.insert(resource.key.clone(), (resource.clone(), policy));
        }
        let policies: Vec<_> = self.compiled.values().map(|(_, policy)| policy.clone()).collect();
        if policies.is_empty() && self.table.is_empty() {
            return;
        }
        self.table = Arc::new(Authorization::new(policies));
    }

    /// What there is to say about the policies. `serves_streams`: there are servers that do not speak HTTP.
    pub(super) fn findings(
        &self,
        set: &ResourceSet,
        scope: &ProxyScope,
        mesh: &Mesh,
        serves_streams: bool,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for resource in set.of_kind(crate::kind::Kind::AuthorizationPolicy) {
            let Some(spec) = resource.spec::<AuthorizationPolicy>() else { continue };
            let mut report = Report { key: &resource.key, findings: &mut findings };
            report.targets(spec, set);
            if attached(&resource.key, spec, scope, mesh) != Attachment::Nowhere {
                report.rules(spec);
                if let Some((_, policy)) = self.compiled.get(&resource.key).filter(|_| serves_streams) {
                    report.connections(spec, policy);
                }
            } else if targets(spec).next().is_none() {
                report.elsewhere(spec, scope, mesh);
            }
        }
        findings
    }
}

fn targets(spec: &AuthorizationPolicy) -> impl Iterator<Item = &TargetRef> {
    spec.target_ref.iter().chain(&*spec.target_refs)
}

fn attached(key: &ResourceKey, spec: &AuthorizationPolicy, scope: &ProxyScope, mesh: &Mesh) -> Attachment {
    Attachment::of(&key.namespace, spec.selector.as_ref(), targets(spec), scope, mesh.root_namespace())
}

fn is_dry_run(resource: &Resource) -> bool {
    // As Go reads booleans.
    let value = resource.meta.annotations.get(DRY_RUN);
    value.is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

struct Report<'a> {
    key: &'a ResourceKey,
    findings: &'a mut Vec<Finding>,
}

impl Report<'_> {
    fn add(&mut self, path: FieldPath, severity: Severity, reason: &'static str, message: impl Into<String>) {
        self.findings.push(Finding { resource: self.key.clone(), path, severity, reason, message: message.into() });
    }

    fn targets(&mut self, spec: &AuthorizationPolicy, set: &ResourceSet) {
        let at = FieldPath::new("spec");
        let single = spec.target_ref.iter().map(|target| (at.field("targetRef"), target));
        let list = spec.target_refs.iter().enumerate().map(|(i, target)| (at.field("targetRefs").index(i), target));
        for (path, target) in single.chain(list) {
            match attachment::gateway(&self.key.namespace, target) {
                None => self.add(
                    path,
                    Severity::Unresolved,
                    "TargetNotSupported",
                    "policies are attached to Gateways of the group networking.istio.io, so this one is not in force \
                     there; name one of these, or use a selector",
                ),
                Some(gateway) if set.get(&gateway).is_none() => self.add(
                    path,
                    Severity::Unresolved,
                    "TargetNotFound",
                    format!("{gateway} does not exist, so nothing is decided there; create it or correct the name"),
                ),
                Some(_) => {}
            }
        }
    }

    fn rules(&mut self, spec: &AuthorizationPolicy) {
        let at = FieldPath::new("spec");
        if *spec.action == Action::Custom {
            self.add(
                at.field("action"),
                Severity::Warning,
                "ExternalAuthorizationNotSupported",
                "no external provider is asked yet, so requests that a rule takes are denied; use ALLOW or DENY",
            );
        }
        for (index, rule) in spec.rules.iter().enumerate() {
            for (number, condition) in rule.when.iter().enumerate() {
                if Reader::attribute(condition).is_none() {
                    self.add(
                        at.field("rules").index(index).field("when").index(number).field("key"),
                        Severity::Warning,
                        "NotSupported",
                        format!(
                            "nothing here has `{}`: no value of `values` matches, and none of `notValues` keeps a \
                             request out",
                            *condition.key
                        ),
                    );
                }
            }
        }
    }

    /// Rules that mean something else for connections than for requests.
    fn connections(&mut self, spec: &AuthorizationPolicy, policy: &Policy) {
        for (index, _) in spec.rules.iter().enumerate() {
            let Some(rule) = policy.http.iter().find(|rule| rule.number == index) else { continue };
            if !terms(rule).any(Term::is_of_http) {
                continue;
            }
            let message = if policy.action == Action::Allow {
                "it asks what only HTTP has, so it allows no connection of servers with protocol TCP or TLS"
            } else {
                "for connections of servers with protocol TCP or TLS, what only HTTP has is left out of it, so it takes \
                 more of them; add `ports` to keep it to others"
            };
            let path = FieldPath::new("spec").field("rules").index(index);
            self.add(path, Severity::Warning, "HttpFieldsForConnections", message);
        }
    }

    /// A policy that would be for the proxy, were it in another namespace.
    fn elsewhere(&mut self, spec: &AuthorizationPolicy, scope: &ProxyScope, mesh: &Mesh) {
        let written = spec.selector.as_ref().filter(|selector| !selector.match_labels.is_empty());
        if written.is_some() && attachment::selects(written, scope) {
            let (gateway, root) = (&scope.namespace, mesh.root_namespace());
            let namespaces = if &**gateway == root { root.to_owned() } else { format!("{gateway} or {root}") };
            self.add(
                FieldPath::new("spec").field("selector"),
                Severity::Warning,
                "SelectsOtherNamespace",
                format!(
                    "it selects workloads of namespace {} only, where the gateway is not; put it into {namespaces}",
                    self.key.namespace
                ),
            );
        }
    }
}

fn terms(rule: &Rule) -> impl Iterator<Item = &Term> {
    rule.from.iter().chain(&rule.to).flatten().chain(&rule.when)
}

/// Reads the rules of one policy.
struct Reader<'a> {
    key: &'a ResourceKey,
    trust_domains: &'a [String],
}

impl Reader<'_> {
    fn policy(&self, resource: &Resource, spec: &AuthorizationPolicy, gateways: Vec<ResourceKey>) -> Policy {
        let http: Box<[Arc<Rule>]> =
            spec.rules.iter().enumerate().map(|(number, rule)| Arc::new(self.rule(number, rule))).collect();
        let tcp = http.iter().filter_map(|rule| of_connections(rule, *spec.action)).collect();
        Policy {
            resource: self.key.clone(),
            action: *spec.action,
            dry_run: is_dry_run(resource),
            gateways: gateways.into(),
            http,
            tcp,
        }
    }

    fn rule(&self, number: usize, rule: &authorization_policy::Rule) -> Rule {
        let ResourceKey { namespace, name, .. } = self.key;
        let from = rule.from.iter().enumerate().filter_map(|(index, from)| Some((index, from.source.as_ref()?)));
        let to = rule.to.iter().enumerate().filter_map(|(index, to)| Some((index, to.operation.as_ref()?)));
        let when = rule.when.iter().enumerate();
        Rule {
            number,
            denial: format!("rbac_access_denied_matched_policy[ns[{namespace}]-policy[{name}]-rule[{number}]]").into(),
            from: from.map(|(index, source)| self.source(index, source)).collect(),
            to: to.map(|(index, operation)| operation_terms(index, operation)).collect(),
            when: when.flat_map(|(index, condition)| self.condition(index, condition)).collect(),
        }
    }

    fn source(&self, index: usize, source: &Source) -> Box<[Term]> {
        let text = |attribute: Attribute| move |values: &[String]| Check::Text(attribute.clone(), TextSet::new(values));
        let principals = |values: &[String]| self.principals(values);
        let accounts = |values: &[String]| self.accounts(values);
        let mut terms = Terms { place: format!("from[{index}].source."), terms: Vec::new() };
        terms.add(["principals", "notPrincipals"], &source.principals, &source.not_principals, principals);
        terms.add(
            ["requestPrincipals", "notRequestPrincipals"],
            &source.request_principals,
            &source.not_request_principals,
            text(Attribute::RequestPrincipal),
        );
        terms.add(
            ["namespaces", "notNamespaces"],
            &source.namespaces,
            &source.not_namespaces,
            text(Attribute::Namespace),
        );
        terms.add(
            ["serviceAccounts", "notServiceAccounts"],
            &source.service_accounts,
            &source.not_service_accounts,
            accounts,
        );
        terms.add(
            ["trustDomains", "notTrustDomains"],
            &source.trust_domains,
            &source.not_trust_domains,
            text(Attribute::TrustDomain),
        );
        terms.add(["ipBlocks", "notIpBlocks"], &source.ip_blocks, &source.not_ip_blocks, addresses(Which::Source));
        terms.add(
            ["remoteIpBlocks", "notRemoteIpBlocks"],
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
            addresses(Which::Remote),
        );
        terms.terms.into()
    }

    /// What names one of the mesh's trust domains is meant of all of them.
    fn principals(&self, values: &[String]) -> Check {
        let is_own = |domain: &str| domain == LOCAL_TRUST_DOMAIN || self.trust_domains.iter().any(|own| own == domain);
        let local = values.iter().filter_map(|value| value.split_once('/').filter(|(domain, _)| is_own(domain)));
        let named = local.flat_map(|(_, rest)| self.trust_domains.iter().map(move |own| format!("{own}/{rest}")));
        Check::Text(Attribute::Principal, TextSet::new(values.iter().cloned().chain(named)))
    }

    /// `namespace/name`, or a name in the policy's own namespace.
    fn accounts(&self, values: &[String]) -> Check {
        let own = &self.key.namespace;
        let accounts = values.iter().map(|value| match value.split_once('/') {
            Some((namespace, name)) => format!("{namespace}/sa/{name}"),
            None => format!("{own}/sa/{value}"),
        });
        Check::Text(Attribute::ServiceAccount, TextSet::new(accounts))
    }

    fn condition(&self, index: usize, condition: &Condition) -> Vec<Term> {
        let mut terms = Terms { place: format!("when[{index}]."), terms: Vec::new() };
        let check = |values: &[String]| match Self::attribute(condition) {
            None => Check::Absent(condition.key.as_str().into()),
            Some(Asked::Address(which)) => addresses(which)(values),
            Some(Asked::Port) => ports(values),
            Some(Asked::Text(Attribute::Principal)) => self.principals(values),
            Some(Asked::Text(Attribute::ServiceAccount)) => self.accounts(values),
            Some(Asked::Text(Attribute::Sni)) => in_lower_case(Attribute::Sni, values),
            Some(Asked::Text(attribute)) => Check::Text(attribute, TextSet::new(values)),
        };
        terms.add(["values", "notValues"], &condition.values, &condition.not_values, check);
        terms.terms
    }

    /// What a condition asks; `None`: something that nothing here has.
    fn attribute(condition: &Condition) -> Option<Asked> {
        let key = condition.key.as_str();
        let inside = |prefix: &str| key.strip_prefix(prefix)?.strip_prefix('[')?.strip_suffix(']');
        if let Some(name) = inside("request.headers") {
            return Some(Asked::Text(Attribute::Header(HeaderField::parse(name))));
        }
        if let Some(path) = key.strip_prefix("request.auth.claims").and_then(ClaimPath::bracketed) {
            return Some(Asked::Text(Attribute::Claim(path)));
        }
        Some(match key {
            "source.ip" => Asked::Address(Which::Source),
            "remote.ip" => Asked::Address(Which::Remote),
            "destination.ip" => Asked::Address(Which::Destination),
            "destination.port" => Asked::Port,
            "source.namespace" => Asked::Text(Attribute::Namespace),
            "source.serviceAccount" => Asked::Text(Attribute::ServiceAccount),
            "source.trustDomain" => Asked::Text(Attribute::TrustDomain),
            "source.principal" => Asked::Text(Attribute::Principal),
            "request.auth.principal" => Asked::Text(Attribute::RequestPrincipal),
            "request.auth.audiences" => Asked::Text(Attribute::Audience),
            "request.auth.presenter" => Asked::Text(Attribute::Presenter),
            "connection.sni" => Asked::Text(Attribute::Sni),
            _ => return None,
        })
    }
}

/// What a condition is about.
enum Asked {
    Text(Attribute),
    Address(Which),
    Port,
}

fn operation_terms(index: usize, operation: &Operation) -> Box<[Term]> {
    let mut terms = Terms { place: format!("to[{index}].operation."), terms: Vec::new() };
    let hosts = |values: &[String]| in_lower_case(Attribute::Host, values);
    let methods = |values: &[String]| Check::Text(Attribute::Method, TextSet::new(values));
    let paths = |values: &[String]| Check::Text(Attribute::Path, TextSet::paths(values));
    terms.add(["hosts", "notHosts"], &operation.hosts, &operation.not_hosts, hosts);
    terms.add(["ports", "notPorts"], &operation.ports, &operation.not_ports, ports);
    terms.add(["methods", "notMethods"], &operation.methods, &operation.not_methods, methods);
    terms.add(["paths", "notPaths"], &operation.paths, &operation.not_paths, paths);
    terms.terms.into()
}

/// Collects what one entry asks.
struct Terms {
    /// Where the entry is: `to[0].operation.`
    place: String,
    terms: Vec<Term>,
}

impl Terms {
    /// `fields`: the names of a field and of its opposite.
    fn add(&mut self, fields: [&str; 2], values: &[String], not_values: &[String], check: impl Fn(&[String]) -> Check) {
        for (field, values, negated) in [(fields[0], values, false), (fields[1], not_values, true)] {
            if !values.is_empty() {
                let field = format!("{}{field}", self.place).into();
                self.terms.push(Term { field, check: check(values), negated });
            }
        }
    }
}

/// What validation keeps out is left out.
fn addresses(which: Which) -> impl Fn(&[String]) -> Check {
    move |values| Check::Address(which, AddressSet::new(values.iter().filter_map(|value| Subnet::parse(value))))
}

fn ports(values: &[String]) -> Check {
    Check::Port(values.iter().filter_map(|value| value.parse().ok()).collect())
}

fn in_lower_case(attribute: Attribute, values: &[String]) -> Check {
    Check::Text(attribute, TextSet::new(values.iter().map(|value| value.to_ascii_lowercase())))
}

/// The rule for connections that are not HTTP: one that allows is gone with anything that only requests have; any other
/// goes without it.
fn of_connections(rule: &Arc<Rule>, action: Action) -> Option<Arc<Rule>> {
    if !terms(rule).any(Term::is_of_http) {
        return Some(rule.clone());
    }
    if action == Action::Allow {
        return None;
    }
    let kept = |terms: &[Term]| terms.iter().filter(|term| !term.is_of_http()).cloned().collect::<Box<[Term]>>();
    Some(Arc::new(Rule {
        number: rule.number,
        denial: rule.denial.clone(),
        from: rule.from.iter().map(|all| kept(all)).collect(),
        to: rule.to.iter().map(|all| kept(all)).collect(),
        when: kept(&rule.when),
    }))
}
