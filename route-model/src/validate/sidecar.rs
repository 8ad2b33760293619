//! The rules for Sidecars.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::hosts::{self, Wildcard};
use super::{Report, destination_rule, scope, server_tls, virtual_service};
use crate::field::{FieldError, Place};
use crate::kinds::Protocol;
use crate::kinds::gateway::Port;
use crate::kinds::sidecar::{EgressListener, IngressListener, OutboundMode, OutboundTrafficPolicy, Sidecar};
use crate::names;

pub(super) fn check(sidecar: &Sidecar, at: &Place<'_>, report: &mut Report) {
    let empty = sidecar.workload_selector.is_none()
        && sidecar.ingress.is_empty()
        && sidecar.egress.is_empty()
        && sidecar.inbound_connection_pool.is_none()
        && sidecar.outbound_traffic_policy.is_none();
    if empty {
        report.required(at, "a Sidecar must have at least one field");
    }
    if let Some(selector) = &sidecar.workload_selector {
        let at = at.field("workloadSelector");
        scope::labels(&selector.labels, &at.field("labels"), report);
    }
    check_ingress(&sidecar.ingress, &at.field("ingress"), report);
    check_egress(&sidecar.egress, &at.field("egress"), report);
    if let Some(pool) = &sidecar.inbound_connection_pool {
        destination_rule::check_pool(pool, &at.field("inboundConnectionPool"), report);
    }
    if let Some(policy) = &sidecar.outbound_traffic_policy {
        check_outbound(policy, &at.field("outboundTrafficPolicy"), report);
    }
}

fn check_ingress(listeners: &[IngressListener], at: &Place<'_>, report: &mut Report) {
    let mut ports = BTreeSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        let at = at.index(index);
        if let Some(port) = &listener.port {
            let at = at.field("port");
            check_port(port, &at, report);
            if !ports.insert(*port.number) {
                report.duplicate(&at.field("number"), *port.number);
            }
        }
        check_bind(&listener.bind, &at.field("bind"), report);
        if !is_default_endpoint(&listener.default_endpoint) {
            let detail = "must be 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix:// and a path";
            report.invalid(&at.field("defaultEndpoint"), &*listener.default_endpoint, detail);
        }
        if let Some(tls) = &listener.tls {
            let at = at.field("tls");
            server_tls::check(tls, &at, report);
            if *tls.https_redirect {
                report.forbidden(&at.field("httpsRedirect"), "is for Gateways");
            }
        }
        if let Some(pool) = &listener.connection_pool {
            destination_rule::check_pool(pool, &at.field("connectionPool"), report);
        }
    }
}

fn is_default_endpoint(endpoint: &str) -> bool {
    if let Some(path) = endpoint.strip_prefix("unix://") {
        return path.starts_with(['/', '@']);
    }
    let local =
        |address: SocketAddr| (address.ip().is_loopback() || address.ip().is_unspecified()) && address.port() != 0;
    endpoint.is_empty() || endpoint.parse().is_ok_and(local)
}

fn check_egress(listeners: &[EgressListener], at: &Place<'_>, report: &mut Report) {
    let last = listeners.len().saturating_sub(1);
    for (index, listener) in listeners.iter().enumerate() {
        let at = at.index(index);
        match &listener.port {
            Some(port) if *port.number != 0 || listener.bind.is_empty() => {
                check_port(port, &at.field("port"), report);
            }
            None if index != last => {
                report.invalid(
                    &at,
                    "object",
                    "a listener without port takes what the others leave, so it must be the last",
                );
            }
            // With a socket's path the port is 0.
            Some(_) | None => {}
        }
        check_bind(&listener.bind, &at.field("bind"), report);
        let hosts = at.field("hosts");
        if listener.hosts.is_empty() {
            report.required(&hosts, "a listener must have at least one host");
        }
        for (index, host) in listener.hosts.iter().enumerate() {
            check_host(host, &hosts.index(index), report);
        }
    }
}

/// `namespace/host`.
fn check_host(host: &str, at: &Place<'_>, report: &mut Report) {
    let Some((namespace, name)) = host.split_once('/') else {
        report.invalid(at, host, "must be namespace/host");
        return;
    };
    // A `~` before a namespace takes it out of what the other hosts bring in.
    let bare = namespace.strip_prefix('~').unwrap_or(namespace);
    if !matches!(bare, "" | "*" | ".") && !names::is_dns_label(bare) {
        report.invalid(at, host, "before the / must stand `*`, `.`, `~` or the name of a namespace");
    }
    hosts::check(name, Wildcard::Any, at, report);
}

fn check_port(port: &Port, at: &Place<'_>, report: &mut Report) {
    scope::port(*port.number, &at.field("number"), report);
    if !port.protocol.is_empty() && Protocol::parse(&port.protocol).is_none() {
        let supported = ["HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "TLS", "TCP", "MONGO", "REDIS", "MYSQL"];
        report.error(FieldError::not_supported(at.field("protocol").path(), &*port.protocol, &supported));
    }
}

fn check_bind(bind: &str, at: &Place<'_>, report: &mut Report) {
    let valid = bind.is_empty()
        || hosts::is_ip(bind)
        || bind.strip_prefix("unix://").is_some_and(|path| path.starts_with(['/', '@']));
    if !valid {
        report.invalid(at, bind, "must be an IP address or unix:// and a path");
    }
}

fn check_outbound(policy: &OutboundTrafficPolicy, at: &Place<'_>, report: &mut Report) {
    let Some(proxy) = &policy.egress_proxy else { return };
    let at = at.field("egressProxy");
    if *policy.mode != OutboundMode::AllowAny {
        report.forbidden(&at, "needs mode ALLOW_ANY");
    }
    virtual_service::check_destination(Some(proxy), &at, report);
    if proxy.port.is_none() {
        report.required(&at.field("port"), "");
    }
}
