//! What the tokens of a request are taken for. Nobody holds keys here, so they are taken at their word.

use super::{ExplainedToken, Explanation, Outcome};
use crate::matching::quoted;
use crate::request::claims::Claims;
use crate::request::headers::Headers;
use crate::table::RequestHead;
use crate::table::authentication::{Authentication, JwtRule, TokenPlace};
use crate::verdict::authentication::{Token, TokenFault, TokenVerdict, is_preflight, query_without, remove};

/// Whom a request is from. Changes its headers as the gateway does; its query stays as it is.
///
/// # Errors
/// The gateway refuses a token.
pub(super) fn explain(
    authentication: &Authentication,
    head: &RequestHead<'_>,
    explanation: &mut Explanation,
) -> Result<Authenticated, Outcome> {
    let mut headers = head.headers.clone();
    authentication.sanitise(&mut headers);
    let anonymous = |headers| Authenticated { headers, query: head.query.map(str::to_owned), claims: None };
    if is_preflight(head.method, head.headers) {
        return Ok(anonymous(headers));
    }
    let verify = |rule: &JwtRule, _: usize, text: &str| {
        let token = Token::parse(text)?;
        token.check(rule, None)?;
        Ok((token.headers(rule), token.claims(rule)))
    };
    let sanitised = headers.clone();
    let asked = RequestHead { headers: &sanitised, ..*head };
    let judged = match authentication.judge(&asked, verify) {
        TokenVerdict::None => anonymous(headers),
        TokenVerdict::Refused(fault) => return Err(refused(fault, authentication)),
        TokenVerdict::Accepted { rule, verified: (written, claims), found } => {
            let rule = &authentication.rules[rule];
            let places: Vec<&TokenPlace> = found.iter().map(|(_, place)| *place).collect();
            explanation.token = Some(Box::new(ExplainedToken {
                places: places.iter().map(ToString::to_string).collect(),
                policy: rule.policy.clone(),
                rule: rule.index,
                principal: claims.principal().map(str::to_owned),
                forwarded: rule.forward,
                headers: written.iter().map(|(name, value)| (name.to_string(), quoted(value))).collect(),
            }));
            let mut query = head.query.map(str::to_owned);
            for place in places.into_iter().filter(|_| !rule.forward) {
                remove(place, &mut headers);
                if let TokenPlace::Param(name) = place {
                    query = query.and_then(|query| query_without(&query, name));
                }
            }
            for (name, value) in written {
                headers.append(name, value);
            }
            Authenticated { headers, query, claims: Some(claims) }
        }
    };
    Ok(judged)
}

/// A request as it goes on.
#[derive(Debug)]
pub(super) struct Authenticated {
    pub(super) headers: Headers,
    pub(super) query: Option<String>,
    pub(super) claims: Option<Claims>,
}

fn refused(fault: TokenFault, authentication: &Authentication) -> Outcome {
    let issuers = authentication.rules.iter().map(|rule| match &rule.issuer {
        Some(issuer) => format!("{} for {}", place(rule), quoted(&**issuer)),
        None => format!("{} for any issuer", place(rule)),
    });
    let issuers: Vec<_> = issuers.collect();
    Outcome::Refused {
        status: Some(fault.status().as_u16()),
        reason: format!("{fault}; tokens are held against {}", issuers.join(", ")),
    }
}

fn place(rule: &JwtRule) -> String {
    format!("{} jwtRules[{}]", rule.policy, rule.index)
}
