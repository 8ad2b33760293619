//! The choice of an endpoint: one [`Balancer`] per cluster and worker, without locks.
//!
//! First a group of endpoints is drawn that are equally near (`locality`), then one of them by the cluster's policy.
//! Weights hold for every policy: an idle cluster spreads requests in proportion to them. Requests in flight are
//! counted over all workers ([`EndpointState::active`]); a stale number does no harm, as the second choice of two
//! random ones is never far from the best.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use route_model::table::cluster::LoadBalancer;
use route_model::table::hash::ConsistentHash;
use route_model::table::upstream::Warmup;

use super::cluster_state::{Discovered, EndpointSet, EndpointState, Tier, WeightedEndpoint};
use super::placement::Places;
use super::slow_start::Growth;

/// Chooses endpoints of one cluster on one worker.
#[derive(Debug)]
pub(crate) struct Balancer {
    policy: LoadBalancer,
    warmup: Option<Warmup>,
    version: u64,
    set: Arc<EndpointSet>,
    /// The nearest first. None is empty.
    groups: Vec<Group>,
    /// While some endpoints are new.
    growth: Option<Growth>,
}

/// Endpoints that the policy chooses between.
#[derive(Debug)]
struct Group {
    /// Places in the set.
    members: Range<usize>,
    /// The traffic of the groups up to and with this one.
    load_until: u64,
    /// Sums of the weights up to and with each endpoint; empty where all weights are the same.
    cumulative: Vec<u64>,
    turns: Turns,
    /// For consistent hashing.
    places: Option<Places>,
}

/// What a request wants of the endpoint that is picked for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    /// The hash that keeps requests of one key together; `None`: any endpoint will do.
    pub(crate) hash: Option<u64>,
    /// The ids of endpoints that were tried already; they are chosen again only where there is no other.
    pub(crate) tried: &'a [u64],
}

/// Whose turn it is with round robin.
#[derive(Debug)]
enum Turns {
    /// All weights are the same: one after the other.
    Equal(usize),
    /// Earliest deadline first: whoever was chosen is due again after a time in inverse proportion to its weight.
    Weighted(BinaryHeap<Reverse<(u128, usize)>>),
}

/// The time between two turns of an endpoint of weight 1.
const PERIOD: u128 = 1 << 64;

/// How often a random choice is repeated that fell on an excluded endpoint, before the next one in the list is taken.
const REDRAWS: usize = 4;

impl Balancer {
    pub(crate) fn new(policy: LoadBalancer, warmup: Option<Warmup>) -> Self {
        Self { policy, warmup, version: 0, set: Arc::default(), groups: Vec::new(), growth: None }
    }

    /// Chooses an endpoint; `None` when the cluster has none.
    pub(crate) fn pick(&mut self, discovered: &Discovered, wish: Wish<'_>) -> Option<&Arc<EndpointState>> {
        if self.version != discovered.version() {
            (self.version, self.set) = discovered.current();
            self.regroup(Instant::now());
        }
        if self.growth.is_some() {
            self.grow(Instant::now());
        }
        let at = if self.groups.len() > 1 { self.draw_group(wish) } else { 0 };
        let group = self.groups.get_mut(at)?;
        let endpoints = &self.set.endpoints[group.members.clone()];
        let index = match (endpoints.len(), &self.policy, wish.hash) {
            (1, ..) => 0,
            (_, LoadBalancer::Hash(_), Some(hash)) => group.placed(endpoints, hash, wish.tried),
            (_, LoadBalancer::LeastRequest, _) => group.least_request(endpoints, wish.tried),
            (_, LoadBalancer::Random | LoadBalancer::Hash(_), _) => group.draw(endpoints, wish.tried),
            (_, LoadBalancer::RoundRobin, _) => group.next_turn(endpoints, wish.tried),
        };
        endpoints.get(index).map(|endpoint| &endpoint.state)
    }

    /// Prepares for the set.
    fn regroup(&mut self, now: Instant) {
        let endpoints = &self.set.endpoints;
        self.growth = self.warmup.as_ref().and_then(|warmup| Growth::of(warmup, endpoints, now));
        let mut load_until = 0;
        let mut add = |load| {
            load_until += load;
            load_until
        };
        self.groups = if let LoadBalancer::Hash(hash) = &self.policy {
            // A key goes to one place of a priority: its localities share the ring.
            let priorities = self.set.tiers.chunk_by(|one, next| one.priority == next.priority);
            let load = |tiers: &[Tier]| tiers.iter().map(|tier| tier.load).sum::<u64>();
            priorities.map(|tiers| Group::placing(endpoints, tiers, hash, add(load(tiers)))).collect()
        } else {
            let growth = self.growth.as_ref().map(|growth| (growth, now));
            let group = |tier: &Tier| Group::new(endpoints, tier.members.clone(), add(tier.load), growth);
            self.set.tiers.iter().map(group).collect()
        };
    }

