//! Which connections are redirected, in no firewall's language.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZero;
use std::str::FromStr;

/// Never captured: config dump and drain, the control plane's push port (which has TLS of its own and must be reachable
/// before any sidecar), and metrics and health.
const OWN_PORTS: [Port; 3] = [port(15000), port(15012), port(15020)];

/// Zero is no port.
pub type Port = NonZero<u16>;

/// What is redirected where. Inbound is what comes from other hosts for this one; outbound is what this host opens,
/// except to itself.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Rules {
    /// The sidecar's port for connections that this host opens
    #[arg(long, env = "FAIRWAY_CAPTURE_OUTBOUND_PORT", value_name = "PORT", default_value = "15001")]
    pub outbound_port: Port,

    /// The sidecar's port for connections from others
    #[arg(long, env = "FAIRWAY_CAPTURE_INBOUND_PORT", value_name = "PORT", default_value = "15006")]
    pub inbound_port: Port,

    /// The user ids that the sidecar runs as: their connections are not captured
    #[arg(
        long = "uid",
        env = "FAIRWAY_CAPTURE_UID",
        value_name = "UID",
        value_delimiter = ',',
        default_value = "1337"
    )]
    pub uids: Vec<u32>,

    /// Connections with this packet mark are the sidecar's, too, and not captured; 0: there is none
    #[arg(long, env = "FAIRWAY_CAPTURE_MARK", value_name = "MARK", default_value = "1337", value_parser = mark)]
    pub mark: u32,

    /// Capture connections from others to these ports: a list, * for all, "" for none
    #[arg(long, env = "FAIRWAY_CAPTURE_INCLUDE_INBOUND_PORTS", value_name = "PORTS", default_value = "*")]
    pub include_inbound_ports: Included<Port>,

    /// … but not to these. The sidecar's own 15000 and 15020, and 15012, are never captured
    #[arg(long, env = "FAIRWAY_CAPTURE_EXCLUDE_INBOUND_PORTS", value_name = "PORTS", default_value = "22")]
    pub exclude_inbound_ports: List<Port>,

    /// Capture connections that this host opens to these addresses: a list, * for all, "" for none
    #[arg(long, env = "FAIRWAY_CAPTURE_INCLUDE_CIDRS", value_name = "CIDRS", default_value = "*")]
    pub include_cidrs: Included<Cidr>,

    /// … and those to these ports, whatever the address
    #[arg(long, env = "FAIRWAY_CAPTURE_INCLUDE_OUTBOUND_PORTS", value_name = "PORTS", default_value = "")]
    pub include_outbound_ports: List<Port>,

    /// … but none to these addresses
    #[arg(long, env = "FAIRWAY_CAPTURE_EXCLUDE_CIDRS", value_name = "CIDRS", default_value = "")]
    pub exclude_cidrs: List<Cidr>,

    /// … and none to these ports
    #[arg(long, env = "FAIRWAY_CAPTURE_EXCLUDE_OUTBOUND_PORTS", value_name = "PORTS", default_value = "")]
    pub exclude_outbound_ports: List<Port>,
}

const fn port(number: u16) -> Port {
    match NonZero::new(number) {
        Some(port) => port,
        None => panic!("zero is no port"),
    }
}

impl Rules {
    /// Inbound ports that are left alone, in order.
    pub(super) fn spared_inbound_ports(&self) -> Vec<Port> {
        self.exclude_inbound_ports.0.iter().copied().chain(OWN_PORTS).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uids: Vec<String> = self.uids.iter().map(ToString::to_string).collect();
        write!(
            f,
            "new TCP connections from here go to port {}, those from others to port {}; exempt is uid {}",
            self.outbound_port,
            self.inbound_port,
            uids.join(", ")
        )?;
        if self.mark == 0 { Ok(()) } else { write!(f, " and mark {}", self.mark) }
    }
}

/// Items with commas between, sorted; the empty text is no item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(pub(super) BTreeSet<T>);

/// All, written `*`, or those in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Included<T> {
    All,
    Only(List<T>),
}

impl<T: FromStr<Err: Display> + Ord> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        let parsed = items.map(|item| item.parse().map_err(|error| format!("{item:?}: {error}")));
        Ok(Self(parsed.collect::<Result<_, _>>()?))
    }
}

impl<T: FromStr<Err: Display> + Ord> FromStr for Included<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "*" { Ok(Self::All) } else { text.parse().map(Self::Only) }
    }
}

/// A network: `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    /// With the bits beyond the prefix zero.
    network: IpAddr,
    prefix: u8,
}

impl Cidr {
    pub(super) fn is_ipv4(self) -> bool {
        self.network.is_ipv4()
    }
}

impl FromStr for Cidr {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "it is not an address or a network such as 10.0.0.0/8 or fd00::/8";
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return Err(wrong);
        }
        let beyond = u32::from(bits - prefix);
        let network = match address {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & u32::MAX.checked_shl(beyond).unwrap_or(0))),
            IpAddr::V6(ip) => {
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & u128::MAX.checked_shl(beyond).unwrap_or(0)))
            }
        };
        Ok(Self { network, prefix })
    }
}

impl Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// `1337` or `0x539`.
pub(crate) fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{error}; a mark is written as 1337 or 0x539"))
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        rules: Rules,
    }

    /// Rules from a command line.
    pub(in crate::capture) fn rules(words: &[&str]) -> Rules {
        Cli::try_parse_from(["capture"].iter().chain(words)).unwrap().rules
    }

    #[test]
    fn networks_are_read_without_the_bits_of_hosts() {
        for (text, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("1.2.3.4/0", "0.0.0.0/0"),
            ("fd00::1/8", "fd00::/8"),
            ("::1", "::1/128"),
            ("fd00::1/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), expected);
        }
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "host", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_say_which_item_is_wrong() {
        let error = Cli::try_parse_from(["x", "--exclude-outbound-ports", "25,http"]).unwrap_err().to_string();
        assert!(error.contains("\"http\""), "{error}");
        let error = Cli::try_parse_from(["x", "--exclude-cidrs", "10.0.0.0/8, 10.0.0.0/40"]).unwrap_err().to_string();
        assert!(error.contains("\"10.0.0.0/40\"") && error.contains("fd00::/8"), "{error}");
        assert!(Cli::try_parse_from(["x", "--outbound-port", "0"]).is_err());
    }

    #[test]
    fn what_must_stay_reachable_is_spared() {
        let spared =
            |words: &[&str]| -> Vec<u16> { rules(words).spared_inbound_ports().iter().map(|p| p.get()).collect() };
        assert_eq!(spared(&[]), [22, 15000, 15012, 15020]);
        assert_eq!(spared(&["--exclude-inbound-ports", "9,15020,8"]), [8, 9, 15000, 15012, 15020]);
    }

    #[test]
    fn marks_are_decimal_or_hexadecimal() {
        assert_eq!(rules(&["--mark", "0x539"]), rules(&[]));
        assert!(Cli::try_parse_from(["x", "--mark", "x"]).is_err());
    }

    proptest! {
        #[test]
        fn a_network_that_is_shown_is_read_back(address in any::<IpAddr>(), prefix in 0_u8..=128) {
            let prefix = if address.is_ipv4() { prefix.min(32) } else { prefix };
            let cidr: Cidr = format!("{address}/{prefix}").parse().unwrap();
            prop_assert_eq!(cidr.to_string().parse(), Ok(cidr));
        }
    }
}
