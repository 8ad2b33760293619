//! DestinationRules: which of them is in force for a service, and what it says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;
use serde_json::Value;
use smallvec::SmallVec;

use super::ProxyScope;
use super::mesh::Mesh;
use super::names::{Seniority, is_visible, qualify_host};
use crate::field::FieldPath;
use crate::kinds::destination_rule::{
    ClientTls, ConnectionPool, DestinationRule, LoadBalancer, OutlierDetection, PortTrafficPolicy, ProxyProtocol,
    RetryBudget, Subset, TrafficPolicy, Tunnel,
};
use crate::meta::ResourceKey;
use crate::resource::Resource;
use crate::table::HostPattern;

/// All DestinationRules, by namespace and host.
#[derive(Debug, Default)]
pub(super) struct DestinationRules {
    by_namespace: HashMap<Arc<str>, Namespace, RandomState>,
}

#[derive(Debug, Default)]
struct Namespace {
    exact: HashMap<HostPattern, Vec<Entry>, RandomState>,
    /// Most specific first.
    wildcard: BTreeMap<SpecificFirst, Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    /// Rules with a workload selector go before those without, then the older.
    order: (bool, Seniority),
    resource: Arc<Resource>,
}

#[derive(Debug, PartialEq, Eq)]
struct SpecificFirst(HostPattern);

impl Ord for SpecificFirst {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp_specific_first(&other.0)
    }
}

impl PartialOrd for SpecificFirst {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The rule in force for a service: one DestinationRule, or several of one namespace and host merged.
#[derive(Debug)]
pub(super) struct Effective<'a> {
    /// Oldest first.
    rules: Vec<(&'a ResourceKey, &'a DestinationRule)>,
}

/// The settings of a policy that apply to one port.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PortPolicy<'a> {
    pub(super) load_balancer: Option<&'a LoadBalancer>,
    pub(super) connection_pool: Option<&'a ConnectionPool>,
    pub(super) outlier_detection: Option<&'a OutlierDetection>,
    pub(super) retry_budget: Option<&'a RetryBudget>,
    pub(super) tls: Option<TlsBlock<'a>>,
    pub(super) proxy_protocol: Option<&'a ProxyProtocol>,
    pub(super) tunnel: Option<&'a Tunnel>,
}

/// A `tls` block and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct TlsBlock<'a> {
    pub(super) tls: &'a ClientTls,
    pub(super) rule: &'a ResourceKey,
    place: PolicyPlace,
}

impl TlsBlock<'_> {
    pub(super) fn path(&self) -> FieldPath {
        self.place.path().field("tls")
    }
}

/// A policy that has a say in a port of a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer<'a> {
    pub(super) rule: &'a ResourceKey,
    pub(super) place: PolicyPlace,
    blocks: PortPolicy<'a>,
    /// What is further away does not count.
    pub(super) last: bool,
}

/// Where in a DestinationRule a policy stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct PolicyPlace {
    /// The position of the subset.
    subset: Option<usize>,
    /// The position of the port's settings.
    port: Option<usize>,
}

impl DestinationRules {
    /// Takes over a changed rule; answers the hosts for which another rule may be in force now.
    pub(super) fn change(&mut self, old: Option<&Arc<Resource>>, new: Option<&Arc<Resource>>) -> Vec<HostPattern> {
        let mut hosts = Vec::new();
        for (resource, present) in [(old, false), (new, true)] {
            let Some((resource, spec)) = resource.and_then(|r| Some((r, r.spec::<DestinationRule>()?))) else {
                continue;
            };
            let host = HostPattern::new(&qualify_host(&spec.host, &resource.key.namespace));
            let namespace = self.by_namespace.entry(resource.key.namespace.clone()).or_default();
            let entries = if host.suffix().is_some() {
                namespace.wildcard.entry(SpecificFirst(host.clone())).or_default()
            } else {
                namespace.exact.entry(host.clone()).or_default()
            };
            entries.retain(|entry| entry.resource.key != resource.key);
            if present {
                let order = (spec.workload_selector.is_none(), Seniority::of(resource));
                let at = entries.partition_point(|entry| entry.order < order);
                entries.insert(at, Entry { order, resource: resource.clone() });
            } else if entries.is_empty() {
                namespace.exact.remove(&host);
                namespace.wildcard.remove(&SpecificFirst(host.clone()));
            }
            hosts.push(host);
        }
        hosts
    }

