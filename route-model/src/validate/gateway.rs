//! The rules for Gateways.

use std::collections::BTreeSet;

use super::Report;
use super::hosts::{self, Wildcard};
use super::{scope, server_tls};
use crate::field::Place;
use crate::kinds::Protocol;
use crate::kinds::gateway::{Gateway, Port, Server, ServerTlsMode};
use crate::names;

const PROTOCOLS: [&str; 10] = ["HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "TLS", "TCP", "MONGO", "REDIS", "MYSQL"];

pub(super) fn check(gateway: &Gateway, at: &Place<'_>, report: &mut Report) {
    scope::labels(&gateway.selector, &at.field("selector"), report);
    let servers = at.field("servers");
    if gateway.servers.is_empty() {
        report.required(&servers, "a Gateway must have at least one server");
    }
    let mut names = BTreeSet::new();
    for (index, server) in gateway.servers.iter().enumerate() {
        let at = servers.index(index);
        check_server(server, &at, report);
        if let Some(port) = server.port.as_ref().filter(|port| !port.name.is_empty() && !names.insert(&*port.name)) {
            report.duplicate(&at.field("port").field("name"), &*port.name);
        }
    }
}

fn check_server(server: &Server, at: &Place<'_>, report: &mut Report) {
    let hosts = at.field("hosts");
    if server.hosts.is_empty() {
        report.required(&hosts, "a server must have at least one host");
    }
    for (index, host) in server.hosts.iter().enumerate() {
        check_host(host, &hosts.index(index), report);
    }
    let unix = server.bind.starts_with("unix://");
    check_bind(&server.bind, &at.field("bind"), report);
    if let Some(tls) = &server.tls {
        server_tls::check(tls, &at.field("tls"), report);
    }
    let Some(port) = &server.port else { return };
    let Some(protocol) = check_port(port, unix, &at.field("port"), report) else { return };
    let tls_place = at.field("tls");
    match &server.tls {
        None if protocol.is_tls() => {
            report.required(&tls_place, &format!("a server of protocol {} must have TLS settings", *port.protocol));
        }
        Some(tls) if !protocol.is_tls() => {
            let redirect_only = *tls.mode == ServerTlsMode::Passthrough && server_tls::sources(tls) == 0;
            if !(protocol.is_http() && redirect_only) {
                let detail = if protocol.is_http() {
                    "a plain text HTTP server may only have httpsRedirect; use protocol HTTPS to terminate TLS"
                } else {
                    "only servers of protocol HTTPS or TLS may have TLS settings"
                };
                report.forbidden(&tls_place, detail);
            } else if !*tls.https_redirect {
                report.warn(&tls_place, "without effect on a plain text HTTP server");
            }
        }
        Some(tls) if !tls.mode.is_written() => {
            let detail =
                "not set, which means PASSTHROUGH: connections are not decrypted, and only `tls` rules route them";
            report.warn(&tls_place.field("mode"), detail);
        }
        Some(tls) if *tls.https_redirect => {
            report.warn(&tls_place.field("httpsRedirect"), "only has an effect on servers of protocol HTTP");
        }
        _ => {}
    }
}

/// `host` or `namespace/host`.
fn check_host(host: &str, at: &Place<'_>, report: &mut Report) {
    let name = match host.split_once('/') {
        Some((namespace, name)) => {
            if !matches!(namespace, "*" | ".") && !names::is_dns_label(namespace) {
                report.invalid(at, host, "before the / must stand `*`, `.` or the name of a namespace");
            }
            name
        }
        None => host,
    };
    hosts::check(name, Wildcard::Any, at, report);
}

fn check_bind(bind: &str, at: &Place<'_>, report: &mut Report) {
    match bind.strip_prefix("unix://") {
        Some(path) if !path.starts_with(['/', '@']) => {
            report.invalid(at, bind, "a Unix domain socket must be an absolute path or an abstract name (@…)");
        }
        Some(_) => report.warn(at, "accepted and stored; Fairway does not listen on Unix domain sockets yet"),
        None if !bind.is_empty() && !hosts::is_ip(bind) => {
            report.invalid(at, bind, "must be an IP address or unix:// and a path");
        }
        None => {}
    }
}

fn check_port(port: &Port, unix: bool, at: &Place<'_>, report: &mut Report) -> Option<Protocol> {
    let number = at.field("number");
    if unix && *port.number != 0 {
        report.invalid(&number, *port.number, "must be 0 with a Unix domain socket");
    } else if !unix {
        scope::port(*port.number, &number, report);
    }
    if *port.target_port != 0 {
        report
            .forbidden(&at.field("targetPort"), "a Gateway's port has no targetPort; it is where the gateway listens");
    }
    if port.name.is_empty() {
        report.required(&at.field("name"), "a server's port must have a name");
    }
    let protocol = Protocol::parse(&port.protocol)
        .filter(|protocol| !matches!(protocol, Protocol::Udp | Protocol::HttpProxy | Protocol::Hbone));
    if protocol.is_none() {
        report.error(crate::field::FieldError::not_supported(at.field("protocol").path(), &*port.protocol, &PROTOCOLS));
    }
    protocol
}
