//! How traffic is divided between near and far endpoints: Envoy's priority levels and locality weights.
//!
//! A priority takes all of the traffic that reaches it as long as most of its endpoints are in rotation; what it can no
//! longer take spills over to the next. The numbers are Envoy's (`LoadBalancerBase::recalculatePerPriorityState`), whole
//! percents and their rounding included, so that both divide alike.

/// An endpoint counts for so many percent of its fair share: a priority with 72 of 100 endpoints still takes all.
const OVERPROVISIONING: u32 = 140;

/// The endpoints of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) endpoints: u32,
    /// Of these, in rotation.
    pub(super) healthy: u32,
}

/// What one priority gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Portion {
    /// Of the traffic. They sum to 100.
    pub(super) percent: u32,
    /// So few are in rotation that all are used.
    pub(super) panics: bool,
}

/// Divides traffic between priorities, the nearest first. `min_health_percent`: with fewer endpoints in rotation a
/// priority panics; 0: never.
pub(super) fn divide(levels: &[Level], min_health_percent: u32) -> Vec<Portion> {
    let mut portions = vec![Portion::default(); levels.len()];
    if portions.is_empty() {
        return portions;
    }
    let health: Vec<u32> = levels.iter().map(|level| level.available()).collect();
    let total = health.iter().sum::<u32>().min(100);
    if total == 0 && min_health_percent == 0 {
        portions[0].percent = 100;
        return portions;
    }
    if total < 100 {
        for (portion, level) in portions.iter_mut().zip(levels) {
            portion.panics = level.healthy * 100 < level.endpoints * min_health_percent;
        }
    }
    // An empty priority has nobody to panic over.
    let occupied = || levels.iter().enumerate().filter(|(_, level)| level.endpoints > 0);
    let all_panic = occupied().next().is_some() && occupied().all(|(index, _)| portions[index].panics);
    let (weights, whole) = if all_panic || total == 0 {
        let endpoints: Vec<u32> = levels.iter().map(|level| level.endpoints).collect();
        let whole = endpoints.iter().sum();
        (endpoints, whole)
    } else {
        (health, total)
    };
    let mut left = 100;
    for (portion, weight) in portions.iter_mut().zip(&weights) {
        portion.percent = weight.saturating_mul(100).checked_div(whole).unwrap_or(0).min(left);
        left -= portion.percent;
    }
    // What rounding left over goes to the nearest that takes any.
    let first = weights.iter().position(|weight| *weight > 0).unwrap_or(0);
    portions[first].percent += left;
    portions
}

impl Level {
    /// How much of its traffic it can take, in percent.
    fn available(self) -> u32 {
        let share = u64::from(self.healthy) * u64::from(OVERPROVISIONING) / u64::from(self.endpoints.max(1));
        share.min(100) as u32
    }