    /// The rule in force for requests of `client` to a service of `service_namespace`. The first of three levels that
    /// has any rule for the host wins: the client's namespace, the service's, the root namespace. Inside a level the
    /// most specific host wins; nothing is merged across levels or hosts.
    pub(super) fn effective<'a>(
        &'a self,
        host: &HostPattern,
        service_namespace: &str,
        client: &ProxyScope,
        mesh: &Mesh,
    ) -> Option<Effective<'a>> {
        let own = &*client.namespace;
        let root = mesh.root_namespace();
        // Rules in the root namespace are usually meant as defaults for all, not for the gateway that runs there.
        let only_private = own == root;
        self.level(own, host, client, mesh, only_private)
            .or_else(|| self.level(service_namespace, host, client, mesh, false))
            .or_else(|| self.level(root, host, client, mesh, false))
    }

    fn level<'a>(
        &'a self,
        namespace: &str,
        host: &HostPattern,
        client: &ProxyScope,
        mesh: &Mesh,
        only_private: bool,
    ) -> Option<Effective<'a>> {
        let rules = self.by_namespace.get(namespace)?;
        let exact = rules.exact.get(host).into_iter();
        let wildcard =
            rules.wildcard.iter().filter(|(pattern, _)| host.is_subset_of(&pattern.0)).map(|(_, rules)| rules);
        exact.chain(wildcard).find_map(|entries| merge(entries, namespace, client, mesh, only_private))
    }
}

/// Merges the rules of one namespace and host that the client sees.
fn merge<'a>(
    entries: &'a [Entry],
    namespace: &str,
    client: &ProxyScope,
    mesh: &Mesh,
    only_private: bool,
) -> Option<Effective<'a>> {
    let export_to = |spec: &'a DestinationRule| -> &'a [String] { &spec.export_to };
    let is_private = |spec: &DestinationRule| {
        let list: &[String] =
            if spec.export_to.is_empty() { mesh.destination_rule_export_to() } else { &spec.export_to };
        matches!(list, [only] if only == "." || only == namespace)
    };
    let mut visible = entries.iter().filter_map(|entry| {
        let spec = entry.resource.spec::<DestinationRule>()?;
        let seen = match &spec.workload_selector {
            // A rule for certain clients is private to their namespace.
            Some(selector) => {
                namespace == &*client.namespace
                    && selector.match_labels.iter().all(|(key, value)| client.labels.get(key) == Some(value))
            }
            None => {
                is_visible(&spec.export_to, mesh.destination_rule_export_to(), namespace, &client.namespace)
                    && (!only_private || is_private(spec))
            }
        };
        seen.then_some((&entry.resource.key, spec))
    });
    let first = visible.next()?;
    let mut rules = vec![first];
    // A narrower export is not widened by merging it into a wider one.
    rules.extend(visible.filter(|(_, spec)| {
        spec.workload_selector == first.1.workload_selector
            && (export_to(spec) == export_to(first.1)
                || export_to(spec).iter().any(|to| to == "*")
                || (!export_to(first.1).is_empty() && export_to(first.1).iter().all(|to| export_to(spec).contains(to))))
    }));
    Some(Effective { rules })
}

