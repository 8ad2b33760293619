//! The rules for RateLimitPolicies.

use std::collections::BTreeSet;
use std::time::Duration;

use http::HeaderValue;

use super::{Report, http_headers, http_route};
use crate::field::Place;
use crate::kinds::RateLimitPolicy;
use crate::kinds::rate_limit_policy::{KeyPart, Limit, Response, Rule, TargetKind, TargetRef};
use crate::kinds::virtual_service::HttpMatch;
use crate::names;

const MIN_PER: Duration = Duration::from_millis(1);
const MAX_PER: Duration = Duration::from_hours(24);
/// Requests a second. Buckets count in whole nanoseconds, so that this is kept to a thousandth.
const MAX_RATE: u128 = 1_000_000;
/// The longest that an empty bucket may take to be full again.
const MAX_FILL: Duration = Duration::from_hours(30 * 24);

pub(super) fn check(policy: &RateLimitPolicy, at: &Place<'_>, report: &mut Report) {
    check_targets(&policy.target_refs, &at.field("targetRefs"), report);
    let rules = at.field("rules");
    for (index, rule) in policy.rules.iter().enumerate() {
        check_rule(rule, &rules.index(index), report);
    }
    if let Some(response) = &policy.response {
        check_response(response, &at.field("response"), report);
    }
}

/// What policies of `fairway.dev` are attached to.
pub(super) fn check_targets(targets: &[TargetRef], at: &Place<'_>, report: &mut Report) {
    let mut seen = BTreeSet::new();
    for (index, target) in targets.iter().enumerate() {
        let at = at.index(index);
        check_target(target, &at, report);
        if !seen.insert((*target.kind as u8, target.name.as_str(), target.section_name.as_str())) {
            report.duplicate(&at, &*target.name);
        }
    }
}

fn check_target(target: &TargetRef, at: &Place<'_>, report: &mut Report) {
    if !names::is_dns_subdomain(&target.name) {
        report.invalid(&at.field("name"), &*target.name, names::DNS_SUBDOMAIN);
    }
    if *target.kind != TargetKind::VirtualService && !target.section_name.is_empty() {
        report.forbidden(&at.field("sectionName"), "only a VirtualService has rules that can be named");
    }
}

fn check_rule(rule: &Rule, at: &Place<'_>, report: &mut Report) {
    let matches = at.field("match");
    for (index, entry) in rule.r#match.iter().enumerate() {
        let at = matches.index(index);
        http_route::check_match(entry, false, &at, report);
        check_source(entry, &at, report);
    }
    let keys = at.field("key");
    for (index, part) in rule.key.iter().enumerate() {
        check_key(part, &keys.index(index), report);
    }
    if let Some(limit) = &rule.limit {
        check_limit(limit, &at.field("limit"), report);
        if rule.cost.get().is_some_and(|cost| *cost > limit.burst()) {
            report.invalid(&at.field("cost"), *rule.cost, "is more than a full bucket holds; no request could pass");
        }
    }
    if !rule.cost_header.is_empty() && !http_headers::is_name(&rule.cost_header) {
        report.invalid(&at.field("costHeader"), &*rule.cost_header, http_headers::NAME);
    }
}

/// What a VirtualService's match decides by the Gateway is said by the policy's targets.
fn check_source(entry: &HttpMatch, at: &Place<'_>, report: &mut Report) {
    let HttpMatch { port, source_labels, gateways, source_namespace, .. } = entry;
    for (field, written) in [
        ("port", port.is_written()),
        ("gateways", gateways.is_written()),
        ("sourceLabels", source_labels.is_written()),
        ("sourceNamespace", source_namespace.is_written()),
    ] {
        if written {
            report.forbidden(&at.field(field), "does not apply to rate limits; say where by targetRefs");
        }
    }
}

fn check_key(part: &KeyPart, at: &Place<'_>, report: &mut Report) {
    let KeyPart { client_ip, header, claim, cookie, path, method } = part;
    let set = [
        client_ip.is_some(),
        header.is_written(),
        claim.is_written(),
        cookie.is_written(),
        path.is_some(),
        method.is_some(),
    ];
    if set.into_iter().filter(|set| *set).count() != 1 {
        report.required(at, "exactly one of clientIP, header, claim, cookie, path and method must be set");
    }
    // A cookie's name is a token as a header's is (RFC 6265, section 4.1.1).
    for (field, name, detail) in [
        ("header", header, http_headers::NAME),
        ("cookie", cookie, "must be a cookie name: letters, digits and any of !#$%&'*+-.^_`|~"),
    ] {
        if name.is_written() && !http_headers::is_name(name) {
            report.invalid(&at.field(field), &**name, detail);
        }
    }
    if claim.is_written() && claim.is_empty() {
        report.invalid(&at.field("claim"), &**claim, "must not be empty");
    }
}

fn check_limit(limit: &Limit, at: &Place<'_>, report: &mut Report) {
    let Some(per) = &limit.per else { return };
    let (requests, time) = (u128::from(*limit.requests).max(1), per.get());
    if !(MIN_PER..=MAX_PER).contains(&time) {
        report.invalid(&at.field("per"), per.as_str(), "must be from 1ms to 24h");
    } else if requests * 1_000_000_000 > MAX_RATE * time.as_nanos() {
        report.invalid(&at.field("requests"), *limit.requests, "is more than 1000000 requests a second");
    } else if u128::from(limit.burst()) * time.as_nanos() > MAX_FILL.as_nanos() * requests {
        report.invalid(
            &at.field("burst"),
            limit.burst(),
            "an empty bucket would take more than 30 days to be full again; lower burst or raise requests",
        );
    }
}

fn check_response(response: &Response, at: &Place<'_>, report: &mut Report) {
    let at = at.field("headers");
    for (name, value) in &response.headers {
        let at = at.key(name);
        if !http_headers::is_name(name) {
            report.invalid(&at, name, http_headers::NAME);
        } else if ["content-length", "transfer-encoding", "connection"].contains(&name.to_ascii_lowercase().as_str()) {
            report.forbidden(&at, "the gateway sets this header itself");
        }
        if HeaderValue::from_str(value).is_err() {
            report.invalid(&at, value, "must not contain control characters");
        }
    }
}
