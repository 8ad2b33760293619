//! Near endpoints before far ones: what `localityLbSetting` says, seen from one proxy, as ranks of endpoints.
//!
//! Ranks follow Istio's `loadbalancer` package: `distribute` divides the traffic of one priority by locality, `failover`
//! and `failoverPriority` make priorities, and those only where outlier detection can empty one of them.

use std::collections::{BTreeMap, BTreeSet};

use super::destination_rule::PortPolicy;
use super::mesh::Mesh;
use super::services::Workload;
use super::{ProxyScope, TOPOLOGY_NETWORK, TOPOLOGY_REGION, TOPOLOGY_SUBZONE, TOPOLOGY_ZONE};
use crate::kinds::destination_rule::{Distribute, LocalityLoadBalancer};
use crate::table::locality::{Locality, Rank, Share};

/// The order in which a proxy prefers the endpoints of one cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Preference<'a> {
    own: Option<&'a ProxyScope>,
    order: Order<'a>,
    /// The DestinationRule asks for an order itself, where it is not merely the default.
    is_written: bool,
}

#[derive(Clone, Debug, Default)]
enum Order<'a> {
    /// All are the same.
    #[default]
    None,
    /// Shares by locality, in percent.
    Distribute(&'a Distribute),
    /// Priorities by locality, then to the region that `failover` names.
    Locality { to: Option<&'a str> },
    /// Priorities by labels; within one of them by locality, if `failover` names regions too.
    Labels { labels: &'a [String], to: Option<&'a str>, by_locality: bool },
}

/// What there is to say of an endpoint's place.
struct Candidate<'a> {
    workload: &'a Workload<'a>,
    locality: Locality<'a>,
}

impl<'a> Preference<'a> {
    pub(super) fn of(policy: &PortPolicy<'a>, mesh: &'a Mesh, proxy: &'a ProxyScope) -> Self {
        let written = policy.load_balancer.and_then(|block| block.locality_lb_setting.as_ref());
        let default = mesh.locality_lb_setting();
        let is_enabled = |setting: &LocalityLoadBalancer| setting.enabled.get().copied();
        let enabled = written.and_then(is_enabled).or_else(|| default.and_then(is_enabled)).unwrap_or(true);
        let setting = written.or(default);
        let order = if enabled { order(setting, policy.outlier_detection.is_some(), proxy) } else { Order::None };
        Self { own: Some(proxy), order, is_written: written.is_some() }
    }

    /// The workloads that get traffic, with their ranks, in their order.
    pub(super) fn rank<'w>(&self, workloads: Vec<Workload<'w>>) -> Vec<(Workload<'w>, Rank)> {
        let Some(own) = self.own else { return unranked(workloads) };
        match &self.order {
            Order::None => unranked(workloads),
            Order::Distribute(distribute) => shares(distribute, workloads),
            Order::Locality { to } => {
                priorities(workloads, |candidate| by_locality(own.locality(), candidate.locality, *to))
            }
            Order::Labels { labels, to, by_locality: also } => priorities(workloads, |candidate| {
                let place = if *also { by_locality(own.locality(), candidate.locality, *to) } else { 0 };
                by_labels(own, candidate, labels) * LOCALITY_PRIORITIES + place
            }),
        }
    }

    /// A setting that cannot do what it says, because nobody said where this proxy is.
    pub(super) fn is_lost(&self) -> bool {
        let unknown = self.own.is_some_and(|own| own.locality().is_unknown());
        self.is_written && unknown && matches!(self.order, Order::Locality { .. })
    }
}

fn order<'a>(setting: Option<&'a LocalityLoadBalancer>, outlier_detection: bool, proxy: &'a ProxyScope) -> Order<'a> {
    let own = proxy.locality();
    if let Some(setting) = setting
        && !setting.distribute.is_empty()
    {
        let from = |distribute: &&Distribute| own.is_in(&Locality::parse(&distribute.from));
        return setting.distribute.iter().find(from).map_or(Order::None, Order::Distribute);
    }
    if !outlier_detection {
        return Order::None;
    }
    let failover: &[_] = setting.map_or(&[], |setting| &setting.failover);
    let to = failover.iter().find(|failover| *failover.from == own.region).map(|failover| failover.to.as_str());
    match setting.map(|setting| &**setting.failover_priority) {
        Some(labels) if !labels.is_empty() => Order::Labels { labels, to, by_locality: !failover.is_empty() },
        _ => Order::Locality { to },
    }
}

fn unranked(workloads: Vec<Workload<'_>>) -> Vec<(Workload<'_>, Rank)> {
    workloads.into_iter().map(|workload| (workload, Rank::default())).collect()
}

