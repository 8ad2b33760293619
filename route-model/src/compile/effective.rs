//! What is in force for the rules of a VirtualService, found the way the compiler finds it.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Value, json};

use super::ProxyScope;
use super::authentication::Authentications;
use super::authorization::Policies;
use super::backend::BackendPolicies;
use super::delegate::{Rule, expand};
use super::destination_rule::{DestinationRules, Effective, Layer as PolicyLayer};
use super::limits::Limits;
use super::mesh::Mesh;
use super::names::{is_short, namespace_of, qualify_gateway, qualify_host};
use super::services::{Service, Services};
use crate::effective::{
    AppliedPolicy, EffectiveDestination, EffectiveError, EffectiveRule, Fallback, Layer, Setting, Source, settings,
};
use crate::field::FieldPath;
use crate::kind::Kind;
use crate::kinds::virtual_service::{HttpDestination, HttpRoute};
use crate::kinds::{DestinationRule, VirtualService};
use crate::meta::ResourceKey;
use crate::resource::ResourceSet;
use crate::table::HostPattern;
use crate::table::authentication::JwtRule;
use crate::table::retry::RetryPolicy;
use crate::verdict::authorization::Policy;
use crate::verdict::limits::LimitPolicy;

/// Fields of a rule that say which requests it takes and where they go, not what becomes of them on the way.
const NO_SETTINGS: [&str; 4] = ["name", "match", "route", "delegate"];

/// Finds what is in force for the rules of a VirtualService, or for those of a name (or a number, from 0 on).
///
/// # Errors
/// There is no such VirtualService, or no such rule in it.
pub fn effective(
    set: &ResourceSet,
    scope: &ProxyScope,
    key: &ResourceKey,
    rule: Option<&str>,
) -> Result<Vec<EffectiveRule>, EffectiveError> {
    let found = set.get(key).and_then(|resource| resource.spec::<VirtualService>());
    let spec = found.ok_or_else(|| EffectiveError::NotFound(key.to_string()))?;
    let sources = Sources::new(set, scope);
    let expanded = expand(key, spec, set, sources.mesh.virtual_service_export_to());
    let gateways: Vec<String> =
        spec.gateways.iter().map(|name| qualify_gateway(name, &key.namespace).to_string()).collect();
    let wanted = |position: usize, candidate: &Rule<'_>| {
        rule.is_none_or(|wanted| *candidate.http.name == *wanted || position.to_string() == wanted)
    };
    let rules = expanded.rules.iter().enumerate().filter(|(position, rule)| wanted(*position, rule));
    let rules: Vec<_> = rules.map(|(_, rule)| sources.rule(key, spec, rule, &gateways)).collect();
    match rule {
        Some(rule) if rules.is_empty() => {
            let name = |(position, rule): (usize, &Rule<'_>)| {
                if rule.http.name.is_empty() { position.to_string() } else { rule.http.name.to_string() }
            };
            let known: Vec<_> = expanded.rules.iter().enumerate().map(name).collect();
            let (virtual_service, rule) = (key.to_string(), rule.to_owned());
            Err(EffectiveError::NoSuchRule { virtual_service, rule, known: known.join(", ") })
        }
        _ => Ok(rules),
    }
}

struct Sources<'a> {
    set: &'a ResourceSet,
    scope: &'a ProxyScope,
    mesh: Mesh,
    services: Services,
    rules: DestinationRules,
    authentications: Authentications,
    policies: Policies,
    limits: Limits,
    backend: BackendPolicies,
}

impl<'a> Sources<'a> {
    fn new(set: &'a ResourceSet, scope: &'a ProxyScope) -> Self {
        let (mut services, mut rules) = (Services::default(), DestinationRules::default());
        let (mut limits, mut backend) = (Limits::default(), BackendPolicies::default());
        let mut hosts = HashSet::new();
        for resource in set.iter() {
            match resource.key.kind {
                Kind::ServiceEntry | Kind::WorkloadEntry => services.change(None, Some(resource), &mut hosts),
                Kind::DestinationRule => drop(rules.change(None, Some(resource))),
                Kind::RateLimitPolicy => drop(limits.change(&resource.key, None, Some(resource))),
                Kind::BackendPolicy => drop(backend.change(&resource.key, None, Some(resource))),
                _ => {}
            }
        }
        let mesh = Mesh::of(set);
        let (mut authentications, mut policies) = (Authentications::default(), Policies::default());
        authentications.update(set, scope, mesh.root_namespace());
        policies.update(set, scope, &mesh);
        Self { set, scope, mesh, services, rules, authentications, policies, limits, backend }
    }

