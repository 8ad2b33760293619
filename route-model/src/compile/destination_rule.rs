//! DestinationRules: which of them is in force for a service, and what it says.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::ProxyScope;
use super::mesh::Mesh;
use super::names::{Seniority, is_visible, qualify_host};
use crate::field::FieldPath;
use crate::kinds::destination_rule::{
    ClientTls, ConnectionPool, DestinationRule, LoadBalancer, OutlierDetection, ProxyProtocol, RetryBudget, Subset,
    TrafficPolicy,
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
}

/// A `tls` block and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct TlsBlock<'a> {
    pub(super) tls: &'a ClientTls,
    pub(super) rule: &'a ResourceKey,
    /// The position of the subset.
    subset: Option<usize>,
    /// The position of the port's settings.
    port: Option<usize>,
}

impl TlsBlock<'_> {
    pub(super) fn path(&self) -> FieldPath {
        let mut path = FieldPath::new("spec");
        if let Some(subset) = self.subset {
            path = path.field("subsets").index(subset);
        }
        path = path.field("trafficPolicy");
        if let Some(port) = self.port {
            path = path.field("portLevelSettings").index(port);
        }
        path.field("tls")
    }
}

/// A traffic policy and where it stands.
#[derive(Clone, Copy)]
struct PolicyPlace<'a> {
    policy: &'a TrafficPolicy,
    rule: &'a ResourceKey,
    subset: Option<usize>,
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

    /// What applies to a port of the service, or of a subset.
    pub(super) fn policy(&self, port: u16, subset: Option<&'a Subset>) -> PortPolicy<'a> {
        // The policy of the first rule that has one stands whole.
        let top = self.rules.iter().find_map(|(key, rule)| {
            Some(PolicyPlace { policy: rule.traffic_policy.as_ref()?, rule: key, subset: None })
        });
        let base = top.map(|top| top.of_port(port).unwrap_or_else(|| top.blocks())).unwrap_or_default();
        let Some(own) = subset.and_then(|subset| self.policy_of(subset)) else { return base };
        own.of_port(port).unwrap_or_else(|| {
            let own = own.blocks();
            PortPolicy {
                load_balancer: own.load_balancer.or(base.load_balancer),
                connection_pool: own.connection_pool.or(base.connection_pool),
                outlier_detection: own.outlier_detection.or(base.outlier_detection),
                retry_budget: own.retry_budget.or(base.retry_budget),
                tls: own.tls.or(base.tls),
                proxy_protocol: own.proxy_protocol.or(base.proxy_protocol),
            }
        })
    }

    fn policy_of(&self, subset: &'a Subset) -> Option<PolicyPlace<'a>> {
        let policy = subset.traffic_policy.as_ref()?;
        self.rules.iter().find_map(|(rule, spec)| {
            let position = spec.subsets.iter().position(|known| std::ptr::eq(known, subset))?;
            Some(PolicyPlace { policy, rule, subset: Some(position) })
        })
    }
}

impl<'a> PolicyPlace<'a> {
    fn blocks(self) -> PortPolicy<'a> {
        let Self { policy, .. } = self;
        PortPolicy {
            load_balancer: policy.load_balancer.as_ref(),
            connection_pool: policy.connection_pool.as_ref(),
            outlier_detection: policy.outlier_detection.as_ref(),
            retry_budget: policy.retry_budget.as_ref(),
            tls: self.tls(policy.tls.as_ref(), None),
            proxy_protocol: policy.proxy_protocol.as_ref(),
        }
    }

    /// The settings of one port, which replace the policy as a set: a block that is left out is at its default.
    fn of_port(self, port: u16) -> Option<PortPolicy<'a>> {
        let is_port = |number: u32| number == u32::from(port);
        let settings = self.policy.port_level_settings.iter().enumerate();
        let (position, entry) =
            { settings }.find(|(_, entry)| entry.port.as_ref().is_some_and(|port| is_port(*port.number)))?;
        Some(PortPolicy {
            load_balancer: entry.load_balancer.as_ref(),
            connection_pool: entry.connection_pool.as_ref(),
            outlier_detection: entry.outlier_detection.as_ref(),
            // Nothing of the policy's own reaches a port that has settings, as in Istio.
            retry_budget: None,
            proxy_protocol: None,
            tls: self.tls(entry.tls.as_ref(), Some(position)),
        })
    }

    fn tls(self, tls: Option<&'a ClientTls>, port: Option<usize>) -> Option<TlsBlock<'a>> {
        Some(TlsBlock { tls: tls?, rule: self.rule, subset: self.subset, port })
    }
}
