//! A JSON web token as it is written (RFC 7515, RFC 7519): read, and held against a rule as far as that needs no key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde_json::{Map, Value};

use super::fault::TokenFault;
use crate::request::claims::{ClaimPath, Claims};
use crate::table::authentication::JwtRule;

/// How far the clocks of issuer and gateway may be apart, in seconds.
pub const CLOCK_SKEW: i64 = 60;

/// The signature algorithms that are verified. HMAC is none of them: its key would be no public one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// As `alg` names it.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A token that was read. None of it is to be believed before its signature is verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Token<'a> {
    pub algorithm: Algorithm,
    pub kid: Option<Box<str>>,
    /// What is signed: header and payload as they are written.
    pub signed: &'a str,
    /// In base64url.
    pub signature: &'a str,
    /// In base64url, as `outputPayloadToHeader` has it.
    pub payload_text: &'a str,
    pub payload: Map<String, Value>,
    /// Seconds since 1970.
    pub expires: Option<i64>,
    pub not_before: Option<i64>,
}

impl<'a> Token<'a> {
    /// Reads a token.
    ///
    /// # Errors
    /// It is no signed token, or of an algorithm that is not verified.
    pub fn parse(text: &'a str) -> Result<Self, TokenFault> {
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenFault::Form)?;
        let (header_text, payload_text) = signed.split_once('.').ok_or(TokenFault::Form)?;
        if payload_text.contains('.') {
            return Err(TokenFault::Form);
        }
        let header = object(header_text, TokenFault::HeaderBase64, TokenFault::HeaderJson)?;
        let algorithm = match header.get("alg").and_then(Value::as_str).ok_or(TokenFault::AlgMissing)? {
            "ES512" => return Err(TokenFault::Es512),
            name => Algorithm::parse(name).ok_or(TokenFault::Alg)?,
        };
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.as_str().into()),
            Some(_) => return Err(TokenFault::Kid),
        };
        // RFC 7515 section 4.1.11: what must be understood and is not makes the token invalid.
        if header.contains_key("crit") {
            return Err(TokenFault::Alg);
        }
        let payload = object(payload_text, TokenFault::PayloadBase64, TokenFault::PayloadJson)?;
        for (name, fault) in [("iss", TokenFault::Iss), ("sub", TokenFault::Sub), ("jti", TokenFault::Jti)] {
            if payload.get(name).is_some_and(|claim| !claim.is_string()) {
                return Err(fault);
            }
        }
        let audiences_are_texts = match payload.get("aud") {
            None | Some(Value::String(_)) => true,
            Some(Value::Array(items)) => items.iter().all(Value::is_string),
            Some(_) => false,
        };
        if !audiences_are_texts {
            return Err(TokenFault::Aud);
        }
        time(&payload, "iat", TokenFault::Iat)?;
        Ok(Self {
            algorithm,
            kid,
            signed,
            signature,
            payload_text,
            expires: time(&payload, "exp", TokenFault::Exp)?,
            not_before: time(&payload, "nbf", TokenFault::Nbf)?,
            payload,
        })
    }

    /// `iss`; empty where there is none.
    pub fn issuer(&self) -> &str {
        self.payload.get("iss").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether a rule accepts the token at this time (seconds since 1970; `None`: at some time), its signature aside.
    ///
    /// # Errors
    /// It does not.
    pub fn check(&self, rule: &JwtRule, now: Option<i64>) -> Result<(), TokenFault> {
        if rule.issuer.as_deref().is_some_and(|issuer| issuer != self.issuer()) {
            return Err(TokenFault::UnknownIssuer);
        }
        if let Some(now) = now {
            timely(self.not_before, self.expires, now)?;
        }
        let audiences = match self.payload.get("aud") {
            Some(Value::Array(items)) => items,
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        let mut audiences = audiences.iter().filter_map(Value::as_str).map(audience);
        if rule.audiences.is_empty() || audiences.any(|is| rule.audiences.iter().any(|wanted| audience(wanted) == is)) {
            Ok(())
        } else {
            Err(TokenFault::Audience)
        }
    }

    /// What the rule says that upstreams are told of the token.
    pub fn headers(&self, rule: &JwtRule) -> Vec<(http::HeaderName, HeaderValue)> {
        let payload = rule.payload_header.iter().map(|name| (name, self.payload_text.as_bytes().to_vec()));
        let claims = rule.claim_headers.iter().filter_map(|(name, path)| Some((name, self.claim(path)?)));
        // What cannot be said in a header is left out.
        let fields =
            payload.chain(claims).filter_map(|(name, text)| Some((name.clone(), HeaderValue::from_bytes(&text).ok()?)));
        fields.collect()
    }

    /// A claim as a header has it: a text, a number, a boolean as it is, a list or an object as base64 of its JSON.
    fn claim(&self, path: &ClaimPath) -> Option<Vec<u8>> {
        let text = match path.find(&self.payload)? {
            Value::String(text) => text.clone(),
            claim @ (Value::Number(_) | Value::Bool(_)) => claim.to_string(),
            claim @ (Value::Array(_) | Value::Object(_)) => {
                base64::engine::general_purpose::STANDARD.encode(claim.to_string())
            }
            Value::Null => return None,
        };
        (!text.is_empty()).then(|| text.into_bytes())
    }

    /// What the token says, to be believed once its signature is verified.
    pub fn claims(self, rule: &JwtRule) -> Claims {
        Claims::new(self.payload, &rule.space_delimited)
    }
}

/// Whether it is neither too early nor too late, give or take [`CLOCK_SKEW`].
///
/// # Errors
/// It is.
pub fn timely(not_before: Option<i64>, expires: Option<i64>, now: i64) -> Result<(), TokenFault> {
    if not_before.is_some_and(|from| now.saturating_add(CLOCK_SKEW) < from) {
        return Err(TokenFault::NotYetValid);
    }
    if expires.is_some_and(|until| now > until.saturating_add(CLOCK_SKEW)) {
        return Err(TokenFault::Expired);
    }
    Ok(())
}

/// An audience as it is compared: scheme and trailing slash do not count, as in Envoy.
fn audience(text: &str) -> &str {
    let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    text.strip_suffix('/').unwrap_or(text)
}

fn object(text: &str, encoding: TokenFault, form: TokenFault) -> Result<Map<String, Value>, TokenFault> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| encoding)?;
    serde_json::from_slice(&bytes).map_err(|_| form)
}

/// A `NumericDate` (RFC 7519 section 2); a fraction of a second does not count.
fn time(payload: &Map<String, Value>, name: &str, fault: TokenFault) -> Result<Option<i64>, TokenFault> {
    let Some(claim) = payload.get(name) else { return Ok(None) };
    if let Some(seconds) = claim.as_i64() {
        return if seconds < 0 { Err(fault) } else { Ok(Some(seconds)) };
    }
    match claim.as_f64() {
        Some(seconds) if (0.0..9.0e15).contains(&seconds) => Ok(Some(seconds as i64)),
        _ => Err(fault),
    }
}
