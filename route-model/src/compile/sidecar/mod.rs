//! What a sidecar serves: the services that its workload may call, and the workload itself.
//!
//! Everything is made again when a resource other than an endpoint changes: a sidecar's scope is small. What comes out
//! as it was stays the same allocation (`pass`). `egress` says what a workload may call and `rules` which
//! VirtualServices have a say in that; `outbound` puts both together, with `http` and `streams` for what is spoken;
//! `inbound` and `peer_authentication` are about what others open.

mod domains;
mod egress;
mod http;
mod inbound;
mod outbound;
mod pass;
mod peer_authentication;
mod rules;
mod streams;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::fast::RandomState;

use self::egress::Egress;
use self::outbound::Unknown;
use self::pass::{Kept, Pass};
use self::rules::MeshRules;
use super::SidecarScope;
use super::authentication::Authentications;
use super::clusters::OwnClusters;
use super::finding::Finding;
use super::services::Services;
use super::targets::Targets;
use super::virtual_service::Context;
use crate::table::{Inbound, Listener, ListenerProtocol, Outbound, PortRoutes};

/// The state of a compiler that works for a sidecar.
#[derive(Debug, Default)]
pub(super) struct Sidecar {
    local: SidecarScope,
    /// Something was compiled.
    started: bool,
    kept: Kept,
    outbound: Arc<Outbound>,
    inbound: Arc<Inbound>,
    listeners: Vec<Arc<Listener>>,
    /// Where services and ports lead that no resource has an upstream for.
    own: OwnClusters,
    /// The namespace that each service is taken from.
    homes: HashMap<Arc<str>, Arc<str>, RandomState>,
    findings: Vec<Finding>,
}

/// What is made anew.
pub(super) struct Sources<'a> {
    pub(super) context: Context<'a>,
    pub(super) services: &'a Services,
    pub(super) authentications: &'a mut Authentications,
    pub(super) targets: &'a mut Targets,
}

impl Sidecar {
    pub(super) fn new(local: SidecarScope) -> Self {
        Self { local, ..Self::default() }
    }

    pub(super) fn is_started(&self) -> bool {
        self.started
    }

    pub(super) fn listeners(&self) -> &[Arc<Listener>] {
        &self.listeners
    }

    pub(super) fn own(&self) -> &OwnClusters {
        &self.own
    }

    pub(super) fn homes(&self) -> &HashMap<Arc<str>, Arc<str>, RandomState> {
        &self.homes
    }

    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Compiles everything but clusters; answers the hosts whose clusters may be others now.
    pub(super) fn update(&mut self, sources: Sources<'_>) -> HashSet<Arc<str>> {
        self.started = true;
        let Sources { context, services, authentications, targets } = sources;
        let mut pass = Pass::new(context, targets, std::mem::take(&mut self.kept));
        let egress = Egress::of(&context);
        let visible = egress.services(services, &context);
        let rules = MeshRules::new(&egress, &context);
        let unknown = Unknown::new(&mut pass, &egress);
        let mut outbound = outbound::routes(&mut pass, &visible, &rules, &unknown);
        let bound = self.local.services.iter();
        let bound = bound.map(|bound| (bound.listen, outbound::bound(&mut pass, bound, &visible, &rules)));
        let mut bound: Vec<_> = bound.collect();
        for place in &egress.places {
            let visible = egress.services_of(place, services, &context);
            let routes = outbound::place(&mut pass, place, &visible, &rules, &egress, &unknown);
            if place.listens {
                bound.push((place.address, routes));
            } else {
                outbound.by_address.insert((place.address.ip(), place.address.port()), routes);
            }
        }
        pass.findings.extend(egress.findings.iter().cloned());
        let served = inbound::routes(&mut pass, &self.local, egress.resource(), services, authentications);
        let homes = visible.iter().map(|visible| (visible.host.clone(), visible.service.namespace.clone())).collect();
        let (kept, own, findings) = pass.finish();
        (self.kept, self.findings) = (kept, findings);
        self.outbound = pass::keep(Some(&self.outbound), outbound, same_outbound);
        self.inbound = pass::keep(Some(&self.inbound), served.inbound, same_inbound);
        self.listen(bound, &served.places);

        let mut dirty = HashSet::default();
        let own_before = std::mem::replace(&mut self.own, own);
        let differ = |key: &&Arc<str>| own_before.get(*key) != self.own.get(*key);
        dirty.extend(own_before.keys().chain(self.own.keys()).filter(differ).cloned());
        let homes_before = std::mem::replace(&mut self.homes, homes);
        let moved = |key: &&Arc<str>| homes_before.get(*key) != self.homes.get(*key);
        dirty.extend(homes_before.keys().chain(self.homes.keys()).filter(moved).cloned());
        dirty
    }

    fn listen(&mut self, bound: Vec<(SocketAddr, Arc<PortRoutes>)>, served: &[(SocketAddr, u16)]) {
        let mut wanted: BTreeMap<(u16, Option<IpAddr>), ListenerProtocol> = BTreeMap::new();
        let mut add = |address: SocketAddr, protocol| {
            wanted.entry((address.port(), Some(address.ip()))).or_insert(protocol);
        };
        for address in &self.local.outbound {
            add(*address, ListenerProtocol::Outbound(self.outbound.clone()));
        }
        for address in &self.local.inbound {
            add(*address, ListenerProtocol::Inbound { port: None, inbound: self.inbound.clone() });
        }
        for port in &self.local.ports {
            for address in &port.listen {
                let inbound = self.inbound.clone();
                add(*address, ListenerProtocol::Inbound { port: Some(port.port), inbound });
            }
        }
        for (address, port) in served {
            add(*address, ListenerProtocol::Inbound { port: Some(*port), inbound: self.inbound.clone() });
        }
        for (address, routes) in bound {
            add(address, ListenerProtocol::Service(routes));
        }
        let before: HashMap<_, _> = std::mem::take(&mut self.listeners)
            .into_iter()
            .map(|listener| ((listener.port, listener.bind), listener))
            .collect();
        let listeners = wanted.into_iter().map(|((port, bind), protocol)| {
            let listener = Listener { bind, port, servers: Vec::new(), proxy_protocol: false, protocol };
            let same = |a: &Listener, b: &Listener| same_protocol(&a.protocol, &b.protocol);
            pass::keep(before.get(&(port, bind)), listener, same)
        });
        self.listeners = listeners.collect();
    }
}

fn same_protocol(a: &ListenerProtocol, b: &ListenerProtocol) -> bool {
    use ListenerProtocol as Of;
    match (a, b) {
        (Of::Service(a), Of::Service(b)) => Arc::ptr_eq(a, b),
        (Of::Outbound(a), Of::Outbound(b)) => Arc::ptr_eq(a, b),
        (Of::Inbound { port: a, inbound: x }, Of::Inbound { port: b, inbound: y }) => a == b && Arc::ptr_eq(x, y),
        _ => false,
    }
}

fn same_outbound(a: &Outbound, b: &Outbound) -> bool {
    same_map(&a.by_address, &b.by_address) && same_map(&a.by_port, &b.by_port) && Arc::ptr_eq(&a.unknown, &b.unknown)
}

fn same_inbound(a: &Inbound, b: &Inbound) -> bool {
    same_map(&a.ports, &b.ports) && Arc::ptr_eq(&a.other, &b.other)
}

fn same_map<K: std::hash::Hash + Eq, V>(
    a: &HashMap<K, Arc<V>, RandomState>,
    b: &HashMap<K, Arc<V>, RandomState>,
) -> bool {
    a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| Arc::ptr_eq(value, other)))
}
