//! Routes of connections that are not HTTP: raw TCP, TLS that is passed through, and what is inside terminated TLS.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{ClusterId, HostIndex, HostPattern};
use crate::field::FieldPath;
use crate::kind::Kind;
use crate::meta::ResourceKey;

/// The rules for the connections of one Gateway server, or of one place where a sidecar takes connections.
#[derive(Clone, Debug)]
pub struct StreamRoutes {
    /// `tcp.9000` or `tls.443.<port name>.<gateway>.<namespace>`.
    pub name: Arc<str>,
    rules: Box<[Arc<StreamRule>]>,
    /// The rules that may take a server name, the most specific names first. `None`: names do not matter.
    by_sni: Option<HostIndex<Box<[u32]>>>,
}

/// One match entry of a `tcp` or `tls` rule.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamRule {
    pub origin: StreamOrigin,
    /// `sniHosts`; empty for a `tcp` rule.
    pub sni: Box<[HostPattern]>,
    /// `destinationSubnets`, held against the address that the client connected to; empty: any.
    pub destination_subnets: Box<[Subnet]>,
    /// `sourceSubnet`, held against the client's address.
    pub source_subnet: Option<Subnet>,
    pub destinations: Box<[StreamDestination]>,
    pub total_weight: u64,
}

/// Where a rule was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOrigin {
    /// For a rule of a sidecar that nobody wrote the resource because of which it is there.
    pub virtual_service: ResourceKey,
    /// A rule of `spec.tls`, else of `spec.tcp`.
    pub tls: bool,
    pub rule: usize,
    /// `None`: the rule has no match and takes every connection.
    pub match_index: Option<usize>,
}

impl StreamOrigin {
    /// `spec.tls[0].match[1]`.
    pub fn path(&self) -> FieldPath {
        if self.virtual_service.kind != Kind::VirtualService {
            return FieldPath::new("spec");
        }
        let rule = FieldPath::new("spec").field(if self.tls { "tls" } else { "tcp" }).index(self.rule);
        match self.match_index {
            Some(index) => rule.field("match").index(index),
            None => rule,
        }
    }
}

/// A weighted destination of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamDestination {
    pub cluster: ClusterId,
    /// At least 1.
    pub weight: u32,
}

/// What routing may look at.
#[derive(Clone, Copy, Debug)]
pub struct StreamFacts<'a> {
    /// The server name of the ClientHello.
    pub sni: Option<&'a str>,
    /// The address that the client connected to.
    pub destination: IpAddr,
    pub source: IpAddr,
}

impl StreamRoutes {
    /// Rules in the order in which they are asked.
    pub fn tcp(name: Arc<str>, rules: Vec<Arc<StreamRule>>) -> Self {
        Self { name, rules: rules.into(), by_sni: None }
    }

    /// Rules of which those with the most specific server name are asked first, and of these in order (as Envoy
    /// chooses filter chains).
    pub fn tls(name: Arc<str>, rules: Vec<Arc<StreamRule>>) -> Self {
        let mut own: HashMap<&HostPattern, Vec<u32>> = HashMap::new();
        for (index, rule) in (0..).zip(&rules) {
            for pattern in &rule.sni {
                own.entry(pattern).or_default().push(index);
            }
        }
        let mut patterns: Vec<_> = own.keys().copied().collect();
        patterns.sort_by(|a, b| a.cmp_specific_first(b));
        let chain = |pattern: &HostPattern| {
            let mut chain = own[pattern].clone();
            if chain.iter().all(|index| rules[*index as usize].is_conditional()) {
                // A connection that none of them takes goes to the next wider name.
                for wider in patterns.iter().filter(|wider| **wider != pattern && pattern.is_subset_of(wider)) {
                    chain.extend(&own[*wider]);
                }
            }
            chain.into_boxed_slice()
        };
        let by_sni = HostIndex::new(patterns.iter().map(|pattern| ((*pattern).clone(), chain(pattern))));
        Self { name, rules: rules.into(), by_sni: Some(by_sni) }
    }

    /// The rule that takes a connection; `None`: it is closed.
    pub fn find(&self, facts: &StreamFacts<'_>) -> Option<&Arc<StreamRule>> {
        match &self.by_sni {
            None => self.rules.iter().find(|rule| rule.refusal(facts).is_none()),
            Some(by_sni) => {
                let candidates = by_sni.find_sni(facts.sni)?.iter().map(|index| &self.rules[*index as usize]);
                candidates.into_iter().find(|rule| rule.subnet_refusal(facts).is_none())
            }
        }
    }

    pub fn rules(&self) -> &[Arc<StreamRule>] {
        &self.rules
    }

    /// Whether both decide the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.by_sni.is_some() == other.by_sni.is_some() && self.rules == other.rules
    }
}

impl StreamRule {
    fn is_conditional(&self) -> bool {
        !self.destination_subnets.is_empty() || self.source_subnet.is_some()
    }

    /// The first condition that does not hold, in words; `None`: the rule takes the connection.
    pub fn refusal(&self, facts: &StreamFacts<'_>) -> Option<String> {
        let name = HostPattern::new(facts.sni.unwrap_or_default());
        if !self.sni.is_empty() && !self.sni.iter().any(|pattern| name.is_subset_of(pattern)) {
            let names: Vec<_> = self.sni.iter().map(ToString::to_string).collect();
            return Some(format!("the server name is none of {}", names.join(", ")));
        }
        self.subnet_refusal(facts)
    }

    fn subnet_refusal(&self, facts: &StreamFacts<'_>) -> Option<String> {
        let subnets = &self.destination_subnets;
        if !subnets.is_empty() && !subnets.iter().any(|subnet| subnet.contains(facts.destination)) {
            return Some(format!("the address connected to, {}, is in none of destinationSubnets", facts.destination));
        }
        let source = self.source_subnet.filter(|subnet| !subnet.contains(facts.source))?;
        Some(format!("the client {} is not in sourceSubnet {source}", facts.source))
    }