    /// Lets the weights of new endpoints grow.
    fn grow(&mut self, now: Instant) {
        let Some(growth) = &mut self.growth else { return };
        if growth.is_over(now) {
            self.regroup(now);
        } else if growth.is_due(now) {
            for group in &mut self.groups {
                group.weigh(&self.set.endpoints, growth, now);
            }
        }
    }

    /// A group, as likely as the part of the traffic that it gets; another one where all of it was tried already.
    fn draw_group(&self, wish: Wish<'_>) -> usize {
        let whole = self.groups.last().map_or(0, |group| group.load_until);
        let point = match (&self.policy, wish.hash) {
            // A key finds its priority as it finds its place.
            (LoadBalancer::Hash(_), Some(hash)) => whole / 100 * (hash % 100),
            _ if whole == 0 => 0,
            _ => fastrand::u64(..whole),
        };
        let drawn = self.groups.partition_point(|group| group.load_until <= point).min(self.groups.len() - 1);
        let has_untried = |group: &Group| {
            self.set.endpoints[group.members.clone()].iter().any(|endpoint| !wish.tried.contains(&endpoint.state.id))
        };
        if wish.tried.is_empty() || has_untried(&self.groups[drawn]) {
            return drawn;
        }
        self.groups.iter().position(has_untried).unwrap_or(drawn)
    }
}

impl Group {
    fn new(
        endpoints: &[WeightedEndpoint],
        members: Range<usize>,
        load_until: u64,
        growth: Option<(&Growth, Instant)>,
    ) -> Self {
        let own = &endpoints[members.clone()];
        let weight = |endpoint: &WeightedEndpoint| match growth {
            Some((growth, now)) => growth.weight(endpoint, now),
            None => u64::from(endpoint.weight),
        };
        let uniform = growth.is_none() && own.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let (cumulative, turns) = if uniform {
            // Workers start at different places, or they would all knock at the first endpoint at once.
            (Vec::new(), Turns::Equal(fastrand::usize(..)))
        } else {
            let due = |(index, endpoint)| Reverse((fastrand::u128(..period(weight(endpoint))), index));
            (sums(own.iter().map(weight)).collect(), Turns::Weighted(own.iter().enumerate().map(due).collect()))
        };
        Self { members, load_until, cumulative, turns, places: None }
    }

    /// A priority whose endpoints have places. In it an endpoint weighs what its locality gives it.
    fn placing(endpoints: &[WeightedEndpoint], tiers: &[Tier], hash: &ConsistentHash, load_until: u64) -> Self {
        const UNIT: u128 = 1 << 16;
        let members = tiers[0].members.start..tiers[tiers.len() - 1].members.end;
        let weights = tiers.iter().flat_map(|tier| {
            let own = &endpoints[tier.members.clone()];
            let total: u128 = own.iter().map(|endpoint| u128::from(endpoint.weight)).sum();
            own.iter().map(move |endpoint| {
                let weight = u128::from(endpoint.weight);
                let scaled = weight * u128::from(tier.load) * UNIT / total.max(1);
                if tiers.len() == 1 { u64::from(endpoint.weight) } else { u64::try_from(scaled).unwrap_or(u64::MAX) }
            })
        });
        let own = endpoints[members.clone()].iter();
        let named: Vec<_> = own.zip(weights).map(|(endpoint, weight)| (&*endpoint.state.name, weight)).collect();
        let places = Some(Places::new(hash.algorithm, &named));
        Self { places, ..Self::new(endpoints, members, load_until, None) }
    }

    /// Takes over the weights for now. Turns that are given already stay.
    fn weigh(&mut self, endpoints: &[WeightedEndpoint], growth: &Growth, now: Instant) {
        self.cumulative.clear();
        let weights = endpoints[self.members.clone()].iter().map(|endpoint| growth.weight(endpoint, now));
        self.cumulative.extend(sums(weights));
    }

    /// Of the endpoint at this place of the group; relative, at least 1.
    fn weight(&self, index: usize) -> u64 {
        match (self.cumulative.get(index), index.checked_sub(1).and_then(|before| self.cumulative.get(before))) {
            (Some(sum), Some(before)) => sum - before,
            (Some(sum), None) => *sum,
            (None, _) => 1,
        }
    }

