//! Sets of addresses: thousands of subnets are one search.

use std::fmt;
use std::net::IpAddr;

use crate::table::stream::Subnet;

/// Subnets of IPv4 and of IPv6. An IPv4 address that came in IPv6 form is IPv4.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AddressSet {
    subnets: Box<[Subnet]>,
    v4: Ranges,
    v6: Ranges,
}

/// First and last address of each, ascending and apart.
type Ranges = Box<[(u128, u128)]>;

impl AddressSet {
    pub fn new(subnets: impl IntoIterator<Item = Subnet>) -> Self {
        let subnets: Box<[Subnet]> = subnets.into_iter().collect();
        let of = |v4: bool| {
            let own = subnets.iter().filter(|subnet| subnet.network().is_ipv4() == v4);
            let mut ranges: Vec<_> = own.map(Subnet::range).collect();
            ranges.sort_unstable();
            let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
            for (first, last) in ranges {
                match merged.last_mut() {
                    Some(before) if first <= before.1 => before.1 = before.1.max(last),
                    _ => merged.push((first, last)),
                }
            }
            merged.into_boxed_slice()
        };
        Self { v4: of(true), v6: of(false), subnets }
    }

    pub(super) fn subnets(&self) -> &[Subnet] {
        &self.subnets
    }

    pub(super) fn has(&self, address: IpAddr) -> bool {
        let (ranges, bits) = match address.to_canonical() {
            IpAddr::V4(ip) => (&self.v4, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (&self.v6, ip.to_bits()),
        };
        let after = ranges.partition_point(|(first, _)| *first <= bits);
        after > 0 && bits <= ranges[after - 1].1
    }
}

impl fmt::Debug for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.subnets).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_any_of_many_subnets() {
        let subnets =
            ["10.0.0.0/8", "10.1.0.0/16", "192.168.1.7", "192.168.1.9/31", "2001:db8::/32", "::1", "172.16.0.0/12"];
        let set = AddressSet::new(subnets.iter().filter_map(|text| Subnet::parse(text)));
        for (address, want) in [
            ("10.255.0.1", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.168.1.7", true),
            ("192.168.1.6", false),
            ("192.168.1.8", true),
            ("192.168.1.10", false),
            ("::ffff:10.0.0.1", true),
            ("::10.0.0.1", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::", false),
            ("::1", true),
            ("172.31.255.255", true),
        ] {
            assert_eq!(set.has(address.parse().expect("an address")), want, "{address}");
        }
        assert!(!AddressSet::default().has(IpAddr::from([0, 0, 0, 0])));
        let all = AddressSet::new([Subnet::parse("0.0.0.0/0"), Subnet::parse("::/0")].into_iter().flatten());
        assert!(all.has(IpAddr::from([255; 4])) && all.has(IpAddr::from([255; 16])));
    }
}