    fn rule(&self, key: &ResourceKey, spec: &VirtualService, rule: &Rule<'_>, gateways: &[String]) -> EffectiveRule {
        let (resource, place) = rule.place(key);
        let total: f64 = rule.http.route.iter().map(|to| f64::from((*to.weight).max(0))).sum();
        let single = rule.http.route.len() == 1;
        let share = |to: &HttpDestination| if single { 100.0 } else { f64::from((*to.weight).max(0)) * 100.0 / total };
        let destinations = rule.http.route.iter().enumerate().filter(|(_, to)| share(to) > 0.0);
        EffectiveRule {
            name: rule.http.name.to_string(),
            origin: Source { resource: resource.to_string(), field: place.to_string() },
            gateways: gateways.to_vec(),
            settings: self.rule_settings(key, spec, rule, gateways),
            policies: self.policies(key, rule, gateways),
            destinations: destinations
                .map(|(index, to)| {
                    let field = place.field("route").index(index);
                    let origin = Source { resource: resource.to_string(), field: field.to_string() };
                    self.destination(rule.namespace, to, share(to), origin)
                })
                .collect(),
        }
    }

    fn rule_settings(
        &self,
        key: &ResourceKey,
        root: &VirtualService,
        rule: &Rule<'_>,
        gateways: &[String],
    ) -> Vec<Setting> {
        let mut layers = self.rule_layers(key, root, rule);
        let mut defaults = rule_defaults(&rule.http);
        if !rule.http.route.is_empty() {
            let mut seen = HashSet::new();
            let said = gateways.iter().flat_map(|gateway| self.backend.request_bodies(gateway, key, rule, self.set));
            let said = said.filter(|(policy, _)| seen.insert(*policy));
            let layer = |(policy, bytes): (&ResourceKey, u64)| {
                let blocks = BTreeMap::from([("requestBody".to_owned(), json!({"maxBytes": bytes}))]);
                Layer { resource: policy.to_string(), path: FieldPath::new("spec"), blocks, last: false }
            };
            layers.extend(said.map(layer));
            let (value, from) = match self.mesh.max_request_body() {
                Some(bytes) => (json!(bytes), Some(mesh_field("spec.maxRequestBodyBytes"))),
                None => (json!("unlimited"), None),
            };
            defaults.push(Fallback { name: "requestBody.maxBytes", value, from });
        }
        settings(&layers, defaults)
    }

    /// The rule's own fields, then those of the rule that delegated to it.
    fn rule_layers(&self, key: &ResourceKey, root: &VirtualService, rule: &Rule<'_>) -> Vec<Layer> {
        let layer = |resource: &ResourceKey, http: &HttpRoute, index: usize| {
            let mut blocks = object(serde_json::to_value(http));
            blocks.retain(|name, _| !NO_SETTINGS.contains(&name.as_str()));
            let path = FieldPath::new("spec").field("http").index(index);
            Layer { resource: resource.to_string(), path, blocks, last: false }
        };
        let mut layers = Vec::new();
        if let Some((delegate, index)) = &rule.delegate {
            let spec = self.set.get(delegate).and_then(|resource| resource.spec::<VirtualService>());
            layers.extend(spec.and_then(|spec| (*spec.http).get(*index)).map(|http| layer(delegate, http, *index)));
        }
        layers.extend((*root.http).get(rule.index).map(|http| layer(key, http, rule.index)));
        layers
    }

    fn policies(&self, key: &ResourceKey, rule: &Rule<'_>, gateways: &[String]) -> Vec<AppliedPolicy> {
        let mut applied: Vec<AppliedPolicy> = Vec::new();
        let mut apply = |policy: AppliedPolicy| {
            if !applied.iter().any(|known| known.resource == policy.resource) {
                applied.push(policy);
            }
        };
        for gateway in gateways {
            self.authentications.of_gateway(gateway).for_each(|(policy, rules)| apply(tokens(policy, rules)));
        }
        let named = gateways.iter().filter_map(|gateway| gateway.split_once('/'));
        let named: Vec<_> = named.map(|(namespace, name)| ResourceKey::new(Kind::Gateway, namespace, name)).collect();
        let policies = self.policies.table().policies().iter();
        policies.filter(|policy| policy.is_for(named.iter())).for_each(|policy| apply(permission(policy)));
        for gateway in gateways {
            let limits = self.limits.of_rule(gateway, key, rule, self.set);
            limits.iter().flat_map(|limits| &limits.policies).for_each(|policy| apply(limit(policy)));
        }
        applied
    }

    fn destination(&self, namespace: &str, to: &HttpDestination, percent: f64, origin: Source) -> EffectiveDestination {
        let written = to.destination.as_ref();
        let host = written.map_or(String::new(), |to| qualify_host(&to.host, namespace).to_string());
        let number = written.and_then(|to| to.port.as_ref()).and_then(|port| u16::try_from(*port.number).ok());
        let subset = written.map(|to| to.subset.to_string()).filter(|name| !name.is_empty());
        let viewer = &self.scope.namespace;
        let service = self.services.find(&host, namespace, viewer, self.mesh.service_export_to());
        let only = service.as_ref().and_then(Service::only_port).map(|port| port.number);
        let port = number.filter(|number| *number > 0).or(only);
        let home = match &service {
            Some(service) => service.namespace.to_string(),
            None => namespace_of(&host).unwrap_or(namespace).to_owned(),
        };
        let effective = self.rules.effective(&HostPattern::new(&host), &home, self.scope, &self.mesh);
        let layers = effective.as_ref().map(|rule| self.layers(rule, port.unwrap_or(0), subset.as_deref()));
        let layers = layers.unwrap_or_default();
        let short = written.is_some_and(|to| is_short(&to.host));
        EffectiveDestination {
            host: if short && service.is_none() { written.map_or(host, |to| to.host.to_string()) } else { host },
            port,
            subset,
            percent,
            origin,
            rules: effective.iter().flat_map(Effective::keys).map(ToString::to_string).collect(),
            settings: settings(&layers, self.destination_defaults(&layers)),
        }
    }