    /// The endpoint of a hash, or the next one that was not tried.
    fn placed(&self, endpoints: &[WeightedEndpoint], hash: u64, tried: &[u64]) -> usize {
        let Some(places) = &self.places else { return 0 };
        let mut walk = places.walk(hash).peekable();
        let first = walk.peek().copied().unwrap_or(0);
        walk.find(|index| !is(endpoints, *index, tried)).unwrap_or(first)
    }

    /// Power of two choices: of two endpoints drawn by weight, the one with fewer requests in flight for its weight;
    /// the first of two that are equally busy, so that weights hold when little is going on.
    fn least_request(&self, endpoints: &[WeightedEndpoint], excluded: &[u64]) -> usize {
        let first = self.draw(endpoints, excluded);
        let mut second = self.draw(endpoints, excluded);
        if first == second && self.cumulative.is_empty() {
            second = step_over(endpoints, second + 1, excluded);
        }
        let load =
            |index: usize, other: usize| u128::from(endpoints[index].state.active()) * u128::from(self.weight(other));
        if load(second, first) < load(first, second) { second } else { first }
    }

    /// A random endpoint, as likely as its weight says.
    fn draw(&self, endpoints: &[WeightedEndpoint], excluded: &[u64]) -> usize {
        let mut index = self.draw_any(endpoints.len());
        for _ in 0..REDRAWS {
            if !is(endpoints, index, excluded) {
                return index;
            }
            index = self.draw_any(endpoints.len());
        }
        step_over(endpoints, index, excluded)
    }

    fn draw_any(&self, count: usize) -> usize {
        let Some(total) = self.cumulative.last() else { return fastrand::usize(..count) };
        let point = fastrand::u64(..*total);
        self.cumulative.partition_point(|sum| *sum <= point)
    }

    fn next_turn(&mut self, endpoints: &[WeightedEndpoint], excluded: &[u64]) -> usize {
        let count = endpoints.len();
        let mut turns = std::mem::replace(&mut self.turns, Turns::Equal(0));
        let chosen = match &mut turns {
            Turns::Equal(next) => {
                let index = *next % count;
                *next = index + 1;
                step_over(endpoints, index, excluded)
            }
            Turns::Weighted(due) => self.earliest(due, endpoints, excluded),
        };
        self.turns = turns;
        chosen
    }

    fn earliest(
        &self,
        due: &mut BinaryHeap<Reverse<(u128, usize)>>,
        endpoints: &[WeightedEndpoint],
        excluded: &[u64],
    ) -> usize {
        let mut passed_over = Vec::new();
        while let Some(Reverse((_, index))) = due.peek()
            && is(endpoints, *index, excluded)
        {
            passed_over.extend(due.pop());
        }
        let mut chosen = passed_over.first().map_or(0, |Reverse((_, index))| *index);
        if let Some(mut first) = due.peek_mut() {
            let Reverse((deadline, index)) = *first;
            *first = Reverse((deadline + period(self.weight(index)), index));
            chosen = index;
        }
        due.extend(passed_over);
        chosen
    }
}

/// Whether the endpoint is one of these.
fn is(endpoints: &[WeightedEndpoint], index: usize, ids: &[u64]) -> bool {
    ids.contains(&endpoints[index].state.id)
}

/// `index`, or the first one after it that is not excluded.
fn step_over(endpoints: &[WeightedEndpoint], index: usize, excluded: &[u64]) -> usize {
    let count = endpoints.len();
    let candidates = (0..count).map(|step| (index + step) % count);
    candidates.clone().find(|candidate| !is(endpoints, *candidate, excluded)).unwrap_or(index % count)
}

fn sums(weights: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
    weights.scan(0, |sum, weight| {
        *sum += weight;
        Some(*sum)
    })
}