impl<'a> Effective<'a> {
    /// The oldest of the merged rules.
    pub(super) fn key(&self) -> &'a ResourceKey {
        self.rules[0].0
    }

    /// The subset of a name; where several rules have one, the oldest's.
    pub(super) fn subset(&self, name: &str) -> Option<&'a Subset> {
        self.rules.iter().flat_map(|(_, rule)| &rule.subsets).find(|subset| *subset.name == name)
    }

    pub(super) fn subset_names(&self) -> impl Iterator<Item = &'a str> {
        self.rules.iter().flat_map(|(_, rule)| &rule.subsets).map(|subset| subset.name.as_str())
    }

    /// The rules, oldest first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &'a ResourceKey> {
        self.rules.iter().map(|(key, _)| *key)
    }

    /// What applies to a port of the service, or of a subset.
    pub(super) fn policy(&self, port: u16, subset: Option<&'a Subset>) -> PortPolicy<'a> {
        let mut policy = PortPolicy::default();
        for layer in self.layers(port, subset) {
            policy = policy.or(layer.blocks);
            if layer.last {
                break;
            }
        }
        policy
    }

    /// The policies that have a say in that, the nearest first.
    pub(super) fn layers(&self, port: u16, subset: Option<&'a Subset>) -> SmallVec<[Layer<'a>; 2]> {
        let mut layers = SmallVec::new();
        let mut push = |rule: &'a ResourceKey, subset: Option<usize>, policy: &'a TrafficPolicy| {
            let layer = |port, mut blocks: PortPolicy<'a>, tls: Option<&'a ClientTls>, last| {
                let place = PolicyPlace { subset, port };
                blocks.tls = tls.map(|tls| TlsBlock { tls, rule, place });
                Layer { rule, place, blocks, last }
            };
            // The settings of one port replace the policy as a set: a block that is left out is at its default.
            let is_port = |entry: &PortTrafficPolicy| {
                entry.port.as_ref().is_some_and(|selector| *selector.number == u32::from(port))
            };
            if let Some(position) = policy.port_level_settings.iter().position(is_port) {
                let entry = &policy.port_level_settings[position];
                layers.push(layer(Some(position), port_blocks(entry), entry.tls.as_ref(), true));
            }
            layers.push(layer(None, blocks(policy), policy.tls.as_ref(), subset.is_none()));
        };
        let of_subset = subset.and_then(|subset| {
            let policy = subset.traffic_policy.as_ref()?;
            self.rules.iter().find_map(|(key, rule)| {
                let position = rule.subsets.iter().position(|known| std::ptr::eq(known, subset))?;
                Some((*key, position, policy))
            })
        });
        if let Some((key, position, policy)) = of_subset {
            push(key, Some(position), policy);
        }
        // Of several rules' policies the first stands whole.
        for (key, rule) in &self.rules {
            if let Some(policy) = &rule.traffic_policy {
                push(key, None, policy);
            }
        }
        layers
    }
}

impl PolicyPlace {
    pub(super) fn path(self) -> FieldPath {
        let mut path = FieldPath::new("spec");
        if let Some(subset) = self.subset {
            path = path.field("subsets").index(subset);
        }
        path = path.field("trafficPolicy");
        match self.port {
            Some(port) => path.field("portLevelSettings").index(port),
            None => path,
        }
    }

    /// What stands there, as it was written.
    pub(super) fn value(self, rule: &DestinationRule) -> Result<Value, serde_json::Error> {
        let policy = match self.subset {
            Some(subset) => (*rule.subsets).get(subset).and_then(|subset| subset.traffic_policy.as_ref()),
            None => rule.traffic_policy.as_ref(),
        };
        match self.port {
            Some(port) => serde_json::to_value(policy.and_then(|policy| (*policy.port_level_settings).get(port))),
            None => serde_json::to_value(policy),
        }
    }
}

impl PortPolicy<'_> {
    /// Block by block, with what it leaves out from `other`.
    fn or(self, other: Self) -> Self {
        Self {
            load_balancer: self.load_balancer.or(other.load_balancer),
            connection_pool: self.connection_pool.or(other.connection_pool),
            outlier_detection: self.outlier_detection.or(other.outlier_detection),
            retry_budget: self.retry_budget.or(other.retry_budget),
            tls: self.tls.or(other.tls),
            proxy_protocol: self.proxy_protocol.or(other.proxy_protocol),
            tunnel: self.tunnel.or(other.tunnel),
        }
    }
}

/// All but `tls`, which knows its place.
fn blocks(policy: &TrafficPolicy) -> PortPolicy<'_> {
    PortPolicy {
        load_balancer: policy.load_balancer.as_ref(),
        connection_pool: policy.connection_pool.as_ref(),
        outlier_detection: policy.outlier_detection.as_ref(),
        retry_budget: policy.retry_budget.as_ref(),
        tls: None,
        proxy_protocol: policy.proxy_protocol.as_ref(),
        tunnel: policy.tunnel.as_ref(),
    }
}

/// The same of one port.
fn port_blocks(entry: &PortTrafficPolicy) -> PortPolicy<'_> {
    PortPolicy {
        load_balancer: entry.load_balancer.as_ref(),
        connection_pool: entry.connection_pool.as_ref(),
        outlier_detection: entry.outlier_detection.as_ref(),
        // Nothing of the policy's own reaches a port that has settings, as in Istio.
        retry_budget: None,
        tls: None,
        proxy_protocol: None,
        tunnel: None,
    }
}
