//! From a [`ResourceSet`] to a [`RouteTable`]: the one definition of what the resources mean.
//!
//! The stages, each a room: `gateway` merges Gateways into listeners (`topology`: what stands before them); `virtual_service`, `delegate`, `rule`,
//! `matches`, `traffic` and `headers` make routes that know their destinations by number only (`targets`); `groups` puts
//! the routes of several VirtualServices together by host; `services`, `destination_rule`, `endpoints` and `clusters` find
//! what the numbers stand for; `limits` compiles rate
//! limits and finds them for routes, as `backend` does with body limits (`attached`: by what policies are attached to); `authentication` puts rules for tokens together, `authorization` compiles who may do what, and `attachment` says what of a proxy a
//! policy is for; `tls` and `upstream_tls` read certificates. `sidecar` is what all that is for a sidecar. `incremental` keeps all of it from set to set, so that an
//! edit costs what it touches.

mod attached;
pub mod attachment;
mod authentication;
mod authorization;
mod backend;
mod clusters;
pub(crate) mod delegate;
mod destination_rule;
pub(crate) mod effective;
mod endpoints;
mod finding;
mod gateway;
mod groups;
mod headers;
mod incremental;
mod limits;
mod listeners;
mod locality;
pub(crate) mod matches;
mod mesh;
pub mod names;
mod rule;
mod server_hosts;
mod services;
mod sidecar;
mod streams;
mod targets;
mod tls;
mod topology;
pub(crate) mod traffic;
mod trusted_proxies;
mod upstream;
mod upstream_tls;
mod virtual_service;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

pub use finding::{Finding, Severity};
pub use incremental::Compiler;

use crate::meta::ResourceKey;
use crate::resource::ResourceSet;
use crate::table::RouteTable;
use crate::table::locality::Locality;

/// The proxy that a table is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyScope {
    pub role: ProxyRole,
    /// The namespace that the proxy runs in (`--gateway-namespace`).
    pub namespace: Arc<str>,
    /// The labels that Gateway selectors and `sourceLabels` are held against, and those that say where the proxy is.
    pub labels: BTreeMap<String, String>,
}

/// The labels by which Kubernetes and Istio say where something runs.
pub const TOPOLOGY_REGION: &str = "topology.kubernetes.io/region";
pub const TOPOLOGY_ZONE: &str = "topology.kubernetes.io/zone";
pub const TOPOLOGY_SUBZONE: &str = "topology.istio.io/subzone";
pub const TOPOLOGY_NETWORK: &str = "topology.istio.io/network";
/// The whole place in one label, as `region.zone.subzone`; goes before the others.
const ISTIO_LOCALITY: &str = "istio-locality";

/// What a sidecar knows of the host that it is on, beside who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SidecarScope {
    /// Where it takes what its application opens: redirected connections, and requests as to a forward proxy.
    pub outbound: Vec<SocketAddr>,
    /// Where it takes redirected connections to its application.
    pub inbound: Vec<SocketAddr>,
    /// What its application serves.
    pub ports: Vec<ApplicationPort>,
    /// Listeners that stand for services.
    pub services: Vec<BoundService>,
}

/// A port of a sidecar's application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationPort {
    /// What it begins with is the protocol (`http-web`, `grpc`, `tcp`), as Istio reads port names.
    pub name: Arc<str>,
    /// Where the application listens, on loopback.
    pub port: u16,
    /// Where the sidecar listens for it; none with transparent capture.
    pub listen: Vec<SocketAddr>,
}

/// An address that stands for a port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundService {
    /// Short names are of the sidecar's own namespace.
    pub host: Arc<str>,
    /// Of the service.
    pub port: u16,
    pub listen: SocketAddr,
}

impl ProxyScope {
    /// Where the proxy is, as its labels say.
    pub fn locality(&self) -> Locality<'_> {
        labelled_locality(|label| self.labels.get(label).map(String::as_str))
    }
}

fn labelled_locality<'a>(label: impl Fn(&str) -> Option<&'a str>) -> Locality<'a> {
    match label(ISTIO_LOCALITY).filter(|text| !text.is_empty()) {
        // A label's value has no slashes.
        Some(text) if !text.contains('/') => {
            let mut parts = text.splitn(3, '.');
            let mut part = || parts.next().unwrap_or_default();
            Locality { region: part(), zone: part(), subzone: part() }
        }
        Some(text) => Locality::parse(text),
        None => {
            let part = |name| label(name).unwrap_or_default();
            Locality { region: part(TOPOLOGY_REGION), zone: part(TOPOLOGY_ZONE), subzone: part(TOPOLOGY_SUBZONE) }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyRole {
    /// At the edge: Gateways say what it serves.
    Gateway,
    /// Beside one workload, for what is between workloads.
    Sidecar,
}

impl ProxyRole {
    pub const ALL: [Self; 2] = [Self::Gateway, Self::Sidecar];
}

/// Defines what the resources mean for a proxy.
pub fn compile(set: &ResourceSet, scope: &ProxyScope) -> (RouteTable, Vec<Finding>) {
    let compiled = Compiler::new(scope.clone()).update(set, &Changed::Everything);
    (Arc::unwrap_or_clone(compiled.table), compiled.findings)
}

/// Defines what the resources mean for a sidecar.
pub fn compile_sidecar(set: &ResourceSet, scope: &ProxyScope, local: &SidecarScope) -> (RouteTable, Vec<Finding>) {
    let compiled = Compiler::sidecar(scope.clone(), local.clone()).update(set, &Changed::Everything);
    (Arc::unwrap_or_clone(compiled.table), compiled.findings)
}

/// What differs between a set and the one before it.
#[derive(Clone, Debug)]
pub enum Changed {
    /// Not known; the compiler compares the sets.
    Everything,
    /// The keys of resources that were added, changed or removed.
    Keys(Vec<ResourceKey>),
}

/// The result of a compilation.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub table: Arc<RouteTable>,
    /// Sorted and complete: of the whole set, not only of what changed.
    pub findings: Vec<Finding>,
}

#[cfg(test)]
pub(crate) mod tests;