    /// The destination that a number below [`Self::total_weight`] stands for.
    pub fn destination(&self, drawn: u64) -> Option<&StreamDestination> {
        let mut left = drawn;
        self.destinations.iter().find(|destination| {
            let weight = u64::from(destination.weight);
            let found = left < weight;
            left = left.saturating_sub(weight);
            found
        })
    }
}

/// An address or a CIDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    network: IpAddr,
    length: u8,
}

impl Subnet {
    /// `10.1.0.0/16`, `2001:db8::/32`, or a single address.
    pub fn parse(text: &str) -> Option<Self> {
        let (network, length) = match text.split_once('/') {
            Some((network, length)) => (network.parse::<IpAddr>().ok()?, Some(length.parse::<u8>().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let most = if network.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(most);
        (length <= most).then_some(Self { network, length })
    }

    pub(crate) fn network(&self) -> IpAddr {
        self.network
    }

    /// Its first address, and its length.
    pub(crate) fn canonical(&self) -> (IpAddr, u8) {
        (Self::around(self.network, self.length).unwrap_or(self.network), self.length)
    }

    /// The first address of the subnet of a length around an address; `None`: addresses of its kind are shorter.
    pub(crate) fn around(address: IpAddr, length: u8) -> Option<IpAddr> {
        let ignored = (if address.is_ipv4() { 32_u8 } else { 128 }).checked_sub(length)?;
        Some(match address {
            IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(ignored.into()).unwrap_or(0)).into()),
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(ignored.into()).unwrap_or(0)).into()),
        })
    }

    /// Its first and its last address, as numbers.
    pub(crate) fn range(&self) -> (u128, u128) {
        let (first, bits) = match self.canonical().0 {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
            IpAddr::V6(ip) => (ip.to_bits(), 128),
        };
        let ignored = u128::MAX.checked_shr(128 - (bits - u32::from(self.length))).unwrap_or(0);
        (first, first | ignored)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let differ = |a: u128, b: u128, bits: u32| {
            let ignored = bits - u32::from(self.length);
            (a ^ b).checked_shr(ignored).unwrap_or(0) != 0
        };
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => !differ(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), _) => {
                let b = match address {
                    IpAddr::V6(b) => b,
                    IpAddr::V4(_) => return false,
                };
                !differ(a.to_bits(), b.to_bits(), 128)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_hold_what_lies_in_them() {
        for (subnet, address, want) in [
            ("10.1.0.0/16", "10.1.255.1", true),
            ("10.1.0.0/16", "10.2.0.1", false),
            ("10.1.0.0/16", "::ffff:10.1.0.1", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
            ("::/0", "1.2.3.4", false),
        ] {
            let subnet = Subnet::parse(subnet).expect("a subnet");
            assert_eq!(subnet.contains(address.parse().expect("an address")), want, "{subnet} {address}");
        }
        for text in ["10.0.0.0/33", "::/129", "x", "10.0.0/8", "/8", "10.0.0.0/"] {
            assert_eq!(Subnet::parse(text), None, "{text}");
        }
    }

    fn rule(index: usize, sni: &[&str], subnets: &[&str]) -> Arc<StreamRule> {
        let virtual_service = ResourceKey::new(Kind::VirtualService, "default", "vs");
        Arc::new(StreamRule {
            origin: StreamOrigin { virtual_service, tls: !sni.is_empty(), rule: index, match_index: Some(0) },
            sni: sni.iter().map(|host| HostPattern::new(host)).collect(),
            destination_subnets: subnets.iter().filter_map(|text| Subnet::parse(text)).collect(),
            source_subnet: None,
            destinations: [(0, 1), (1, 3)]
                .map(|(cluster, weight)| StreamDestination { cluster: ClusterId(cluster), weight })
                .into(),
            total_weight: 4,
        })
    }

    #[test]
    fn the_most_specific_name_is_asked_first_and_then_the_order_counts() {
        let rules = vec![
            rule(0, &["*.a.test"], &[]),
            rule(1, &["x.a.test"], &["10.0.0.0/8"]),
            rule(2, &["x.a.test"], &["11.0.0.0/8"]),
            rule(3, &["y.a.test", "z.a.test"], &[]),
            rule(4, &["y.a.test"], &[]),
            rule(5, &["*"], &[]),
        ];
        let routes = StreamRoutes::tls("tls".into(), rules);
        for (sni, destination, want) in [
            ("x.a.test", "10.0.0.1", 1),
            ("x.a.test", "11.0.0.1", 2),
            ("x.a.test", "12.0.0.1", 0),
            ("Y.a.test", "10.0.0.1", 3),
            ("z.a.test", "10.0.0.1", 3),
            ("w.a.test", "10.0.0.1", 0),
            ("b.test", "10.0.0.1", 5),
            ("", "10.0.0.1", 5),
        ] {
            let [destination, source] = [destination, "127.0.0.1"].map(|ip| ip.parse().expect("an address"));
            let sni = Some(sni).filter(|sni| !sni.is_empty());
            let found = routes.find(&StreamFacts { sni, destination, source });
            assert_eq!(found.map(|rule| rule.origin.rule), Some(want), "{sni:?} {destination}");
        }
    }

    #[test]
    fn weights_divide_the_numbers() {
        let rule = rule(0, &[], &[]);
        let drawn = [0, 1, 2, 3, 4].map(|drawn| rule.destination(drawn).map(|to| to.cluster.0));
        assert_eq!(drawn, [Some(0), Some(1), Some(1), Some(1), None]);
    }
}
