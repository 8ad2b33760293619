//! The rules for the HTTP rules of VirtualServices.

use std::collections::BTreeMap;

use super::http_traffic;
use super::virtual_service::{Role, check_destination, check_source};
use super::{Report, hosts, http_headers, scope};
use crate::field::Place;
use crate::kinds::StringMatch;
use crate::kinds::virtual_service::{Delegate, DirectResponse, HttpMatch, HttpRoute, Redirect, Rewrite};
use crate::matching::regex;
use crate::names;

/// A direct response's body: refused above, in bytes.
const MAX_BODY: usize = 1 << 20;
/// Envoy buffers and copies such a body with every table.
const LARGE_BODY: usize = 100 << 10;

/// Keys of this form in `match.headers` look at the claims of a verified token.
const CLAIM_PREFIX: &str = "@request.auth.claims";

pub(super) fn check(route: &HttpRoute, role: Role, mesh: bool, at: &Place<'_>, report: &mut Report) {
    check_action(route, role, at, report);
    let matches = at.field("match");
    for (index, http_match) in route.r#match.iter().enumerate() {
        check_match(http_match, mesh, &matches.index(index), report);
    }
    if let Some(redirect) = &route.redirect {
        check_redirect(redirect, &route.r#match, &at.field("redirect"), report);
    }
    if let Some(response) = &route.direct_response {
        check_direct_response(response, &at.field("directResponse"), report);
    }
    if let Some(rewrite) = &route.rewrite {
        check_rewrite(rewrite, &at.field("rewrite"), report);
        if !rewrite.authority.is_empty() && http_headers::sets_authority(route.headers.as_deref()) {
            let detail = "the authority may be set in one place only: here or in headers.request";
            report.forbidden(&at.field("rewrite").field("authority"), detail);
        }
    }
    if let Some(headers) = &route.headers {
        http_headers::check(headers, &at.field("headers"), report);
    }
    let routes = at.field("route");
    for (index, destination) in route.route.iter().enumerate() {
        let at = routes.index(index);
        check_destination(destination.destination.as_ref(), &at.field("destination"), report);
        if let Some(headers) = &destination.headers {
            http_headers::check(headers, &at.field("headers"), report);
        }
    }
    let weights: Vec<i32> = route.route.iter().map(|destination| *destination.weight).collect();
    scope::weights(&weights, &routes, report);
    http_traffic::check(route, at, report);
}

/// What becomes of a request: exactly one of four things.
fn check_action(route: &HttpRoute, role: Role, at: &Place<'_>, report: &mut Report) {
    let routed = !route.route.is_empty();
    if let Some(delegate) = &route.delegate {
        let place = at.field("delegate");
        if role == Role::Delegate {
            report.forbidden(&place, "a VirtualService that others delegate to cannot delegate itself");
        }
        // A directResponse may stand: it fills in for delegate rules that have none.
        for (field, _) in
            [("route", routed), ("redirect", route.redirect.is_some())].into_iter().filter(|(_, set)| *set)
        {
            report.forbidden(&at.field(field), "cannot be set with delegate, whose rules say what happens");
        }
        check_delegate(delegate, &place, report);
        return;
    }
    if route.redirect.is_some() {
        let others = [
            ("route", routed),
            ("directResponse", route.direct_response.is_some()),
            ("fault", route.fault.is_some()),
            ("rewrite", route.rewrite.is_some()),
        ];
        for (field, _) in others.into_iter().filter(|(_, present)| *present) {
            report.forbidden(&at.field(field), "cannot be set with redirect");
        }
    } else if route.direct_response.is_some() {
        let others = [("route", routed), ("fault", route.fault.is_some()), ("rewrite", route.rewrite.is_some())];
        for (field, _) in others.into_iter().filter(|(_, present)| *present) {
            report.forbidden(&at.field(field), "cannot be set with directResponse");
        }
    } else if !routed {
        report.required(at, "one of route, redirect, directResponse and delegate must be set");
    }
}