fn period(weight: u64) -> u128 {
    PERIOD / u128::from(weight.max(1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;
    use route_model::table::cluster::{Endpoint, EndpointAddress};

    use route_model::table::hash::{HashAlgorithm, HashKey};
    use route_model::table::locality::{Rank, Share};
    use route_model::table::upstream::OutlierDetection;

    use super::super::cluster_state::ActiveRequest;
    use super::super::outlier::{self, TryOutcome};
    use super::*;

    const POLICIES: [LoadBalancer; 3] = [LoadBalancer::LeastRequest, LoadBalancer::RoundRobin, LoadBalancer::Random];

    fn discovered(weights: &[u32]) -> Discovered {
        let discovered = Discovered::new();
        discovered.publish(&endpoints(weights));
        discovered
    }

    /// Endpoint number `n` listens on port `n`.
    fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
        let address = |port| EndpointAddress::Ip([10, 0, 0, 1].into(), port);
        (0..).zip(weights).map(|(port, weight)| Endpoint::new(address(port), *weight)).collect()
    }

    fn port(state: &EndpointState) -> u16 {
        match state.address {
            EndpointAddress::Ip(_, port) => port,
            EndpointAddress::Unix(_) => u16::MAX,
        }
    }

    fn tally(policy: LoadBalancer, discovered: &Discovered, picks: usize) -> BTreeMap<u16, usize> {
        let mut balancer = Balancer::new(policy, None);
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            *counts.entry(port(balancer.pick(discovered, Wish::default()).unwrap())).or_default() += 1;
        }
        counts
    }

    #[test]
    fn an_idle_cluster_is_used_in_proportion_to_the_weights() {
        for weights in [&[1, 1, 1][..], &[1, 9], &[5, 1, 1, 3]] {
            let (discovered, total) = (discovered(weights), f64::from(weights.iter().sum::<u32>()));
            for policy in POLICIES {
                let picks = 20_000;
                let counts = tally(policy.clone(), &discovered, picks);
                for (port, weight) in weights.iter().enumerate() {
                    let share = f64::from(*weight) / total;
                    let sigma = (picks as f64 * share * (1.0 - share)).sqrt();
                    let off = counts[&(port as u16)] as f64 - picks as f64 * share;
                    assert!(off.abs() < 5.0 * sigma, "{policy:?} {weights:?}: {counts:?}");
                }
            }
        }
    }

    #[test]
    fn round_robin_is_even_over_any_short_run() {
        let weights = [5, 1, 1];
        let discovered = discovered(&weights);
        let mut balancer = Balancer::new(LoadBalancer::RoundRobin, None);
        for _ in 0..50 {
            let mut counts = [0_u32; 3];
            for _ in 0..7 {
                counts[usize::from(port(balancer.pick(&discovered, Wish::default()).unwrap()))] += 1;
            }
            for (count, weight) in counts.iter().zip(weights) {
                assert!(count.abs_diff(weight) <= 1, "{counts:?}");
            }
        }
    }

    #[test]
    fn least_request_keeps_clear_of_a_slow_endpoint() {
        let discovered = discovered(&[1, 1]);
        let (_, set) = discovered.current();
        let _stuck: Vec<_> = (0..3).map(|_| ActiveRequest::new(&set.endpoints[0].state)).collect();
        let counts = tally(LoadBalancer::LeastRequest, &discovered, 1000);
        assert_eq!(counts, BTreeMap::from([(1, 1000)]));
    }

    #[test]
    fn requests_in_flight_settle_in_proportion_to_the_weights() {
        let discovered = discovered(&[1, 3]);
        let mut balancer = Balancer::new(LoadBalancer::LeastRequest, None);
        let held: Vec<_> =
            (0..400).map(|_| ActiveRequest::new(balancer.pick(&discovered, Wish::default()).unwrap())).collect();
        let light = held.iter().filter(|request| port(request.endpoint()) == 0).count();
        assert!((80..=120).contains(&light), "{light} of 400");
    }

    #[test]
    fn a_cluster_that_changes_is_noticed_on_the_next_pick() {
        let discovered = Discovered::new();
        let mut balancer = Balancer::new(LoadBalancer::LeastRequest, None);
        assert!(balancer.pick(&discovered, Wish::default()).is_none());
        discovered.publish(&endpoints(&[1]));
        assert!(balancer.pick(&discovered, Wish::default()).is_some());
        discovered.publish(&[]);
        assert!(balancer.pick(&discovered, Wish::default()).is_none());
    }

    /// Endpoint number `n` listens on port `n` and has the priority and the locality share given.
    fn ranked(ranks: &[(u32, u32)]) -> Vec<Endpoint> {
        (0..)
            .zip(ranks)
            .map(|(port, (priority, share))| {
                let rank = Rank { priority: *priority, locality: share.wrapping_sub(1), share: Share(*share) };
                Endpoint { rank, ..Endpoint::new(EndpointAddress::Ip([10, 0, 0, 1].into(), port), 1) }
            })
            .collect()
    }

    fn rules() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 1,
            consecutive_gateway_errors: 0,
            local_failures: None,
            codes: Box::default(),
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 100,
            min_health_percent: 0,
        }
    }

    /// Takes endpoints out of rotation.
    fn eject(discovered: &Discovered, ports: Range<u16>) {
        let set = discovered.current().1;
        for endpoint in set.endpoints.iter().filter(|endpoint| ports.contains(&port(&endpoint.state))) {
            let outcome = TryOutcome::Failed;
            assert!(outlier::record(discovered, &endpoint.state, &rules(), outcome, Instant::now()));
        }
    }

    fn every_policy() -> Vec<LoadBalancer> {
        let hash = |algorithm| ConsistentHash { key: HashKey::SourceIp, algorithm };
        let hashes = [HashAlgorithm::Ring(1024), HashAlgorithm::Maglev(65_537)];
        POLICIES.into_iter().chain(hashes.map(|algorithm| LoadBalancer::Hash(Arc::new(hash(algorithm))))).collect()
    }

    /// How many in a hundred requests went to endpoints of these ports.
    fn percent(policy: &LoadBalancer, discovered: &Discovered, ports: Range<u16>) -> f64 {
        let mut balancer = Balancer::new(policy.clone(), None);
        let mut random = fastrand::Rng::with_seed(7);
        let picked = (0..20_000).filter(|_| {
            let wish = Wish { hash: Some(random.u64(..)), ..Wish::default() };
            ports.contains(&port(balancer.pick(discovered, wish).unwrap()))
        });
        picked.count() as f64 / 200.0
    }

    #[test]
    fn far_endpoints_take_what_the_near_ones_cannot() {
        for policy in every_policy() {
            let discovered = Discovered::new();
            discovered.govern(Some(&rules()));
            discovered.publish(&ranked(&[(0, 1), (0, 1), (0, 1), (0, 1), (1, 1), (1, 1)]));
            assert!(percent(&policy, &discovered, 0..4) > 99.999, "{policy:?}");
            eject(&discovered, 0..1);
            assert!(percent(&policy, &discovered, 1..4) > 99.999, "{policy:?}");
            eject(&discovered, 1..2);
            let near = percent(&policy, &discovered, 2..4);
            assert!((near - 70.0).abs() < 2.0, "{policy:?}: {near}");
            eject(&discovered, 2..4);
            assert!(percent(&policy, &discovered, 4..6) > 99.999, "{policy:?}");
            discovered.pardon();
            assert!(percent(&policy, &discovered, 0..4) > 99.999, "{policy:?}");
        }
    }

    #[test]
    fn localities_get_their_shares_whatever_the_number_of_their_endpoints() {
        for policy in every_policy() {
            let discovered = Discovered::new();
            discovered.publish(&ranked(&[(0, 80), (0, 20), (0, 20), (0, 20)]));
            let share = percent(&policy, &discovered, 0..1);
            assert!((share - 80.0).abs() < 4.0, "{policy:?}: {share}");
        }
    }

    #[test]
    fn a_new_endpoints_share_grows() {
        let warmup = Warmup { window: Duration::from_hours(1), minimum_percent: 10.0, aggression: 1.0 };
        for policy in [LoadBalancer::LeastRequest, LoadBalancer::RoundRobin] {
            let discovered = discovered(&[1]);
            discovered.publish(&endpoints(&[1, 1]));
            let mut balancer = Balancer::new(policy.clone(), Some(warmup.clone()));
            let begin = Instant::now();
            for (age, share) in [(0, 0.1 / 1.1), (1800, 0.5 / 1.5), (3500, 0.49), (3700, 0.5)] {
                balancer.pick(&discovered, Wish::default());
                // The picks' own clock is behind, and turns nothing back.
                balancer.grow(begin + Duration::from_secs(age));
                let picks = 20_000;
                let picked = (0..picks).filter(|_| port(balancer.pick(&discovered, Wish::default()).unwrap()) == 1);
                let found = picked.count() as f64 / f64::from(picks);
                assert!((found - share).abs() < 0.02, "{policy:?} after {age} s: {found}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_retry_goes_elsewhere_if_there_is_an_elsewhere(
            weights in proptest::collection::vec(1..1000_u32, 1..6),
            tries in 1..50_usize,
        ) {
            let discovered = Discovered::new();
            let ranks = weights.iter().map(|weight| (weight % 3, 1)).collect::<Vec<_>>();
            let ranked = ranked(&ranks).into_iter().zip(&weights).map(|(e, weight)| Endpoint { weight: *weight, ..e });
            discovered.publish(&ranked.collect::<Vec<_>>());
            for policy in every_policy() {
                let mut balancer = Balancer::new(policy.clone(), None);
                for _ in 0..tries {
                    let failed = balancer.pick(&discovered, Wish::default()).unwrap().id;
                    let retried = balancer.pick(&discovered, Wish { tried: &[failed], ..Wish::default() }).unwrap().id;
                    prop_assert_eq!(retried == failed, weights.len() == 1);
                }
            }
        }
    }
}
