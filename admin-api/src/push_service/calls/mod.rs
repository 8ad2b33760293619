//! The calls about proxies: what they run, and the tokens they join with.

mod ca;
mod denied;
mod join_tokens;
mod proxies;

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post};
use jiff::Timestamp;
use utoipa::OpenApi;

use super::PushService;
use crate::api::{ApiError, Problem};
use crate::auth::{Access, Authorizer, Identity};

/// The description of these calls.
#[derive(Debug, OpenApi)]
#[openapi(paths(
    proxies::list,
    proxies::read,
    join_tokens::create,
    join_tokens::list,
    join_tokens::revoke,
    denied::deny,
    denied::list,
    denied::allow_again,
    ca::read,
    ca::rotate
))]
pub(crate) struct PushApi;

pub(super) fn router(service: Arc<PushService>) -> Router {
    Router::new()
        .route("/api/fairway/v1/proxies", get(proxies::list))
        .route("/api/fairway/v1/proxies/{id}", get(proxies::read))
        .route("/api/fairway/v1/join-tokens", get(join_tokens::list).post(join_tokens::create))
        .route("/api/fairway/v1/join-tokens/{id}", delete(join_tokens::revoke))
        .route("/api/fairway/v1/denied-identities", get(denied::list).post(denied::deny))
        .route("/api/fairway/v1/denied-identities/{identity}", delete(denied::allow_again))
        .route("/api/fairway/v1/ca", get(ca::read))
        .route("/api/fairway/v1/ca/rotate", post(ca::rotate))
        .with_state(service)
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn allow(identity: &Identity, verb: &str, resource: &str, namespace: &str) -> Result<(), Problem> {
    if Authorizer.allows(identity, &Access { verb, group: "fairway.dev", resource, namespace }) {
        Ok(())
    } else {
        Err(ApiError::forbidden_call(format!("{} may not {verb} {resource}", identity.name)).into())
    }
}
