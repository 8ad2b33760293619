//! The endpoints of a service's port: how they are found, and which of them are part of the mesh.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::clusters::{Problem, problem};
use super::finding::Severity;
use super::locality::Preference;
use super::mesh::Mesh;
use super::services::{ServedPort, Workload};
use crate::identity::workload_id;
use crate::kinds::service_entry::{Location, Resolution};
use crate::kinds::value::StringMap;
use crate::table::cluster::{Discovery, DnsEndpoint, Endpoint, EndpointAddress, WildcardNames};
use crate::table::locality::Rank;

const UNIX: &str = "unix://";
/// The label of workloads that take mutual TLS of the mesh, and its value.
const TLS_MODE: &str = "security.istio.io/tlsMode";
const TLS_MODE_ISTIO: &str = "istio";
/// The service account of a workload that names none.
const DEFAULT_ACCOUNT: &str = "default";

/// Where the endpoints with these labels are found.
pub(super) fn discovery(
    host: &Arc<str>,
    workloads: &[Workload<'_>],
    served: ServedPort<'_>,
    labels: &StringMap,
    subset: Option<&str>,
    preference: &Preference<'_>,
) -> (Discovery, Option<Problem>) {
    let has_address = |workload: &&Workload<'_>| !workload.entry.address.is_empty();
    let selected = workloads.iter().filter(|workload| workload.has_labels(labels)).filter(has_address).copied();
    let selected = preference.rank(selected.collect());
    let dns_endpoints = || -> Vec<DnsEndpoint> {
        selected.iter().map(|(workload, rank)| dns_endpoint(*workload, *rank, served)).collect()
    };
    let own_name = || {
        // The host itself carries no labels, so a subset with labels holds nothing of it.
        let usable = workloads.is_empty() && served.entry.workload_selector.is_none() && labels.is_empty();
        (usable && !host.starts_with('*')).then(|| DnsEndpoint::new(host.clone(), target_port(served), 1))
    };
    let warn = |reason, message| Some(problem("host", Severity::Warning, reason, message));
    match *served.entry.resolution {
        Resolution::None => {
            let message = format!(
                "the ServiceEntry of `{host}` has resolution NONE, to the address that the client wanted to reach, \
                 which only a sidecar knows, so requests are answered 503; use {}",
                if host.starts_with('*') { "DYNAMIC_DNS" } else { "DNS or STATIC" }
            );
            (Discovery::None, warn("NoEndpoints", message))
        }
        Resolution::DynamicDns => {
            let Some(suffix) = host.strip_prefix('*') else {
                return (Discovery::None, Some(no_endpoints(host, subset)));
            };
            // Names that are not listed carry no labels.
            if !labels.is_empty() {
                return (Discovery::None, Some(no_endpoints(host, subset)));
            }
            (Discovery::Dynamic(WildcardNames { suffix: suffix.into(), port: target_port(served) }), None)
        }
        Resolution::Static => {
            let endpoints = selected.iter().filter_map(|(workload, rank)| static_endpoint(*workload, *rank, served));
            let endpoints: Vec<_> = endpoints.collect();
            let problem = endpoints.is_empty().then(|| no_endpoints(host, subset));
            (Discovery::Static(endpoints.into()), problem)
        }
        Resolution::Dns => {
            let mut endpoints = dns_endpoints();
            endpoints.extend(own_name());
            let problem = endpoints.is_empty().then(|| no_endpoints(host, subset));
            (Discovery::Dns(endpoints.into()), problem)
        }
        Resolution::DnsRoundRobin => match dns_endpoints().into_iter().next().or_else(own_name) {
            Some(endpoint) => (Discovery::LogicalDns(endpoint), None),
            None => (Discovery::None, Some(no_endpoints(host, subset))),
        },
    }
}

/// Whether a proxy of the mesh answers there, which only services that are part of the mesh are asked for.
pub(super) fn is_in_mesh(workload: Workload<'_>, served: ServedPort<'_>) -> bool {
    *served.entry.location == Location::MeshInternal && has_proxy(workload)
}

/// Whether it says that a proxy answers for it.
pub(super) fn has_proxy(workload: Workload<'_>) -> bool {
    workload.label(TLS_MODE) == Some(TLS_MODE_ISTIO)
}

/// The identities that workloads may have, each once: in every trust domain that is the mesh's.
pub(super) fn identities<'a>(
    workloads: impl Iterator<Item = Workload<'a>>,
    namespace: &str,
    mesh: &Mesh,
) -> Vec<String> {
    let accounts = workloads.map(|workload| workload.entry.service_account.as_str());
    let accounts: BTreeSet<_> =
        accounts.map(|account| if account.is_empty() { DEFAULT_ACCOUNT } else { account }).collect();
    let domains = mesh.trust_domains();
    let ids = accounts.into_iter().flat_map(|account| domains.iter().map(move |domain| (domain, account)));
    ids.map(|(domain, account)| workload_id(domain, namespace, account)).collect()
}

pub(super) fn no_endpoints(host: &str, subset: Option<&str>) -> Problem {
    let message = match subset {
        Some(subset) => format!(
            "no endpoint of `{host}` carries the labels of subset `{subset}`, so requests are answered 503; label the \
             endpoints"
        ),
        None => format!("`{host}` has no endpoints, so requests are answered 503; add some to its ServiceEntry"),
    };
    problem("host", Severity::Warning, "NoEndpoints", message)
}

/// The port of an endpoint that says nothing of its own.
fn target_port(served: ServedPort<'_>) -> u16 {
    u16::try_from(*served.port.target_port).ok().filter(|port| *port > 0).unwrap_or(served.number)
}

fn endpoint_port(workload: Workload<'_>, served: ServedPort<'_>) -> u16 {
    let own = (*workload.entry.ports).get(served.port.name.as_str()).and_then(|port| u16::try_from(*port).ok());
    own.filter(|port| *port > 0).unwrap_or_else(|| target_port(served))
}

fn static_endpoint(workload: Workload<'_>, rank: Rank, served: ServedPort<'_>) -> Option<Endpoint> {
    let address = workload.entry.address.as_str();
    let address = match address.strip_prefix(UNIX) {
        Some(path) => EndpointAddress::Unix(path.into()),
        None => EndpointAddress::Ip(address.parse::<IpAddr>().ok()?, endpoint_port(workload, served)),
    };
    Some(Endpoint { address, weight: workload.weight(), rank, in_mesh: is_in_mesh(workload, served) })
}

fn dns_endpoint(workload: Workload<'_>, rank: Rank, served: ServedPort<'_>) -> DnsEndpoint {
    DnsEndpoint {
        name: workload.entry.address.as_str().into(),
        port: endpoint_port(workload, served),
        weight: workload.weight(),
        rank,
        in_mesh: is_in_mesh(workload, served),
    }
}
