//! The rules for RequestAuthentications.

use serde_json::Value;

use super::{Report, http_headers};
use crate::field::Place;
use crate::kinds::RequestAuthentication;
use crate::kinds::request_authentication::JwtRule;

pub(super) fn check(policy: &RequestAuthentication, at: &Place<'_>, report: &mut Report) {
    let rules = at.field("jwtRules");
    for (index, rule) in policy.jwt_rules.iter().enumerate() {
        check_rule(rule, &rules.index(index), report);
    }
}

fn check_rule(rule: &JwtRule, at: &Place<'_>, report: &mut Report) {
    if rule.issuer.is_empty() && rule.jwks_uri.is_empty() && rule.jwks_uri_snake.is_empty() {
        report.required(&at.field("issuer"), "one of issuer and jwksUri must be set");
    }
    if !rule.jwks.is_empty() {
        let keys = serde_json::from_str::<Value>(&rule.jwks).ok();
        if !keys.is_some_and(|jwks| jwks["keys"].is_array()) {
            report.invalid(&at.field("jwks"), &*rule.jwks, "must be a JSON Web Key Set: an object with a list of keys");
        }
    }
    let from = at.field("fromHeaders");
    for (index, header) in
        rule.from_headers.iter().enumerate().filter(|(_, header)| !http_headers::is_name(&header.name))
    {
        let at = from.index(index);
        report.invalid(&at.field("name"), &*header.name, http_headers::NAME);
    }
    let payload = &*rule.output_payload_to_header;
    if !payload.is_empty() && !http_headers::is_name(payload) {
        report.invalid(&at.field("outputPayloadToHeader"), payload, http_headers::NAME);
    }
}
