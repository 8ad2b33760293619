//! The rules for DestinationRules.

use std::collections::BTreeSet;

use rustls_pki_types::ServerName;

use super::Report;
use super::hosts::{self, Wildcard};
use super::{load_balancer, scope};
use crate::field::Place;
use crate::kinds::destination_rule::{
    ClientTls, ClientTlsMode, ConnectionPool, DestinationRule, H2UpgradePolicy, HttpSettings, OutlierDetection,
    PortTrafficPolicy, TcpSettings, TrafficPolicy, Tunnel,
};
use crate::names;

pub(super) fn check(rule: &DestinationRule, namespace: &str, at: &Place<'_>, report: &mut Report) {
    hosts::check(&rule.host, Wildcard::Any, &at.field("host"), report);
    let export_to = at.field("exportTo");
    scope::export_to(&rule.export_to, namespace, false, &export_to, report);
    if let Some(selector) = &rule.workload_selector {
        let selector_place = at.field("workloadSelector");
        scope::labels(&selector.match_labels, &selector_place.field("matchLabels"), report);
        if rule.export_to.iter().any(|to| to != "." && to != namespace) {
            let detail = "with a workloadSelector the rule is for its own namespace; only `.` is allowed";
            report.invalid(&export_to, "array", detail);
        }
    }
    if let Some(policy) = &rule.traffic_policy {
        check_policy(policy, &at.field("trafficPolicy"), report);
    }
    let subsets = at.field("subsets");
    let mut seen = BTreeSet::new();
    for (index, subset) in rule.subsets.iter().enumerate() {
        let at = subsets.index(index);
        let name = at.field("name");
        if !names::is_dns_label(&subset.name.to_ascii_lowercase()) {
            report.invalid(&name, &*subset.name, names::DNS_LABEL);
        } else if !seen.insert(subset.name.as_str()) {
            report.duplicate(&name, &*subset.name);
        }
        scope::labels(&subset.labels, &at.field("labels"), report);
        if let Some(policy) = &subset.traffic_policy {
            check_policy(policy, &at.field("trafficPolicy"), report);
        }
    }
}

fn check_policy(policy: &TrafficPolicy, at: &Place<'_>, report: &mut Report) {
    let empty = policy.load_balancer.is_none()
        && policy.connection_pool.is_none()
        && policy.outlier_detection.is_none()
        && policy.tls.is_none()
        && policy.port_level_settings.is_empty()
        && policy.tunnel.is_none()
        && policy.proxy_protocol.is_none()
        && policy.retry_budget.is_none();
    if empty {
        report.required(at, "a traffic policy must have at least one field");
    }
    if let Some(load_balancer) = &policy.load_balancer {
        load_balancer::check(load_balancer, &at.field("loadBalancer"), report);
    }
    if let Some(pool) = &policy.connection_pool {
        check_pool(pool, &at.field("connectionPool"), report);
    }
    if let Some(outlier) = &policy.outlier_detection {
        check_outlier(outlier, &at.field("outlierDetection"), report);
    }
    if let Some(tls) = &policy.tls {
        check_tls(tls, &at.field("tls"), report);
    }
    if let Some(tunnel) = &policy.tunnel {
        check_tunnel(tunnel, &at.field("tunnel"), report);
    }
    let ports = at.field("portLevelSettings");
    for (index, settings) in policy.port_level_settings.iter().enumerate() {
        check_port(settings, &ports.index(index), report);
    }
}

fn check_port(settings: &PortTrafficPolicy, at: &Place<'_>, report: &mut Report) {
    let port = at.field("port");
    match &settings.port {
        Some(selector) => scope::port(*selector.number, &port.field("number"), report),
        None => report.required(&port, ""),
    }
    if settings.load_balancer.is_none()
        && settings.connection_pool.is_none()
        && settings.outlier_detection.is_none()
        && settings.tls.is_none()
    {
        report.required(
            at,
            "the settings of a port must have at least one of loadBalancer, connectionPool, \
                             outlierDetection and tls",
        );
    }
    if let Some(load_balancer) = &settings.load_balancer {
        load_balancer::check(load_balancer, &at.field("loadBalancer"), report);
    }
    if let Some(pool) = &settings.connection_pool {
        check_pool(pool, &at.field("connectionPool"), report);
    }
    if let Some(outlier) = &settings.outlier_detection {
        check_outlier(outlier, &at.field("outlierDetection"), report);
    }
    if let Some(tls) = &settings.tls {
        check_tls(tls, &at.field("tls"), report);
    }
}

