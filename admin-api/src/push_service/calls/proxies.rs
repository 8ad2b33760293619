//! `/api/fairway/v1/proxies`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::{ProxyView, PushService};
use super::allow;
use crate::api::{ApiError, Problem};
use crate::auth::Identity;

/// The proxies that are known, by id.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProxyList {
    items: Vec<ProxyView>,
}

/// List the proxies of all replicas, connected or not, and what each runs.
#[utoipa::path(
    get, path = "/api/fairway/v1/proxies", tag = "proxies", operation_id = "listProxies",
    responses(
        (status = 200, body = ProxyList, description = "The proxies"),
        (status = 403, body = Problem, description = "Not allowed")
    )
)]
pub(super) async fn list(
    State(service): State<Arc<PushService>>,
    Extension(identity): Extension<Identity>,
) -> Result<Json<ProxyList>, Problem> {
    allow(&identity, "list", "proxies", "")?;
    Ok(Json(ProxyList { items: service.proxies() }))
}

/// Show one proxy.
#[utoipa::path(
    get, path = "/api/fairway/v1/proxies/{id}", tag = "proxies", operation_id = "readProxy",
    params(("id" = String, Path, description = "The proxy's node id")),
    responses(
        (status = 200, body = ProxyView, description = "The proxy"),
        (status = 403, body = Problem, description = "Not allowed"),
        (status = 404, body = Problem, description = "No such proxy is known")
    )
)]
pub(super) async fn read(
    State(service): State<Arc<PushService>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<Json<ProxyView>, Problem> {
    allow(&identity, "get", "proxies", "")?;
    let proxy = service.proxies().into_iter().find(|proxy| proxy.id == id);
    Ok(Json(proxy.ok_or_else(|| ApiError::nothing_there(format!("no proxy {id:?} is known")))?))
}
