//! The choice of an endpoint: one [`Balancer`] per cluster and worker, without locks.
//!
//! Weights hold for every policy: an idle cluster spreads requests in proportion to them. Requests in flight are
//! counted over all workers ([`EndpointState::active`]); a stale number does no harm, as the second choice of two
//! random ones is never far from the best.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use route_model::table::cluster::LoadBalancer;

use super::cluster_state::{Discovered, EndpointSet, EndpointState};
use super::placement::Places;

/// Chooses endpoints of one cluster on one worker.
#[derive(Debug)]
pub(crate) struct Balancer {
    policy: LoadBalancer,
    version: u64,
    set: Arc<EndpointSet>,
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
    pub(crate) fn new(policy: LoadBalancer) -> Self {
        Self { policy, version: 0, set: Arc::default(), cumulative: Vec::new(), turns: Turns::Equal(0), places: None }
    }

    /// Chooses an endpoint; `None` when the cluster has none.
    pub(crate) fn pick(&mut self, discovered: &Discovered, wish: Wish<'_>) -> Option<&Arc<EndpointState>> {
        if self.version != discovered.version() {
            self.refresh(discovered);
        }
        let count = self.set.endpoints.len();
        let index = match count {
            0 => return None,
            1 => 0,
            _ => match (&self.policy, wish.hash) {
                (LoadBalancer::Hash(_), Some(hash)) => self.placed(hash, wish.tried),
                (LoadBalancer::LeastRequest, _) => self.least_request(wish.tried),
                (LoadBalancer::Random | LoadBalancer::Hash(_), _) => self.draw(wish.tried),
                (LoadBalancer::RoundRobin, _) => self.next_turn(wish.tried),
            },
        };
        self.set.endpoints.get(index).map(|endpoint| &endpoint.state)
    }

    fn refresh(&mut self, discovered: &Discovered) {
        let (version, set) = discovered.current();
        self.version = version;
        self.cumulative.clear();
        if !set.uniform {
            self.cumulative.extend(set.endpoints.iter().scan(0, |sum, endpoint| {
                *sum += u64::from(endpoint.weight);
                Some(*sum)
            }));
        }
        // Workers start at different places, or they would all knock at the first endpoint at once.
        self.turns = if set.uniform {
            Turns::Equal(fastrand::usize(..))
        } else {
            let weights = set.endpoints.iter().map(|endpoint| period(endpoint.weight));
            Turns::Weighted(
                weights.enumerate().map(|(index, period)| Reverse((fastrand::u128(..period), index))).collect(),
            )
        };
        if let LoadBalancer::Hash(hash) = &self.policy {
            self.places = Some(Places::new(hash.algorithm, &set));
        }
        self.set = set;
    }

    /// The endpoint of a hash, or the next one that was not tried.
    fn placed(&self, hash: u64, tried: &[u64]) -> usize {
        let Some(places) = &self.places else { return 0 };
        let mut walk = places.walk(hash).peekable();
        let first = walk.peek().copied().unwrap_or(0);
        walk.find(|index| !self.is(*index, tried)).unwrap_or(first)
    }

    /// Power of two choices: of two endpoints drawn by weight, the one with fewer requests in flight for its weight;
    /// the first of two that are equally busy, so that weights hold when little is going on.
    fn least_request(&self, excluded: &[u64]) -> usize {
        let first = self.draw(excluded);
        let mut second = self.draw(excluded);
        if first == second && self.cumulative.is_empty() {
            second = self.step_over(second + 1, excluded);
        }
        let load = |index: usize, other: usize| {
            let (endpoints, busy) = (&self.set.endpoints, self.set.endpoints[index].state.active());
            u64::from(busy) * u64::from(endpoints[other].weight)
        };
        if load(second, first) < load(first, second) { second } else { first }
    }

    /// A random endpoint, as likely as its weight says.
    fn draw(&self, excluded: &[u64]) -> usize {
        let mut index = self.draw_any();
        for _ in 0..REDRAWS {
            if !self.is(index, excluded) {
                return index;
            }
            index = self.draw_any();
        }
        self.step_over(index, excluded)
    }

