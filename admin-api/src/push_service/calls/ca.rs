//! `/api/fairway/v1/ca`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::PushService;
use super::{allow, time};
use crate::api::{ApiError, MAX_OBJECT, Problem, read_body};
use crate::auth::Identity;
use crate::ca::{CaError, RootInfo};
use crate::parse_duration;

/// How a new root is to take over.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotation {
    /// How long the root that signs now is trusted after it: `30d` (the default). At least as long as certificates are
    /// good.
    #[serde(default = "default_overlap")]
    overlap: String,
}

fn default_overlap() -> String {
    "30d".to_owned()
}

/// The CA of the mesh.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CaView {
    /// It was given by `--ca-cert`.
    given: bool,
    /// How long the certificates of proxies are good, in seconds.
    cert_ttl_seconds: u64,
    /// What is trusted; first the root above what signs.
    roots: Vec<RootView>,
}

/// A root that is trusted.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RootView {
    subject: String,
    /// SHA-256 of the certificate, in hex.
    fingerprint: String,
    /// RFC 3339: when it expires.
    not_after: String,
    /// RFC 3339: when it stops being trusted, if before.
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_until: Option<String>,
    /// Whether certificates are signed under it now.
    signs: bool,
}

fn view(service: &PushService) -> CaView {
    let root = |root: RootInfo| RootView {
        subject: root.subject,
        fingerprint: root.fingerprint,
        not_after: time(root.not_after),
        trusted_until: root.trusted_until.map(time),
        signs: root.signs,
    };
    let ca = service.signing.ca();
    CaView {
        given: ca.is_given(),
        cert_ttl_seconds: service.signing.ttl().as_secs(),
        roots: ca.roots().into_iter().map(root).collect(),
    }
}

/// Show the CA and the roots that are trusted.
#[utoipa::path(
    get, path = "/api/fairway/v1/ca", tag = "proxies", operation_id = "readCa",
    responses(
        (status = 200, body = CaView, description = "The CA"),
        (status = 403, body = Problem, description = "Not allowed")
    )
)]
pub(super) async fn read(
    State(service): State<Arc<PushService>>,
    Extension(identity): Extension<Identity>,
) -> Result<Json<CaView>, Problem> {
    allow(&identity, "get", "ca", "")?;
    Ok(Json(view(&service)))
}

/// Have a new root sign from now on; the one before it stays trusted for a while.
#[utoipa::path(
    post, path = "/api/fairway/v1/ca/rotate", tag = "proxies", operation_id = "rotateCa",
    request_body = Rotation,
    responses(
        (status = 200, body = CaView, description = "The CA with its new root"),
        (status = 400, body = Problem, description = "The overlap is too short, or none"),
        (status = 403, body = Problem, description = "Not allowed"),
        (status = 422, body = Problem, description = "The CA is not Fairway's own"),
        (status = 503, body = Problem, description = "The database is away, or another rotation is under way")
    )
)]
pub(super) async fn rotate(
    State(service): State<Arc<PushService>>,
    Extension(identity): Extension<Identity>,
    body: Body,
) -> Result<Json<CaView>, Problem> {
    allow(&identity, "update", "ca", "")?;
    let bytes = read_body(body, MAX_OBJECT).await?;
    let wanted: Rotation = serde_json::from_slice(&bytes)
        .map_err(|error| ApiError::bad_request(format!("the body is not valid: {error}")))?;
    let overlap = parse_duration(&wanted.overlap)
        .ok_or_else(|| ApiError::bad_request(format!("{:?} is not a time such as 48h or 30d", wanted.overlap)))?;
    let ttl = service.signing.ttl();
    if overlap < ttl {
        let text =
            format!("the overlap must be at least --cert-ttl, {} s: certificates are good for so long", ttl.as_secs());
        return Err(ApiError::bad_request(text).into());
    }
    match service.signing.ca().rotate(overlap).await {
        Ok(()) => Ok(Json(view(&service))),
        Err(CaError::Store(error)) => Err(error.into()),
        Err(error @ CaError::Busy) => Err(ApiError::unavailable(error.to_string()).into()),
        Err(error @ CaError::NotOurs) => Err(ApiError::unprocessable(error.to_string()).into()),
        Err(error) => Err(ApiError::internal(&error).into()),
    }
}
