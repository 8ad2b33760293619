//! `/api/fairway/v1/denied-identities`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use http::StatusCode;
use route_model::identity::WorkloadId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::PushService;
use super::super::denied::{Denial, DenyError};
use super::{allow, time};
use crate::api::{ApiError, MAX_OBJECT, Problem, read_body};
use crate::auth::Identity;

/// An identity to be denied.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDenial {
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    identity: String,
}

/// An identity that is denied.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DenialView {
    identity: String,
    /// RFC 3339.
    since: String,
    by: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DenialList {
    items: Vec<DenialView>,
}

fn view(identity: &str, denial: &Denial) -> DenialView {
    DenialView { identity: identity.to_owned(), since: time(denial.since), by: denial.by.clone() }
}

impl From<DenyError> for Problem {
    fn from(error: DenyError) -> Self {
        match error {
            DenyError::Store(error) => error.into(),
            DenyError::TooMany => ApiError::unprocessable(error.to_string()).into(),
            DenyError::Busy => ApiError::unavailable(error.to_string()).into(),
            DenyError::Damaged(_) => ApiError::internal(&error).into(),
        }
    }
}

/// Deny an identity: it gets no certificate, its proxies are disconnected, and no proxy accepts its certificates.
#[utoipa::path(
    post, path = "/api/fairway/v1/denied-identities", tag = "proxies", operation_id = "denyIdentity",
    request_body = NewDenial,
    responses(
        (status = 200, body = DenialView, description = "It is denied, now or already"),
        (status = 400, body = Problem, description = "This is no workload's identity"),
        (status = 403, body = Problem, description = "Not allowed"),
        (status = 422, body = Problem, description = "Too many are denied already"),
        (status = 503, body = Problem, description = "The database is away, or another change is under way")
    )
)]
pub(super) async fn deny(
    State(service): State<Arc<PushService>>,
    Extension(identity): Extension<Identity>,
    body: Body,
) -> Result<Json<DenialView>, Problem> {
    allow(&identity, "create", "deniedidentities", "")?;
    let bytes = read_body(body, MAX_OBJECT).await?;
    let wanted: NewDenial = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not valid: {error}")))?;
    let id = wanted.identity;
    if !WorkloadId::parse(&id).is_some_and(|id| id.is_wellformed()) {
        let form = "spiffe://<trust domain>/ns/<namespace>/sa/<service account>";
        return Err(ApiError::bad_request(format!("{id:?} is not of the form {form}")).into());
    }
    let denial = service.denied.deny(&id, &identity.name).await?;
    Ok(Json(view(&id, &denial)))
}

/// List the identities that are denied.
#[utoipa::path(
    get, path = "/api/fairway/v1/denied-identities", tag = "proxies", operation_id = "listDeniedIdentities",
    responses(
        (status = 200, body = DenialList, description = "The identities, in their order"),
        (status = 403, body = Problem, description = "Not allowed")
    )
)]
pub(super) async fn list(
    State(service): State<Arc<PushService>>,
    Extension(identity): Extension<Identity>,
) -> Result<Json<DenialList>, Problem> {
    allow(&identity, "list", "deniedidentities", "")?;
    let items = service.denied.current().iter().map(|(id, denial)| view(id, denial)).collect();
    Ok(Json(DenialList { items }))
}

/// Allow an identity again.
#[utoipa::path(
    delete, path = "/api/fairway/v1/denied-identities/{identity}", tag = "proxies", operation_id = "allowIdentity",
    params(("identity" = String, Path, description = "The SPIFFE id, percent-encoded")),
    responses(
        (status = 204, description = "It is allowed"),
        (status = 403, body = Problem, description = "Not allowed"),
        (status = 404, body = Problem, description = "It was not denied"),
        (status = 503, body = Problem, description = "The database is away, or another change is under way")
    )
)]
pub(super) async fn allow_again(
    State(service): State<Arc<PushService>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    allow(&identity, "delete", "deniedidentities", "")?;
    if service.denied.allow(&id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::nothing_there(format!("{id:?} is not denied")).into())
    }
}
