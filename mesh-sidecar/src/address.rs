//! The address that others reach this host by.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs, UdpSocket};

/// The address of this host on the way to a control plane, `https://HOST[:PORT]`. Nothing is sent, except for what
/// finding the address of a name takes.
pub(crate) fn on_the_way_to(control_plane: &str) -> io::Result<IpAddr> {
    let target = host_and_port(control_plane);
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{target} has no address"));
    for address in target.to_socket_addrs()? {
        let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // Connecting a UDP socket asks the routing table and sends no packet.
        let local = UdpSocket::bind((any, 0)).and_then(|socket| {
            socket.connect(address)?;
            socket.local_addr()
        });
        match local {
            Ok(local) => return Ok(local.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// `host:port`; the port is of no matter to the route.
fn host_and_port(url: &str) -> String {
    let authority = url.strip_prefix("https://").unwrap_or(url).trim_end_matches('/');
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { authority.to_owned() } else { format!("{authority}:15012") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_may_be_left_out() {
        for (url, expected) in [
            ("https://control.internal:1", "control.internal:1"),
            ("https://control.internal", "control.internal:15012"),
            ("https://[::1]:7/", "[::1]:7"),
            ("https://[fd00::1]", "[fd00::1]:15012"),
        ] {
            assert_eq!(host_and_port(url), expected);
        }
    }

    #[test]
    fn the_way_to_this_host_is_loopback() {
        assert_eq!(on_the_way_to("https://127.0.0.1:15012").unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert!(on_the_way_to("https://no-such-host.invalid").is_err());
    }
}
