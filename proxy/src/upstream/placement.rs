//! Consistent hashing: where a hash leads, so that few keys move when an endpoint comes or goes.
//!
//! Both algorithms go by endpoints' names, so that replicas of a proxy agree without talking to each other.

use route_model::table::hash::{HashAlgorithm, hash};

/// The most points of a ring, whatever the weights.
const MAX_POINTS: u64 = 1024 * 1024;

/// The places of endpoints, by their index.
#[derive(Debug)]
pub(super) enum Places {
    /// Points on the ring, sorted, and whose they are.
    Ring(Box<[(u64, u32)]>),
    /// Maglev's table.
    Table(Box<[u32]>),
}

impl Places {
    /// `endpoints`: names and weights.
    pub(super) fn new(algorithm: HashAlgorithm, endpoints: &[(&str, u64)]) -> Self {
        match algorithm {
            HashAlgorithm::Ring(size) => Self::Ring(ring(endpoints, size)),
            HashAlgorithm::Maglev(size) => Self::Table(maglev(endpoints, size)),
        }
    }

    /// The endpoints from the place of a hash on, once around; some come up several times.
    pub(super) fn walk(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (start, count) = match self {
            Self::Ring(points) => (points.partition_point(|(point, _)| *point < hash), points.len()),
            Self::Table(table) => ((hash % (table.len() as u64).max(1)) as usize, table.len()),
        };
        (start..start + count).map(move |place| match self {
            Self::Ring(points) => points[place % count].1 as usize,
            Self::Table(table) => table[place % count] as usize,
        })
    }
}

/// Points in proportion to the weights, at least `size` in all and at least one for each endpoint (Envoy's ring hash).
fn ring(endpoints: &[(&str, u64)], size: u32) -> Box<[(u64, u32)]> {
    let total = endpoints.iter().map(|(_, weight)| u128::from(*weight)).sum::<u128>().max(1);
    let size = u64::from(size).clamp(1, MAX_POINTS);
    let mut points = Vec::new();
    for (index, (name, weight)) in endpoints.iter().enumerate() {
        let share = (u128::from(*weight) * u128::from(size)).div_ceil(total).max(1);
        let point = |number| hash(format!("{name}_{number}").as_bytes());
        points.extend((0..share).map(|number| (point(number), index as u32)));
    }
    points.sort_unstable();
    points.into()
}

/// Maglev (Eisenbud et al., NSDI 2016, section 3.4): each endpoint in turn takes the next free place of a permutation
/// of its own; heavier ones have more turns. `size` is a prime.
fn maglev(endpoints: &[(&str, u64)], size: u32) -> Box<[u32]> {
    const FREE: u32 = u32::MAX;
    if endpoints.is_empty() {
        return Box::default();
    }
    let size = u64::from(size.max(2));
    let mut table = vec![FREE; size as usize];
    let heaviest = endpoints.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(1);
    let mut seekers: Vec<Seeker> = endpoints
        .iter()
        .map(|(name, weight)| {
            let name = name.as_bytes();
            // A share of nothing would be sought for ever.
            let share = (*weight as f64 / heaviest as f64).max(1e-6);
            let step = hash(&[name, b"#step"].concat()) % (size - 1) + 1;
            Seeker { at: hash(name) % size, step, share, saved: 0.0 }
        })
        .collect();
    let mut left = size;
    while left > 0 {
        for (index, seeker) in seekers.iter_mut().enumerate() {
            seeker.saved += seeker.share;
            if seeker.saved < 1.0 || left == 0 {
                continue;
            }
            seeker.saved -= 1.0;
            while table[seeker.at as usize] != FREE {
                seeker.at = (seeker.at + seeker.step) % size;
            }
            table[seeker.at as usize] = index as u32;
            left -= 1;
        }
    }
    table.into()
}

/// An endpoint on its way through its permutation.
struct Seeker {
    at: u64,
    step: u64,
    /// Of a turn, in every round.
    share: f64,
    saved: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALGORITHMS: [HashAlgorithm; 2] = [HashAlgorithm::Ring(4096), HashAlgorithm::Maglev(65_537)];

    fn places(algorithm: HashAlgorithm, endpoints: &[(u16, u64)]) -> Places {
        let named: Vec<_> = endpoints.iter().map(|(port, weight)| (format!("10.0.0.1:{port}"), *weight)).collect();
        let named: Vec<_> = named.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        Places::new(algorithm, &named)
    }

    /// Which port each of many keys leads to.
    fn placed(algorithm: HashAlgorithm, endpoints: &[(u16, u64)]) -> Vec<u16> {
        let places = places(algorithm, endpoints);
        (0..10_000).map(|key: u32| endpoints[places.walk(hash(&key.to_be_bytes())).next().unwrap()].0).collect()
    }

    #[test]
    fn shares_follow_the_weights() {
        for algorithm in ALGORITHMS {
            let placed = placed(algorithm, &[(1, 1), (2, 1), (3, 2)]);
            for (port, share) in [(1, 2500), (2, 2500), (3, 5000)] {
                let count = placed.iter().filter(|placed| **placed == port).count();
                assert!(count.abs_diff(share) < 500, "{algorithm:?}: {count} to {port}");
            }
        }
    }

    #[test]
    fn few_keys_move_when_an_endpoint_goes() {
        for algorithm in ALGORITHMS {
            let before = placed(algorithm, &[(1, 1), (2, 1), (3, 1), (4, 1)]);
            let after = placed(algorithm, &[(1, 1), (2, 1), (4, 1)]);
            let moved = before.iter().zip(&after).filter(|(before, after)| **before != 3 && before != after).count();
            // Of keys that had another endpoint; by modulus it would be two in three.
            assert!(moved <= 1500, "{algorithm:?}: {moved}");
        }
    }

    #[test]
    fn a_walk_meets_everybody() {
        for algorithm in [HashAlgorithm::Ring(1), HashAlgorithm::Maglev(5)] {
            let places = places(algorithm, &[(1, 1), (2, 1), (3, 1)]);
            let mut met: Vec<usize> = places.walk(u64::MAX).collect();
            met.sort_unstable();
            met.dedup();
            assert_eq!(met, [0, 1, 2]);
        }
    }
}
