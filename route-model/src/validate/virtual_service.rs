//! The rules for VirtualServices.

use super::Report;
use super::hosts::{self, Wildcard};
use super::{http_route, scope};
use crate::field::Place;
use crate::kinds::value::{StringMap, Written};
use crate::kinds::virtual_service::{
    Destination, RouteDestination, TcpMatch, TcpRoute, TlsMatch, TlsRoute, VirtualService,
};
use crate::names;

/// The gateway that stands for all sidecars.
const MESH: &str = "mesh";

/// What a rule may look like, by where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// In a VirtualService with hosts.
    Root,
    /// In one without, that others delegate to.
    Delegate,
}

pub(super) fn check(spec: &VirtualService, namespace: &str, at: &Place<'_>, report: &mut Report) {
    let role = if spec.hosts.is_empty() { Role::Delegate } else { Role::Root };
    let mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == MESH);
    if role == Role::Delegate {
        let parts =
            [("gateways", spec.gateways.is_empty()), ("tls", spec.tls.is_empty()), ("tcp", spec.tcp.is_empty())];
        for (field, _) in parts.into_iter().filter(|(_, empty)| !empty) {
            let detail = "a VirtualService without hosts is one that others delegate to, and that has http rules only";
            report.forbidden(&at.field(field), detail);
        }
    } else if !spec.gateways.is_written() || spec.gateways.is_empty() {
        let detail =
            "not set, so the rules are for sidecars (mesh) and not for gateways; name the gateways that they are for";
        report.warn(&at.field("gateways"), detail);
    }
    check_hosts(spec, mesh, &at.field("hosts"), report);
    scope::gateways(&spec.gateways, &at.field("gateways"), report);
    scope::export_to(&spec.export_to, namespace, false, &at.field("exportTo"), report);
    if spec.http.is_empty() && spec.tls.is_empty() && spec.tcp.is_empty() {
        report.required(at, "one of http, tls and tcp must be set");
    }
    let http = at.field("http");
    for (index, route) in spec.http.iter().enumerate() {
        http_route::check(route, role, mesh, &http.index(index), report);
    }
    let tls = at.field("tls");
    for (index, route) in spec.tls.iter().enumerate() {
        check_tls(route, &spec.hosts, &tls.index(index), report);
    }
    let tcp = at.field("tcp");
    for (index, route) in spec.tcp.iter().enumerate() {
        check_tcp(route, &tcp.index(index), report);
    }
}

fn check_hosts(spec: &VirtualService, mesh: bool, at: &Place<'_>, report: &mut Report) {
    for (index, host) in spec.hosts.iter().enumerate() {
        let at = at.index(index);
        if host == "*" && mesh {
            report.invalid(&at, host, "* is only allowed with gateways other than mesh");
            continue;
        }
        hosts::check(host, Wildcard::Any, &at, report);
        let earlier = &spec.hosts[..index];
        if earlier.iter().any(|other| other.eq_ignore_ascii_case(host)) {
            report.duplicate(&at, host);
        } else if let Some(other) =
            earlier.iter().find(|other| hosts::covers(other, host) || hosts::covers(host, other))
        {
            report.invalid(&at, host, format_args!("overlaps with the host {other:?} of the same VirtualService"));
        }
    }
}

/// A service that requests or connections are sent to.
pub(super) fn check_destination(destination: Option<&Destination>, at: &Place<'_>, report: &mut Report) {
    let Some(destination) = destination else {
        report.required(at, "a destination is required");
        return;
    };
    hosts::check(&destination.host, Wildcard::Prefix, &at.field("host"), report);
    if !destination.subset.is_empty() && !names::is_dns_label(&destination.subset.to_ascii_lowercase()) {
        report.invalid(&at.field("subset"), &*destination.subset, names::DNS_LABEL);
    }
    if let Some(port) = &destination.port {
        let at = at.field("port");
        scope::port(*port.number, &at.field("number"), report);
    }
}

fn check_tls(route: &TlsRoute, vs_hosts: &[String], at: &Place<'_>, report: &mut Report) {
    let matches = at.field("match");
    if route.r#match.is_empty() {
        report.required(&matches, "a tls rule must have at least one match");
    }
    for (index, tls_match) in route.r#match.iter().enumerate() {
        let at = matches.index(index);
        check_sni_hosts(tls_match, vs_hosts, &at, report);
        let TlsMatch { destination_subnets, port, source_labels, gateways, source_namespace, .. } = tls_match;
        check_connection(destination_subnets, *port, source_labels, gateways, source_namespace, &at, report);
    }
    check_routes(&route.route, &at.field("route"), report);
}

fn check_sni_hosts(tls_match: &TlsMatch, vs_hosts: &[String], at: &Place<'_>, report: &mut Report) {
    let at = at.field("sniHosts");
    if tls_match.sni_hosts.is_empty() {
        report.required(&at, "a tls match must have at least one SNI host");
    }
    for (index, host) in tls_match.sni_hosts.iter().enumerate() {
        let at = at.index(index);
        hosts::check(host, Wildcard::Any, &at, report);
        if !vs_hosts.iter().any(|outer| hosts::covers(outer, host)) {
            report.invalid(&at, host, "must lie within one of the VirtualService's hosts");
        }
    }
}

fn check_tcp(route: &TcpRoute, at: &Place<'_>, report: &mut Report) {
    let matches = at.field("match");
    for (index, tcp_match) in route.r#match.iter().enumerate() {
        let TcpMatch { destination_subnets, port, source_labels, gateways, source_namespace, .. } = tcp_match;
        let at = matches.index(index);
        check_connection(destination_subnets, *port, source_labels, gateways, source_namespace, &at, report);
        if !tcp_match.source_subnet.is_empty() && !hosts::is_subnet(&tcp_match.source_subnet) {
            report.invalid(&at.field("sourceSubnet"), &*tcp_match.source_subnet, "must be an IP address or a CIDR");
        }
    }
    check_routes(&route.route, &at.field("route"), report);
}

/// What matches on connections have in common.
fn check_connection(
    subnets: &[String],
    port: Written<u32>,
    labels: &Written<StringMap>,
    gateways: &[String],
    source_namespace: &str,
    at: &Place<'_>,
    report: &mut Report,
) {
    let subnets_place = at.field("destinationSubnets");
    for (index, subnet) in subnets.iter().enumerate().filter(|(_, subnet)| !hosts::is_subnet(subnet)) {
        report.invalid(&subnets_place.index(index), subnet, "must be an IP address or a CIDR");
    }
    check_source(port, labels, gateways, source_namespace, at, report);
}

/// What all matches have in common.
pub(super) fn check_source(
    port: Written<u32>,
    labels: &Written<StringMap>,
    gateways: &[String],
    namespace: &str,
    at: &Place<'_>,
    report: &mut Report,
) {
    if *port != 0 {
        scope::port(*port, &at.field("port"), report);
    }
    scope::labels(labels, &at.field("sourceLabels"), report);
    scope::gateways(gateways, &at.field("gateways"), report);
    if !namespace.is_empty() && !names::is_dns_label(namespace) {
        report.invalid(&at.field("sourceNamespace"), namespace, names::DNS_LABEL);
    }
}

fn check_routes(routes: &[RouteDestination], at: &Place<'_>, report: &mut Report) {
    if routes.is_empty() {
        report.required(at, "at least one destination is required");
    }
    for (index, route) in routes.iter().enumerate() {
        let at = at.index(index);
        check_destination(route.destination.as_ref(), &at.field("destination"), report);
    }
    let weights: Vec<i32> = routes.iter().map(|route| *route.weight).collect();
    scope::weights(&weights, at, report);
}