    /// The weight of a locality with these endpoints, which falls as they leave the rotation (Envoy's
    /// `effectiveLocalityWeight`).
    pub(super) fn effective_weight(self, share: u32) -> u64 {
        const WHOLE: u64 = 100_000;
        let available = u64::from(self.healthy) * u64::from(OVERPROVISIONING) * 1000 / u64::from(self.endpoints.max(1));
        u64::from(share) * available.min(WHOLE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percents(healthy: &[u32], min_health_percent: u32) -> (Vec<u32>, Vec<bool>) {
        let levels: Vec<_> = healthy.iter().map(|healthy| Level { endpoints: 100, healthy: *healthy }).collect();
        divide(&levels, min_health_percent).iter().map(|portion| (portion.percent, portion.panics)).unzip()
    }

    /// The tables of Envoy's documentation, "Priority levels".
    #[test]
    fn traffic_spills_over_as_envoys_documentation_says() {
        for (healthy, traffic) in [
            (&[100, 100][..], &[100, 0][..]),
            (&[72, 72], &[100, 0]),
            (&[71, 71], &[99, 1]),
            (&[50, 50], &[70, 30]),
            (&[25, 100], &[35, 65]),
            (&[0, 100], &[0, 100]),
            (&[100, 100, 100], &[100, 0, 0]),
            (&[72, 72, 100], &[100, 0, 0]),
            (&[71, 71, 100], &[99, 1, 0]),
            (&[50, 50, 100], &[70, 30, 0]),
            (&[25, 100, 100], &[35, 65, 0]),
            (&[25, 25, 100], &[35, 35, 30]),
            // Together they cannot take it all, and are scaled up.
            (&[20, 20], &[50, 50]),
            (&[25, 25], &[50, 50]),
            // The documentation says 7 and 93; Envoy itself gives what rounding leaves to the nearest.
            (&[5, 65], &[8, 92]),
        ] {
            assert_eq!(percents(healthy, 0).0, traffic, "{healthy:?}");
        }
    }

    /// "Panic threshold", with Envoy's default of 50 %.
    #[test]
    fn priorities_panic_as_envoys_documentation_says() {
        for (healthy, traffic, panics) in [
            (&[72, 72][..], &[100, 0][..], &[false, false][..]),
            (&[71, 71], &[99, 1], &[false, false]),
            (&[50, 60], &[70, 30], &[false, false]),
            (&[25, 100], &[35, 65], &[false, false]),
            (&[25, 25], &[50, 50], &[true, true]),
            (&[5, 65], &[8, 92], &[true, false]),
        ] {
            assert_eq!(percents(healthy, 50), (traffic.to_vec(), panics.to_vec()), "{healthy:?}");
        }
    }

    /// The table of "Locality weighted load balancing": two localities of weights 1 and 2, the second whole.
    #[test]
    fn a_locality_weighs_less_as_its_endpoints_leave() {
        for (healthy, percent) in [(100, 33.3), (72, 33.3), (69, 32.6), (50, 26.0), (25, 15.0), (0, 0.0)] {
            let [first, second] = [(healthy, 1), (100, 2)]
                .map(|(healthy, share)| Level { endpoints: 100, healthy }.effective_weight(share) as f64);
            let found = 100.0 * first / (first + second);
            assert!((found - percent).abs() < 0.5, "{healthy}: {found}");
        }
    }

    #[test]
    fn without_anybody_in_rotation_nothing_goes_far() {
        assert_eq!(percents(&[0, 0], 0), (vec![100, 0], vec![false, false]));
        // All panic: by the number of endpoints.
        let level = |endpoints| Level { endpoints, healthy: 0 };
        let portions = divide(&[level(1), level(2)], 10);
        assert_eq!(portions.iter().map(|portion| portion.percent).collect::<Vec<_>>(), [34, 66]);
        assert!(portions.iter().all(|portion| portion.panics));
        // An empty priority is passed over.
        let portions = divide(&[level(0), Level { endpoints: 2, healthy: 2 }], 50);
        assert_eq!(portions[1], Portion { percent: 100, panics: false });
    }

    proptest! {
        #[test]
        fn all_traffic_goes_somewhere_and_to_the_near_first(
            levels in proptest::collection::vec((0..50_u32, 0..50_u32), 1..6),
            min_health_percent in 0..=100_u32,
        ) {
            let levels: Vec<_> = levels
                .iter()
                .map(|(endpoints, healthy)| Level { endpoints: *endpoints, healthy: *healthy.min(endpoints) })
                .collect();
            let portions = divide(&levels, min_health_percent);
            prop_assert_eq!(portions.iter().map(|portion| portion.percent).sum::<u32>(), 100);
            let anybody = levels.iter().any(|level| level.healthy > 0);
            for (level, portion) in levels.iter().zip(&portions) {
                prop_assert!(portion.percent == 0 || portion.panics || level.healthy > 0 || !anybody);
            }
            if levels[0].endpoints > 0 && levels[0].healthy == levels[0].endpoints {
                prop_assert_eq!(portions[0], Portion { percent: 100, panics: false });
            }
        }
    }
}