/// Localities that `distribute` does not list get nothing. A share that several localities have in common is divided
/// between them by the weights of their endpoints.
fn shares<'w>(distribute: &Distribute, workloads: Vec<Workload<'w>>) -> Vec<(Workload<'w>, Rank)> {
    let mut to: Vec<(Locality<'_>, u32)> =
        distribute.to.iter().map(|(pattern, percent)| (Locality::parse(pattern), *percent)).collect();
    // The closest description of a locality counts.
    to.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.specificity()));
    let chosen = |locality: Locality<'_>| to.iter().position(|(pattern, _)| locality.is_in(pattern));
    let mut weights: BTreeMap<Locality<'_>, u64> = BTreeMap::new();
    for workload in &workloads {
        *weights.entry(locality(workload.entry, workload)).or_default() += u64::from(workload.weight());
    }
    let mut totals = vec![0_u64; to.len()];
    for (locality, weight) in &weights {
        if let Some(index) = chosen(*locality) {
            totals[index] += weight;
        }
    }
    let ranks: BTreeMap<Locality<'_>, Rank> = (0..)
        .zip(&weights)
        .filter_map(|(number, (locality, weight))| {
            let index = chosen(*locality)?;
            let share = (u64::from(to[index].1) * weight).div_ceil(totals[index].max(1));
            let share = Share(u32::try_from(share).unwrap_or(u32::MAX).max(1));
            Some((*locality, Rank { priority: 0, locality: number, share }))
        })
        .collect();
    let ranks: Vec<Option<Rank>> =
        workloads.iter().map(|workload| ranks.get(&locality(workload.entry, workload)).copied()).collect();
    workloads.into_iter().zip(ranks).filter_map(|(workload, rank)| Some((workload, rank?))).collect()
}

/// Numbers the priorities without gaps.
fn priorities(workloads: Vec<Workload<'_>>, priority: impl Fn(&Candidate<'_>) -> u32) -> Vec<(Workload<'_>, Rank)> {
    let found: Vec<u32> = workloads
        .iter()
        .map(|workload| priority(&Candidate { workload, locality: locality(workload.entry, workload) }))
        .collect();
    let used: BTreeSet<u32> = found.iter().copied().collect();
    let number = |priority| used.range(..priority).count() as u32;
    let ranks: Vec<Rank> =
        found.into_iter().map(|priority| Rank { priority: number(priority), ..Rank::default() }).collect();
    workloads.into_iter().zip(ranks).collect()
}

/// Priorities that [`by_locality`] gives.
const LOCALITY_PRIORITIES: u32 = 5;

/// 0: the same subzone, 1: the same zone, 2: the same region, 3: elsewhere, or where `failover` leads to, 4: the rest
/// then. A proxy that does not know where it is prefers nobody.
fn by_locality(own: Locality<'_>, other: Locality<'_>, to: Option<&str>) -> u32 {
    if own.is_unknown() {
        return 0;
    }
    match (own.nearness(&other), to) {
        (0, Some(to)) if other.region != to => 4,
        (nearness, _) => 3 - nearness,
    }
}

/// The first label in which an endpoint differs from the proxy says how far away it is: the later, the nearer. A
/// different network, if that is the first label, is farther than all else.
fn by_labels(own: &ProxyScope, candidate: &Candidate<'_>, labels: &[String]) -> u32 {
    let count = labels.len() as u32;
    let differs = |written: &String| match written.split_once('=') {
        Some((label, wanted)) => candidate.label(label).unwrap_or_default() != wanted,
        None => candidate.label(written) != own_label(own, written),
    };
    let first = |labels: &[String], from: u32| (from..).zip(labels).find(|(_, label)| differs(label)).map(|(at, _)| at);
    let distance = |at: Option<u32>| at.map_or(0, |at| count - at);
    match labels.split_first() {
        Some((network, rest)) if network.split('=').next() == Some(TOPOLOGY_NETWORK) => {
            let beyond = if differs(network) { count } else { 0 };
            beyond + distance(first(rest, 1))
        }
        _ => distance(first(labels, 0)),
    }
}

fn own_label<'a>(own: &'a ProxyScope, label: &str) -> Option<&'a str> {
    own.labels.get(label).map(String::as_str).or_else(|| of_place(own.locality(), label))
}

impl<'a> Candidate<'a> {
    /// A label of the endpoint, or what its place says in place of one.
    fn label(&self, label: &str) -> Option<&'a str> {
        let network = || {
            let network = self.workload.entry.network.as_str();
            (label == TOPOLOGY_NETWORK && !network.is_empty()).then_some(network)
        };
        self.workload.label(label).or_else(|| of_place(self.locality, label)).or_else(network)
    }
}

fn of_place<'a>(place: Locality<'a>, label: &str) -> Option<&'a str> {
    let part = match label {
        TOPOLOGY_REGION => place.region,
        TOPOLOGY_ZONE => place.zone,
        TOPOLOGY_SUBZONE => place.subzone,
        _ => return None,
    };
    Some(part).filter(|part| !part.is_empty())
}

/// The `locality` of an endpoint, or what its labels say.
fn locality<'w>(entry: &'w crate::kinds::WorkloadEntry, workload: &Workload<'w>) -> Locality<'w> {
    if entry.locality.is_empty() {
        super::labelled_locality(|label| workload.label(label))
    } else {
        Locality::parse(&entry.locality)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failover_region_goes_before_the_others() {
        let own = Locality::parse("eu/a/1");
        for (other, to, priority) in [
            ("eu/a/1", None, 0),
            ("eu/a/2", None, 1),
            ("eu/b", None, 2),
            ("us/a/1", None, 3),
            ("", None, 3),
            ("us/a/1", Some("us"), 3),
            ("asia", Some("us"), 4),
            ("eu/b", Some("us"), 2),
        ] {
            assert_eq!(by_locality(own, Locality::parse(other), to), priority, "{other} {to:?}");
        }
        assert_eq!(by_locality(Locality::default(), Locality::parse("eu"), None), 0);
    }
}
