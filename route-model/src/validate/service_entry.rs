//! The rules for ServiceEntries.

use super::hosts::{self, Wildcard};
use super::{Report, scope, workload};
use crate::field::{FieldError, Place};
use crate::kinds::service_entry::{Resolution, ServiceEntry, ServicePort};
use crate::kinds::{Protocol, WorkloadEntry};
use crate::names;

const PROTOCOLS: [&str; 11] =
    ["HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "TLS", "TCP", "UDP", "MONGO", "REDIS", "MYSQL"];

pub(super) fn check(entry: &ServiceEntry, namespace: &str, at: &Place<'_>, report: &mut Report) {
    check_hosts(entry, &at.field("hosts"), report);
    let addresses = at.field("addresses");
    for (index, address) in entry.addresses.iter().enumerate().filter(|(_, address)| !hosts::is_subnet(address)) {
        report.invalid(&addresses.index(index), address, "must be an IP address or a CIDR");
    }
    let ports = at.field("ports");
    for (index, port) in entry.ports.iter().enumerate() {
        check_port(port, *entry.resolution, &ports.index(index), report);
    }
    let raw = |port: &ServicePort| {
        Protocol::parse(&port.protocol).is_some_and(|protocol| !protocol.is_http() && !protocol.is_tls())
    };
    if entry.hosts.len() > 1 && *entry.resolution != Resolution::None && entry.ports.iter().any(raw) {
        let detail = "with several hosts a port must be of an HTTP or TLS protocol, which names the host; or use \
                      resolution NONE";
        report.invalid(&ports, "array", detail);
    }
    if let Some(selector) = &entry.workload_selector {
        let at = at.field("workloadSelector");
        let labels = at.field("labels");
        scope::labels(&selector.labels, &labels, report);
        if selector.labels.is_empty() {
            report.warn(&at, "selects every WorkloadEntry of the namespace, as it has no labels");
        }
    }
    if *entry.resolution == Resolution::DynamicDns {
        for (field, present) in [("endpoints", !entry.endpoints.is_empty()), ("addresses", !entry.addresses.is_empty())]
        {
            if present {
                report.forbidden(&at.field(field), "cannot be set with resolution DYNAMIC_DNS");
            }
        }
    }
    let endpoints = at.field("endpoints");
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        check_endpoint(endpoint, entry, &endpoints.index(index), report);
    }
    scope::export_to(&entry.export_to, namespace, true, &at.field("exportTo"), report);
}

fn check_hosts(entry: &ServiceEntry, at: &Place<'_>, report: &mut Report) {
    for (index, host) in entry.hosts.iter().enumerate() {
        let at = at.index(index);
        hosts::check(host, Wildcard::Prefix, &at, report);
        let Some(rest) = host.strip_prefix('*') else {
            if *entry.resolution == Resolution::DynamicDns {
                report.invalid(&at, host, "must be a wildcard with resolution DYNAMIC_DNS");
            }
            continue;
        };
        if !rest.starts_with('.') {
            report.warn(&at, "is matched as a suffix; *.example.com is the usual form of a wildcard");
        }
        match *entry.resolution {
            Resolution::Dns | Resolution::DnsRoundRobin if entry.endpoints.is_empty() => {
                report.invalid(&at, host, "a wildcard cannot be resolved; list endpoints or use another resolution");
            }
            Resolution::Static => report.warn(&at, "all hosts of a wildcard go to the same endpoints with STATIC"),
            _ => {}
        }
    }
}

fn check_port(port: &ServicePort, resolution: Resolution, at: &Place<'_>, report: &mut Report) {
    if !names::is_dns_label(&port.name.to_ascii_lowercase()) {
        report.invalid(&at.field("name"), &*port.name, names::DNS_LABEL);
    }
    let protocol = Protocol::parse(&port.protocol);
    if protocol.is_none() && !port.protocol.is_empty() {
        let path = at.field("protocol").path();
        report.error(FieldError::not_supported(path, &*port.protocol, &PROTOCOLS));
    }
    let names_host = protocol.is_some_and(|protocol| protocol.is_http() || protocol.is_tls());
    if resolution == Resolution::DynamicDns && !names_host {
        let detail = "must be an HTTP or TLS protocol with resolution DYNAMIC_DNS, as requests name the host";
        report.invalid(&at.field("protocol"), &*port.protocol, detail);
    }
}

fn check_endpoint(endpoint: &WorkloadEntry, entry: &ServiceEntry, at: &Place<'_>, report: &mut Report) {
    workload::check_entry(endpoint, at, report);
    let address = at.field("address");
    let unix = workload::is_unix(&endpoint.address);
    if unix && entry.ports.len() != 1 {
        report.invalid(&address, &*endpoint.address, "a Unix domain socket needs exactly one service port");
    }
    match *entry.resolution {
        Resolution::Static if !unix && !endpoint.address.is_empty() && !hosts::is_ip(&endpoint.address) => {
            let detail = "must be an IP address with resolution STATIC; use DNS for names";
            report.invalid(&address, &*endpoint.address, detail);
        }
        Resolution::Dns | Resolution::DnsRoundRobin if unix => {
            report.invalid(&address, &*endpoint.address, "a Unix domain socket needs resolution STATIC");
        }
        _ => {}
    }
    let ports = at.field("ports");
    for name in endpoint.ports.keys().filter(|name| entry.ports.iter().all(|port| *port.name != **name)) {
        report.invalid(&ports.key(name), name, "is not the name of a port of this ServiceEntry");
    }
}