    fn draw_any(&self) -> usize {
        if self.cumulative.is_empty() {
            return fastrand::usize(..self.set.endpoints.len());
        }
        let point = fastrand::u64(..self.set.total_weight.max(1));
        self.cumulative.partition_point(|sum| *sum <= point)
    }

    /// `index`, or the first one after it that is not excluded.
    fn step_over(&self, index: usize, excluded: &[u64]) -> usize {
        let count = self.set.endpoints.len();
        let candidates = (0..count).map(|step| (index + step) % count);
        candidates.clone().find(|candidate| !self.is(*candidate, excluded)).unwrap_or(index % count)
    }

    fn is(&self, index: usize, excluded: &[u64]) -> bool {
        excluded.contains(&self.set.endpoints[index].state.id)
    }

    fn next_turn(&mut self, excluded: &[u64]) -> usize {
        let count = self.set.endpoints.len();
        if let Turns::Equal(next) = &mut self.turns {
            let index = *next % count;
            *next = index + 1;
            return self.step_over(index, excluded);
        }
        let set = &self.set;
        let Turns::Weighted(due) = &mut self.turns else { return 0 };
        let mut passed_over = Vec::new();
        while let Some(Reverse((_, index))) = due.peek()
            && excluded.contains(&set.endpoints[*index].state.id)
        {
            passed_over.extend(due.pop());
        }
        let mut chosen = passed_over.first().map_or(0, |Reverse((_, index))| *index);
        if let Some(mut first) = due.peek_mut() {
            let Reverse((deadline, index)) = *first;
            *first = Reverse((deadline + period(set.endpoints[index].weight), index));
            chosen = index;
        }
        due.extend(passed_over);
        chosen
    }
}

fn period(weight: u32) -> u128 {
    PERIOD / u128::from(weight.max(1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use route_model::table::cluster::{Endpoint, EndpointAddress};

    use super::super::cluster_state::ActiveRequest;
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
        (0..).zip(weights).map(|(port, weight)| Endpoint { address: address(port), weight: *weight }).collect()
    }

    fn port(state: &EndpointState) -> u16 {
        match state.address {
            EndpointAddress::Ip(_, port) => port,
            EndpointAddress::Unix(_) => u16::MAX,
        }
    }

    fn tally(policy: LoadBalancer, discovered: &Discovered, picks: usize) -> BTreeMap<u16, usize> {
        let mut balancer = Balancer::new(policy);
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
        let mut balancer = Balancer::new(LoadBalancer::RoundRobin);
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
        let mut balancer = Balancer::new(LoadBalancer::LeastRequest);
        let held: Vec<_> =
            (0..400).map(|_| ActiveRequest::new(balancer.pick(&discovered, Wish::default()).unwrap())).collect();
        let light = held.iter().filter(|request| port(request.endpoint()) == 0).count();
        assert!((80..=120).contains(&light), "{light} of 400");
    }

    #[test]
    fn a_cluster_that_changes_is_noticed_on_the_next_pick() {
        let discovered = Discovered::new();
        let mut balancer = Balancer::new(LoadBalancer::LeastRequest);
        assert!(balancer.pick(&discovered, Wish::default()).is_none());
        discovered.publish(&endpoints(&[1]));
        assert!(balancer.pick(&discovered, Wish::default()).is_some());
        discovered.publish(&[]);
        assert!(balancer.pick(&discovered, Wish::default()).is_none());
    }

    proptest! {
        #[test]
        fn a_retry_goes_elsewhere_if_there_is_an_elsewhere(
            weights in proptest::collection::vec(1..1000_u32, 1..6),
            tries in 1..50_usize,
        ) {
            let discovered = discovered(&weights);
            for policy in POLICIES {
                let mut balancer = Balancer::new(policy.clone());
                for _ in 0..tries {
                    let failed = balancer.pick(&discovered, Wish::default()).unwrap().id;
                    let retried = balancer.pick(&discovered, Wish { tried: &[failed], ..Wish::default() }).unwrap().id;
                    prop_assert_eq!(retried == failed, weights.len() == 1);
                }
            }
        }
    }
}