fn check_delegate(delegate: &Delegate, at: &Place<'_>, report: &mut Report) {
    if !names::is_dns_subdomain(&delegate.name) {
        report.invalid(&at.field("name"), &*delegate.name, "must be the name of a VirtualService");
    }
    if !delegate.namespace.is_empty() && !names::is_dns_label(&delegate.namespace) {
        report.invalid(&at.field("namespace"), &*delegate.namespace, names::DNS_LABEL);
    }
}

pub(super) fn check_match(http_match: &HttpMatch, mesh: bool, at: &Place<'_>, report: &mut Report) {
    let singles = [
        ("uri", &http_match.uri),
        ("scheme", &http_match.scheme),
        ("method", &http_match.method),
        ("authority", &http_match.authority),
    ];
    for (field, value) in singles {
        if let Some(value) = value {
            string_match(value, field == "uri", &at.field(field), report);
        }
    }
    check_headers(&http_match.headers, mesh, &at.field("headers"), report);
    let without = at.field("withoutHeaders");
    for (name, value) in &http_match.without_headers {
        let at = without.key(name);
        header_name(name, &at, report);
        // A regex of `*` stands for presence here; elsewhere it is refused, as it is no valid regex.
        if !matches!(value, StringMatch::Regex(regex) if regex == "*") {
            string_match(value, false, &at, report);
        }
    }
    let params = at.field("queryParams");
    for (name, value) in &http_match.query_params {
        let at = params.key(name);
        if name.is_empty() {
            report.invalid(&at, name, "must not be empty");
        }
        string_match(value, false, &at, report);
    }
    let HttpMatch { port, source_labels, gateways, source_namespace, .. } = http_match;
    check_source(*port, source_labels, gateways, source_namespace, at, report);
    if *http_match.ignore_uri_case && matches!(http_match.uri, Some(StringMatch::Regex(_))) {
        report.warn(&at.field("ignoreUriCase"), "has no effect on a regex; start the regex with (?i)");
    }
}

fn check_headers(headers: &BTreeMap<String, StringMatch>, mesh: bool, at: &Place<'_>, report: &mut Report) {
    for (name, value) in headers {
        let at = at.key(name);
        if name.starts_with(CLAIM_PREFIX) {
            if mesh {
                report.forbidden(&at, "claims can only be matched in VirtualServices that are bound to gateways alone");
            }
        } else {
            if matches!(name.as_str(), "uri" | "scheme" | "method" | "authority") {
                report.warn(&at, format_args!("a header of this name is not looked at; use match.{name}"));
            }
            header_name(name, &at, report);
        }
        string_match(value, false, &at, report);
    }
}

/// A header that is looked at; pseudo headers such as `:path` are allowed.
fn header_name(name: &str, at: &Place<'_>, report: &mut Report) {
    if !http_headers::is_name(name.strip_prefix(':').unwrap_or(name)) {
        report.invalid(at, name, http_headers::NAME);
    }
}

pub(super) fn string_match(value: &StringMatch, empty_prefix: bool, at: &Place<'_>, report: &mut Report) {
    match value {
        StringMatch::Prefix(prefix) if prefix.is_empty() && !empty_prefix => {
            report.invalid(&at.field("prefix"), prefix, "must not be empty");
        }
        StringMatch::Regex(pattern) => check_regex(pattern, &at.field("regex"), report),
        StringMatch::Present | StringMatch::Exact(_) | StringMatch::Prefix(_) => {}
    }
}

fn check_regex(pattern: &str, at: &Place<'_>, report: &mut Report) {
    if pattern.is_empty() {
        report.invalid(at, pattern, "must not be empty");
    } else if let Err(error) = regex::check(pattern) {
        report.invalid(at, pattern, error);
    }
}

