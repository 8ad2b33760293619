//! `security.istio.io` RequestAuthentication: which JSON web tokens are accepted.

use super::selector::{LabelSelector, TargetRef};
use super::value::{TextDuration, Written, choice, message};

message! {
    /// The spec of a RequestAuthentication. At most one of `selector`, `targetRef` and `targetRefs`.
    pub struct RequestAuthentication {
        pub selector: Option<LabelSelector>,
        pub target_ref: Option<TargetRef>,
        pub target_refs: Written<Vec<TargetRef>>,
        pub jwt_rules: Written<Vec<JwtRule>>,
    }

    /// One issuer. Setting any of the `from` fields replaces the default places that are searched for a token.
    pub struct JwtRule {
        pub issuer: Written<String>,
        /// None: any audience.
        pub audiences: Written<Vec<String>>,
        pub jwks_uri: Written<String>,
        /// The older name of `jwksUri`.
        #[serde(rename = "jwks_uri")]
        pub jwks_uri_snake: Written<String>,
        /// The keys themselves.
        pub jwks: Written<String>,
        pub from_headers: Written<Vec<JwtHeader>>,
        pub from_params: Written<Vec<String>>,
        pub from_cookies: Written<Vec<String>>,
        pub output_payload_to_header: Written<String>,
        pub output_claim_to_headers: Written<Vec<ClaimToHeader>>,
        /// False: the token is taken out before the request goes on.
        pub forward_original_token: Written<bool>,
        /// To fetch the keys; absent: 5 s.
        pub timeout: Option<TextDuration>,
        pub space_delimited_claims: Written<Vec<String>>,
        pub presence: Written<TokenPresence>,
    }

    /// A header that carries a token.
    pub struct JwtHeader {
        pub name: Written<String>,
        /// Stands before the token, its trailing space included: `Bearer `.
        pub prefix: Written<String>,
    }

    /// A header that a claim is written to.
    pub struct ClaimToHeader {
        pub header: Written<String>,
        /// With dots for nested claims.
        pub claim: Written<String>,
    }
}

choice! {
    /// Whether a request must have a token.
    pub enum TokenPresence {
        Optional,
        Required,
    }
}
