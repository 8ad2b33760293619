//! The rules for RequestAuthentications.

use super::{Report, http_headers, scope};
use crate::field::Place;
use crate::kinds::RequestAuthentication;
use crate::kinds::request_authentication::JwtRule;
use crate::table::authentication::KeySource;
use crate::verdict::authentication::jwks::KeySet;

pub(super) fn check(policy: &RequestAuthentication, at: &Place<'_>, report: &mut Report) {
    if let Some(selector) = &policy.selector {
        scope::labels(&selector.match_labels, &at.field("selector").field("matchLabels"), report);
    }
    let rules = at.field("jwtRules");
    for (index, rule) in policy.jwt_rules.iter().enumerate() {
        check_rule(rule, &rules.index(index), report);
    }
}

fn check_rule(rule: &JwtRule, at: &Place<'_>, report: &mut Report) {
    let uris = [("jwksUri", &rule.jwks_uri), ("jwks_uri", &rule.jwks_uri_snake)];
    let has_uri = uris.iter().any(|(_, uri)| !uri.is_empty());
    if rule.issuer.is_empty() && !has_uri {
        report.required(&at.field("issuer"), "one of issuer and jwksUri must be set");
    } else if rule.jwks.is_empty() && !has_uri && !KeySource::is_url(&rule.issuer) {
        report.warn(
            &at.field("issuer"),
            "is no URL under which keys could be found, and neither jwksUri nor jwks is set: all its tokens are refused",
        );
    }
    for (field, uri) in uris {
        if !uri.is_empty() && !KeySource::is_url(uri) {
            report.invalid(
                &at.field(field),
                &**uri,
                "must be a URL that begins with http:// or https:// and names a host",
            );
        }
    }
    if !rule.jwks.is_empty() {
        check_keys(&rule.jwks, &at.field("jwks"), report);
    }
    let from = at.field("fromHeaders");
    for (index, header) in
        rule.from_headers.iter().enumerate().filter(|(_, header)| !http_headers::is_name(&header.name))
    {
        let at = from.index(index);
        report.invalid(&at.field("name"), &*header.name, http_headers::NAME);
    }
    let payload = &*rule.output_payload_to_header;
    if !payload.is_empty() {
        check_written(payload, &at.field("outputPayloadToHeader"), report);
    }
    let outputs = at.field("outputClaimToHeaders");
    for (index, output) in rule.output_claim_to_headers.iter().enumerate() {
        check_written(&output.header, &outputs.index(index).field("header"), report);
    }
}

fn check_keys(jwks: &str, at: &Place<'_>, report: &mut Report) {
    match KeySet::parse(jwks.as_bytes()) {
        Err(error) => {
            report.invalid(at, jwks, format!("must be a JSON Web Key Set: an object with a list of keys; {error}"));
        }
        Ok(set) => {
            for (index, reason) in &set.unusable {
                report.warn(at, format!("keys[{index}] cannot be used: {reason}"));
            }
            if set.keys.is_empty() {
                report.warn(at, "has no key that can be used, so all tokens of the issuer are refused");
            }
        }
    }
}

/// A header that the gateway writes, and takes from clients: not one that requests need.
fn check_written(name: &str, at: &Place<'_>, report: &mut Report) {
    const NEEDED: [&str; 6] =
        ["host", "content-length", "transfer-encoding", "connection", "x-request-id", "x-forwarded-for"];
    if !http_headers::is_name(name) {
        report.invalid(at, name, http_headers::NAME);
    } else if NEEDED.contains(&name.to_ascii_lowercase().as_str()) {
        report.forbidden(at, "the gateway sets this header itself; name one of your own, such as x-jwt-subject");
    }
}
