//! `/api/fairway/v1/join-tokens`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use route_model::names::{is_dns_label, is_dns_subdomain};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::PushService;
use super::super::admission::{JoinScope, default_service_account, new_token};
use super::{allow, time};
use crate::api::{ApiError, MAX_OBJECT, Problem, read_body};
use crate::auth::Identity;
use crate::parse_duration;
use crate::store::Token;

const DEFAULT_TTL: &str = "24h";
const MAX_TTL: Duration = Duration::from_hours(366 * 24);

/// A token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewJoinToken {
    /// The namespace that proxies with this token run in.
    #[serde(default = "default_namespace")]
    namespace: String,
    /// The service account that they run as, which becomes part of their identity.
    #[serde(default = "default_service_account")]
    service_account: String,
    /// How long it lets proxies in: `30m`, `24h` (the default), `7d`. Proxies that joined stay members.
    #[serde(default = "default_ttl")]
    ttl: String,
    /// Only the first proxy that shows it is let in.
    #[serde(default)]
    single_use: bool,
}

fn default_namespace() -> String {
    "istio-system".to_owned()
}

fn default_ttl() -> String {
    DEFAULT_TTL.to_owned()
}

/// A token just made.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedJoinToken {
    /// Shown this once; only its hash is kept.
    token: String,
    #[serde(flatten)]
    view: JoinTokenView,
}

/// A token without its text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct JoinTokenView {
    /// Revokes it.
    id: String,
    namespace: String,
    service_account: String,
    single_use: bool,
    /// RFC 3339.
    created: String,
    created_by: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    /// Whether further proxies can join with it.
    valid: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JoinTokenList {
    items: Vec<JoinTokenView>,
}

fn view(token: &Token) -> Option<JoinTokenView> {
    let scope = JoinScope::of(token)?;
    Some(JoinTokenView {
        id: token.id.clone(),
        namespace: scope.namespace,
        service_account: scope.service_account,
        single_use: scope.single_use,
        created: time(token.created_at),
        created_by: token.created_by.clone(),
        expires: token.expires_at.map(time),
        valid: token.is_valid(Timestamp::now()),
    })
}

/// Make a token with which proxies of a service account join.
#[utoipa::path(
    post, path = "/api/fairway/v1/join-tokens", tag = "proxies", operation_id = "createJoinToken",
    request_body = NewJoinToken,
    responses(
        (status = 201, body = CreatedJoinToken, description = "The token, which is shown only here"),
        (status = 400, body = Problem, description = "No such token can be made"),
        (status = 403, body = Problem, description = "Not allowed"),
        (status = 503, body = Problem, description = "The database is away")
    )
)]
pub(super) async fn create(
    State(service): State<Arc<PushService>>,
    Extension(identity): Extension<Identity>,
    body: Body,
) -> Result<(StatusCode, Json<CreatedJoinToken>), Problem> {
    let bytes = read_body(body, MAX_OBJECT).await?;
    let wanted: NewJoinToken = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not valid: {error}")))?;
    allow(&identity, "create", "jointokens", &wanted.namespace)?;
    let ttl = parse_duration(&wanted.ttl)
        .ok_or_else(|| ApiError::bad_request(format!("{:?} is not a time such as 30m, 24h or 7d", wanted.ttl)))?;
    if ttl.is_zero() || ttl > MAX_TTL {
        return Err(ApiError::bad_request("the ttl must be more than 0 and at most 366d").into());
    }
    let namespace = wanted.namespace;
    if !is_dns_label(&namespace) {
        return Err(ApiError::bad_request(format!("{namespace:?} is not the name of a namespace")).into());
    }
    let service_account = wanted.service_account;
    if !is_dns_subdomain(&service_account) {
        return Err(ApiError::bad_request(format!("{service_account:?} is not the name of a service account")).into());
    }
    let expires = SignedDuration::try_from(ttl).ok().and_then(|ttl| Timestamp::now().checked_add(ttl).ok());
    let expires = expires.ok_or_else(|| ApiError::bad_request("the ttl is too long"))?;
    let scope = JoinScope { namespace, service_account, single_use: wanted.single_use };
    let (text, token) = new_token(&scope, expires, &identity.name)
        .map_err(|_| ApiError::internal(&"the operating system gives no random bytes"))?;
    service.snapshot.store().put_token(&token).await?;
    let view = view(&token).ok_or_else(|| ApiError::internal(&"the token that was made is no join token"))?;
    Ok((StatusCode::CREATED, Json(CreatedJoinToken { token: text, view })))
}

/// List the join tokens, expired ones too.
#[utoipa::path(
    get, path = "/api/fairway/v1/join-tokens", tag = "proxies", operation_id = "listJoinTokens",
    responses(
        (status = 200, body = JoinTokenList, description = "The tokens, without their text"),
        (status = 403, body = Problem, description = "Not allowed"),
        (status = 503, body = Problem, description = "The database is away")
    )
)]
pub(super) async fn list(
    State(service): State<Arc<PushService>>,
    Extension(identity): Extension<Identity>,
) -> Result<Json<JoinTokenList>, Problem> {
    allow(&identity, "list", "jointokens", "")?;
    let tokens = service.snapshot.store().tokens().await?;
    Ok(Json(JoinTokenList { items: tokens.iter().filter_map(view).collect() }))
}

/// Revoke a token: nobody joins with it any more, and proxies that did are disconnected, from other replicas too.
#[utoipa::path(
    delete, path = "/api/fairway/v1/join-tokens/{id}", tag = "proxies", operation_id = "revokeJoinToken",
    params(("id" = String, Path, description = "The token's id")),
    responses(
        (status = 204, description = "It is revoked"),
        (status = 403, body = Problem, description = "Not allowed"),
        (status = 404, body = Problem, description = "There is no such token"),
        (status = 503, body = Problem, description = "The database is away")
    )
)]
pub(super) async fn revoke(
    State(service): State<Arc<PushService>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    allow(&identity, "delete", "jointokens", "")?;
    let store = service.snapshot.store();
    let missing = || Problem::from(ApiError::nothing_there(format!("there is no join token {id:?}")));
    let tokens = store.tokens().await?;
    if !tokens.iter().any(|token| token.id == id && JoinScope::of(token).is_some()) {
        return Err(missing());
    }
    if store.delete_token(&id).await? { Ok(StatusCode::NO_CONTENT) } else { Err(missing()) }
}
