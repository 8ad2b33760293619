//! Tokens of requests: where they are, what they say, which rule they are for. Whether their signatures are true is for
//! the proxy to find out.

mod fault;
pub mod jwks;
mod places;
mod token;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{HeaderName, HeaderValue};
use smallvec::SmallVec;

pub use self::fault::TokenFault;
pub use self::places::{Found, find, query_without, remove};
pub use self::token::{Algorithm, CLOCK_SKEW, Token, timely};
use crate::request::headers::Headers;

use crate::table::RequestHead;
use crate::table::authentication::{Authentication, JwtRule};

/// What the rules say of a request's tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenVerdict<'p, 'h, V> {
    /// There is none; the request goes on without an identity.
    None,
    /// All tokens in the places of this rule are in order; this is what was made of the first.
    Accepted {
        rule: usize,
        verified: V,
        found: Found<'p, 'h>,
    },
    Refused(TokenFault),
}

impl Authentication {
    /// Judges a request by its tokens. `verify` is asked about a token on behalf of a rule, by its index.
    ///
    /// As in Istio: one rule that finds tokens in its places, all of them in order, is enough; without such a rule no
    /// place may hold a token.
    pub fn judge<'p, 'h, V>(
        &'p self,
        head: &RequestHead<'h>,
        mut verify: impl FnMut(&JwtRule, usize, &str) -> Result<V, TokenFault>,
    ) -> TokenVerdict<'p, 'h, V> {
        let mut refused: Option<TokenFault> = None;
        for (index, rule) in self.rules.iter().enumerate() {
            let found = find(&rule.places, head);
            let mut verified = None;
            let all = found.iter().try_for_each(|(token, _)| {
                let this = verify(rule, index, token)?;
                verified.get_or_insert(this);
                Ok(())
            });
            match (all, verified) {
                (Ok(()), Some(verified)) => return TokenVerdict::Accepted { rule: index, verified, found },
                (Ok(()), None) => {}
                (Err(fault), _) => refused = Some(refused.map_or(fault, |before| before.or(fault))),
            }
        }
        refused.map_or(TokenVerdict::None, TokenVerdict::Refused)
    }

    /// Removes what clients may not say: headers that only the proxy writes, also where they are spelt with underscores,
    /// which servers that put headers into environment variables cannot tell from dashes.
    pub fn sanitise(&self, headers: &mut Headers) {
        if self.written.is_empty() {
            return;
        }
        let is_written =
            |name: &HeaderName| self.written.iter().any(|written| is_alias(name.as_str(), written.as_str()));
        let forged: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| is_written(name)).cloned().collect();
        for name in forged {
            headers.remove(name);
        }
    }
}

fn is_alias(name: &str, written: &str) -> bool {
    let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte };
    name.len() == written.len() && name.bytes().map(dashed).eq(written.bytes().map(dashed))
}

/// Whether a browser asks for leave before the request proper, which carries no token.
pub fn is_preflight(method: &str, headers: &Headers) -> bool {
    let says = |name| headers.get(name).is_some_and(|value: &HeaderValue| !value.is_empty());
    method == "OPTIONS" && says(ORIGIN) && says(ACCESS_CONTROL_REQUEST_METHOD)
}

#[cfg(test)]
mod tests;
