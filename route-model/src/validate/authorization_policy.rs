//! The rules for AuthorizationPolicies.

use super::{Report, hosts};
use crate::field::Place;
use crate::kinds::AuthorizationPolicy;
use crate::kinds::authorization_policy::{Action, Condition, Operation, Rule, Source};

/// A list of values and the field that it stands in.
type Field<'a> = (&'static str, &'a [String]);

pub(super) fn check(policy: &AuthorizationPolicy, at: &Place<'_>, report: &mut Report) {
    let provider = at.field("provider");
    match (&policy.provider, *policy.action) {
        (None, Action::Custom) => report.required(&provider, "action CUSTOM asks a provider"),
        (Some(named), Action::Custom) if named.name.is_empty() => report.required(&provider.field("name"), ""),
        (Some(_), Action::Custom) | (None, _) => {}
        (Some(_), _) => report.forbidden(&provider, "is for action CUSTOM only"),
    }
    let rules = at.field("rules");
    if policy.rules.is_empty() && matches!(*policy.action, Action::Deny | Action::Custom) {
        report.required(&rules, "without rules this action would never apply");
    }
    let custom = *policy.action == Action::Custom;
    for (index, rule) in policy.rules.iter().enumerate() {
        check_rule(rule, custom, &rules.index(index), report);
    }
}

fn check_rule(rule: &Rule, custom: bool, at: &Place<'_>, report: &mut Report) {
    let from = at.field("from");
    if rule.from.is_written() && rule.from.is_empty() {
        report.invalid(&from, "array", "must not be empty; leave it out to match every source");
    }
    for (index, entry) in rule.from.iter().enumerate() {
        let at = from.index(index);
        let at = at.field("source");
        match &entry.source {
            Some(source) => check_source(source, custom, &at, report),
            None => report.required(&at, ""),
        }
    }
    let to = at.field("to");
    if rule.to.is_written() && rule.to.is_empty() {
        report.invalid(&to, "array", "must not be empty; leave it out to match every operation");
    }
    for (index, entry) in rule.to.iter().enumerate() {
        let at = to.index(index);
        let at = at.field("operation");
        match &entry.operation {
            Some(operation) => check_operation(operation, &at, report),
            None => report.required(&at, ""),
        }
    }
    let when = at.field("when");
    for (index, condition) in rule.when.iter().enumerate() {
        check_condition(condition, custom, &when.index(index), report);
    }
}

fn check_source(source: &Source, custom: bool, at: &Place<'_>, report: &mut Report) {
    let identities: [Field<'_>; 10] = [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
        ("serviceAccounts", &source.service_accounts),
        ("notServiceAccounts", &source.not_service_accounts),
        ("trustDomains", &source.trust_domains),
        ("notTrustDomains", &source.not_trust_domains),
    ];
    let addresses: [Field<'_>; 4] = [
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ];
    not_all_empty(&[&identities[..], &addresses[..]].concat(), at, report);
    for (field, values) in identities {
        no_empty_values(field, values, at, report);
        if custom && !values.is_empty() {
            report.forbidden(
                &at.field(field),
                "cannot be used with action CUSTOM, which is decided before identities are known",
            );
        }
    }
    for (field, values) in addresses {
        subnets(values, &at.field(field), report);
    }
    for (field, accounts) in
        [("serviceAccounts", &source.service_accounts), ("notServiceAccounts", &source.not_service_accounts)]
    {
        let at = at.field(field);
        for (index, account) in accounts.iter().enumerate() {
            let parts: Vec<&str> = account.split('/').collect();
            if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
                report.invalid(&at.index(index), account, "must be the name of a service account or namespace/name");
            }
        }
    }
}