    /// The policies that have a say in a port of a service, or of a subset, the nearest first.
    fn layers(&self, rule: &Effective<'_>, port: u16, subset: Option<&str>) -> Vec<Layer> {
        let layers = rule.layers(port, subset.and_then(|name| rule.subset(name)));
        let layer = |layer: PolicyLayer<'_>| {
            let spec = self.set.get(layer.rule)?.spec::<DestinationRule>()?;
            let mut blocks = object(layer.place.value(spec));
            blocks.retain(|name, _| name != "portLevelSettings" && name != "port");
            Some(Layer { resource: layer.rule.to_string(), path: layer.place.path(), blocks, last: layer.last })
        };
        layers.into_iter().filter_map(layer).collect()
    }

    fn destination_defaults(&self, layers: &[Layer]) -> Vec<Fallback> {
        let default = |name, value| Fallback { name, value, from: None };
        let mesh = self.set.get(&Mesh::key()).filter(|config| {
            config.spec::<crate::kinds::MeshConfig>().is_some_and(|config| config.connect_timeout.is_some())
        });
        let from = mesh.map(|_| mesh_field("spec.connectTimeout"));
        let connect = seconds(self.mesh.connect_timeout());
        let mut defaults = vec![
            Fallback { name: "connectionPool.tcp.connectTimeout", value: connect, from },
            default("connectionPool.tcp.maxConnections", json!("unlimited")),
            default("connectionPool.http.http1MaxPendingRequests", json!("unlimited")),
            default("connectionPool.http.http2MaxRequests", json!("unlimited")),
            default("connectionPool.http.maxRetries", json!("unlimited")),
            default("connectionPool.http.idleTimeout", seconds(super::clusters::IDLE_TIMEOUT)),
        ];
        let ahead = layers.iter().position(|layer| layer.last).map_or(layers.len(), |last| last + 1);
        let balancer = layers[..ahead].iter().find_map(|layer| layer.blocks.get("loadBalancer"));
        if balancer.is_none_or(|balancer| balancer.get("consistentHash").is_none()) {
            defaults.push(default("loadBalancer.simple", json!("LEAST_REQUEST")));
        }
        defaults
    }
}

fn rule_defaults(http: &HttpRoute) -> Vec<Fallback> {
    if http.redirect.is_some() || http.direct_response.is_some() {
        return Vec::new();
    }
    let default = |name, value| Fallback { name, value, from: None };
    let retries = RetryPolicy::mesh_default();
    let mut defaults = vec![default("timeout", json!("none"))];
    let off = http.retries.as_ref().is_some_and(|retries| *retries.attempts <= 0);
    if !off {
        defaults.push(default("retries.attempts", json!(retries.attempts)));
        defaults.push(default("retries.retryOn", json!(retries.conditions())));
        defaults.push(default("retries.backoff", json!(format!("{}ms", retries.backoff.as_millis()))));
    }
    defaults
}

fn tokens(policy: &ResourceKey, rules: &[JwtRule]) -> AppliedPolicy {
    let rule = |rule: &JwtRule| format!("tokens of {}", rule.issuer.as_deref().unwrap_or("any issuer"));
    AppliedPolicy { resource: policy.to_string(), does: rules.iter().map(rule).collect() }
}

fn permission(policy: &Policy) -> AppliedPolicy {
    let mode = if policy.dry_run { ", dry run" } else { "" };
    let count = policy.http.len();
    let does = format!("{:?}: {count} {}{mode}", policy.action, if count == 1 { "rule" } else { "rules" });
    AppliedPolicy { resource: policy.resource.to_string(), does: vec![does] }
}

fn limit(policy: &LimitPolicy) -> AppliedPolicy {
    let rule = |rule: &crate::verdict::limits::LimitRule| {
        let (rate, mode) = (rule.rate, if policy.enforced { "" } else { ", only counted" });
        let per = rate.per.as_secs_f64();
        format!("{}: {} requests in {per}s, up to {} at once{mode}", rule.name, rate.requests, rate.burst)
    };
    AppliedPolicy { resource: policy.resource.to_string(), does: policy.rules.iter().map(rule).collect() }
}

fn mesh_field(field: &str) -> Source {
    Source { resource: Mesh::key().to_string(), field: field.to_owned() }
}

fn seconds(time: std::time::Duration) -> Value {
    json!(format!("{}s", time.as_secs_f64()))
}

/// The fields of a value that is an object, as every spec is.
fn object(value: Result<Value, serde_json::Error>) -> BTreeMap<String, Value> {
    match value {
        Ok(Value::Object(fields)) => fields.into_iter().collect(),
        _ => BTreeMap::new(),
    }
}
