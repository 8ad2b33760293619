//! What is in force for a rule, and where it was written.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use route_model::effective::{EffectiveError, effective};
use route_model::kind::Kind;
use route_model::meta::ResourceKey;
use serde_json::json;

use super::explain;
use super::problem::Problem;
use crate::api::call::Call;
use crate::api::error::ApiError;
use crate::api::state::ApiState;

/// What is in force for the rules of a VirtualService.
///
/// Timeouts, retries, limits, balancing and the rest as the gateway runs them, merged out of all resources: each value
/// with the resource and the field that it was written in (or none, if it is the default), and what is written elsewhere
/// and does not count because of it.
#[utoipa::path(
    get,
    path = "/api/fairway/v1/effective",
    tag = "explain",
    operation_id = "effective",
    params(
        ("virtualService" = String, Query, description = "`namespace/name`; the namespace `default` may be left out."),
        ("route" = Option<String>, Query, description = "The name of a rule, or its number from 0 on. Default: all rules."),
    ),
    responses(
        (status = 200, description = "`rules`, and the `revision` that they were read at", body = Object),
        (status = 400, description = "No VirtualService is named", body = Problem),
        (status = 404, description = "There is no such VirtualService, or no such rule in it", body = Problem),
    ),
)]
pub(crate) async fn effective_rules(State(state): State<ApiState>, request: Request) -> Result<Response, Problem> {
    let (parts, _) = request.into_parts();
    let call = Call::new(state, parts)?;
    Ok(answer(&call).await?)
}

async fn answer(call: &Call) -> Result<Response, ApiError> {
    let named = call.query.get("virtualService");
    let named =
        named.ok_or_else(|| ApiError::bad_request("the parameter virtualService is required: namespace/name"))?;
    let (namespace, name) = named.split_once('/').unwrap_or(("default", named));
    explain::may_ask(call)?;
    let key = ResourceKey::new(Kind::VirtualService, namespace, name);
    let route = call.query.get("route").map(str::to_owned);
    let (compilation, view) = (call.state.compilation().clone(), call.state.snapshot().view());
    let revision = view.resource_version();
    let rules =
        tokio::task::spawn_blocking(move || effective(view.resources(), compilation.scope(), &key, route.as_deref()))
            .await
            .map_err(|error| ApiError::internal(&format!("finding what is in force failed: {error}")))?
            .map_err(|error| match error {
                EffectiveError::NotFound(_) => ApiError::not_found(Kind::VirtualService, name),
                EffectiveError::NoSuchRule { .. } => ApiError::nothing_there(error.to_string()),
            })?;
    Ok(axum::Json(json!({"revision": revision, "rules": rules})).into_response())
}