fn check_operation(operation: &Operation, at: &Place<'_>, report: &mut Report) {
    let fields: [Field<'_>; 8] = [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("ports", &operation.ports),
        ("notPorts", &operation.not_ports),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ];
    not_all_empty(&fields, at, report);
    for (field, values) in fields {
        no_empty_values(field, values, at, report);
    }
    ports(&operation.ports, &at.field("ports"), report);
    ports(&operation.not_ports, &at.field("notPorts"), report);
    for (field, paths) in [("paths", &operation.paths), ("notPaths", &operation.not_paths)] {
        let at = at.field(field);
        for (index, path) in paths.iter().enumerate() {
            check_path(path, &at.index(index), report);
        }
    }
}

/// A path, with `*` at one end, or a template with `{*}` and `{**}` as whole segments.
fn check_path(path: &str, at: &Place<'_>, report: &mut Report) {
    if !path.contains("{*}") && !path.contains("{**}") {
        return;
    }
    let without: String = path.replace("{**}", "").replace("{*}", "");
    if without.contains(['{', '}', '*']) {
        report.invalid(at, path, "a template has {*} for one segment and {**} for the rest, and no other wildcards");
    } else if path.split('/').any(|segment| segment.contains('{') && segment != "{*}" && segment != "{**}") {
        report.invalid(at, path, "{*} and {**} must stand for whole segments");
    } else if path.find("{**}").is_some_and(|index| path[index..].contains("{*}")) || path.matches("{**}").count() > 1 {
        report.invalid(at, path, "{**} takes the rest of the path, so no other {*} or {**} can follow");
    }
}

fn check_condition(condition: &Condition, custom: bool, at: &Place<'_>, report: &mut Report) {
    let key = at.field("key");
    let name = condition.key.as_str();
    let bracketed = |prefix: &str| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('[') && rest.ends_with(']') && rest.len() > 2)
    };
    let known = matches!(
        name,
        "source.ip"
            | "remote.ip"
            | "source.namespace"
            | "source.serviceAccount"
            | "source.trustDomain"
            | "source.principal"
            | "request.auth.principal"
            | "request.auth.audiences"
            | "request.auth.presenter"
            | "destination.ip"
            | "destination.port"
            | "connection.sni"
    ) || bracketed("request.headers")
        || bracketed("request.auth.claims")
        || name.starts_with("experimental.envoy.filters.");
    if !known {
        report.invalid(&key, name, "is no attribute that conditions can look at");
    }
    let identity =
        matches!(name, "source.namespace" | "source.serviceAccount" | "source.trustDomain" | "source.principal")
            || name.starts_with("request.auth.");
    if custom && identity {
        report.forbidden(&key, "cannot be used with action CUSTOM, which is decided before identities are known");
    }
    if condition.values.is_empty() && condition.not_values.is_empty() {
        report.required(at, "at least one of values and notValues must be set");
    }
    for (field, values) in [("values", &condition.values), ("notValues", &condition.not_values)] {
        no_empty_values(field, values, at, report);
        let at = at.field(field);
        match name {
            "source.ip" | "remote.ip" | "destination.ip" => subnets(values, &at, report),
            "destination.port" => ports(values, &at, report),
            _ => {}
        }
    }
}

fn not_all_empty(fields: &[Field<'_>], at: &Place<'_>, report: &mut Report) {
    if fields.iter().all(|(_, values)| values.is_empty()) {
        report.required(at, "must not be empty; leave out the whole entry to match everything");
    }
}

fn no_empty_values(field: &str, values: &[String], at: &Place<'_>, report: &mut Report) {
    let at = at.field(field);
    for (index, value) in values.iter().enumerate().filter(|(_, value)| value.is_empty()) {
        report.invalid(&at.index(index), value, "must not be empty");
    }
}

fn subnets(values: &[String], at: &Place<'_>, report: &mut Report) {
    for (index, value) in values.iter().enumerate().filter(|(_, value)| !hosts::is_subnet(value)) {
        report.invalid(&at.index(index), value, "must be an IP address or a CIDR");
    }
}

fn ports(values: &[String], at: &Place<'_>, report: &mut Report) {
    for (index, value) in values.iter().enumerate() {
        if !value.parse::<u16>().is_ok_and(|port| port != 0) {
            report.invalid(&at.index(index), value, "must be a port between 1 and 65535");
        }
    }
}
