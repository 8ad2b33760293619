//! Near and far: how the endpoints of a cluster are ranked for a proxy.

/// Where an endpoint stands among those of its cluster, seen from the proxy that the table is for.
///
/// Priorities begin at 0 and leave out none. Endpoints of a higher priority number are used as far as those before
/// cannot take the traffic (Envoy's priority levels).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// The nearest: 0.
    pub priority: u32,
    /// The number of its locality in the cluster, where traffic is divided by `distribute`; else 0.
    pub locality: u32,
    /// The part of the traffic of its priority that its locality gets, relative; at least 1.
    pub share: Share,
}

/// The weight of a locality; at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(pub u32);

impl Default for Share {
    fn default() -> Self {
        Self(1)
    }
}

/// A place: `region/zone/subzone`, of which later parts may be missing. What is missing is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Locality<'a> {
    pub region: &'a str,
    pub zone: &'a str,
    pub subzone: &'a str,
}

impl<'a> Locality<'a> {
    pub fn parse(text: &'a str) -> Self {
        let mut parts = text.splitn(3, '/');
        let mut part = || parts.next().unwrap_or_default();
        Self { region: part(), zone: part(), subzone: part() }
    }

    /// Nothing is known of it.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// How many parts are the same, from the region on: 0 to 3.
    pub fn nearness(&self, other: &Self) -> u32 {
        let pairs = [(self.region, other.region), (self.zone, other.zone), (self.subzone, other.subzone)];
        pairs.iter().take_while(|(one, other)| one == other).count() as u32
    }

    /// Whether it lies in a pattern: `region/zone/*`, `region/*`, `region` or `*`.
    pub fn is_in(&self, pattern: &Self) -> bool {
        let takes = |pattern: &str, part: &str| pattern == "*" || pattern.is_empty() || pattern == part;
        (pattern.region == "*" || pattern.region == self.region)
            && takes(pattern.zone, self.zone)
            && takes(pattern.subzone, self.subzone)
    }

    /// How many parts a pattern names.
    pub fn specificity(&self) -> usize {
        [self.region, self.zone, self.subzone].iter().filter(|part| !part.is_empty() && **part != "*").count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearness_goes_from_the_region_down() {
        for (one, other, nearness) in [
            ("eu/a/1", "eu/a/1", 3),
            ("eu/a/1", "eu/a/2", 2),
            ("eu/a/1", "eu/b/1", 1),
            ("eu/a/1", "us/a/1", 0),
            ("eu/a", "eu/a", 3),
            ("eu/a", "eu/a/1", 2),
            ("", "eu", 0),
            ("", "", 3),
        ] {
            assert_eq!(Locality::parse(one).nearness(&Locality::parse(other)), nearness, "{one} {other}");
        }
    }

    #[test]
    fn patterns_may_leave_parts_open() {
        for (place, pattern, is_in) in [
            ("eu/a/1", "*", true),
            ("", "*", true),
            ("eu/a/1", "eu", true),
            ("eu/a/1", "eu/*", true),
            ("eu/a/1", "eu/a/*", true),
            ("eu/a/1", "eu/a", true),
            ("eu/a/1", "eu/a/2", false),
            ("eu/a/1", "eu/b/*", false),
            ("us/a/1", "eu/*", false),
            ("", "eu", false),
        ] {
            assert_eq!(Locality::parse(place).is_in(&Locality::parse(pattern)), is_in, "{place} {pattern}");
        }
    }
}
