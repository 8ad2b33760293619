//! Where a sidecar listens, as its route tables say it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use route_model::compile::{ApplicationPort, BoundService, SidecarScope};

use crate::options::{self, BindService, CaptureMode, ListenOn};

/// What is listened for, and the ports of it that are to be free ones. Those go by another number in tables, which is
/// also how they are found in `ports.json`: a service's by the service's own port, an application's by the
/// application's, the entrances by their defaults; by the next higher one where that is taken.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    pub(crate) scope: SidecarScope,
    pub(crate) free: BTreeMap<u16, u16>,
    /// The numbers that were written, which stand for themselves.
    written: BTreeSet<u16>,
    taken: BTreeSet<(u16, IpAddr)>,
}

const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;

impl Listeners {
    pub(crate) fn new(
        capture: CaptureMode,
        outbound: ListenOn,
        inbound: ListenOn,
        ports: &[options::ApplicationPort],
        services: &[BindService],
    ) -> Self {
        let written = ports.iter().filter_map(|port| port.listen).chain([outbound, inbound]).map(|listen| listen.port);
        let written = written.chain(services.iter().map(|service| service.listen.port())).collect();
        let mut listeners = Self { written, ..Self::default() };
        let outbound = listeners.name(&outbound.for_this_host(), OUTBOUND);
        // With explicit capture every port has a listener of its own, and nothing is redirected.
        let redirected = if capture == CaptureMode::Transparent { inbound.for_everybody() } else { Vec::new() };
        let inbound = listeners.name(&redirected, INBOUND);
        let ports = ports.iter().map(|port| {
            let listen = port.listen.map_or_else(Vec::new, ListenOn::for_everybody);
            ApplicationPort {
                name: port.name.as_str().into(),
                port: port.port,
                listen: listeners.name(&listen, port.port),
            }
        });
        let ports = ports.collect();
        let services = services.iter().filter_map(|service| {
            let listen = listeners.name(&[service.listen], service.port).first().copied()?;
            Some(BoundService { host: service.host.as_str().into(), port: service.port, listen })
        });
        let services = services.collect();
        listeners.scope = SidecarScope { outbound, inbound, ports, services };
        listeners
    }

    /// The addresses as tables name them; one of port 0 by `usual`.
    fn name(&mut self, addresses: &[SocketAddr], usual: u16) -> Vec<SocketAddr> {
        let name = |address: &SocketAddr| {
            let mut port = address.port();
            if port == 0 {
                let is_free = |port: &u16| !self.written.contains(port) && !self.taken.contains(&(*port, address.ip()));
                port = (usual..=u16::MAX).find(is_free).unwrap_or(usual);
                self.free.insert(port, 0);
            }
            self.taken.insert((port, address.ip()));
            SocketAddr::new(address.ip(), port)
        };
        addresses.iter().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listeners(capture: CaptureMode, entrances: &str, ports: &[&str], services: &[&str]) -> Listeners {
        let entrance: ListenOn = entrances.parse().unwrap();
        let ports: Vec<_> = ports.iter().map(|port| port.parse().unwrap()).collect();
        let services: Vec<_> = services.iter().map(|service| service.parse().unwrap()).collect();
        Listeners::new(capture, entrance, entrance, &ports, &services)
    }

    fn text(addresses: &[SocketAddr]) -> Vec<String> {
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn entrances_are_for_this_host_or_for_everybody() {
        let found = listeners(CaptureMode::Transparent, ":15001", &["http=9080"], &[]).scope;
        let entrance: ListenOn = ":15001".parse().unwrap();
        assert_eq!(found.outbound, entrance.for_this_host());
        assert_eq!(found.inbound, entrance.for_everybody());
        assert!(found.ports[0].listen.is_empty());
        let found = listeners(CaptureMode::Explicit, ":15001", &["http=9080@19080"], &["a:80=127.0.0.1:8001"]).scope;
        assert!(found.inbound.is_empty());
        assert_eq!(found.ports[0].listen, ":19080".parse::<ListenOn>().unwrap().for_everybody());
        assert_eq!(found.services[0].listen.to_string(), "127.0.0.1:8001");
    }

    #[test]
    fn free_ports_go_by_the_usual_number_or_the_next() {
        let found = listeners(
            CaptureMode::Explicit,
            "127.0.0.1:0",
            &["http=9080@127.0.0.1:0"],
            &["a:9080=127.0.0.1:0", "b:80=127.0.0.1:0", "c=127.0.0.2:9081"],
        );
        assert_eq!(text(&found.scope.outbound), ["127.0.0.1:15001"]);
        assert_eq!(text(&found.scope.ports[0].listen), ["127.0.0.1:9080"]);
        let services: Vec<_> = found.scope.services.iter().map(|service| service.listen.port()).collect();
        assert_eq!(services, [9082, 80, 9081]);
        assert_eq!(found.free, [(80, 0), (9080, 0), (9082, 0), (15001, 0)].into());
    }
}