fn check_redirect(redirect: &Redirect, matches: &[HttpMatch], at: &Place<'_>, report: &mut Report) {
    let empty = redirect.uri.is_empty()
        && redirect.prefix_rewrite.is_empty()
        && redirect.authority.is_empty()
        && redirect.scheme.is_empty()
        && !redirect.port.is_written()
        && !redirect.derive_port.is_written();
    if empty {
        report.required(at, "one of uri, prefixRewrite, authority, port, derivePort and scheme must be set");
    }
    if !matches!(*redirect.redirect_code, 0 | 301 | 302 | 303 | 307 | 308) {
        report.invalid(&at.field("redirectCode"), *redirect.redirect_code, "must be 301, 302, 303, 307 or 308");
    }
    if redirect.port.is_written() {
        scope::port(*redirect.port, &at.field("port"), report);
    }
    if !redirect.authority.is_empty() && !hosts::is_authority(&redirect.authority) {
        report.invalid(&at.field("authority"), &*redirect.authority, "must be a host with an optional port");
    }
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    };
    if !redirect.scheme.is_empty() && !is_scheme(&redirect.scheme) {
        report.invalid(&at.field("scheme"), &*redirect.scheme, "must be a URL scheme such as https");
    }
    for (field, value) in [("uri", &redirect.uri), ("prefixRewrite", &redirect.prefix_rewrite)] {
        printable(value, &at.field(field), report);
    }
    if !redirect.prefix_rewrite.is_empty() {
        let at = at.field("prefixRewrite");
        if !redirect.uri.is_empty() {
            report.forbidden(&at, "only one of uri and prefixRewrite may be set");
        }
        if matches.iter().any(|m| matches!(m.uri, Some(StringMatch::Exact(_) | StringMatch::Regex(_)))) {
            report.invalid(&at, &*redirect.prefix_rewrite, "needs a prefix in every uri match of the rule");
        }
    }
}

/// What ends up in a header or a request line must not break it.
fn printable(value: &str, at: &Place<'_>, report: &mut Report) {
    if value.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        report.invalid(at, value, "must not contain spaces or control characters");
    }
}

fn check_direct_response(response: &DirectResponse, at: &Place<'_>, report: &mut Report) {
    if !(200..=599).contains(&*response.status) {
        report.invalid(&at.field("status"), *response.status, "must be between 200 and 599");
    }
    let Some(body) = &response.body else { return };
    let size = body.string.len().max(body.bytes.len());
    let at = at.field("body");
    if size > MAX_BODY {
        report.error(crate::field::FieldError::too_long(at.path(), MAX_BODY as u64));
    } else if size > LARGE_BODY {
        report.warn(&at, format_args!("{size} bytes are much for a direct response; every proxy keeps them in memory"));
    }
}

fn check_rewrite(rewrite: &Rewrite, at: &Place<'_>, report: &mut Report) {
    if rewrite.uri.is_empty() && rewrite.authority.is_empty() && rewrite.uri_regex_rewrite.is_none() {
        report.required(at, "one of uri, authority and uriRegexRewrite must be set");
    }
    printable(&rewrite.uri, &at.field("uri"), report);
    if !rewrite.authority.is_empty() && !hosts::is_authority(&rewrite.authority) {
        report.invalid(&at.field("authority"), &*rewrite.authority, "must be a host with an optional port");
    }
    let Some(by_regex) = &rewrite.uri_regex_rewrite else { return };
    let at = at.field("uriRegexRewrite");
    if !rewrite.uri.is_empty() {
        report.forbidden(&at, "only one of uri and uriRegexRewrite may be set");
    }
    for (field, value) in [("match", &by_regex.r#match), ("rewrite", &by_regex.rewrite)] {
        if value.is_empty() {
            report.required(&at.field(field), "match and rewrite must both be set");
        }
    }
    if !by_regex.r#match.is_empty()
        && let Err(error) = regex::check_rewrite(&by_regex.r#match, &by_regex.rewrite)
    {
        report.invalid(&at, &*by_regex.r#match, error);
    }
    printable(&by_regex.rewrite, &at.field("rewrite"), report);
}
