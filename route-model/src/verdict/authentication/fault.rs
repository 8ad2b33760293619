//! Why a token is not accepted, in Envoy's words.

use http::StatusCode;
use thiserror::Error;

/// Why a token is not accepted. The text is the body of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenFault {
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Form,
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBase64,
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    #[error("Jwt header [alg] field is required and must be a string")]
    AlgMissing,
    #[error("Jwt header [alg] is not supported")]
    Alg,
    /// Not Envoy's words, which verifies ES512.
    #[error("Jwt header [alg] ES512 is not supported")]
    Es512,
    #[error("Jwt header [kid] field is not a string")]
    Kid,
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    #[error("Jwt payload [iss] field is not a string")]
    Iss,
    #[error("Jwt payload [sub] field is not a string")]
    Sub,
    #[error("Jwt payload [iat] field is not an integer")]
    Iat,
    #[error("Jwt payload [nbf] field is not an integer")]
    Nbf,
    #[error("Jwt payload [exp] field is not an integer")]
    Exp,
    #[error("Jwt payload [jti] field is not a string")]
    Jti,
    #[error("Jwt payload [aud] field is not a string or string list")]
    Aud,
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    #[error("Jwt issuer is not configured")]
    UnknownIssuer,
    #[error("Jwt not yet valid")]
    NotYetValid,
    #[error("Jwt is expired")]
    Expired,
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    #[error("Jwt verification fails")]
    Signature,
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoKey,
    #[error("Jwks doesn't have any valid public key")]
    NoKeys,
    #[error("Jwks remote fetch is failed")]
    Fetch,
}

impl TokenFault {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Audience => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// `%RESPONSE_CODE_DETAILS%`.
    pub fn details(self) -> &'static str {
        macro_rules! details {
            ($($fault:ident => $text:literal,)*) => {
                match self { $(Self::$fault => concat!("jwt_authn_access_denied{", $text, "}"),)* }
            };
        }
        details! {
            Form => "Jwt_is_not_in_the_form_of_Header.Payload.Signature_with_two_dots_and_3_sections",
            HeaderBase64 => "Jwt_header_is_an_invalid_Base64url_encoded",
            HeaderJson => "Jwt_header_is_an_invalid_JSON",
            AlgMissing => "Jwt_header_[alg]_field_is_required_and_must_be_a_string",
            Alg => "Jwt_header_[alg]_is_not_supported",
            Es512 => "Jwt_header_[alg]_ES512_is_not_supported",
            Kid => "Jwt_header_[kid]_field_is_not_a_string",
            PayloadBase64 => "Jwt_payload_is_an_invalid_Base64url_encoded",
            PayloadJson => "Jwt_payload_is_an_invalid_JSON",
            Iss => "Jwt_payload_[iss]_field_is_not_a_string",
            Sub => "Jwt_payload_[sub]_field_is_not_a_string",
            Iat => "Jwt_payload_[iat]_field_is_not_an_integer",
            Nbf => "Jwt_payload_[nbf]_field_is_not_an_integer",
            Exp => "Jwt_payload_[exp]_field_is_not_an_integer",
            Jti => "Jwt_payload_[jti]_field_is_not_a_string",
            Aud => "Jwt_payload_[aud]_field_is_not_a_string_or_string_list",
            SignatureBase64 => "Jwt_signature_is_an_invalid_Base64url_encoded",
            UnknownIssuer => "Jwt_issuer_is_not_configured",
            NotYetValid => "Jwt_not_yet_valid",
            Expired => "Jwt_is_expired",
            Audience => "Audiences_in_Jwt_are_not_allowed",
            Signature => "Jwt_verification_fails",
            NoKey => "Jwks_doesn't_have_key_to_match_kid_or_alg_from_Jwt",
            NoKeys => "Jwks_doesn't_have_any_valid_public_key",
            Fetch => "Jwks_remote_fetch_is_failed",
        }
    }

    /// The one of two that says more: that an issuer is not known to one rule says little while there are others.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self == Self::UnknownIssuer { other } else { self }
    }
}
