//! Who is asking, and what they may do.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

/// Someone whose credential was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// As history and `kubectl auth whoami` show it.
    pub name: Arc<str>,
    pub groups: Arc<[Arc<str>]>,
}

impl Identity {
    pub fn admin() -> Self {
        Self { name: "admin".into(), groups: ["fairway:admins".into(), "system:authenticated".into()].into() }
    }
}

/// What somebody wants to do, in Kubernetes' terms.
#[derive(Clone, Debug)]
pub struct Access<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    /// The plural; empty for calls outside the resource API.
    pub resource: &'a str,
    pub namespace: &'a str,
}

/// Decides what an identity may do. There is one role so far: who is in the admins' group may do everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Authorizer;

impl Authorizer {
    pub fn allows(self, identity: &Identity, _access: &Access<'_>) -> bool {
        identity.groups.iter().any(|group| &**group == "fairway:admins")
    }
}

/// Accepts credentials.
#[derive(Clone, Debug)]
pub struct Authenticator {
    admin_token: [u8; 32],
}

/// Why a credential was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("no credential was sent; send the header `Authorization: Bearer TOKEN`")]
    Missing,
    #[error("the token is not valid")]
    Invalid,
    #[error("impersonation is not supported")]
    Impersonation,
}

impl Authenticator {
    pub fn new(admin_token: &str) -> Self {
        Self { admin_token: digest(admin_token) }
    }

    /// The identity behind a request's headers.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Identity, AuthError> {
        if headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
            return Err(AuthError::Impersonation);
        }
        let header = headers.get(AUTHORIZATION).ok_or(AuthError::Missing)?;
        let header = header.to_str().map_err(|_| AuthError::Invalid)?;
        let (scheme, token) = header.split_once(' ').ok_or(AuthError::Invalid)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(AuthError::Invalid);
        }
        // Digests of equal length are compared, in constant time: the answer's time tells nothing about the token.
        if bool::from(digest(token.trim()).ct_eq(&self.admin_token)) {
            Ok(Identity::admin())
        } else {
            Err(AuthError::Invalid)
        }
    }
}

fn digest(token: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// A fresh token: 256 random bits in base64url.
pub fn generate_token() -> Result<String, aws_lc_rs::error::Unspecified> {
    let mut bytes = [0u8; 32];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(crate::base64_url(&bytes))
}

/// Paths that answer without a credential: health, for probes, and the explorer page, which holds no data.
fn is_open(path: &str) -> bool {
    matches!(path.trim_end_matches('/'), "/healthz" | "/livez" | "/readyz" | "/docs") || path.starts_with("/docs/")
}

/// The axum layer that refuses strangers and tells the handlers who is asking.
pub async fn require_identity(
    State(authenticator): State<Authenticator>,
    mut request: Request,
    next: Next,
) -> Response {
    if is_open(request.uri().path()) {
        return next.run(request).await;
    }
    match authenticator.authenticate(request.headers()) {
        Ok(identity) => {
            request.extensions_mut().insert(identity);
            next.run(request).await
        }
        Err(error) => refusal::response(request.uri().path(), error),
    }
}

mod refusal {
    use super::AuthError;
    use axum::response::{IntoResponse, Response};
    use http::StatusCode;
    use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
    use serde_json::json;

    /// A problem document under `/api/fairway`, a Kubernetes Status everywhere else.
    pub(super) fn response(path: &str, error: AuthError) -> Response {
        let (status, reason) = match error {
            AuthError::Impersonation => (StatusCode::FORBIDDEN, "Forbidden"),
            AuthError::Missing | AuthError::Invalid => (StatusCode::UNAUTHORIZED, "Unauthorized"),
        };
        let own = path.starts_with("/api/fairway");
        let body = if own {
            json!({"type": "about:blank", "title": reason, "status": status.as_u16(), "detail": error.to_string()})
        } else {
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": format!("{reason}: {error}"), "reason": reason, "code": status.as_u16(),
            })
        };
        let content_type = if own { "application/problem+json" } else { "application/json" };
        let mut response = (status, [(CONTENT_TYPE, content_type)], format!("{body}\n")).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = http::HeaderValue::from_static("Bearer realm=\"fairway\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_bearer_token_is_accepted() {
        let authenticator = Authenticator::new("right");
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            authenticator.authenticate(&headers)
        };
        assert_eq!(with("Bearer right"), Ok(Identity::admin()));
        assert_eq!(with("bearer right"), Ok(Identity::admin()));
        assert_eq!(with("Bearer wrong"), Err(AuthError::Invalid));
        assert_eq!(with("Bearer "), Err(AuthError::Invalid));
        assert_eq!(with("Basic right"), Err(AuthError::Invalid));
        assert_eq!(authenticator.authenticate(&HeaderMap::new()), Err(AuthError::Missing));
    }

    #[test]
    fn impersonation_is_never_ignored_silently() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, "Bearer right".parse().unwrap());
        headers.insert("impersonate-user", "bob".parse().unwrap());
        assert_eq!(Authenticator::new("right").authenticate(&headers), Err(AuthError::Impersonation));
    }

    #[test]
    fn tokens_are_long_and_differ() {
        let (a, b) = (generate_token().unwrap(), generate_token().unwrap());
        assert!(a.len() >= 43 && a != b);
    }
}