/// Sidecars have connection pools too.
pub(super) fn check_pool(pool: &ConnectionPool, at: &Place<'_>, report: &mut Report) {
    if pool.tcp.is_none() && pool.http.is_none() {
        report.required(at, "a connection pool must have at least one of tcp and http");
    }
    if let Some(tcp) = &pool.tcp {
        check_tcp(tcp, &at.field("tcp"), report);
    }
    if let Some(http) = &pool.http {
        check_http(http, &at.field("http"), report);
    }
}

fn not_negative(fields: &[(&'static str, i32)], at: &Place<'_>, report: &mut Report) {
    for (field, value) in fields.iter().filter(|(_, value)| *value < 0) {
        report.invalid(&at.field(field), *value, "must not be negative");
    }
}

fn check_tcp(tcp: &TcpSettings, at: &Place<'_>, report: &mut Report) {
    not_negative(&[("maxConnections", *tcp.max_connections)], at, report);
}

fn check_http(http: &HttpSettings, at: &Place<'_>, report: &mut Report) {
    let numbers = [
        ("http1MaxPendingRequests", *http.http1_max_pending_requests),
        ("http2MaxRequests", *http.http2_max_requests),
        ("maxRequestsPerConnection", *http.max_requests_per_connection),
        ("maxRetries", *http.max_retries),
        ("maxConcurrentStreams", *http.max_concurrent_streams),
    ];
    not_negative(&numbers, at, report);
    if *http.use_client_protocol && *http.h2_upgrade_policy == H2UpgradePolicy::Upgrade {
        report.forbidden(&at.field("useClientProtocol"), "cannot be true with h2UpgradePolicy UPGRADE");
    }
}

fn check_outlier(outlier: &OutlierDetection, at: &Place<'_>, report: &mut Report) {
    if outlier.consecutive_errors.is_written() {
        let detail = "deprecated and without effect; use consecutiveGatewayErrors or consecutive5xxErrors";
        report.warn(&at.field("consecutiveErrors"), detail);
    }
    for (field, value) in
        [("maxEjectionPercent", *outlier.max_ejection_percent), ("minHealthPercent", *outlier.min_health_percent)]
    {
        if !(0..=100).contains(&value) {
            report.invalid(&at.field(field), value, "must be between 0 and 100");
        }
    }
    if !*outlier.split_external_local_origin_errors && *outlier.consecutive_local_origin_failures > 0 {
        let detail = "needs splitExternalLocalOriginErrors";
        report.forbidden(&at.field("consecutiveLocalOriginFailures"), detail);
    }
}

fn check_tls(tls: &ClientTls, at: &Place<'_>, report: &mut Report) {
    if !tls.sni.is_empty() && ServerName::try_from(tls.sni.as_str()).is_err() {
        report.invalid(&at.field("sni"), &*tls.sni, "must be the name of a host, without a wildcard or a port");
    }
    if *tls.insecure_skip_verify {
        let checks = [
            ("caCertificates", !tls.ca_certificates.is_empty()),
            ("caCrl", !tls.ca_crl.is_empty()),
            ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        ];
        for (field, _) in checks.into_iter().filter(|(_, present)| *present) {
            report.forbidden(&at.field(field), "cannot be set with insecureSkipVerify, which checks nothing");
        }
    }
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
        ("caCrl", &tls.ca_crl),
    ];
    let with_secret =
        !tls.credential_name.is_empty() && matches!(*tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    if with_secret {
        for (field, _) in files.into_iter().filter(|(_, value)| !value.is_empty()) {
            report.forbidden(&at.field(field), "cannot be set with credentialName, whose secret holds it");
        }
        return;
    }
    match *tls.mode {
        ClientTlsMode::Mutual => {
            for (field, _) in files.into_iter().take(2).filter(|(_, value)| value.is_empty()) {
                report.required(&at.field(field), "mode MUTUAL presents a client certificate");
            }
        }
        ClientTlsMode::IstioMutual => {
            for (field, _) in files.into_iter().filter(|(_, value)| !value.is_empty()) {
                report.forbidden(&at.field(field), "ISTIO_MUTUAL takes its certificates from the mesh");
            }
        }
        ClientTlsMode::Disable if !tls.mode.is_written() => {
            report.warn(&at.field("mode"), "not set, which means DISABLE: connections are made in plain text");
        }
        ClientTlsMode::Disable | ClientTlsMode::Simple => {}
    }
}

fn check_tunnel(tunnel: &Tunnel, at: &Place<'_>, report: &mut Report) {
    if !matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST") {
        let path = at.field("protocol").path();
        report.error(crate::field::FieldError::not_supported(path, &*tunnel.protocol, &["CONNECT", "POST"]));
    }
    hosts::check(&tunnel.target_host, Wildcard::Refused, &at.field("targetHost"), report);
    scope::port(*tunnel.target_port, &at.field("targetPort"), report);
}
